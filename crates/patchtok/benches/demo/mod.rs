//! What the benches work on: GPT-2's tokenizer and the demo's corpora, which are in the repository.

use std::path::{Path, PathBuf};

use patchtok::{Corpus, PatchTokenizer};

/// The folder of the crate `patchtok`, in which or below which the bench lies.
fn folder() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut folders = folders.filter(|folder| folder.join("data/gpt2").is_dir());
    folders.next().expect("the bench lies in the crate").into()
}

pub(crate) fn gpt2() -> PatchTokenizer {
    let path = folder().join("data/gpt2/tokenizer.json");
    PatchTokenizer::from_file(path).expect("the tokenizer is in the repository")
}

/// The first documents of one of the demo's corpora, `bytes` or a little more.
pub(crate) fn documents(name: &str, bytes: usize) -> Vec<String> {
    let path = folder().join(format!("../bench/demo/corpus/{name}.jsonl.gz"));
    let corpus = Corpus::open(path).expect("the corpus is in the repository");
    let mut left = bytes;
    let texts = corpus.documents().map(|text| text.expect("the corpus is good"));
    texts
        .take_while(|text| {
            let is_left = left > 0;
            left = left.saturating_sub(text.len());
            is_left
        })
        .collect()
}
