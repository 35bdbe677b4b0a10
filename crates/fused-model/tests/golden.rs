//! Logits and greedy continuations against transformers on PyTorch.

use std::path::{Path, PathBuf};

use fused_model::kv::{KvStore, PagedKv, StaticKv, VirtualKv};
use fused_model::{CausalLm, Chunk, Gpt2, Logits, Options, Params, Precision, ReferenceGpt2, Request, generate, score};
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

/// The reference, and the fast path on one and on three threads.
fn models(params: &Params) -> Vec<Named> {
    let fast = |threads| {
        let options = Options {
            threads,
            ..Options::default()
        };
        Box::new(Gpt2::new(params, options).unwrap())
    };
    vec![
        ("reference", Box::new(ReferenceGpt2::new(params).unwrap())),
        ("1 thread", fast(1)),
        ("3 threads", fast(3)),
    ]
}

fn stores(model: &dyn CausalLm, sequences: usize) -> Vec<Box<dyn KvStore>> {
    let geometry = model.kv_geometry(sequences);
    vec![
        Box::new(StaticKv::new(&geometry).unwrap()),
        Box::new(PagedKv::new(&geometry).unwrap()),
        Box::new(VirtualKv::new(&geometry, 4096, 1 << 30).unwrap()),
    ]
}

type Named = (&'static str, Box<dyn CausalLm>);

/// Every model over every store.
fn models_and_stores(params: &Params, sequences: usize) -> Vec<(Named, Box<dyn KvStore>)> {
    let stores = |kind: usize| {
        models(params).into_iter().map(move |model| {
            let kv = stores(model.1.as_ref(), sequences).swap_remove(kind);
            (model, kv)
        })
    };
    (0..3).flat_map(stores).collect()
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
    let list = |value: &serde_json::Value| -> Vec<u32> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect()
    };
    for (model, mut kv) in models_and_stores(&Params::load(&fixture()).unwrap(), 3) {
        let (name, mut model) = model;
        let mut requests = Vec::new();
        for case in ["len1", "len7", "len24"] {
            let ids = list(&text[case]["ids"]);
            let want = floats(golden.tensor(&format!("{case}.logits")).unwrap().data());

            // The whole prompt in one pass, then token by token over the cache.
            let sequence = kv.open().unwrap();
            let logits = model
                .forward(kv.as_mut(), &[Chunk { sequence, ids: &ids }], Logits::All)
                .unwrap();
            assert_close(logits, &want, &format!("{name} {} {case} at once", kv.name()));
            kv.free(sequence).unwrap();

            let sequence = kv.open().unwrap();
            for (id, want) in ids.iter().zip(want.chunks_exact(300)) {
                let logits = model
                    .forward(kv.as_mut(), &[Chunk { sequence, ids: &[*id] }], Logits::Last)
                    .unwrap();
                assert_close(logits, want, &format!("{name} {} {case} by token", kv.name()));
            }
            kv.free(sequence).unwrap();
            requests.push(Request::greedy(ids, 32));
        }
        // Alone and batched.
        for max_batch in [1, 3] {
            let outputs = generate(model.as_mut(), kv.as_mut(), &requests, max_batch, &mut |_| {}).unwrap();
            for (case, output) in ["len1", "len7", "len24"].into_iter().zip(outputs) {
                assert_eq!(
                    output,
                    list(&text[case]["greedy32"]),
                    "{name} {} {case} batch {max_batch}",
                    kv.name()
                );
            }
        }
        assert_eq!(kv.memory().used_bytes, 0, "{}", kv.name());
    }
}

/// Largest error of a logit against transformers in `f32`, for weights kept in 2 bytes and in 1.
#[test]
fn smaller_weights_stay_near_the_golden_logits() {
    let golden = std::fs::read(fixture().join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let text = std::fs::read_to_string(fixture().join("golden.json")).unwrap();
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids: Vec<u32> = serde_json::from_value(text["len24"]["ids"].clone()).unwrap();
    let want = floats(golden.tensor("len24.logits").unwrap().data());
    let spread = want.iter().fold(0.0f32, |top, x| top.max(x.abs()));
    for (precision, bound) in [(Precision::F16, 2e-3), (Precision::Int8, 5e-2)] {
        let mut model = Gpt2::load(&fixture(), Options { precision, threads: 1 }).unwrap();
        let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
        let sequence = kv.open().unwrap();
        let got = model
            .forward(&mut kv, &[Chunk { sequence, ids: &ids }], Logits::All)
            .unwrap();
        let error = got
            .iter()
            .zip(&want)
            .fold(0.0f32, |top, (got, want)| top.max((got - want).abs()));
        eprintln!("{precision:?}: error {error} of {spread}");
        assert!(
            error < bound * spread,
            "{precision:?}: error {error}, logits up to {spread}"
        );
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
    let params = Params::load(&dir.join("hf")).unwrap();
    assert!(!params.config().is_tied());
    for ((name, mut model), mut kv) in models_and_stores(&params, 3) {
        let mut chunks = Vec::new();
        for ids in ids.chunks(11) {
            chunks.push(Chunk {
                sequence: kv.open().unwrap(),
                ids,
            });
        }
        let logits = model.forward(kv.as_mut(), &chunks, Logits::All).unwrap();
        assert_close(logits, &part("lm_head"), &format!("{name} {}", kv.name()));
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
    let prompt = ids[..64].to_vec();
    let request = Request::greedy(prompt, 60);
    for ((name, mut model), mut kv) in models_and_stores(&params, 1) {
        let output = &generate(
            model.as_mut(),
            kv.as_mut(),
            std::slice::from_ref(&request),
            1,
            &mut |_| {},
        )
        .unwrap()[0];
        assert_eq!(output[..], ids[64..124], "{name} {}", kv.name());
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
