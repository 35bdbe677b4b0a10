//! Adapts the demo tokenizer to the demo manual and shows what changed.
//!
//! ```text
//! cargo run --release --example adapt_vocab
//! cargo run --release --example adapt_vocab -- --base gpt2/tokenizer.json --corpus docs/ --swaps 10000
//! ```
#![allow(clippy::print_stdout)] // the comparison is this program's output

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use patchtok::{Corpus, PatchTokenizer, TokenCount, VocabBuilder};

/// Adapts the vocabulary of a tokenizer to a corpus and shows what changed.
#[derive(Debug, Parser)]
struct Args {
    /// tokenizer.json to start from
    #[arg(long, value_name = "FILE", default_value = "crates/bench/demo/base/tokenizer.json")]
    base: PathBuf,
    /// File or folder of text
    #[arg(
        long,
        value_name = "PATH",
        default_value = "crates/bench/demo/corpus/manual-train.jsonl.gz"
    )]
    corpus: PathBuf,
    /// Number of tokens to swap
    #[arg(long, value_name = "N", default_value_t = 2000)]
    swaps: usize,
    /// Folder to write
    #[arg(long, value_name = "DIR", default_value = "target/adapted-tokenizer")]
    out: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let base = PatchTokenizer::from_file(&args.base)?;
    // A tenth of the documents is kept aside: the saving on text that was not learnt from counts.
    let (corpus, heldout) = Corpus::open(&args.corpus)?.split();

    let built = VocabBuilder::new(base.clone()).swaps(args.swaps).build(&corpus)?;
    let patched = built.tokenizer;
    patched.save(&args.out)?;

    let (before, after) = (TokenCount::of(&base, &heldout)?, TokenCount::of(&patched, &heldout)?);
    println!("{} of {} tokens swapped", built.report.swaps, patched.vocab_size());
    println!(
        "held-out text: {} -> {} tokens, {:.1} % fewer",
        before.tokens,
        after.tokens,
        after.saving_percent(&before)
    );
    if let Some(text) = heldout.documents().next() {
        let text: String = text?.chars().take(200).collect();
        println!("before: {}", pieces(&base, &text)?);
        println!("after:  {}", pieces(&patched, &text)?);
    }
    for new in patched.patch_map().into_iter().flat_map(|map| map.new_tokens()).take(5) {
        println!(
            "token {} is {:?}, in the base tokens {:?}",
            new.id,
            String::from_utf8_lossy(&new.token),
            new.base_ids
        );
    }
    println!("written to {}", args.out.display());
    Ok(())
}

/// The tokens of `text` with bars between them.
fn pieces(tokenizer: &PatchTokenizer, text: &str) -> Result<String> {
    let pieces: Result<Vec<_>, _> = tokenizer
        .encode(text)
        .iter()
        .map(|&id| tokenizer.decode(&[id]))
        .collect();
    Ok(pieces?.join("|").escape_debug().to_string())
}
