//! Each file of a tokenizer: the version before, every way of cutting it, and what was made to harm.

use std::fs;
use std::path::Path;

use patchtok::{ChunkCounts, Error, PatchTokenizer};
use serde_json::{Value, json};

use crate::targets::{BASE, fixture};
use crate::{Random, measured};

const FILES: [&str; 3] = ["tokenizer.json", "patch_map.json", "patch_tokenizer.bin"];

/// Memory that reading a file of some kilobytes may take.
const MEMORY: usize = 32 << 20;

fn copy(folder: &Path, names: &[&str]) {
    for name in names {
        fs::copy(fixture(name), folder.join(name)).unwrap();
    }
}

/// What loading a folder gives in which `name` holds `bytes`.
fn load_with(name: &str, bytes: &[u8]) -> Result<PatchTokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    if name == "patch_map.json" {
        copy(folder.path(), &["tokenizer.json"]);
    }
    fs::write(folder.path().join(name), bytes).unwrap();
    let (result, memory) = measured(|| PatchTokenizer::load(folder.path()));
    assert!(memory < MEMORY, "{name} of {} bytes takes {memory}", bytes.len());
    result
}

/// Files that version 1 wrote are read by this version, as the same tokenizer.
#[test]
fn version_1_is_read() {
    let text = "The view pg_stat_activity has one row per server process.\n\nIt's <|endoftext|> 2.";
    let expected: Vec<u32> = serde_json::from_slice(&fs::read(fixture("ids.json")).unwrap()).unwrap();
    let tokenizer = PatchTokenizer::load(fixture("")).unwrap();
    assert_eq!(tokenizer.encode(text), expected);
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path(), &["tokenizer.json", "patch_map.json"]);
    let from_json = PatchTokenizer::load(folder.path()).unwrap();
    assert_eq!(from_json.encode(text), expected);
    assert_eq!(from_json.patch_map(), tokenizer.patch_map());
    let counts = ChunkCounts::load(&BASE, &[fixture("chunk_counts.parquet")], None).unwrap();
    assert_eq!(counts.summary().documents, 30);
    assert!(counts.summary().distinct_chunks > 30);
}

/// A file that ends too early is an error wherever it ends.
#[test]
fn every_beginning_of_a_file_is_refused() {
    for name in FILES {
        let bytes = fs::read(fixture(name)).unwrap();
        let end = bytes.trim_ascii_end().len();
        let step = (end / 200).max(1);
        for length in (0..end).step_by(step).chain(end - 30..end) {
            assert!(load_with(name, &bytes[..length]).is_err(), "{name} up to {length}");
        }
    }
}

/// The checked file notices every bit. The JSON files may still be good, and then work.
#[test]
fn every_bit_counts() {
    let mut random = Random(7);
    for name in FILES {
        let bytes = fs::read(fixture(name)).unwrap();
        for case in 0..300 {
            let mut flipped = bytes.clone();
            flipped[random.below(bytes.len())] ^= 1 << (case % 8);
            match load_with(name, &flipped) {
                Ok(tokenizer) => {
                    assert_ne!(name, "patch_tokenizer.bin");
                    let ids = tokenizer.encode("The table");
                    assert_eq!(tokenizer.decode(&ids).unwrap(), "The table");
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

/// `patch_tokenizer.bin` with a payload whose checksum fits.
fn artifact(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let checksum = crc32fast::hash(payload).to_le_bytes();
    [b"PATCHTOK", &1u32.to_le_bytes()[..], &length, &checksum, payload].concat()
}

#[test]
fn huge_lengths_take_no_memory() {
    // Variable-length integers of bincode: 253 is followed by a u64, 252 by a u32.
    let huge = |value: u64| [&[253], &value.to_le_bytes()[..]].concat();
    for length in [u64::MAX, 1 << 40, 1 << 31, 1 << 28] {
        // The length of the first sequence, of the second, and of a third.
        for before in [vec![0], vec![0, 0], vec![0, 0, 0]] {
            let payload = [before, huge(length), vec![1; 100]].concat();
            let error = load_with("patch_tokenizer.bin", &artifact(&payload)).unwrap_err();
            assert!(matches!(error, Error::Artifact(_)), "{error}");
        }
    }
    // A length of the header that the file does not have.
    let mut file = artifact(&[0; 10]);
    file[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(load_with("patch_tokenizer.bin", &file).is_err());
    // Tokens that claim bytes of others.
    let lengths = [vec![0, 2], vec![252, 0xff, 0xff, 0xff, 0xff], vec![1, 0, 0, 0, 0, 0]].concat();
    assert!(load_with("patch_tokenizer.bin", &artifact(&lengths)).is_err());
}

/// The error of the fixture's `tokenizer.json` after a change.
fn changed(change: impl FnOnce(&mut Value)) -> Error {
    let mut json: Value = serde_json::from_slice(&fs::read(fixture("tokenizer.json")).unwrap()).unwrap();
    change(&mut json);
    load_with("tokenizer.json", json.to_string().as_bytes()).unwrap_err()
}

#[test]
fn contradictions_in_tokenizer_json_are_refused() {
    let merge = |json: &mut Value, left: &str, right: &str| {
        json["model"]["merges"]
            .as_array_mut()
            .unwrap()
            .push(json!([left, right]));
    };
    // A merge of its own result, a circle of two, and one that makes what another makes.
    changed(|json| merge(json, "the", ""));
    changed(|json| merge(json, "t", "thet"));
    changed(|json| {
        merge(json, "th", "e");
        merge(json, "t", "he");
    });
    // Ids twice, with holes, beyond all bounds, below zero.
    for (token, id) in [
        ("a", json!(5)),
        ("zzzz", json!(4_000_000_000u32)),
        ("zzzz", json!(-1)),
        ("a", json!(1e300)),
    ] {
        changed(|json| {
            json["model"]["vocab"][token] = id;
        });
    }
    changed(|json| {
        json["model"]["vocab"].as_object_mut().unwrap().remove("a");
    });
    // A token of a megabyte.
    changed(|json| {
        let next = json["model"]["vocab"].as_object().unwrap().len() + 1;
        json["model"]["vocab"]["z".repeat(1 << 20)] = json!(next);
    });
    // The same special token twice, and an empty one.
    changed(|json| {
        let special = json["added_tokens"][0].clone();
        json["added_tokens"].as_array_mut().unwrap().push(special);
    });
    changed(|json| json["added_tokens"][0]["content"] = json!(""));
    // Depth instead of length.
    for open in ["[", "{\"a\":"] {
        assert!(load_with("tokenizer.json", open.repeat(1 << 20).as_bytes()).is_err());
    }
}

#[test]
fn contradictions_in_patch_map_json_are_refused() {
    let good: Value = serde_json::from_slice(&fs::read(fixture("patch_map.json")).unwrap()).unwrap();
    let changes: [fn(&mut Value); 8] = [
        |map| map["new"][1] = map["new"][0].clone(),
        |map| map["new"].as_array_mut().unwrap().reverse(),
        |map| map["new"][0]["id"] = json!(u64::MAX),
        |map| map["new"][0]["base_ids"] = json!(vec![0; 100_000]),
        |map| map["removed"][0]["pieces"] = json!([u32::MAX]),
        |map| map["removed"] = json!([]),
        |map| map["base_vocab_size"] = json!(0),
        |map| map["more"] = json!(1),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut map = good.clone();
        change(&mut map);
        let error = load_with("patch_map.json", map.to_string().as_bytes()).unwrap_err();
        let expected = matches!(error, Error::PatchMap(_) | Error::Json { .. });
        assert!(expected, "change {number}: {error}");
    }
}
