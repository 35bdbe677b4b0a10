//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// The embedded demonstration.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo");

/// Compares a Normal LLM (base tokenizer, static KV cache) with the Fused LLM (patched tokenizer,
/// virtual KV cache) on the same text, and writes the report and four figures.
///
/// Without arguments it runs the embedded demonstration; it needs no network. Give --model,
/// --tokenizer and --corpus to run it on your own files. The exit status is 0 for a finished run, 1
/// for one that failed, 2 for wrong usage.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench", version, max_term_width = 110)]
pub struct Cli {
    /// Your base model: a Hugging Face GPT-2 directory with its tokenizer.json
    #[arg(long, value_name = "DIR", requires_all = ["tokenizer", "corpus"])]
    pub model: Option<PathBuf>,
    /// Your patched tokenizer: a directory that build-vocab wrote
    #[arg(long, value_name = "DIR", requires_all = ["model", "corpus"])]
    pub tokenizer: Option<PathBuf>,
    /// Your held-out text: a file or folder of .txt, .md, .jsonl and the like, .gz too
    #[arg(long, value_name = "PATH", requires_all = ["model", "tokenizer"])]
    pub corpus: Option<PathBuf>,
    /// The model tuned for your patched tokenizer [default: adapted on the fly, not tuned]
    #[arg(long, value_name = "DIR", requires = "model")]
    pub fused_model: Option<PathBuf>,
    /// Where the demonstration's files are
    #[arg(long, value_name = "DIR", default_value = DEMO, hide_default_value = true, conflicts_with = "model")]
    pub demo: PathBuf,
    /// Where the report and the figures go; other files there are left alone
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub out: PathBuf,
    /// Texts that every arm completes
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count)]
    pub texts: usize,
    /// Texts decoded together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count)]
    pub batch: usize,
    /// Repetitions of every measurement
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    pub rounds: usize,
    /// Physical memory the virtual KV cache may use, in MiB [default: what the static one takes]
    #[arg(long, value_name = "MIB", value_parser = count)]
    pub kv_budget: Option<usize>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A whole number from 1 to a million.
fn count(text: &str) -> Result<usize, String> {
    let limit = 1_000_000;
    match text.parse() {
        Ok(n) if (1..=limit).contains(&n) => Ok(n),
        _ => Err(format!("must be a whole number from 1 to {limit}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn own_files_come_together_or_not_at_all() {
        let parse = |args: &str| Cli::try_parse_from(std::iter::once("bench").chain(args.split_whitespace()));
        assert!(parse("").is_ok());
        assert!(parse("--model a --tokenizer b --corpus c --fused-model d --json").is_ok());
        for args in [
            "--model a",
            "--model a --corpus c",
            "--tokenizer b --corpus c",
            "--fused-model d",
            "--model a --tokenizer b --corpus c --demo d",
            "--texts 0",
            "--rounds -1",
            "--batch 1000001",
            "--kv-budget x",
            "stray",
        ] {
            assert_eq!(parse(args).expect_err(args).exit_code(), 2, "{args}");
        }
    }
}
