//! The texts that are encoded: the project's own, or files that are named.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use patchtok::Corpus;

/// A body of text, whole, in documents and in short texts.
pub(crate) struct Text {
    pub(crate) name: &'static str,
    /// Pieces of about 100 KB.
    pub(crate) documents: Vec<String>,
    /// Pieces of about 100 bytes.
    pub(crate) short: Vec<String>,
}

impl Text {
    fn new(name: &'static str, text: &str) -> anyhow::Result<Self> {
        if text.is_empty() {
            bail!("the {name} text is empty");
        }
        Ok(Text {
            name,
            documents: cut(text, 100_000),
            short: cut(text, 100),
        })
    }
}

/// English technical prose: the file, or the held-out parts of the demo corpora.
pub(crate) fn prose(file: Option<&Path>, bytes: usize) -> anyhow::Result<Text> {
    let text = match file {
        Some(file) => read(file)?,
        None => documents(&["manual-heldout", "rust-heldout"])?,
    };
    Text::new("prose", fill(&text, bytes))
}

/// Program text: the file, or the Rust sources of this workspace.
pub(crate) fn code(file: Option<&Path>, bytes: usize) -> anyhow::Result<Text> {
    let text = match file {
        Some(file) => read(file)?,
        None => {
            let mut text = String::new();
            sources(&root().join("crates"), &mut text)?;
            text
        }
    };
    Text::new("code", fill(&text, bytes))
}

/// One of the demo's corpora.
pub(crate) fn demo(name: &str) -> anyhow::Result<Corpus> {
    Ok(Corpus::open(corpus(name))?)
}

/// GPT-2's tokenizer.
pub(crate) fn gpt2() -> PathBuf {
    root().join("crates/patchtok/data/gpt2/tokenizer.json")
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn corpus(name: &str) -> PathBuf {
    root().join(format!("crates/bench/demo/corpus/{name}.jsonl.gz"))
}

fn documents(names: &[&str]) -> anyhow::Result<String> {
    let mut all = String::new();
    for name in names {
        for text in Corpus::open(corpus(name))?.documents() {
            all += &text?;
            all += "\n\n";
        }
    }
    Ok(all)
}

/// Appends the Rust files under `folder`, in the order of their names.
fn sources(folder: &Path, text: &mut String) -> anyhow::Result<()> {
    let entries = folder
        .read_dir()
        .with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            sources(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &read(&path)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The first `bytes` of `text`, to the end of a character.
fn fill(text: &str, bytes: usize) -> &str {
    &text[..boundary(text, bytes)]
}

/// `text` in pieces of `bytes` bytes, each a little less where a character is in the way.
fn cut(text: &str, bytes: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(boundary(rest, bytes));
        pieces.push(piece.to_owned());
        rest = tail;
    }
    pieces
}

/// The last place in `text`, at most `bytes`, that is between two characters.
fn boundary(text: &str, bytes: usize) -> usize {
    (0..=bytes.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0)
}
