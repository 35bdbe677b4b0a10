//! Trains the demo model from scratch: `cargo run --release --example train_demo`.
//!
//! Reads a tokenizer and corpora, trains a small GPT-2 on their random windows and writes a complete Hugging Face
//! directory. Ctrl-C saves a checkpoint that `--resume` continues.
#![allow(clippy::print_stdout)] // the result line is this program's output

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use examples::{Heldout, Session, TOKENIZER_FILES, token_stream};
use fused_model::train::{Scope, TrainConfig};
use fused_model::{Gpt2Config, Params, SaveAs};
use patchtok::PatchTokenizer;

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

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tokenizer = PatchTokenizer::load(&args.tokenizer)?;
    let end_of_text = tokenizer.eos_id().context("the tokenizer has no <|endoftext|>")?;
    let stream = token_stream(&tokenizer, &args.corpus, end_of_text)?;
    let heldout = Heldout::open(&tokenizer, &args.heldout, end_of_text)?;

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
    let session = Session {
        out: args.out.clone(),
        every: args.every,
        resume: args.resume,
    };
    let trained = session.run(Params::random(model, args.seed), config, &stream, &heldout)?;
    trained.save(&args.out, SaveAs::F16)?;
    for name in TOKENIZER_FILES {
        let (from, to) = (args.tokenizer.join(name), args.out.join(name));
        if from.exists() && from != to {
            std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    // Of the file just written, so that its rounding to f16 is in the figure.
    let score = heldout.score(&Params::load(&args.out)?, 1)?;
    println!(
        "{}",
        serde_json::json!({ "bits_per_byte": score.bits_per_byte(), "score": score })
    );
    Ok(())
}
