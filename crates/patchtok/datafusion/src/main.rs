//! The program: `merge` of `build-vocab`, with DataFusion.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use patchtok::PatchTokenizer;
use patchtok_datafusion::{Limits, merge_counts};

/// Adds the counts files of `build-vocab count` together with Apache DataFusion, into the file that `build-vocab merge`
/// makes of them.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// tokenizer.json of the base, or the folder that holds it
    #[arg(long, value_name = "FILE|DIR")]
    base: PathBuf,
    /// Files that count or merge wrote, or a query over such files
    #[arg(value_name = "FILE", required = true)]
    counts: Vec<PathBuf>,
    /// File to write, .parquet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Memory for the rows at hand: 2G, 512M; what does not fit goes to files beside the result [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<usize>,
    /// Threads [default: as many as the process may use cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let out = args.out.display();
    ensure!(args.force || !args.out.exists(), "{out} exists; --force replaces it");
    let base = match args.base.is_dir() {
        true => PatchTokenizer::load(&args.base),
        false => PatchTokenizer::from_file(&args.base),
    };
    let base = base.context("cannot read the base tokenizer")?;
    let limits = Limits {
        memory: args.memory,
        threads: args.threads.map(usize::from),
    };
    let summary = merge_counts(&base, &args.counts, &args.out, limits)?;
    println!(
        "corpus      {} documents, {} bytes\nchunks      {} distinct, {} bytes",
        summary.documents, summary.bytes, summary.distinct_chunks, summary.distinct_bytes
    );
    Ok(())
}

/// A number of bytes in units of 1024, as for `build-vocab`.
fn size(text: &str) -> Result<usize, String> {
    let bytes = parse_size::Config::new().with_binary().parse_size(text);
    usize::try_from(bytes.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}
