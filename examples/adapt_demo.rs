//! Adapts the demo model to the manual: `cargo run --release --example adapt_demo`.
//!
//! Builds a patched tokenizer from the domain corpus, gives the new tokens rows made from their old pieces, tunes
//! embeddings, head, first and last block, and writes a complete Hugging Face directory. Ctrl-C saves a checkpoint that
//! `--resume` continues.
#![allow(clippy::print_stdout)] // the result line is this program's output

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use examples::{Heldout, Session, TOKENIZER_FILES, token_stream};
use fused_model::adapt::{PAPER_RATIO, exponential};
use fused_model::train::{Scope, TrainConfig};
use fused_model::{Params, SaveAs};
use patchtok::{Corpus, PatchTokenizer, VocabBuilder};

/// Adapt a base model to a domain: patched tokenizer, new rows, light tuning.
#[derive(Debug, Parser)]
#[command(after_help = "Example: adapt_demo --swaps 2500 --steps 2000 --out target/demo-adapted")]
struct Args {
    /// Base model with its tokenizer, a Hugging Face directory.
    #[arg(long, default_value = "crates/bench/demo/base")]
    base: PathBuf,
    /// Domain text that decides which tokens are new.
    #[arg(long, num_args = 1.., default_values = ["crates/bench/demo/corpus/manual-train.jsonl.gz"])]
    domain: Vec<PathBuf>,
    /// Text to tune on.
    #[arg(long, num_args = 1.., default_values = [
        "crates/bench/demo/corpus/manual-train.jsonl.gz",
        "crates/bench/demo/corpus/rust-train.jsonl.gz",
    ])]
    corpus: Vec<PathBuf>,
    /// Held-out text for the log and the final figure.
    #[arg(long, default_value = "crates/bench/demo/corpus/manual-heldout.jsonl.gz")]
    heldout: PathBuf,
    /// Folder to write.
    #[arg(long, default_value = "target/demo-adapted")]
    out: PathBuf,
    /// Tokens to swap.
    #[arg(long, default_value_t = 2500)]
    swaps: usize,
    /// Ratio of neighbouring weights in the exponential initialisation.
    #[arg(long, default_value_t = PAPER_RATIO)]
    ratio: f32,
    /// Tuning steps.
    #[arg(long, default_value_t = 2000)]
    steps: usize,
    /// Sequences in a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Learning rate after warm-up.
    #[arg(long, default_value_t = 1e-3)]
    rate: f32,
    /// Dropout on embeddings and residual branches.
    #[arg(long, default_value_t = 0.1)]
    dropout: f32,
    /// Threads; the result is reproducible for a seed and a number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Seed of windows and dropout.
    #[arg(long, default_value_t = 2)]
    seed: u64,
    /// Continue from the checkpoint in the output folder.
    #[arg(long)]
    resume: bool,
    /// Steps between checkpoints and held-out scores.
    #[arg(long, default_value_t = 250)]
    every: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let base = Params::load(&args.base)?;
    let built = VocabBuilder::new(PatchTokenizer::load(&args.base)?)
        .swaps(args.swaps)
        .build(Corpus::open_all(&args.domain)?)?;
    let tokenizer = built.tokenizer;
    let patch = tokenizer.patch_map().context("the corpus gave no new token")?;
    eprintln!("{} tokens swapped", patch.new_tokens().len());
    let adapted = exponential(&base, patch, args.ratio)?;

    let end_of_text = tokenizer.eos_id().context("the tokenizer has no <|endoftext|>")?;
    let stream = token_stream(&tokenizer, &args.corpus, end_of_text)?;
    let heldout = Heldout::open(&tokenizer, &args.heldout, end_of_text)?;
    let untuned = heldout.score(&adapted, 1)?;
    eprintln!("{:.4} bits per byte before tuning", untuned.bits_per_byte());
    let config = TrainConfig {
        scope: Scope::Light,
        steps: args.steps,
        batch: args.batch,
        tokens: base.config().n_positions,
        peak_rate: args.rate,
        warmup: 100.min(args.steps / 10),
        dropout: args.dropout,
        threads: args.threads,
        seed: args.seed,
        ..TrainConfig::default()
    };
    let session = Session {
        out: args.out.clone(),
        every: args.every,
        resume: args.resume,
    };
    let tuned = session.run(adapted, config, &stream, &heldout)?;
    tuned.save(&args.out, SaveAs::F16)?;
    tokenizer.save(&args.out)?;
    for name in &TOKENIZER_FILES[1..] {
        let (from, to) = (args.base.join(name), args.out.join(name));
        if from.exists() {
            std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    // Of the file just written, so that its rounding to f16 is in the figure.
    let score = heldout.score(&Params::load(&args.out)?, 1)?;
    let figures = serde_json::json!({
        "bits_per_byte": score.bits_per_byte(),
        "bits_per_byte_before_tuning": untuned.bits_per_byte(),
        "score": score,
    });
    println!("{figures}");
    Ok(())
}
