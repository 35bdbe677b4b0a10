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

pub(crate) fn check(ours: &PatchTokenizer, theirs: &Tokenizer, seed: u64) {
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

/// Without a swap the chunks change nothing: patched tokenizers start from the base's tokens. Only a
/// single blank line becomes the one token that the base has for it.
#[test]
fn chunks_alone_change_no_token_but_blank_lines() {
    for base in [&*DEMO, &*GPT2] {
        let chunked = patched(base, 0).tokenizer;
        let blank_line = chunked.encode("a\n\nb")[1];
        assert_eq!(base.token_bytes(blank_line), Some(&b"\n\n"[..]));
        let check = |text: &str| {
            let (ids, base_ids) = (chunked.encode(text), base.encode(text));
            assert!(ids.len() <= base_ids.len(), "{text:?}");
            // Tokens of line ends, and of a line end and a space, one character at a time.
            let apart = |ids: Vec<u32>| -> Vec<u32> {
                let parts = |id| match base.token_bytes(id) {
                    Some([b'\n', rest @ ..]) => [base.encode("\n"), base.encode_bytes(rest)].concat(),
                    _ => vec![id],
                };
                ids.into_iter().flat_map(parts).collect()
            };
            assert_eq!(apart(ids), apart(base_ids), "{text:?}");
        };
        for name in ["manual-train", "rust-train"] {
            documents(name, 1_000_000).iter().for_each(|text| check(text));
        }
        let mut random = Random(5);
        for _ in 0..10_000 {
            check(&random.text());
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
