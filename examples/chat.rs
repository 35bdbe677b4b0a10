//! A dialogue in the terminal: a line is a turn, an empty one or the end of input ends it.
//!
//! ```text
//! crates/fused-model/scripts/smollm2.sh smollm2
//! cargo run --release --example chat -- --model smollm2
//! ```
//!
//! Only what is new is read at each turn: the rows of what was said before stay in the KV store as a kept prefix.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use fused_model::chat::{Role, Template};
use fused_model::end_ids;
use fused_model::engine::{Engine, EngineConfig, Event, Finish, Request, Sampling};
use fused_model::kv::VirtualKv;
use patchtok::PatchTokenizer;

mod common;

/// Talk with a model.
#[derive(Debug, Parser)]
struct Args {
    /// Hugging Face directory of the model and its tokenizer.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    run: common::RunArgs,
    /// What the model is told before the dialogue.
    #[arg(long)]
    system: Option<String>,
    /// Most new tokens of a turn.
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// 0 takes the most likely token at each step.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Seed of the draws.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let tokenizer = PatchTokenizer::load(&args.model)?;
    let mut model = common::load(&args.model, args.run.options())?;
    let context = model.context();
    let mut kv = VirtualKv::new(&args.run.kv_geometry(model.as_ref(), 2), 64 << 10, 1 << 30)?;
    let config = EngineConfig {
        max_batch: 1,
        kept_prefixes: 1,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(model.as_mut(), &mut kv, config)?.with_tokenizer(&tokenizer)?;
    let template = Template::of(&tokenizer);
    let mut stop_ids = template.stop_ids(&tokenizer);
    stop_ids.extend(end_ids(&args.model)?);

    let mut said: Vec<(Role, String)> = args.system.iter().map(|text| (Role::System, text.clone())).collect();
    let (mut lines, mut out) = (io::stdin().lock().lines(), io::stdout().lock());
    loop {
        if io::stdin().is_terminal() {
            eprint!("> ");
        }
        let Some(line) = lines.next().transpose()?.filter(|line| !line.trim().is_empty()) else {
            return Ok(());
        };
        said.push((Role::User, line));
        let prompt = template.prompt(&tokenizer, said.iter().map(|(role, text)| (*role, text.as_str())));
        let room = (context + 1).saturating_sub(prompt.len());
        anyhow::ensure!(room > 0, "the dialogue fills the model's context of {context} tokens");
        let sampling = Sampling {
            temperature: args.temperature,
            seed: args.seed,
            ..Sampling::GREEDY
        };
        engine.submit(Request {
            stop_ids: stop_ids.clone(),
            stop_strings: template.stop_strings().iter().map(|&stop| stop.into()).collect(),
            ..Request::sampled(prompt, args.max_tokens.min(room), sampling)
        })?;
        let reply = answer(&mut engine, &mut out)?;
        said.push((Role::Assistant, reply.trim().to_owned()));
    }
}

/// Runs the request that waits and shows its text as it comes.
fn answer(engine: &mut Engine<'_>, out: &mut impl Write) -> Result<String> {
    let (mut reply, mut failed) = (String::new(), None);
    while !engine.is_idle() {
        let before = reply.len();
        engine.step(Instant::now(), &mut |event| match event {
            Event::Token { text, .. } => reply.push_str(text),
            Event::Finished { reason, text, .. } => {
                reply.push_str(text);
                if let Finish::Failed(error) = reason {
                    failed = Some(error);
                }
            }
            _ => {}
        });
        write!(out, "{}", &reply[before..])?;
        out.flush()?;
    }
    writeln!(out)?;
    match failed {
        None => Ok(reply),
        Some(error) => Err(anyhow::anyhow!("{error}")),
    }
}
