//! The examples of this workspace, one program a file: `cargo run --release --example NAME`.
//!
//! What two of them share stands here: [`Session`] runs a training with a loss log, checkpoints and held-out scores.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use fused_model::train::{TrainConfig, Trainer};
use fused_model::{Params, Score, score};
use indicatif::{ProgressBar, ProgressStyle};
use patchtok::{Corpus, PatchTokenizer};

/// Files of a Hugging Face directory that belong to the tokenizer.
pub const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];

/// All documents of `paths` as one stream of tokens, each between two `separator`s.
///
/// # Errors
/// When a corpus cannot be read.
pub fn token_stream(tokenizer: &PatchTokenizer, paths: &[PathBuf], separator: u32) -> anyhow::Result<Vec<u32>> {
    let mut stream = vec![separator];
    for document in Corpus::open_all(paths)?.documents() {
        stream.extend(tokenizer.encode_ordinary(&document?));
        stream.push(separator);
    }
    Ok(stream)
}

/// Held-out documents as tokens.
#[derive(Debug)]
pub struct Heldout {
    separator: u32,
    documents: Vec<(Vec<u32>, usize)>,
}

impl Heldout {
    /// Reads and encodes the documents of `path`.
    ///
    /// # Errors
    /// When the corpus cannot be read.
    pub fn open(tokenizer: &PatchTokenizer, path: &Path, separator: u32) -> anyhow::Result<Self> {
        let documents = Corpus::open(path)?
            .documents()
            .map(|document| document.map(|text| (tokenizer.encode_ordinary(&text), text.len())))
            .collect::<Result<_, _>>()?;
        Ok(Self { separator, documents })
    }

    /// Score of every `step`-th document.
    ///
    /// # Errors
    /// When a token is outside the model's vocabulary.
    pub fn score(&self, params: &Params, step: usize) -> anyhow::Result<Score> {
        let documents = self.documents.iter().step_by(step);
        Ok(documents
            .map(|(ids, bytes)| score(params, self.separator, ids, *bytes))
            .sum::<Result<Score, _>>()?)
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

/// One training run in a folder: `loss.jsonl`, and `checkpoint.safetensors` every so many steps and on Ctrl-C.
#[derive(Debug)]
pub struct Session {
    /// Folder of the run.
    pub out: PathBuf,
    /// Steps between checkpoints and held-out scores.
    pub every: usize,
    /// Whether to continue from the checkpoint.
    pub resume: bool,
}

impl Session {
    /// Trains `params` on `stream` to the end of `config` and returns the trained weights.
    ///
    /// # Errors
    /// When the folder cannot be written, a checkpoint stands in the way or does not fit, or Ctrl-C was pressed; then the
    /// checkpoint holds the run.
    pub fn run(
        &self,
        params: Params,
        config: TrainConfig,
        stream: &[u32],
        heldout: &Heldout,
    ) -> anyhow::Result<Params> {
        ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?;
        std::fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let checkpoint = self.out.join("checkpoint.safetensors");
        let steps = config.steps;
        eprintln!(
            "{} weights, {} tokens of training text, {steps} steps",
            params.len(),
            stream.len()
        );
        let mut trainer = match (self.resume, checkpoint.exists()) {
            (true, _) => Trainer::resume(params, config, &checkpoint)?,
            (false, true) => bail!(
                "{} exists: give --resume to continue it, or remove it",
                checkpoint.display()
            ),
            (false, false) => Trainer::new(params, config)?,
        };
        let log = self.out.join("loss.jsonl");
        let mut log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left, {msg}")?;
        let progress = ProgressBar::new(steps as u64).with_style(style);
        progress.set_position(trainer.step_number() as u64);
        progress.reset_eta();
        while trainer.step_number() < steps {
            if STOP.load(Ordering::Relaxed) {
                trainer.save_checkpoint(&checkpoint)?;
                progress.abandon();
                bail!(
                    "stopped at step {}: --resume continues from {}",
                    trainer.step_number(),
                    checkpoint.display()
                );
            }
            let report = trainer.step(stream)?;
            progress.inc(1);
            progress.set_message(format!("loss {:.3}", report.loss));
            let mut line = serde_json::to_value(report)?;
            if trainer.step_number().is_multiple_of(self.every) {
                line["heldout_bits_per_byte"] = heldout.score(trainer.params(), 8)?.bits_per_byte().into();
                trainer.save_checkpoint(&checkpoint)?;
            }
            writeln!(log, "{line}")?;
        }
        progress.finish();
        Ok(trainer.params().clone())
    }
}
