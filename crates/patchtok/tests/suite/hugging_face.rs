//! The `tokenizers` library gives the same ids, for every tokenizer and every text.

use crate::common::{DEMO, GPT2, PATCHED, Random, demo_path, documents, gpt2_path, patched};
use patchtok::PatchTokenizer;
use tokenizers::Tokenizer;

fn assert_equal(ours: &PatchTokenizer, theirs: &Tokenizer, text: &str) {
    let expected = theirs.encode_fast(text, false).unwrap();
    assert_eq!(ours.encode(text), expected.get_ids(), "{text:?}");
    assert_eq!(
        ours.decode(expected.get_ids()).unwrap(),
        theirs.decode(expected.get_ids(), false).unwrap()
    );
}

fn check(ours: &PatchTokenizer, theirs: &Tokenizer, seed: u64) {
    assert_eq!(ours.vocab_size(), theirs.get_vocab_size(true));
    for name in ["manual-heldout", "rust-heldout"] {
        for text in documents(name, 60_000) {
            assert_equal(ours, theirs, &text);
        }
    }
    let mut random = Random(seed);
    for _ in 0..10_000 {
        assert_equal(ours, theirs, &random.text());
    }
}

#[test]
fn demo_base() {
    check(&DEMO, &Tokenizer::from_file(demo_path()).unwrap(), 1);
}

#[test]
fn gpt2_base() {
    check(&GPT2, &Tokenizer::from_file(gpt2_path()).unwrap(), 2);
}

#[test]
fn patched_demo() {
    check(&PATCHED, &PATCHED.to_hf().unwrap(), 3);
}

#[test]
fn patched_gpt2() {
    let tokenizer = patched(&GPT2, 3000).tokenizer;
    check(&tokenizer, &tokenizer.to_hf().unwrap(), 4);
}

/// Without a swap the chunks change nothing: patched tokenizers start from the base's tokens.
#[test]
fn chunks_alone_change_no_token() {
    for base in [&*DEMO, &*GPT2] {
        let chunked = patched(base, 0).tokenizer;
        for name in ["manual-train", "rust-train"] {
            for text in documents(name, 1_000_000) {
                assert_eq!(chunked.encode(&text), base.encode(&text), "{text:?}");
            }
        }
        let mut random = Random(5);
        for _ in 0..10_000 {
            let text = random.text();
            assert_eq!(chunked.encode(&text), base.encode(&text), "{text:?}");
        }
    }
}

/// A text that is never cut is one chunk of a megabyte. Hugging Face has no limit either.
#[test]
fn a_text_without_borders_is_encoded() {
    let tokenizer = &*PATCHED;
    let theirs = tokenizer.to_hf().unwrap();
    assert_equal(tokenizer, &theirs, &"a".repeat(100_000));
    assert_equal(tokenizer, &theirs, &"-'".repeat(20_000));
    let long = "b c".repeat(350_000);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&long)).unwrap(), long);
}
