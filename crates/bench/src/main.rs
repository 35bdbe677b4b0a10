//! `bench`: see the library.

use std::io::Write;
use std::process::ExitCode;

use bench::cli::Cli;
use bench::error::BenchError;
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    bench::interrupt::install();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs and prints: the report on standard output, where the files are on standard error.
fn run(cli: &Cli) -> Result<(), BenchError> {
    let (report, files) = bench::run::run(cli)?;
    let mut text = if cli.json {
        serde_json::to_string_pretty(&report)?
    } else {
        bench::table::render(&report)
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let printed = std::io::stdout().lock().write_all(text.as_bytes());
    if let Err(error) = printed {
        // The files are written; a reader that went away early is no failure of the run.
        eprintln!("bench: the report could not be printed: {error}");
    }
    for file in files {
        eprintln!("wrote {}", file.display());
    }
    Ok(())
}
