//! Bits per byte that a model needs for a text.
//!
//! `cargo run --release --example score -- --model crates/bench/demo/base README.md`
#![allow(clippy::print_stdout)] // the figure is this program's output

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use fused_model::kv::VirtualKv;
use fused_model::score_model;
use patchtok::PatchTokenizer;

mod common;

/// Score a text under a model.
#[derive(Debug, Parser)]
struct Args {
    /// The text, UTF-8.
    text: PathBuf,
    /// Hugging Face directory of the model and its tokenizer.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    run: common::RunArgs,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let text = std::fs::read_to_string(&args.text).with_context(|| args.text.display().to_string())?;
    let tokenizer = PatchTokenizer::load(&args.model)?;
    let mut model = common::load(&args.model, args.run.options())?;
    let mut kv = VirtualKv::new(&args.run.kv_geometry(model.as_ref(), 1), 64 << 10, 2 << 30)?;
    let ids = tokenizer.encode_ordinary(&text);
    // Documents stand behind the end of another one.
    let start = tokenizer.eos_id().context("the tokenizer has no <|endoftext|>")?;
    let begin = Instant::now();
    let score = score_model(model.as_mut(), &mut kv, start, &ids, text.len())?;
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{:.4} bits per byte, {} tokens for {} bytes ({:.2} bytes a token), {:.0} tokens/s",
        score.bits_per_byte(),
        score.tokens,
        score.bytes,
        score.bytes as f64 / score.tokens.max(1) as f64,
        score.tokens as f64 / seconds
    );
    Ok(())
}
