//! Logits and greedy continuations against transformers on PyTorch.

use std::path::{Path, PathBuf};

use fused_model::kv::{KvStore, PagedKv, StaticKv, VirtualKv};
use fused_model::{Chunk, Gpt2, Logits, Params, Reply, Request, generate, score};
use safetensors::SafeTensors;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2-tiny")
}

/// A folder of fixtures that may not be in this checkout; says so when it is not.
fn shared(name: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/fixtures")
        .join(name);
    if !dir.exists() {
        eprintln!("skipped: the fixture {name} is not in this checkout");
        return None;
    }
    Some(dir)
}

fn stores(model: &Gpt2, sequences: usize) -> Vec<Box<dyn KvStore>> {
    let geometry = model.kv_geometry(sequences);
    vec![
        Box::new(StaticKv::new(&geometry).unwrap()),
        Box::new(PagedKv::new(&geometry).unwrap()),
        Box::new(VirtualKv::new(&geometry, 4096, 1 << 30).unwrap()),
    ]
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 1e-4, "{what}[{i}]: {got} wants {want}");
    }
}

#[test]
fn logits_and_greedy_text_of_gpt2_tiny() {
    let golden = std::fs::read(fixture().join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let text = std::fs::read_to_string(fixture().join("golden.json")).unwrap();
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    let model = Gpt2::load(&fixture()).unwrap();
    let list = |value: &serde_json::Value| -> Vec<u32> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect()
    };
    for mut kv in stores(&model, 3) {
        let mut requests = Vec::new();
        for case in ["len1", "len7", "len24"] {
            let ids = list(&text[case]["ids"]);
            let want = floats(golden.tensor(&format!("{case}.logits")).unwrap().data());

            // The whole prompt in one pass, then token by token over the cache.
            let sequence = kv.open().unwrap();
            let logits = model
                .forward(kv.as_mut(), &[Chunk { sequence, ids: &ids }], Logits::All)
                .unwrap();
            let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            assert_close(&logits, &want, &format!("{} {case} at once", kv.name()));
            kv.free(sequence).unwrap();

            let sequence = kv.open().unwrap();
            for (id, want) in ids.iter().zip(want.chunks_exact(300)) {
                let logits = model
                    .forward(kv.as_mut(), &[Chunk { sequence, ids: &[*id] }], Logits::Last)
                    .unwrap();
                let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
                assert_close(&logits, want, &format!("{} {case} by token", kv.name()));
            }
            kv.free(sequence).unwrap();
            requests.push(Request {
                prompt: ids,
                reply: Reply::Greedy {
                    max_tokens: 32,
                    stop: None,
                },
            });
        }
        // Alone and batched.
        for max_batch in [1, 3] {
            let outputs = generate(&model, kv.as_mut(), &requests, max_batch, &mut |_| {}).unwrap();
            for (case, output) in ["len1", "len7", "len24"].into_iter().zip(outputs) {
                assert_eq!(
                    output,
                    list(&text[case]["greedy32"]),
                    "{} {case} batch {max_batch}",
                    kv.name()
                );
            }
        }
        assert_eq!(kv.memory().used_bytes, 0, "{}", kv.name());
    }
}

/// A trained model with an untied head, from llm-viz.
#[test]
fn logits_of_gpt_nano_sort() {
    let Some(dir) = shared("gpt-nano-sort") else { return };
    let golden = std::fs::read_to_string(dir.join("gpt-nano-sort-t0-partials.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let part = |name: &str| floats(&base64(golden[name]["data"].as_str().unwrap()));
    let ids: Vec<u32> = part("idx").into_iter().map(|id| id as u32).collect();
    let model = Gpt2::load(&dir.join("hf")).unwrap();
    assert!(!model.config().tie_word_embeddings);
    for mut kv in stores(&model, 3) {
        let mut chunks = Vec::new();
        for ids in ids.chunks(11) {
            chunks.push(Chunk {
                sequence: kv.open().unwrap(),
                ids,
            });
        }
        let logits = model.forward(kv.as_mut(), &chunks, Logits::All).unwrap();
        let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
        assert_close(&logits, &part("lm_head"), kv.name());
    }
}

/// A trained character model with the erf form of GELU that knows its corpus by heart.
#[test]
fn slm4096_recites_its_corpus() {
    let Some(dir) = shared("slm4096") else { return };
    let corpus = std::fs::read_to_string(dir.join("corpus.txt")).unwrap();
    let chars = std::fs::read_to_string(dir.join("hf/chars.json")).unwrap();
    let chars: std::collections::HashMap<char, u32> = serde_json::from_str(&chars).unwrap();
    let ids: Vec<u32> = corpus.chars().map(|char| chars[&char]).collect();
    let params = Params::load(&dir.join("hf")).unwrap();
    let model = Gpt2::new(&params).unwrap();
    let prompt = ids[..64].to_vec();
    let request = Request {
        prompt,
        reply: Reply::Greedy {
            max_tokens: 60,
            stop: None,
        },
    };
    for mut kv in stores(&model, 1) {
        let output = &generate(&model, kv.as_mut(), std::slice::from_ref(&request), 1, &mut |_| {}).unwrap()[0];
        assert_eq!(output[..], ids[64..124], "{}", kv.name());
    }
    let score = score(&params, ids[0], &ids[1..], corpus.len() - 1).unwrap();
    assert!(
        score.bits_per_byte() < 0.5,
        "{} bits per byte of a text known by heart",
        score.bits_per_byte()
    );
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{byte} is not a base64 digit"),
    };
    let mut bytes = Vec::new();
    let digits: Vec<u32> = text.bytes().filter(|&byte| byte != b'=').map(digit).collect();
    for group in digits.chunks(4) {
        let bits = group
            .iter()
            .enumerate()
            .fold(0, |bits, (i, digit)| bits | digit << (18 - 6 * i));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}
