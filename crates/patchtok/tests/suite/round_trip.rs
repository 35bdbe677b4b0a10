//! Nothing is lost between text and ids.

use crate::common::{GPT2, PATCHED, Random};
use patchtok::{Error, PatchTokenizer};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn bytes_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for tokenizer in [&*PATCHED, &*GPT2] {
            let ids = tokenizer.encode_bytes(&bytes);
            prop_assert_eq!(&tokenizer.decode_bytes(&ids).unwrap(), &bytes);
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn text_comes_back_and_streams(text in "\\PC{0,40}[ \n\t'a-z]{0,40}") {
        for tokenizer in [&*PATCHED, &*GPT2] {
            let ids = tokenizer.encode(&text);
            prop_assert_eq!(&ids, &tokenizer.encode_reference(&text));
            prop_assert_eq!(&ids, &tokenizer.encode_bytes(text.as_bytes()));
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text.as_str());
            let mut stream = tokenizer.decode_stream();
            let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            streamed.push_str(&stream.finish());
            prop_assert_eq!(streamed, text.as_str());
        }
    }

    /// Any ids at all: the stream gives what decoding at once gives, and holds back no more than it
    /// must.
    #[test]
    fn any_ids_stream(ids in prop::collection::vec(0u32..50_257, 0..60)) {
        let mut stream = GPT2.decode_stream();
        let mut streamed = String::new();
        for &id in &ids {
            streamed.push_str(&stream.push(id).unwrap());
        }
        streamed.push_str(&stream.finish());
        prop_assert_eq!(streamed, GPT2.decode(&ids).unwrap());
    }
}

#[test]
fn the_reference_agrees_on_random_texts() {
    let mut random = Random(11);
    for _ in 0..3000 {
        let text = random.text();
        assert_eq!(PATCHED.encode(&text), PATCHED.encode_reference(&text), "{text:?}");
    }
}

#[test]
fn a_batch_is_its_texts_in_order() {
    let mut random = Random(12);
    let texts: Vec<String> = (0..200).map(|_| random.text()).collect();
    let expected: Vec<_> = texts.iter().map(|text| GPT2.encode(text)).collect();
    assert_eq!(GPT2.encode_batch(&texts), expected);
}

#[test]
fn special_tokens_are_found_unless_asked_otherwise() {
    let text = "one<|endoftext|>two";
    assert_eq!(GPT2.eos_id(), Some(50_256));
    assert_eq!(GPT2.special_ids().collect::<Vec<_>>(), [50_256]);
    assert_eq!(GPT2.encode(text)[1], 50_256);
    let ordinary = GPT2.encode_ordinary(text);
    assert!(!ordinary.contains(&50_256));
    assert_eq!(GPT2.decode(&ordinary).unwrap(), text);
}

#[test]
fn unknown_ids_are_errors() {
    let error = GPT2.decode(&[0, 50_257]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::UnknownId {
                id: 50_257,
                vocab_size: 50_257
            }
        ),
        "{error}"
    );
    assert_eq!(GPT2.token_bytes(50_257), None);
    let mut stream = GPT2.decode_stream();
    assert!(stream.push(u32::MAX).is_err());
    assert_eq!(stream.push(GPT2.encode("x")[0]).unwrap(), "x");
}

#[test]
fn a_stream_waits_for_the_rest_of_a_character() {
    let bytes = "🦀".as_bytes();
    let ids: Vec<u32> = bytes.iter().map(|&byte| GPT2.encode_bytes(&[byte])[0]).collect();
    let mut stream = GPT2.decode_stream();
    let given: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(given, ["", "", "", "🦀"]);
    // A character that cannot be completed is given up at once.
    let x = GPT2.encode("x")[0];
    assert_eq!(stream.push(ids[0]).unwrap(), "");
    assert_eq!(stream.push(x).unwrap(), "\u{fffd}x");
    assert_eq!(stream.push(ids[0]).unwrap(), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn public_types_are_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<PatchTokenizer>();
    check::<patchtok::Corpus>();
    check::<patchtok::VocabBuilder>();
    check::<patchtok::Built>();
    check::<Error>();
}
