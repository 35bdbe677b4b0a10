//! How fast a model of GPT-2's shape runs on this machine, each figure with its goal.
//!
//! ```text
//! cargo run --release -p fused-model --example figures -- [--json] [--only GROUP] [--peers FILE] [--plot FILE.svg]
//! ```
//!
//! Groups: `machine` measures how fast memory is read and numbers are multiplied; `speed` decoding and prompts in each
//! precision on 1 and 2 threads, beside those limits; `kv` rows of keys and values in f32 and in f16; `scaling` how the cost grows with context, batch and threads, and
//! `--plot` draws it; `peers` takes the results that `peers/run.sh` measured in turns with other engines.
//! `--json` prints one object a line: `figure`, `value`, `unit`, `goal`, `holds`. The weights are random, because speed does
//! not depend on their values. Times are medians, of wall time where nothing else is said.
//!
//! `figures --turns PRECISION THREADS DIR` is one side of `peers/run.sh`: it loads a model, then answers each line of its input.
//!
//! It exits with 1 when a goal is missed, so that a script sees it.
#![allow(clippy::print_stdout)] // figures are this program's output

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use fused_model::Precision;

use crate::figure::{Figure, print};

mod figure;
mod kv;
mod machine;
mod peers;
mod plot;
mod scaling;
mod speed;
mod turns;
mod workload;

const USAGE: &str = "usage: figures [--json] [--only GROUP] [--peers FILE] [--plot FILE.svg]
       figures --turns PRECISION THREADS DIR
groups: machine, speed, kv, scaling, peers; precisions: f32, f16, int8";

/// What the command line asks for.
#[derive(Debug, Default)]
struct Options {
    json: bool,
    only: Option<String>,
    peers: Option<PathBuf>,
    plot: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--turns", precision, threads, dir] => parse_turns(precision, threads)
            .map(|(precision, threads)| turns::answer(Path::new(dir), precision, threads).map(|()| true)),
        _ => options(args.iter()).map(|options| run(&options)),
    };
    match result {
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            ExitCode::from(2)
        }
        Ok(Err(error)) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
        Ok(Ok(hold)) => ExitCode::from(u8::from(!hold)),
    }
}

fn options<'a>(mut args: impl Iterator<Item = &'a String>) -> Result<Options> {
    let mut options = Options::default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--json" => options.json = true,
            "--only" => options.only = Some(value()?.clone()),
            "--peers" => options.peers = Some(value()?.into()),
            "--plot" => options.plot = Some(value()?.into()),
            _ => bail!("unknown argument {arg}"),
        }
    }
    match options.only.as_deref() {
        None | Some("machine" | "speed" | "kv" | "scaling") => Ok(options),
        Some("peers") if options.peers.is_some() => Ok(options),
        Some("peers") => bail!("the group peers needs --peers FILE"),
        Some(only) => bail!("no group is called {only}"),
    }
}

fn parse_turns(precision: &str, threads: &str) -> Result<(Precision, usize)> {
    let precision = peers::precision(precision).with_context(|| format!("no precision is called {precision}"))?;
    let threads = threads
        .parse()
        .ok()
        .filter(|&threads| threads > 0)
        .with_context(|| format!("{threads:?} is not a number of threads"))?;
    Ok((precision, threads))
}

/// Runs the groups and prints their figures as they come; whether all goals hold.
fn run(options: &Options) -> Result<bool> {
    let mut hold = true;
    let mut group = |name: &str, figures: &mut dyn FnMut() -> Result<Vec<Figure>>| -> Result<()> {
        if options.only.as_deref().is_some_and(|only| only != name) {
            return Ok(());
        }
        eprintln!("{name} ...");
        let figures = figures()?;
        hold &= figures.iter().all(|figure| figure.holds() != Some(false));
        let mut out = io::stdout().lock();
        print(&mut out, options.json, &figures)?;
        Ok(out.flush()?)
    };
    group("machine", &mut || Ok(machine::figures()))?;
    group("speed", &mut speed::figures)?;
    group("kv", &mut kv::figures)?;
    group("scaling", &mut || {
        let curves = scaling::measure()?;
        if let Some(path) = &options.plot {
            plot::draw(path, &curves).with_context(|| format!("drawing {}", path.display()))?;
        }
        Ok(scaling::figures(&curves))
    })?;
    if let Some(path) = &options.peers {
        group("peers", &mut || peers::figures(path))?;
    }
    Ok(hold)
}
