//! Growing instead of swapping, and segmentation into the fewest tokens.

use std::sync::LazyLock;

use crate::common::{DEMO, GPT2, PATCHED, Random, documents};
use crate::hugging_face::check;
use patchtok::{Corpus, Error, Mode, PatchTokenizer, Segmentation, VocabBuilder};
use proptest::prelude::*;

fn build(base: &PatchTokenizer, mode: Mode, segmentation: Segmentation) -> PatchTokenizer {
    let corpus = Corpus::from_texts(documents("manual-train", 400_000));
    let builder = VocabBuilder::new(base.clone()).swaps(1000).mode(mode);
    builder.segmentation(segmentation).build(corpus).unwrap().tokenizer
}

static GROWN: LazyLock<PatchTokenizer> = LazyLock::new(|| build(&GPT2, Mode::Grow, Segmentation::Bpe));
static GROWN_MIN: LazyLock<PatchTokenizer> = LazyLock::new(|| build(&GPT2, Mode::Grow, Segmentation::MinTokens));
static MIN: LazyLock<PatchTokenizer> = LazyLock::new(|| build(&DEMO, Mode::Swap, Segmentation::MinTokens));

/// All that a grown tokenizer owes its base: no more tokens, and the bytes back.
fn assert_no_longer(text: &str) {
    let base = GPT2.encode(text).len();
    for grown in [&*GROWN, &*GROWN_MIN] {
        let ids = grown.encode(text);
        assert!(ids.len() <= base, "{} tokens instead of {base} for {text:?}", ids.len());
        assert_eq!(grown.decode_bytes(&ids).unwrap(), text.as_bytes());
    }
}

#[test]
fn a_grown_tokenizer_takes_no_more_tokens_for_any_text() {
    for name in ["manual-heldout", "rust-heldout"] {
        documents(name, 100_000).iter().for_each(|text| assert_no_longer(text));
    }
    // Code: this file and the library.
    for code in [include_str!("modes.rs"), include_str!("../../src/base/tokens.rs")] {
        for lines in code.lines().collect::<Vec<_>>().chunks(7) {
            assert_no_longer(&lines.join("\n"));
        }
    }
    let mut random = Random(21);
    for _ in 0..5000 {
        assert_no_longer(&random.text());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(500)
    })]

    #[test]
    fn a_grown_tokenizer_takes_no_more_tokens_for_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let base = GPT2.encode_bytes(&bytes).len();
        for grown in [&*GROWN, &*GROWN_MIN] {
            let ids = grown.encode_bytes(&bytes);
            prop_assert!(ids.len() <= base);
            prop_assert_eq!(&grown.decode_bytes(&ids).unwrap(), &bytes);
        }
    }

    #[test]
    fn a_grown_tokenizer_takes_no_more_tokens_for_any_script(text in "\\PC{0,60}[ \n\t'’.,(a-zé0-9]{0,60}") {
        assert_no_longer(&text);
    }
}

#[test]
fn a_grown_tokenizer_keeps_every_id_of_its_base() {
    let map = GROWN.patch_map().unwrap();
    assert_eq!(map.base_vocab_size() as usize, GPT2.vocab_size());
    assert_eq!(GROWN.vocab_size(), GPT2.vocab_size() + map.new_tokens().len());
    assert!(map.new_tokens().len() > 500, "{}", map.new_tokens().len());
    assert_eq!(map.removed_tokens().len(), 0);
    for id in 0..GPT2.vocab_size() as u32 {
        assert_eq!(GROWN.token_bytes(id), GPT2.token_bytes(id), "token {id}");
    }
    for (new, id) in map.new_tokens().zip(GPT2.vocab_size() as u32..) {
        assert_eq!(new.id, id);
        assert_eq!(GPT2.decode_bytes(&new.base_ids).unwrap(), new.token);
    }
    assert_eq!(GROWN.eos_id(), GPT2.eos_id());
}

#[test]
fn hugging_face_agrees_on_grown_tokenizers() {
    check(&GROWN, &GROWN.to_hf().unwrap(), 22);
}

#[test]
fn hugging_face_agrees_on_the_fewest_tokens() {
    check(&MIN, &MIN.to_hf().unwrap(), 23);
    check(&GROWN_MIN, &GROWN_MIN.to_hf().unwrap(), 24);
}

#[test]
fn the_fewest_tokens_are_fewest() {
    assert_eq!(MIN.segmentation(), Segmentation::MinTokens);
    let mut random = Random(25);
    for _ in 0..2000 {
        let text = random.text();
        let ids = MIN.encode(&text);
        assert_eq!(ids, MIN.encode_reference(&text), "{text:?}");
        assert!(ids.len() <= PATCHED.encode(&text).len(), "{text:?}");
    }
    let long = "-'".repeat(50_000) + &"a".repeat(100_000);
    assert_eq!(MIN.decode(&MIN.encode(&long)).unwrap(), long);
}

#[test]
fn every_file_of_a_grown_or_shortest_tokenizer_is_read() {
    for tokenizer in [&*GROWN, &*MIN] {
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        for binary in [true, false] {
            if !binary {
                std::fs::remove_file(folder.path().join("patch_tokenizer.bin")).unwrap();
            }
            let loaded = PatchTokenizer::load(folder.path()).unwrap();
            assert_eq!(loaded.segmentation(), tokenizer.segmentation());
            assert_eq!(loaded.patch_map(), tokenizer.patch_map());
            for text in documents("manual-heldout", 20_000) {
                assert_eq!(loaded.encode(&text), tokenizer.encode(&text));
            }
        }
    }
}

#[test]
fn other_unigram_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    MIN.save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let json = std::fs::read_to_string(&path).unwrap();
    for (from, to) in [
        ("-1.0", "-1.5"),
        ("\"Unigram\"", "\"BPE\""),
        ("\"Unigram\"", "\"WordPiece\""),
    ] {
        std::fs::write(&path, json.replacen(from, to, 1)).unwrap();
        let error = PatchTokenizer::from_file(&path).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
    }
}
