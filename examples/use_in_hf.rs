//! Uses an adapted tokenizer through Hugging Face's `tokenizers` library, which knows nothing of
//! patchtok: the ids are the same.
//!
//! ```text
//! cargo run --release --example adapt_vocab
//! cargo run --release --example use_in_hf -- "SELECT * FROM pg_stat_activity;"
//! ```
#![allow(clippy::print_stdout)] // the tokens are this program's output

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use patchtok::PatchTokenizer;
use tokenizers::Tokenizer;

/// Encodes a text with an adapted tokenizer in Hugging Face's library and in this one.
#[derive(Debug, Parser)]
struct Args {
    /// Text to encode
    #[arg(default_value = "The view pg_stat_activity has one row per server process.")]
    text: String,
    /// Folder of the tokenizer
    #[arg(long, value_name = "DIR", default_value = "target/adapted-tokenizer")]
    tokenizer: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let ours =
        PatchTokenizer::load(&args.tokenizer).context("no tokenizer to use; run the example adapt_vocab first")?;
    let theirs = Tokenizer::from_file(args.tokenizer.join("tokenizer.json")).map_err(|e| anyhow!(e))?;

    let encoding = theirs.encode(args.text.as_str(), false).map_err(|e| anyhow!(e))?;
    for (id, token) in encoding.get_ids().iter().zip(encoding.get_tokens()) {
        println!("{id:>6}  {token}");
    }
    ensure!(
        ours.encode(&args.text) == encoding.get_ids(),
        "the two libraries disagree"
    );
    let decoded = theirs.decode(encoding.get_ids(), false).map_err(|e| anyhow!(e))?;
    ensure!(decoded == args.text, "decoding gave another text: {decoded:?}");
    println!("{} tokens, the same in both libraries", encoding.len());
    Ok(())
}
