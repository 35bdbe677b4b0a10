//! `bench`: see the library.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use bench::cli::{AblateArgs, Cli, Command, CompareArgs, DiffArgs, ServeArgs};
use bench::error::BenchError;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde::Serialize;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Serve(args)) = &cli.command
        && let Err(why) = args.check()
    {
        Cli::command().error(ErrorKind::ValueValidation, why).exit();
    }
    bench::interrupt::install();
    let done = match &cli.command {
        None => compare(&cli.compare),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Ablate(args)) => ablate(args),
        Some(Command::Diff(args)) => return diff(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &CompareArgs) -> Result<(), BenchError> {
    let (report, files) = bench::run::run(args)?;
    print(args.json, &report, || bench::table::render(&report), &files)
}

fn serve(args: &ServeArgs) -> Result<(), BenchError> {
    let (report, files) = bench::serve::run(args)?;
    print(args.json, &report, || bench::serve::table::render(&report), &files)
}

fn ablate(args: &AblateArgs) -> Result<(), BenchError> {
    let (report, files) = bench::ablate::run(args)?;
    print(args.json, &report, || bench::ablate::table::render(&report), &files)
}

/// 1 says that a gate is broken, and nothing else does.
fn diff(args: &DiffArgs) -> ExitCode {
    let printed = bench::diff::diff(args)
        .map_err(|error| error.to_string())
        .and_then(|diff| {
            print(args.json, &diff, || diff.table(), &[]).map_err(|error| error.to_string())?;
            Ok(if diff.is_regression() { 1 } else { 0 })
        });
    match printed {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// The report on standard output, where the files are on standard error.
fn print(json: bool, report: &impl Serialize, table: impl Fn() -> String, files: &[PathBuf]) -> Result<(), BenchError> {
    let mut text = if json {
        serde_json::to_string_pretty(report)?
    } else {
        table()
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
