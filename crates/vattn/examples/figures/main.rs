//! Every figure of the allocator, measured now, each with its goal and with what it is compared to.
//!
//! ```text
//! cargo run --release -p vattn --example figures -- [--json] [--only GROUP] [--trace FILE.csv] [--series FILE.csv]
//! ```
//!
//! `--json` prints one object a line: `figure`, `value`, `unit`, `goal`, `holds`, `kind` (measured on the memory of this
//! machine, or simulated: decisions counted over a trace), and `baseline` where there is one. Times are CPU time, medians. `--only`
//! runs one group of figures: `calls`, `steps`, `sharing`, `memory`, `peers`. `--trace` replays a trace in the format of the Azure
//! LLM inference traces instead of the synthetic one, and may be repeated. `--series` writes the memory of each policy over
//! time.
//!
//! It exits with 1 when a goal is missed, so that a script sees it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::figure::{Figure, Format, print};

mod calls;
mod clock;
mod counted;
mod figure;
mod gpt2;
mod memory;
mod ours;
mod peers;
mod sharing;
mod steps;

/// What the command line says.
struct Options {
    format: Format,
    only: Option<String>,
    traces: Vec<PathBuf>,
    series: Option<PathBuf>,
}

type Group = (&'static str, fn(&Options) -> Result<Vec<Figure>>);

const GROUPS: &[Group] = &[
    ("steps", |_| steps::figures()),
    ("sharing", |_| sharing::figures()),
    ("memory", |_| memory::figures()),
    ("calls", |_| calls::figures()),
    ("peers", |options| {
        peers::figures(&options.traces, options.series.as_deref())
    }),
];

const USAGE: &str = "usage: figures [--json] [--only GROUP] [--trace FILE.csv]... [--series FILE.csv]";

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            let groups: Vec<_> = GROUPS.iter().map(|group| group.0).collect();
            eprintln!("{error}\n{USAGE}\ngroups: {}", groups.join(", "));
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options {
        format: Format::Table,
        only: None,
        traces: Vec::new(),
        series: None,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| anyhow::anyhow!("{arg} needs a value"));
        match arg.as_str() {
            "--json" => options.format = Format::Json,
            "--only" => options.only = Some(value()?),
            "--trace" => options.traces.push(value()?.into()),
            "--series" => options.series = Some(value()?.into()),
            _ => bail!("unknown argument {arg}"),
        }
    }
    if let Some(only) = &options.only
        && GROUPS.iter().all(|group| group.0 != only)
    {
        bail!("no group is called {only}");
    }
    Ok(options)
}

/// Runs the groups and prints their figures as they come; whether all goals hold.
fn run(options: &Options) -> Result<bool> {
    let mut all_hold = true;
    for (name, group) in GROUPS {
        if options.only.as_deref().is_some_and(|only| only != *name) {
            continue;
        }
        eprintln!("{name} ...");
        let figures = group(options)?;
        all_hold &= figures.iter().all(|figure| figure.holds() != Some(false));
        let mut out = io::stdout().lock();
        print(&mut out, options.format, &figures)?;
        out.flush()?;
    }
    Ok(all_hold)
}
