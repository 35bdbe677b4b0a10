//! A small model and text for tests of the program.

use std::path::Path;

use fused_model::{Gpt2Config, Params, SaveAs};
use patchtok::{Corpus, PatchTokenizer, VocabBuilder};

/// The demonstration's tokenizer.
pub(crate) const TOKENIZER_JSON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/base/tokenizer.json");

/// Pages of a few words, each page in an order of its own.
pub(crate) fn pages() -> Vec<String> {
    let page = |page: usize| -> String {
        let word = |i: usize| ["select", "from", "where", "the table", "is locked"][i * (page + 7) % 5];
        (0..150).map(|i| format!("{} {}. ", word(i), word(i / 5))).collect()
    };
    (0..12).map(page).collect()
}

/// The demonstration's tokenizer, and the same with 20 tokens swapped for these pages.
pub(crate) fn tokenizers(pages: &[String]) -> [PatchTokenizer; 2] {
    let base = PatchTokenizer::from_file(TOKENIZER_JSON).expect("the demonstration's tokenizer");
    let built = VocabBuilder::new(base.clone())
        .swaps(20)
        .build(Corpus::from_texts(pages.to_vec()));
    [base, built.expect("builds").tokenizer]
}

/// A model that knows nothing, with its tokenizer, in a folder.
pub(crate) fn save_model(folder: &Path, tokenizer: &PatchTokenizer) {
    let mut config = Gpt2Config::new(tokenizer.vocab_size(), 128, 16, 2, 2);
    config.eos_token_id = tokenizer.eos_id();
    Params::random(config, 1).save(folder, SaveAs::F32).expect("saves");
    tokenizer.save(folder).expect("saves");
}
