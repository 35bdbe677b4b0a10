//! Base tokenizers of other kinds than GPT-2's, made here: what is read gives the ids of the `tokenizers`
//! library, as it is, written again, and patched; what is not read is named.

use std::collections::BTreeMap;
use std::path::PathBuf;

use patchtok::{
    Corpus, Error, GPT2_PATTERN, LLAMA3_PATTERN, Mode, PatchTokenizer, QWEN_PATTERN, Segmentation, VocabBuilder,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokenizers::Tokenizer;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::common::{Random, documents};
use crate::hugging_face::check;

fn split(pattern: &str) -> Value {
    let split = json!({
        "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false,
    });
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    json!({ "type": "Sequence", "pretokenizers": [split, byte_level] })
}

/// A tokenizer with the pre-tokenizer and normalizer, trained on a part of the demo manual.
fn trained(pre_tokenizer: Value, normalizer: Value) -> Value {
    let empty = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": {}, "merges": [] },
    });
    let mut tokenizer: Tokenizer = empty.to_string().parse().unwrap();
    let trainer = BpeTrainer::builder()
        .vocab_size(1500)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let texts = documents("manual-train", 200_000)
        .into_iter()
        .chain(documents("rust-train", 200_000));
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts).unwrap();
    let mut file: Value = serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap();
    let size = file["model"]["vocab"].as_object().unwrap().len();
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    file["added_tokens"] = json!([special(size, "<|begin_of_text|>"), special(size + 1, "<|endoftext|>")]);
    file
}

/// As Llama 3's file: every way to cut a token in two is a merge, pieces that are tokens are not merged,
/// and some tokens are reached in no other way.
pub(crate) fn llama3() -> Value {
    let mut file = trained(split(LLAMA3_PATTERN), Value::Null);
    let model = &mut file["model"];
    model["ignore_merges"] = true.into();
    let ids: BTreeMap<String, u64> = serde_json::from_value(model["vocab"].clone()).unwrap();
    let mut by_id: Vec<(&String, u64)> = ids.iter().map(|(token, &id)| (token, id)).collect();
    by_id.sort_by_key(|&(_, id)| id);
    let mut merges = Vec::new();
    for (token, _) in by_id {
        let ends = token.char_indices().skip(1).map(|(end, _)| token.split_at(end));
        let mut ways: Vec<_> = ends
            .filter_map(|(l, r)| Some((ids.get(l)?, ids.get(r)?, l, r)))
            .collect();
        ways.sort();
        merges.extend(ways.into_iter().map(|(_, _, left, right)| json!([left, right])));
    }
    assert!(merges.len() > ids.len(), "{} merges", merges.len());
    model["merges"] = merges.into();
    let count = ids.len();
    for (at, token) in ["ĠStraÃŁe", "you", "---"].into_iter().enumerate() {
        assert!(!ids.contains_key(token), "{token}");
        file["model"]["vocab"][token] = (count + at).into();
    }
    for token in file["added_tokens"].as_array_mut().unwrap() {
        token["id"] = (token["id"].as_u64().unwrap() + 3).into();
    }
    let begin = file["added_tokens"][0]["id"].clone();
    file["post_processor"] = json!({
        "type": "Sequence",
        "processors": [
            { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
            {
                "type": "TemplateProcessing",
                "single": [
                    { "SpecialToken": { "id": "<|begin_of_text|>", "type_id": 0 } },
                    { "Sequence": { "id": "A", "type_id": 0 } },
                ],
                "pair": [
                    { "Sequence": { "id": "A", "type_id": 0 } },
                    { "Sequence": { "id": "B", "type_id": 1 } },
                ],
                "special_tokens": {
                    "<|begin_of_text|>": {
                        "id": "<|begin_of_text|>", "ids": [begin], "tokens": ["<|begin_of_text|>"],
                    },
                },
            },
        ],
    });
    file
}

/// As Qwen's file.
pub(crate) fn qwen_like() -> Value {
    trained(split(QWEN_PATTERN), json!({ "type": "NFC" }))
}

/// As SmolLM's file: every digit by itself, GPT-2's pattern between them.
fn digits() -> Value {
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let both = json!({ "type": "Sequence", "pretokenizers": [digits, byte_level] });
    trained(both, Value::Null)
}

/// The file in a folder of its own.
pub(crate) fn written(file: &Value) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    (folder, path)
}

