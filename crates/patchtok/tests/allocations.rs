//! Encoding into memory that is there allocates nothing.

use patchtok::{Corpus, PatchTokenizer, VocabBuilder};

fn documents(name: &str) -> Vec<String> {
    let path = format!("{}/../bench/demo/corpus/{name}.jsonl.gz", env!("CARGO_MANIFEST_DIR"));
    let documents = Corpus::open(path).unwrap();
    documents.documents().take(40).map(Result::unwrap).collect()
}

#[test]
fn encode_into_allocates_nothing() {
    let gpt2 = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
    let gpt2 = PatchTokenizer::from_file(gpt2).unwrap();
    let corpus = Corpus::from_texts(documents("manual-train"));
    let patched = VocabBuilder::new(gpt2.clone())
        .swaps(300)
        .build(corpus)
        .unwrap()
        .tokenizer;
    let mut texts = [documents("manual-heldout"), documents("rust-heldout")].concat();
    texts.extend([
        "a".repeat(100_000),
        " the".repeat(10_000),
        "été <|endoftext|>\n".repeat(50),
    ]);
    for tokenizer in [gpt2, patched] {
        let mut ids = Vec::new();
        let mut encode_all = || {
            let mut tokens = 0;
            for text in &texts {
                ids.clear();
                tokenizer.encode_into(text, &mut ids);
                tokens += ids.len();
            }
            tokens
        };
        let first = allocation_counter::measure(|| assert!(encode_all() > 10_000));
        assert!(first.count_total > 10, "the tables and the ids grow");
        let then = allocation_counter::measure(|| assert!(encode_all() > 10_000));
        assert_eq!(then.count_total, 0, "{} bytes", then.bytes_total);
    }
}
