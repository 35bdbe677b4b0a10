//! Time and memory of building a vocabulary from 100 MB of text: from files of text to files of a
//! tokenizer, each time in a process of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, bail};
use patchtok::{ChunkCounter, Corpus, PatchTokenizer, VocabBuilder};
use serde::{Deserialize, Serialize};

use crate::cpu_seconds;
use crate::figure::{Figure, Goal, Printer};
use crate::texts;

const SWAPS: usize = 10_000;
const THREADS: &str = "2";

/// Goals for 100 MB on two cores.
const SECONDS: f64 = 60.0;
const MEGABYTES: f64 = 2000.0;

/// The limit with which bounded memory is measured.
const LIMIT: u64 = 256 << 20;

/// The process that builds once.
#[derive(clap::Args)]
pub(crate) struct Once {
    /// Build from this corpus and print what it took, as JSON.
    #[arg(long, hide = true, value_name = "FILE")]
    build_once: Option<PathBuf>,
    #[arg(long, hide = true, value_name = "BYTES", requires = "build_once")]
    build_memory: Option<u64>,
}

/// What a build took.
#[derive(Serialize, Deserialize)]
struct Taken {
    text_bytes: u64,
    seconds: f64,
    cpu_seconds: f64,
    peak_bytes: u64,
}

/// Prints the building figures, medians of `rounds` builds.
pub(crate) fn figures(corpus: Result<PathBuf, String>, rounds: usize, printer: &mut Printer) -> anyhow::Result<()> {
    let corpus = match corpus {
        Ok(corpus) => corpus,
        Err(missing) => {
            printer.print(Figure::left_out(format!("build from {missing}"), "s"))?;
            return Ok(());
        }
    };
    let taken = (0..rounds)
        .map(|_| run(&corpus, None))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let median = |value: fn(&Taken) -> f64| crate::median(&taken.iter().map(value).collect::<Vec<_>>());
    let megabytes = median(|taken| taken.text_bytes as f64 / 1e6)?;
    let name = format!("build from {megabytes:.1} MB, {SWAPS} swaps, {THREADS} threads");
    let time = Goal::AtMost(SECONDS);
    printer.print(Figure::goal(
        format!("{name}: time"),
        median(|taken| taken.seconds)?,
        "s",
        time,
    ))?;
    printer.print(Figure::new(
        format!("{name}: CPU time"),
        median(|taken| taken.cpu_seconds)?,
        "s",
    ))?;
    printer.print(Figure::goal(
        format!("{name}: peak memory"),
        median(|taken| taken.peak_bytes as f64 / 1e6)?,
        "MB",
        Goal::AtMost(MEGABYTES),
    ))?;
    let bounded = run(&corpus, Some(LIMIT))?;
    printer.print(Figure::goal(
        format!("{name}, counts bounded to {} MB: peak memory", LIMIT / 1_000_000),
        bounded.peak_bytes as f64 / 1e6,
        "MB",
        Goal::AtMost(LIMIT as f64 / 1e6),
    ))?;
    Ok(())
}

/// Builds in another process.
fn run(corpus: &Path, memory: Option<u64>) -> anyhow::Result<Taken> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env("RAYON_NUM_THREADS", THREADS);
    command.arg("--build-once").arg(corpus);
    if let Some(bytes) = memory {
        command.arg("--build-memory").arg(bytes.to_string());
    }
    let output = command.output()?;
    if !output.status.success() {
        bail!("building failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

impl Once {
    /// Builds, if that is what this process is for.
    pub(crate) fn run(&self) -> anyhow::Result<bool> {
        let Some(corpus) = &self.build_once else {
            return Ok(false);
        };
        let taken = build(corpus, self.build_memory)?;
        serde_json::to_writer(std::io::stdout().lock(), &taken)?;
        std::io::stdout().flush()?;
        Ok(true)
    }
}

fn build(corpus: &Path, memory: Option<u64>) -> anyhow::Result<Taken> {
    let start = Instant::now();
    let gpt2 = PatchTokenizer::from_file(texts::gpt2())?;
    let scratch = tempfile::tempdir()?;
    let mut counter = ChunkCounter::new(&gpt2).hold_out_tenth();
    if let Some(bytes) = memory {
        counter = counter.memory(bytes, scratch.path());
    }
    let counts = counter.count(&Corpus::open(corpus)?, |_| {})?;
    let built = VocabBuilder::new(gpt2.clone())
        .swaps(SWAPS)
        .build_from_counts(&counts, |_| {})?;
    built.tokenizer.save(scratch.path().join("tokenizer"))?;
    let summary = counts.summary();
    Ok(Taken {
        text_bytes: summary.bytes + summary.heldout_bytes,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds(),
        peak_bytes: peak_bytes()?,
    })
}

/// The most physical memory that this process had, by the kernel.
fn peak_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes = kilobytes.context("/proc/self/status names no VmHWM")?;
    Ok(1024 * kilobytes.trim().parse::<u64>()?)
}
