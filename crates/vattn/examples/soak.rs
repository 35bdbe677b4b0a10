//! Threads that open, grow, fork, cut, swap and free sequences under a tight budget that changes all the time, while the
//! mapper thread works behind them; every row is compared with what was written, and at the end nothing may be left.
//!
//! ```text
//! cargo run --release -p vattn --example soak -- [--seconds 60] [--threads 4]
//! ```
//!
//! It runs over the memory of the machine and over the model of memory, half of the time each, and ends with a panic at the first
//! byte that is wrong.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vattn::backend::Backend;
use vattn::host::HostBackend;
use vattn::sim::SimBackend;
use vattn::testing::{Soak, soak};
use vattn::{Config, Geometry, KvCache};

const USAGE: &str = "usage: soak [--seconds N] [--threads N]";

fn main() -> ExitCode {
    let (seconds, threads) = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error:#}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(seconds, threads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<(u64, usize)> {
    let (mut seconds, mut threads) = (60, 4);
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        let number: u64 = value.parse().with_context(|| format!("{value} is not a number"))?;
        match arg.as_str() {
            "--seconds" if number > 0 => seconds = number,
            "--threads" if (1..=64).contains(&number) => threads = number as usize,
            _ => bail!("unknown argument, or a value out of range: {arg} {value}"),
        }
    }
    Ok((seconds, threads))
}

fn run(seconds: u64, threads: usize) -> Result<()> {
    let time = Duration::from_secs(seconds) / 2;
    over(
        "the memory of the machine",
        HostBackend::new(1 << 14)?,
        1 << 14,
        time,
        threads,
    )?;
    over("the model of memory", SimBackend::new(256), 256, time, threads)
}

/// A budget of a third of what all slots could hold.
fn over<B: Backend>(name: &str, backend: B, frame_bytes: usize, time: Duration, threads: usize) -> Result<()> {
    let geometry = Geometry::builder()
        .layers(3)
        .row_bytes(frame_bytes * 3 / 16)
        .max_tokens(96)
        .max_sequences(8 * threads)
        .frame_bytes(frame_bytes)
        .build()?;
    let config = Config::new(geometry.reserved_bytes() / 3).warm_bytes(geometry.reserved_bytes() / 20);
    let cache = KvCache::with_backend(backend, geometry, config.mapper(true))?;
    let report = soak(cache, Soak::new(u64::MAX).time(time).threads(threads));
    eprintln!(
        "{name}: {} operations, {} of them refused, {} rows compared, nothing left",
        report.operations, report.refused, report.rows
    );
    Ok(())
}
