//! The three files of a tokenizer: equal after a round trip, and errors for everything damaged.

use std::fs;
use std::path::Path;

use crate::common::{DEMO, PATCHED, Random, gpt2_path};
use patchtok::{Error, PatchTokenizer};
use serde_json::{Value, json};

/// The same ids for the same texts, and the same patch map.
fn assert_same(a: &PatchTokenizer, b: &PatchTokenizer) {
    let mut random = Random(21);
    for _ in 0..500 {
        let text = random.text();
        assert_eq!(a.encode(&text), b.encode(&text), "{text:?}");
    }
    assert_eq!(a.patch_map(), b.patch_map());
}

#[test]
fn all_three_files_hold_the_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/here");
    let tokenizer = &*PATCHED;
    tokenizer.save(&path).unwrap();
    assert_same(&PatchTokenizer::load(&path).unwrap(), tokenizer);
    let names = |path: &Path| {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&path),
        ["patch_map.json", "patch_tokenizer.bin", "tokenizer.json"]
    );

    let exported = PatchTokenizer::from_file(path.join("tokenizer.json")).unwrap();
    assert_eq!(exported.patch_map(), None);
    fs::remove_file(path.join("patch_tokenizer.bin")).unwrap();
    assert_same(&PatchTokenizer::load(&path).unwrap(), tokenizer);

    // Saving what was loaded gives the same bytes.
    let again = folder.path().join("again");
    tokenizer.save(&path).unwrap();
    PatchTokenizer::load(&path).unwrap().save(&again).unwrap();
    for name in names(&path) {
        assert_eq!(
            fs::read(path.join(&name)).unwrap(),
            fs::read(again.join(&name)).unwrap(),
            "{name:?}"
        );
    }
}

#[test]
fn a_base_is_saved_without_a_patch_map() {
    let folder = tempfile::tempdir().unwrap();
    DEMO.save(folder.path()).unwrap();
    assert!(!folder.path().join("patch_map.json").exists());
    assert_same(&PatchTokenizer::load(folder.path()).unwrap(), &DEMO);
}

#[test]
fn a_damaged_artifact_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("patch_tokenizer.bin");
    PATCHED.save(folder.path()).unwrap();
    let file = fs::read(&path).unwrap();
    let mut random = Random(31);
    let places = (0..40)
        .chain((0..160).map(|_| random.below(file.len())))
        .collect::<Vec<_>>();
    for place in places {
        let mut flipped = file.clone();
        flipped[place] ^= 1 << (place % 8);
        for damaged in [&flipped[..], &file[..place]] {
            fs::write(&path, damaged).unwrap();
            let error = PatchTokenizer::load(folder.path()).unwrap_err();
            assert!(matches!(error, Error::Artifact(_)), "{place}: {error}");
        }
    }
    fs::write(&path, [&file[..], b"x"].concat()).unwrap();
    assert!(PatchTokenizer::load(folder.path()).is_err());
}

#[test]
fn a_patch_map_that_does_not_fit_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    PATCHED.save(folder.path()).unwrap();
    fs::remove_file(folder.path().join("patch_tokenizer.bin")).unwrap();
    let path = folder.path().join("patch_map.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let changes: [(&str, Value); 9] = [
        ("/format", json!("patchtok.patch_map.v2")),
        ("/base_vocab_size", json!(8193)),
        ("/new", json!([])),
        ("/new/0/id", json!(0)),
        ("/new/0/id", json!(u32::MAX)),
        ("/new/0/token", json!("x")),
        ("/new/0/token", json!(" ")),
        ("/new/0/base_ids", json!([])),
        ("/removed/0/pieces/0", json!(8192)),
    ];
    for (pointer, value) in changes {
        let mut map = good.clone();
        *map.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, map.to_string()).unwrap();
        let error = PatchTokenizer::load(folder.path()).unwrap_err();
        assert!(
            matches!(error, Error::PatchMap(_) | Error::Json { .. }),
            "{pointer}: {error}"
        );
    }
    fs::write(&path, good.to_string()).unwrap();
    PatchTokenizer::load(folder.path()).unwrap();
}

/// The error of GPT-2's `tokenizer.json` with some parts changed.
fn changed(changes: &[(&str, Value)]) -> Error {
    let mut json: Value = serde_json::from_slice(&fs::read(gpt2_path()).unwrap()).unwrap();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = json.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        parent.insert(key.into(), value.clone());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, json.to_string()).unwrap();
    PatchTokenizer::from_file(&path).unwrap_err()
}

#[test]
fn unsupported_parts_are_named() {
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": true });
    let roberta = json!({ "type": "RobertaProcessing" });
    let added = |key: &str| {
        let mut token = json!({ "id": 50256, "content": "<|endoftext|>" });
        token[key] = json!(true);
        json!([token])
    };
    for (pointer, value, name) in [
        ("/normalizer", json!({ "type": "NFKC" }), "NFKC"),
        ("/truncation", json!({ "max_length": 5 }), "truncation"),
        ("/padding", json!({ "strategy": "BatchLongest" }), "padding"),
        ("/pre_tokenizer", byte_level, "ByteLevel"),
        ("/pre_tokenizer", json!({ "type": "Metaspace" }), "Metaspace"),
        ("/pre_tokenizer", Value::Null, "pre-tokenizer none"),
        ("/post_processor", roberta, "RobertaProcessing"),
        ("/decoder", Value::Null, "decoder none"),
        ("/model/type", json!("Unigram"), "Unigram"),
        ("/model/dropout", json!(0.1), "dropout"),
        ("/model/byte_fallback", json!(true), "byte_fallback"),
        ("/model/end_of_word_suffix", json!("</w>"), "end_of_word_suffix"),
        ("/added_tokens", added("lstrip"), "lstrip"),
        ("/added_tokens", added("single_word"), "single_word"),
        ("/added_tokens", json!([{ "id": 50257, "content": "Ġxyzzy" }]), "Ġxyzzy"),
    ] {
        let error = changed(&[(pointer, value)]);
        assert!(matches!(error, Error::Unsupported(_)), "{pointer}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn contradictions_are_named() {
    let vocab = |vocab| {
        vec![
            ("/model/vocab", vocab),
            ("/model/merges", json!([])),
            ("/added_tokens", json!([])),
        ]
    };
    let merges = |merges| vec![("/model/merges", merges)];
    let added = |id: u32, content: &str| vec![("/added_tokens", json!([{ "id": id, "content": content }]))];
    for (changes, message) in [
        (merges(json!(["a"])), "is not a merge"),
        (merges(json!([["a", "Ā"]])), "not a token"),
        (merges(json!([["t", "h"], ["t", "h"]])), "listed twice"),
        (vocab(json!({ "a": 0 })), "byte 0x00"),
        (vocab(json!({ "a": 1 })), "no token has the id 0"),
        (vocab(json!({ "a": 0, "b": 0 })), "two tokens have the id 0"),
        (added(7, "<|endoftext|>"), "has the id 7"),
        (added(60_000, "<|new|>"), "gives it 50257"),
    ] {
        let error = changed(&changes);
        assert!(matches!(error, Error::Inconsistent(_)), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    for error in [
        PatchTokenizer::from_file("no/such.json"),
        PatchTokenizer::load("no/such"),
    ]
    .map(Result::unwrap_err)
    {
        assert!(error.to_string().contains("no/such"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, "{\"model\": 3").unwrap();
    let error = PatchTokenizer::load(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Json { .. }), "{error}");
}
