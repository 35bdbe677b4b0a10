//! `build-vocab`: adapts the vocabulary of a tokenizer to a corpus.

mod args;
mod bar;
mod build;
mod counts;
mod inspect;
mod output;
mod text;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = output::clean_up_on_interrupt() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    match (args.command, args.build) {
        (None, Some(build)) | (Some(Command::Build(build)), _) => build::build(&build),
        (Some(Command::Count(count)), _) => counts::count(&count),
        (Some(Command::Merge(merge)), _) => counts::merge(&merge),
        (Some(Command::Select(select)), _) => build::select(&select),
        (Some(Command::Inspect(inspect)), _) => inspect::inspect(&inspect),
        (Some(Command::Encode(encode)), _) => text::encode(&encode),
        (Some(Command::Decode(decode)), _) => text::decode(&decode),
        (Some(Command::Completions { shell }), _) => args::completions(shell),
        (None, None) => unreachable!("the arguments of build are required without a command"),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        let json = cause.downcast_ref::<serde_json::Error>();
        io.map(std::io::Error::kind)
            .or(json.and_then(serde_json::Error::io_error_kind))
            == Some(ErrorKind::BrokenPipe)
    })
}