/// Everything about a base that is read.
fn check_base(file: &Value, seed: u64) -> PatchTokenizer {
    let (folder, path) = written(file);
    let base = PatchTokenizer::from_file(&path).unwrap();
    let theirs = Tokenizer::from_file(&path).unwrap();
    check(&base, &theirs, seed);
    // Written and read again, by this crate and by the library.
    base.save(folder.path()).unwrap();
    let loaded = PatchTokenizer::load(folder.path()).unwrap();
    let again = Tokenizer::from_file(&path).unwrap();
    let corpus = || Corpus::from_texts(documents("manual-train", 200_000));
    let patched = VocabBuilder::new(base.clone())
        .swaps(300)
        .build(corpus())
        .unwrap()
        .tokenizer;
    let fewest = VocabBuilder::new(base.clone())
        .swaps(300)
        .segmentation(Segmentation::MinTokens);
    let fewest = fewest.build(corpus()).unwrap().tokenizer;
    check(&patched, &patched.to_hf().unwrap(), seed + 1);
    let grown = VocabBuilder::new(base.clone())
        .swaps(300)
        .mode(Mode::Grow)
        .build(corpus())
        .unwrap()
        .tokenizer;
    let (fewest_theirs, grown_theirs) = (fewest.to_hf().unwrap(), grown.to_hf().unwrap());
    let ids_of = |tokenizer: &Tokenizer, text: &str| tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
    let mut random = Random(seed);
    for round in 0..2000 {
        let text = random.text();
        let ids = base.encode(&text);
        assert_eq!(loaded.encode(&text), ids, "{text:?}");
        assert_eq!(ids_of(&again, &text), ids, "{text:?}");
        assert_eq!(base.encode_reference(&text), ids, "{text:?}");
        assert_eq!(patched.encode_reference(&text), patched.encode(&text), "{text:?}");
        assert_eq!(grown.encode(&text), ids_of(&grown_theirs, &text), "{text:?}");
        if round % 4 == 0 {
            assert_eq!(fewest.encode(&text), ids_of(&fewest_theirs, &text), "{text:?}");
        }
    }
    let tokens = |tokenizer: &PatchTokenizer| -> usize {
        let texts = documents("manual-heldout", 200_000);
        texts.iter().map(|text| tokenizer.encode(text).len()).sum()
    };
    let (before, after) = (tokens(&base), tokens(&patched));
    assert!(after < before, "{after} tokens of {before}");
    grown
}

/// A grown tokenizer takes no more tokens than its base.
fn check_growth(file: &Value, grown: &PatchTokenizer, seed: u64) {
    let (_folder, path) = written(file);
    let base = PatchTokenizer::from_file(path).unwrap();
    let mut random = Random(seed);
    for _ in 0..5000 {
        let text = random.text();
        assert!(grown.encode(&text).len() <= base.encode(&text).len(), "{text:?}");
    }
}

#[test]
fn gpt2_by_a_split() {
    let file = trained(split(GPT2_PATTERN), Value::Null);
    check_growth(&file, &check_base(&file, 11), 12);
}

#[test]
fn qwen() {
    let file = qwen_like();
    check_growth(&file, &check_base(&file, 21), 22);
    let (_folder, path) = written(&file);
    let tokenizer = PatchTokenizer::from_file(path).unwrap();
    // A text comes back as it is after normalization.
    let ids = tokenizer.encode("cafe\u{301} \u{1100}\u{1161}");
    assert_eq!(tokenizer.decode(&ids).unwrap(), "café \u{ac00}");
    assert_eq!(tokenizer.encode_ordinary("cafe\u{301}"), tokenizer.encode("café"));
}

#[test]
fn llama_3() {
    let file = llama3();
    check_base(&file, 31);
    let (_folder, path) = written(&file);
    let tokenizer = PatchTokenizer::from_file(&path).unwrap();
    assert_eq!(tokenizer.encode(" Straße").len(), 1);
    // What adds special tokens goes with the file.
    let theirs = Tokenizer::from_file(&path).unwrap();
    let ids = |tokenizer: &Tokenizer| tokenizer.encode_fast("a table", true).unwrap().get_ids().to_vec();
    assert_eq!(ids(&tokenizer.to_hf().unwrap()), ids(&theirs));
    assert_eq!(ids(&theirs)[1..], tokenizer.encode("a table"));
}

#[test]
fn llama_3_without_ignored_merges() {
    let mut file = llama3();
    file["model"]["ignore_merges"] = false.into();
    let (_folder, path) = written(&file);
    let (ours, theirs) = (
        PatchTokenizer::from_file(&path).unwrap(),
        Tokenizer::from_file(&path).unwrap(),
    );
    check(&ours, &theirs, 41);
    let corpus = Corpus::from_texts(documents("manual-train", 200_000));
    let grown = VocabBuilder::new(ours)
        .swaps(300)
        .mode(Mode::Grow)
        .build(corpus)
        .unwrap();
    check_growth(&file, &grown.tokenizer, 42);
}

