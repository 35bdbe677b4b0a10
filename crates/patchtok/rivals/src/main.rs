//! Prints the figures of `patchtok` beside those of its rivals: `cargo run --release -p
//! patchtok-rivals -- --json` for JSON lines, without `--json` for a table.
//!
//! One module measures one subject. It is a function from its options to [`Figure`]s, which are
//! printed as they come.
//!
//! [`Figure`]: figure::Figure

mod building;
mod domains;
mod figure;
mod rivals;
mod savings;
mod speed;
mod texts;

use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use patchtok::PatchTokenizer;
use rustix::time::{ClockId, clock_gettime};

use figure::Printer;

#[derive(Parser)]
#[command(about = "Prints the figures of patchtok beside those of its rivals")]
struct Options {
    /// Print JSON lines {"figure", "value", "unit", "goal", "holds"} instead of a table.
    #[arg(long)]
    json: bool,
    /// Measure only these subjects (may be given several times).
    #[arg(long, value_enum)]
    only: Vec<Subject>,
    #[command(flatten)]
    speed: speed::Options,
    #[command(flatten)]
    corpora: domains::Corpora,
    /// How often a vocabulary is built; figures are medians.
    #[arg(long, value_name = "N", default_value_t = 3)]
    builds: usize,
    #[command(flatten)]
    once: building::Once,
}

/// What is measured, in the order in which it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Encoding and decoding, in ratios to other crates.
    Speed,
    /// Tokens saved by each method on each corpus.
    Savings,
    /// Time and memory of building a vocabulary.
    Building,
}

impl Options {
    fn wants(&self, subject: Subject) -> bool {
        self.only.is_empty() || self.only.contains(&subject)
    }
}

/// Tells fastokens to work on the calling thread alone. It is read when the process starts to use it.
const FASTOKENS_THREADS: &str = "FASTOKENS_BPE_THREADS";

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if options.once.run()? {
        return Ok(ExitCode::SUCCESS);
    }
    if std::env::var_os(FASTOKENS_THREADS).is_none() {
        let mut again = Command::new(std::env::current_exe()?);
        let status = again
            .args(std::env::args_os().skip(1))
            .env(FASTOKENS_THREADS, "1")
            .status()?;
        return Ok(ExitCode::from(u8::from(!status.success())));
    }
    let mut printer = Printer::new(options.json);
    if options.wants(Subject::Speed) {
        speed::figures(&options.speed, &mut printer)?;
    }
    if options.wants(Subject::Savings) {
        let gpt2 = PatchTokenizer::from_file(texts::gpt2())?;
        savings::figures(&options.corpora.domains()?, &gpt2, options.speed.swaps, &mut printer)?;
    }
    if options.wants(Subject::Building) {
        building::figures(options.corpora.large(), options.builds, &mut printer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// CPU time of the process so far.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(values: &[f64]) -> anyhow::Result<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2).copied();
    middle.context("nothing was measured in 0 rounds")
}
