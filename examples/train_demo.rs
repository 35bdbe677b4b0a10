//! Trains the demo model from scratch: `cargo run --release --example train_demo`.
//!
//! Reads a tokenizer and corpora, trains a small GPT-2 on their random windows and writes a complete Hugging Face
//! directory. Ctrl-C saves a checkpoint that `--resume` continues.
#![allow(clippy::print_stdout)] // the result line is this program's output

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use clap::Parser;
use fused_model::train::{News, Scope, Stopped, TrainConfig, Trainer, Watch, token_stream};
use fused_model::{Gpt2Config, Heldout, Params, SaveAs};
use indicatif::{ProgressBar, ProgressStyle};
use patchtok::{Corpus, PatchTokenizer};

/// Files of a Hugging Face directory that belong to the tokenizer.
const TOKENIZER_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
/// Bytes of held-out text that the log is scored on; the final figure is of all of it.
const WATCHED_BYTES: usize = 48 << 10;

/// Train a small GPT-2 from scratch on the demo corpora.
#[derive(Debug, Parser)]
#[command(after_help = "Example: train_demo --steps 7000 --out target/demo-model")]
struct Args {
    /// Folder with the base tokenizer; its files are copied beside the weights.
    #[arg(long, default_value = "crates/bench/demo/base")]
    tokenizer: PathBuf,
    /// Texts to train on.
    #[arg(long, num_args = 1.., default_values = [
        "crates/bench/demo/corpus/manual-train.jsonl.gz",
        "crates/bench/demo/corpus/rust-train.jsonl.gz",
    ])]
    corpus: Vec<PathBuf>,
    /// Held-out text for the log and the final figure.
    #[arg(long, default_value = "crates/bench/demo/corpus/manual-heldout.jsonl.gz")]
    heldout: PathBuf,
    /// Folder to write.
    #[arg(long, default_value = "target/demo-model")]
    out: PathBuf,
    /// Optimiser steps.
    #[arg(long, default_value_t = 7000)]
    steps: usize,
    /// Sequences in a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Context of the model and length of a sequence, in tokens.
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Width of the model.
    #[arg(long, default_value_t = 256)]
    width: usize,
    /// Blocks of the model.
    #[arg(long, default_value_t = 6)]
    layers: usize,
    /// Attention heads.
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Learning rate after warm-up.
    #[arg(long, default_value_t = 1.5e-3)]
    rate: f32,
    /// Dropout on embeddings and residual branches.
    #[arg(long, default_value_t = 0.15)]
    dropout: f32,
    /// Threads; the result is reproducible for a seed and a number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Seed of weights, windows and dropout.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Continue from the checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints and held-out scores.
    #[arg(long, default_value_t = 500)]
    every: usize,
}

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tokenizer = PatchTokenizer::load(&args.tokenizer)?;
    let end_of_text = tokenizer.eos_id().context("the tokenizer has no <|endoftext|>")?;
    let stream = token_stream(&tokenizer, &Corpus::open_all(&args.corpus)?, end_of_text)?;
    let heldout = Heldout::read(&tokenizer, &Corpus::open(&args.heldout)?, end_of_text)?;

    let mut model = Gpt2Config::new(
        tokenizer.vocab_size(),
        args.context,
        args.width,
        args.layers,
        args.heads,
    );
    model.bos_token_id = Some(end_of_text);
    model.eos_token_id = Some(end_of_text);
    let config = TrainConfig {
        scope: Scope::Full,
        steps: args.steps,
        batch: args.batch,
        tokens: args.context,
        peak_rate: args.rate,
        warmup: 200.min(args.steps / 10),
        dropout: args.dropout,
        threads: args.threads,
        seed: args.seed,
        ..TrainConfig::default()
    };
    let params = Params::random(model, args.seed);
    let checkpoint = args.out.join("checkpoint.safetensors");
    ensure!(
        args.resume || !checkpoint.exists(),
        "{} exists: give --resume to continue it, or remove it",
        checkpoint.display()
    );
    eprintln!("{} weights, {} tokens of training text", params.len(), stream.len());
    let mut trainer = match args.resume {
        true => Trainer::resume(params, config, &checkpoint)?,
        false => Trainer::new(params, config)?,
    };
    train(&args, &mut trainer, &stream, &heldout.thinned(WATCHED_BYTES))?;
    // The last weights, not the best: the rate has fallen by then, and the figure below is of them.
    trainer.params().save(&args.out, SaveAs::F16)?;
    for name in TOKENIZER_FILES {
        let (from, to) = (args.tokenizer.join(name), args.out.join(name));
        if from.exists() && from != to {
            std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    // Of the file just written, so that its rounding to f16 is in the figure.
    let score = heldout.score(&Params::load(&args.out)?)?;
    println!(
        "{}",
        serde_json::json!({ "bits_per_byte": score.bits_per_byte(), "score": score })
    );
    Ok(())
}

/// The whole run, or as much of it as there is before Ctrl-C, with a log and checkpoints in the output folder.
fn train(args: &Args, trainer: &mut Trainer, stream: &[u32], heldout: &Heldout) -> anyhow::Result<()> {
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?;
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let path = args.out.join("loss.jsonl");
    let log = std::fs::File::options().create(true).append(true).open(&path);
    let mut log = log.with_context(|| path.display().to_string())?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left, {msg}")?;
    let bar = ProgressBar::new(args.steps as u64).with_style(style);
    bar.set_position(trainer.step_number() as u64);
    bar.reset_eta();
    let checkpoint = args.out.join("checkpoint.safetensors");
    let watch = Watch {
        every: args.every,
        patience: None,
        checkpoint: Some(&checkpoint),
    };
    let (_, stopped) = trainer.run(stream, heldout, watch, &mut |news| {
        let line = match news {
            News::Step(report) => {
                bar.inc(1);
                bar.set_message(format!("loss {:.3}", report.loss));
                serde_json::json!(report)
            }
            News::Scored { step, bits_per_byte } => serde_json::json!({ "step": step, "bits_per_byte": bits_per_byte }),
            _ => return true,
        };
        // A log that cannot be written to is no reason to lose the run.
        let _ = writeln!(log, "{line}");
        !STOP.load(Ordering::Relaxed)
    })?;
    bar.finish();
    ensure!(
        stopped != Stopped::Asked,
        "stopped at step {}: --resume continues from {}",
        trainer.step_number(),
        checkpoint.display()
    );
    Ok(())
}
