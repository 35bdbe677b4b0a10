//! `build-vocab`: adapts the vocabulary of a tokenizer to a corpus.

mod args;
mod bar;
mod build;
mod compare;
mod counts;
mod inspect;
mod output;
mod plot;
mod report;
mod text;

use std::io::ErrorKind;
use std::process::ExitCode;

use args::{Args, Command};

fn main() -> ExitCode {
    let args = Args::of_program();
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
    match args.command {
        Command::Build(build) => build::build(&build),
        Command::Count(count) => counts::count(&count),
        Command::Merge(merge) => counts::merge(&merge),
        Command::Select(select) => build::select(&select),
        Command::Inspect(inspect) => inspect::inspect(&inspect),
        Command::Encode(encode) => text::encode(&encode),
        Command::Decode(decode) => text::decode(&decode),
        Command::Completions { shell } => args::completions(shell),
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
