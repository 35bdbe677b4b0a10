//! The Llama family: logits of transformers, bits that depend on nothing but the tokens, and the engine on top.

use std::path::{Path, PathBuf};
use std::process::Command;

use fused_model::kv::{KvStore, PagedKv, StaticKv, VirtualKv};
use fused_model::{
    CausalLm, Chunk, Llama, LlamaConfig, Logits, Options, Params, Precision, ReferenceLlama, Request, generate, load,
};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-tiny")
}

fn options(precision: Precision, threads: usize) -> Options {
    Options { precision, threads }
}

type Named = (&'static str, Box<dyn CausalLm>);

/// The reference, and the fast path on one and on three threads.
fn models(dir: &Path) -> Vec<Named> {
    vec![
        ("reference", Box::new(ReferenceLlama::load(dir).unwrap())),
        ("1 thread", load(dir, options(Precision::F32, 1)).unwrap()),
        ("3 threads", load(dir, options(Precision::F32, 3)).unwrap()),
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

/// What transformers gave for one prompt.
struct Golden {
    case: String,
    ids: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn golden(dir: &Path) -> Vec<Golden> {
    let file = std::fs::read(dir.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let texts = std::fs::read_to_string(dir.join("golden.json")).unwrap();
    let texts: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&texts).unwrap();
    let list = |value: &serde_json::Value| serde_json::from_value(value.clone()).unwrap();
    let read = texts.iter().map(|(case, text)| {
        let bytes = file.tensor(&format!("{case}.logits")).unwrap();
        Golden {
            case: case.clone(),
            ids: list(&text["ids"]),
            logits: bytes
                .data()
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
            greedy: list(&text["greedy32"]),
        }
    });
    let golden: Vec<_> = read.collect();
    assert_eq!(golden.len(), 3);
    golden
}

fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 1e-4, "{what}[{i}]: {got} wants {want}");
    }
}

/// Every model over every store gives the golden logits and texts of `dir`.
fn check_against_transformers(dir: &Path) {
    for (name, mut model) in models(dir) {
        for mut kv in stores(model.as_ref(), 3) {
            let vocab = model.vocab_size();
            let mut requests = Vec::new();
            for Golden {
                case,
                ids,
                logits: want,
                ..
            } in golden(dir)
            {
                let what = format!("{} {name} {} {case}", dir.display(), kv.name());
                let sequence = kv.open().unwrap();
                let logits = model
                    .forward(kv.as_mut(), &[Chunk { sequence, ids: &ids }], Logits::All)
                    .unwrap();
                assert_close(logits, &want, &format!("{what} at once"));
                kv.free(sequence).unwrap();

                let sequence = kv.open().unwrap();
                for (id, want) in ids.iter().zip(want.chunks_exact(vocab)) {
                    let chunk = Chunk { sequence, ids: &[*id] };
                    let logits = model.forward(kv.as_mut(), &[chunk], Logits::Last).unwrap();
                    assert_close(logits, want, &format!("{what} by token"));
                }
                kv.free(sequence).unwrap();
                requests.push(Request::greedy(ids, 32));
            }
            for max_batch in [1, 3] {
                let outputs = generate(model.as_mut(), kv.as_mut(), &requests, max_batch, &mut |_| {}).unwrap();
                for (golden, output) in golden(dir).into_iter().zip(outputs) {
                    assert_eq!(
                        output,
                        golden.greedy,
                        "{name} {} {} batch {max_batch}",
                        kv.name(),
                        golden.case
                    );
                }
            }
            assert_eq!(kv.memory().used_bytes, 0, "{}", kv.name());
        }
    }
}

#[test]
fn logits_and_greedy_texts_of_the_fixtures() {
    for name in ["grouped", "stretched"] {
        check_against_transformers(&fixtures().join(name));
    }
}

/// The same with models that transformers makes now, where Python has it: `PYTHON` names another interpreter.
#[test]
fn logits_and_greedy_texts_of_transformers_run_now() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let probe = Command::new(&python)
        .args(["-c", "import torch, transformers"])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no torch and transformers");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(&python)
        .arg(fixtures().join("make_fixture.py"))
        .arg(dir.path())
        .args(["--seed", "2"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for name in ["grouped", "stretched"] {
        check_against_transformers(&dir.path().join(name));
    }
}

/// Largest error of a logit against transformers in `f32`, for weights kept in 2 bytes and in 1.
#[test]
fn smaller_weights_stay_near_the_golden_logits() {
    let dir = fixtures().join("grouped");
    let golden = golden(&dir).pop().unwrap();
    let spread = golden.logits.iter().fold(0.0f32, |top, x| top.max(x.abs()));
    for (precision, bound) in [(Precision::F16, 2e-3), (Precision::Int8, 5e-2)] {
        let mut model = Llama::load(&dir, options(precision, 1)).unwrap();
        let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
        let chunk = Chunk {
            sequence: kv.open().unwrap(),
            ids: &golden.ids,
        };
        let got = model.forward(&mut kv, &[chunk], Logits::All).unwrap();
        let errors = got.iter().zip(&golden.logits).map(|(got, want)| (got - want).abs());
        let error = errors.fold(0.0, f32::max);
        eprintln!("{precision:?}: error {error} of {spread}");
        assert!(
            error < bound * spread,
            "{precision:?}: error {error}, logits up to {spread}"
        );
    }
}

/// Shapes with any grouping of heads, and heads of any even width.
fn config() -> impl Strategy<Value = LlamaConfig> {
    let heads = (1usize..4, 1usize..4, prop::sample::select(vec![2usize, 8, 10, 32]));
    (heads, 1usize..30, any::<[bool; 3]>()).prop_map(|((kv, group, dim), inner, [tied, attention_bias, mlp_bias])| {
        LlamaConfig {
            num_attention_heads: kv * group,
            num_key_value_heads: kv,
            head_dim: dim,
            hidden_size: 24,
            intermediate_size: inner,
            tie_word_embeddings: tied,
            attention_bias,
            mlp_bias,
            ..LlamaConfig::load(&fixtures().join("grouped")).unwrap()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// A token's logits have the same bits alone and in a batch, in one pass and in chunks, on one thread and on three,
    /// and are near those of the plain operations.
    #[test]
    fn logits_do_not_depend_on_chunks_batch_or_threads(
        config in config(),
        texts in prop::collection::vec(prop::collection::vec(0u32..96, 1..40), 1..4),
        cuts in prop::collection::vec(1usize..20, 4),
        precision in prop_oneof![Just(Precision::F32), Just(Precision::F16), Just(Precision::Int8)],
        store in 0usize..3,
    ) {
        let bits = |logits: &[f32]| -> Vec<u32> { logits.iter().map(|x| x.to_bits()).collect() };
        // Each text alone, in one pass.
        let mut alone = Llama::random(config.clone(), 1, options(precision, 1)).unwrap();
        let mut plain = ReferenceLlama::random(config.clone(), 1).unwrap();
        let mut want = Vec::new();
        for ids in &texts {
            let logits = |model: &mut dyn CausalLm| {
                let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
                let sequence = kv.open().unwrap();
                model.forward(&mut kv, &[Chunk { sequence, ids }], Logits::All).unwrap().to_vec()
            };
            let fast = logits(&mut alone);
            if precision == Precision::F32 {
                assert_close(&fast, &logits(&mut plain), "fast and plain");
            }
            want.push(bits(&fast));
        }
        // All together, each in chunks of its own size.
        let mut together = Llama::random(config, 1, options(precision, 3)).unwrap();
        let mut kv = stores(&together, 4).swap_remove(store);
        let sequences: Vec<_> = texts.iter().map(|_| kv.open().unwrap()).collect();
        let mut got = vec![Vec::new(); texts.len()];
        loop {
            let mut chunks = Vec::new();
            for ((ids, &sequence), &cut) in texts.iter().zip(&sequences).zip(&cuts) {
                let start = kv.len(sequence).unwrap();
                if start < ids.len() {
                    chunks.push(Chunk { sequence, ids: &ids[start..ids.len().min(start + cut)] });
                }
            }
            if chunks.is_empty() {
                break;
            }
            let mut logits = together.forward(kv.as_mut(), &chunks, Logits::All).unwrap();
            for chunk in &chunks {
                let (mine, rest) = logits.split_at(chunk.ids.len() * 96);
                logits = rest;
                let text = sequences.iter().position(|&sequence| sequence == chunk.sequence).unwrap();
                got[text].extend(bits(mine));
            }
        }
        prop_assert_eq!(got, want);
    }
}

#[test]
fn a_random_model_of_an_impossible_shape_is_refused() {
    let good = LlamaConfig::load(&fixtures().join("grouped")).unwrap();
    for (config, named) in [
        (
            LlamaConfig {
                num_key_value_heads: 0,
                ..good.clone()
            },
            "num_key_value_heads is 0",
        ),
        (
            LlamaConfig {
                head_dim: 7,
                ..good.clone()
            },
            "head_dim is 7",
        ),
        (
            LlamaConfig {
                rope_theta: f64::NAN,
                ..good.clone()
            },
            "rope_theta NaN",
        ),
    ] {
        let refused = [
            Llama::random(config.clone(), 1, Options::default()).map(drop),
            ReferenceLlama::random(config, 1).map(drop),
        ];
        for refused in refused {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

#[test]
fn the_kv_store_takes_the_shape_of_the_key_heads() {
    let model = Llama::load(&fixtures().join("grouped"), Options::default()).unwrap();
    let geometry = model.kv_geometry(5);
    assert_eq!((geometry.layers, geometry.row_floats), (2, 2 * 8));
    assert_eq!((geometry.max_tokens, geometry.max_sequences), (64, 5));
    // A store made for as many key heads as query heads does not fit.
    let mut wide = geometry;
    wide.row_floats = 4 * 8;
    let mut model = model;
    let mut kv = StaticKv::new(&wide).unwrap();
    let sequence = kv.open().unwrap();
    let error = model
        .forward(&mut kv, &[Chunk { sequence, ids: &[1] }], Logits::Last)
        .unwrap_err();
    assert!(error.to_string().contains("32 floats a row"), "{error}");
}

/// Weights in memory, drawn or read, make the model that the same seed or files make.
#[test]
fn weights_in_memory_make_the_same_model() {
    let dir = fixtures().join("stretched");
    let options = options(Precision::F32, 1);
    let config = LlamaConfig::load(&dir).unwrap();
    let ids: Vec<u32> = (1..12).collect();
    let logits = |model: &mut Llama| {
        let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
        let sequence = kv.open().unwrap();
        let chunk = Chunk { sequence, ids: &ids };
        model.forward(&mut kv, &[chunk], Logits::All).unwrap().to_vec()
    };
    for (params, mut want) in [
        (
            Params::random(config.clone(), 3),
            Llama::random(config, 3, options).unwrap(),
        ),
        (Params::load(&dir).unwrap(), Llama::load(&dir, options).unwrap()),
    ] {
        assert_eq!(logits(&mut Llama::new(&params, options).unwrap()), logits(&mut want));
    }
}