#[test]
fn digits_by_themselves() {
    let file = digits();
    let (folder, path) = written(&file);
    let base = PatchTokenizer::from_file(&path).unwrap();
    let theirs = Tokenizer::from_file(&path).unwrap();
    check(&base, &theirs, 51);
    base.save(folder.path()).unwrap();
    let loaded = PatchTokenizer::load(folder.path()).unwrap();
    let again = Tokenizer::from_file(&path).unwrap();
    let mut random = Random(52);
    for _ in 0..5000 {
        // Digits of one to four bytes anywhere, white space before them too.
        let text = format!("{}  12 {}½\u{1d7d9}x3\n\n4", random.text(), random.text());
        let ids = base.encode(&text);
        let want = theirs.encode_fast(&*text, false).unwrap();
        assert_eq!(ids, want.get_ids(), "{text:?}");
        assert_eq!(again.encode_fast(&*text, false).unwrap().get_ids(), ids, "{text:?}");
        assert_eq!(loaded.encode(&text), ids, "{text:?}");
        assert_eq!(base.encode_reference(&text), ids, "{text:?}");
        assert_eq!(base.decode(&ids).unwrap(), text);
    }
    let grown = check_base(&file, 53);
    check_growth(&file, &grown, 54);
    let patched = grown.to_hf().unwrap();
    for _ in 0..2000 {
        let text = format!("{}\n\n7 {}½\u{1d7d9}x\n\n", random.text(), random.text());
        let ids = grown.encode(&text);
        assert_eq!(patched.encode_fast(&*text, false).unwrap().get_ids(), ids, "{text:?}");
        assert!(ids.len() <= base.encode(&text).len(), "{text:?}");
    }
    // No new token holds a digit: the base has none to join.
    let map = grown.patch_map().unwrap();
    assert!(map.new_tokens().len() > 100);
    assert!(
        map.new_tokens()
            .all(|token| !token.token.iter().any(u8::is_ascii_digit))
    );
}

/// As Llama 2's file: tokens are made of characters and hold `▁` for a blank, and bytes are a last resort.
fn llama2() -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "a", "b", "l", "e", "t", "▁t", "▁ta", "bl", "ble", "▁table"].map(String::from));
    let vocab: serde_json::Map<String, Value> = tokens
        .into_iter()
        .zip(0..)
        .map(|(token, id)| (token, id.into()))
        .collect();
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                { "type": "Prepend", "prepend": "▁" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            ],
        },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
                { "type": "ByteFallback" },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
            ],
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab,
            "merges": ["▁ t", "▁t a", "b l", "bl e", "▁ta ble"],
        },
    })
}

/// The kind of Llama 2 and Mistral is not read: the error names what is in the way, one part after the other.
#[test]
fn llama_2_and_mistral_are_refused_by_name() {
    let mut file = llama2();
    let refused = |file: &Value, named: &str| {
        let (_folder, path) = written(file);
        let theirs = Tokenizer::from_file(&path).unwrap();
        assert!(
            theirs.encode_fast("a table é", false).unwrap().len() > 2,
            "it is a file that works"
        );
        match PatchTokenizer::from_file(&path) {
            Err(Error::Unsupported(what)) => assert!(what.contains(named), "{what:?} does not name {named:?}"),
            other => panic!("{other:?}"),
        }
    };
    refused(&file, "byte_fallback = true (the kind of Llama 2 and Mistral");
    // Mistral's later files.
    let mut mistral = file.clone();
    mistral["normalizer"] = Value::Null;
    mistral["pre_tokenizer"] =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
    refused(&mistral, "byte_fallback = true (the kind of Llama 2 and Mistral");
    for file in [&mut file, &mut mistral] {
        file["model"]["byte_fallback"] = false.into();
        refused(file, "the decoder Sequence");
        file["decoder"] =
            json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    }
    refused(&file, "the pre-tokenizer none");
    refused(&mistral, "the pre-tokenizer Metaspace");
    file["pre_tokenizer"] = split(QWEN_PATTERN);
    refused(&file, "the normalizer Sequence");
    file["normalizer"] = Value::Null;
    refused(&file, "which is not a byte-level string");
}

#[test]
fn what_is_not_supported_is_named() {
    let base = trained(split(QWEN_PATTERN), Value::Null);
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut file = base.clone();
        change(&mut file);
        let (_folder, path) = written(&file);
        // It is a file that the library reads.
        Tokenizer::from_file(&path).unwrap();
        match PatchTokenizer::from_file(&path) {
            Err(Error::Unsupported(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    for (named, change) in [
        (
            "byte_fallback",
            &(|file: &mut Value| file["model"]["byte_fallback"] = true.into()) as &dyn Fn(&mut Value),
        ),
        ("the normalizer Lowercase", &|file| {
            file["normalizer"] = json!({ "type": "Lowercase" })
        }),
        ("the pre-tokenizer ByteLevel", &|file| {
            file["pre_tokenizer"] =
                json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
        }),
        ("the pre-tokenizer Sequence", &|file| {
            file["pre_tokenizer"] = split(r"\p{L}+|\P{L}+")
        }),
        ("the pre-tokenizer none", &|file| file["pre_tokenizer"] = Value::Null),
        ("the decoder Fuse", &|file| file["decoder"] = json!({ "type": "Fuse" })),
        ("the post-processor BertProcessing", &|file| {
            file["post_processor"] = json!({ "type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2] });
        }),
        ("lstrip", &|file| file["added_tokens"][0]["lstrip"] = true.into()),
        ("which the normalizer changes", &|file| {
            file["normalizer"] = json!({ "type": "NFC" });
            file["added_tokens"][0]["content"] = "<e\u{301}>".into();
            file["added_tokens"][0]["normalized"] = true.into();
        }),
    ] {
        let what = refused(change);
        assert!(what.contains(named), "{what:?} does not name {named:?}");
    }
}
