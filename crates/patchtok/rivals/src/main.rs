//! Prints the figures of `patchtok` beside those of its rivals: `cargo run --release -p
//! patchtok-rivals -- --json` for JSON lines, without `--json` for a table.
//!
//! One module measures one subject. It is a function from its options to [`Figure`]s, which are
//! printed as they come.
//!
//! [`Figure`]: figure::Figure

mod figure;
mod rivals;
mod speed;
mod texts;

use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};

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
}

/// What is measured, in the order in which it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Encoding and decoding, in ratios to other crates.
    Speed,
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
    Ok(ExitCode::SUCCESS)
}
