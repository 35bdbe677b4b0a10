//! Continues a text in the terminal, token by token.
//!
//! `cargo run --release --example generate -- --model crates/bench/demo/base "CREATE TABLE"`

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use fused_model::end_ids;
use fused_model::engine::{Engine, EngineConfig, Event, Finish, Request, Sampling};
use fused_model::kv::VirtualKv;
use patchtok::PatchTokenizer;

mod common;

/// Continue a text with a model.
#[derive(Debug, Parser)]
struct Args {
    /// The text to continue.
    prompt: String,
    /// Hugging Face directory of the model and its tokenizer.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    run: common::RunArgs,
    /// Most new tokens.
    #[arg(long, default_value_t = 100)]
    max_tokens: usize,
    /// 0 takes the most likely token at each step.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keeps the most likely tokens up to this sum of probabilities.
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Weakens tokens that were there before; 1 does nothing.
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the draws.
    #[arg(long)]
    seed: Option<u64>,
    /// A string to stop before; may be given more than once.
    #[arg(long)]
    stop: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let tokenizer = PatchTokenizer::load(&args.model)?;
    let mut model = common::load(&args.model, args.run.options())?;
    let mut kv = VirtualKv::new(&args.run.kv_geometry(model.as_ref(), 1), 64 << 10, 1 << 30)?;
    let config = EngineConfig {
        max_batch: 1,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(model.as_mut(), &mut kv, config)?.with_tokenizer(&tokenizer)?;
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
        ..Sampling::GREEDY
    };
    let mut stop_ids = end_ids(&args.model)?;
    stop_ids.extend(tokenizer.eos_id());
    engine.submit(Request {
        stop_ids,
        stop_strings: args.stop,
        ..Request::sampled(tokenizer.encode(&args.prompt), args.max_tokens, sampling)
    })?;

    let mut out = io::stdout().lock();
    write!(out, "{}", args.prompt)?;
    // Decoding is timed from the first token on: before it the prompt is read.
    let (mut first, mut tokens, mut result) = (None, 0, Ok(()));
    while !engine.is_idle() && result.is_ok() {
        engine.step(Instant::now(), &mut |event| {
            let text = match event {
                Event::Token { text, .. } => {
                    tokens += 1;
                    first.get_or_insert_with(Instant::now);
                    text
                }
                Event::Finished {
                    reason: Finish::Failed(error),
                    ..
                } => return result = Err(error.to_string().into()),
                Event::Finished { text, .. } => text,
                _ => return,
            };
            let shown = write!(out, "{text}").and_then(|()| out.flush());
            if result.is_ok() {
                result = shown.map_err(Box::<dyn std::error::Error + Send + Sync>::from);
            }
        });
    }
    result.map_err(anyhow::Error::from_boxed)?;
    writeln!(out)?;
    if let (Some(first), 2..) = (first, tokens) {
        eprintln!("{:.1} tokens/s", f64::from(tokens - 1) / first.elapsed().as_secs_f64());
    }
    Ok(())
}
