//! A patched tokenizer's rows in a model, their fits, and the directory that holds both.

use std::path::{Path, PathBuf};
use std::process::Command;

use fused_model::adapt::{
    CODE_RATIO, Head, InputFit, LEAST_SHARE, OutputFit, PAPER_RATIO, TwoStreams, calibrate, exponential, fit_inputs,
    fit_outputs, weigh_rows, write_directory,
};
use fused_model::kv::{KvStore, StaticKv};
use fused_model::train::{TrainConfig, Trainer, token_stream};
use fused_model::{
    Chunk, Gpt2Config, Heldout, LlamaConfig, Logits, ModelConfig, ModelError, Options, Params, RopeScaling, SaveAs,
    load,
};
use patchtok::{Corpus, PatchMap, PatchTokenizer, VocabBuilder};

const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/demo/base");

fn base_tokenizer() -> PatchTokenizer {
    PatchTokenizer::from_file(Path::new(BASE).join("tokenizer.json")).unwrap()
}

fn corpus() -> Corpus {
    Corpus::from_texts((0..30).map(|i| format!("The write-ahead log is read by the background writer, case {i}.\n")))
}

fn patched() -> PatchTokenizer {
    let builder = VocabBuilder::new(base_tokenizer()).swaps(8).min_count(3);
    builder.build(corpus()).unwrap().tokenizer
}

fn config(tokenizer: &PatchTokenizer) -> Gpt2Config {
    let mut config = Gpt2Config::new(tokenizer.vocab_size(), 64, 8, 2, 2);
    config.bos_token_id = tokenizer.eos_id();
    config.eos_token_id = tokenizer.eos_id();
    config
}

/// Two key heads, a head wider than the model's width over its number, a stretched rotation, a bias here and there.
fn llama_config(tokenizer: &PatchTokenizer) -> LlamaConfig {
    LlamaConfig {
        vocab_size: tokenizer.vocab_size(),
        max_position_embeddings: 64,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 500.0,
        rope_scaling: RopeScaling::Linear { factor: 2.0 },
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: true,
        other: serde_json::from_str(r#"{"bos_token_id": 0, "eos_token_id": 0, "pretraining_tp": 1}"#).unwrap(),
    }
}

/// The new tokens and those they stand for.
fn new_and_pieces(patch: &PatchMap) -> Vec<u32> {
    let tokens = patch.new_tokens();
    tokens
        .flat_map(|token| std::iter::once(token.id).chain(token.base_ids.iter().copied()))
        .collect()
}

/// The tensors in which two models of one shape differ.
fn changed(a: &Params, b: &Params) -> Vec<String> {
    let differs = |name: &str| a.get(name) != b.get(name);
    let names = a.tensors().iter().map(|tensor| tensor.name.clone());
    names.filter(|name| differs(name)).collect()
}

#[test]
fn new_rows_are_weighted_sums_and_the_rest_is_untouched() {
    let tokenizer = patched();
    let patch = tokenizer.patch_map().unwrap();
    assert!(patch.new_tokens().len() > 0);
    let base = Params::random(Gpt2Config::new(tokenizer.vocab_size(), 8, 4, 1, 1), 2);
    let adapted = exponential(&base, patch, PAPER_RATIO, Head::Untied).unwrap();
    assert!(!adapted.config().is_tied());
    let old = base.get("transformer.wte.weight").unwrap();
    let input = adapted.get("transformer.wte.weight").unwrap();
    let output = adapted.get("lm_head.weight").unwrap();
    let row = |matrix: &[f32], id: u32| matrix[id as usize * 4..][..4].to_vec();
    for id in 0..tokenizer.vocab_size() as u32 {
        let Some(ids) = patch.base_ids(id) else {
            assert_eq!(row(input, id), row(old, id));
            assert_eq!(row(output, id), row(old, id));
            continue;
        };
        let sum = |power: f64| -> Vec<f64> {
            let weights: Vec<f64> = (1..=ids.len()).map(|i| (power * i as f64).exp()).collect();
            let total: f64 = weights.iter().sum();
            let of = |column: usize| {
                ids.iter()
                    .zip(&weights)
                    .map(|(&id, weight)| weight / total * f64::from(row(old, id)[column]))
                    .sum()
            };
            (0..4).map(of).collect()
        };
        for (got, want) in [(row(input, id), sum(2.0)), (row(output, id), sum(-2.0))] {
            assert!(
                got.iter()
                    .zip(&want)
                    .all(|(got, want)| (f64::from(*got) - want).abs() < 1e-6),
                "{got:?} wants {want:?}"
            );
        }
    }
    for tensor in base.tensors().iter().filter(|tensor| !tensor.name.contains("wte")) {
        assert_eq!(base.get(&tensor.name), adapted.get(&tensor.name), "{}", tensor.name);
    }
}

#[test]
fn a_patch_for_another_vocabulary_is_refused() {
    let tokenizer = patched();
    let patch = tokenizer.patch_map().unwrap();
    let other = Params::random(Gpt2Config::new(300, 8, 4, 1, 1), 2);
    for head in [Head::Untied, Head::Tied] {
        let refused = exponential(&other, patch, CODE_RATIO, head);
        assert!(matches!(refused, Err(ModelError::Mismatch(why)) if why.contains("300")));
    }
    // A larger one has every id of the map; the two do not belong together all the same.
    let larger = Params::random(Gpt2Config::new(tokenizer.vocab_size() + 8, 8, 4, 1, 1), 2);
    let refused = exponential(&larger, patch, CODE_RATIO, Head::Tied);
    assert!(matches!(refused, Err(ModelError::Mismatch(_))));
    let base = Params::random(Gpt2Config::new(tokenizer.vocab_size(), 8, 4, 1, 1), 2);
    for ratio in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(
            exponential(&base, patch, ratio, Head::Untied),
            Err(ModelError::Request(_))
        ));
    }
}

#[test]
fn a_tied_model_stays_tied_and_an_untied_one_is_not_made_so() {
    let tokenizer = patched();
    let patch = tokenizer.patch_map().unwrap();
    let base = Params::random(config(&tokenizer), 2);
    let tokens = || patch.new_tokens().map(|token| (token.id, token.base_ids.as_slice()));
    let mean = weigh_rows(&base, tokens(), 1.0, Head::Tied).unwrap();
    assert!(mean.config().is_tied());
    assert_eq!(changed(&base, &mean), ["transformer.wte.weight"]);
    let token = patch.new_tokens().next().unwrap();
    let row = |params: &Params, id: u32| params.get("transformer.wte.weight").unwrap()[id as usize * 8..][..8].to_vec();
    let new = row(&mean, token.id);
    for (column, got) in new.iter().enumerate() {
        let sum: f32 = token.base_ids.iter().map(|&id| row(&base, id)[column]).sum();
        assert!((got - sum / token.base_ids.len() as f32).abs() < 1e-6);
    }
    let refused = weigh_rows(&base.untied(), tokens(), 1.0, Head::Tied);
    assert!(matches!(refused, Err(ModelError::Mismatch(_))));
    let mut tied = mean;
    let stream = token_stream(&tokenizer, &corpus(), 0).unwrap();
    assert!(matches!(
        calibrate(&mut tied, &stream, 100, &|| true),
        Err(ModelError::Mismatch(_))
    ));
}

#[test]
fn calibration_changes_the_head_alone_and_predicts_the_text_better() {
    let tokenizer = patched();
    let end = tokenizer.eos_id().unwrap();
    let base = Params::load(Path::new(BASE)).unwrap();
    let before = exponential(&base, tokenizer.patch_map().unwrap(), PAPER_RATIO, Head::Untied).unwrap();
    let stream = token_stream(&tokenizer, &corpus(), end).unwrap();
    let mut after = before.clone();
    let held = calibrate(&mut after, &stream, 1000, &|| true).unwrap().unwrap();
    assert!((LEAST_SHARE..1.001).contains(&held), "{held}");
    assert_eq!(changed(&before, &after), ["lm_head.weight"]);
    let text = Heldout::read(&tokenizer, &corpus(), end).unwrap();
    let [bits, better] = [&before, &after].map(|params| text.score(params).unwrap().bits_per_byte());
    assert!(better < 0.8 * bits, "{bits} to {better}");

    for stream in [&[1][..], &[1, 9000]] {
        let refused = calibrate(&mut after, stream, 100, &|| true);
        assert!(matches!(refused, Err(ModelError::Request(_))));
    }
    // Asked to stop, it does, before anything is changed.
    let mut stopped = before.clone();
    assert!(calibrate(&mut stopped, &stream, 1000, &|| false).unwrap().is_none());
    assert!(changed(&before, &stopped).is_empty());
    // A model that was never trained has a last norm without a bias, and so no constant.
    let random = Params::random(config(&tokenizer), 2).untied();
    let mut same = random.clone();
    assert!(calibrate(&mut same, &stream, 1000, &|| true).unwrap().unwrap() < LEAST_SHARE);
    assert!(changed(&random, &same).is_empty());
}

#[test]
fn fitted_input_rows_bring_the_states_nearer_and_nothing_else_moves() {
    let (base_tokenizer, tokenizer) = (base_tokenizer(), patched());
    let patch = tokenizer.patch_map().unwrap();
    let end = tokenizer.eos_id().unwrap();
    let base = Params::load(Path::new(BASE)).unwrap();
    let new: Vec<u32> = patch.new_tokens().map(|token| token.id).collect();
    let before = exponential(&base, patch, PAPER_RATIO, Head::Untied).unwrap();
    let streams = TwoStreams::read(&base_tokenizer, &tokenizer, &corpus(), end, 1 << 20).unwrap();
    assert_eq!(
        streams.patched().len(),
        token_stream(&tokenizer, &corpus(), end).unwrap().len() - 1
    );
    let fit = InputFit {
        steps: 10,
        windows: 2,
        threads: 2,
        rate: 1e-2,
        ..InputFit::default()
    };
    let mut after = before.clone();
    fit_inputs(&mut after, &base, &new, &streams, &fit, &mut |_, _| true).unwrap();
    // The distance of one step that goes nowhere, on the same windows for both.
    let distance = |params: &Params| {
        let (mut params, mut distance) = (params.clone(), 0.0);
        let still = InputFit {
            steps: 1,
            rate: 0.0,
            ..fit.clone()
        };
        let mut observe = |_, d| {
            distance = d;
            true
        };
        fit_inputs(&mut params, &base, &new, &streams, &still, &mut observe).unwrap();
        distance
    };
    let [far, near] = [&before, &after].map(distance);
    assert!(near < 0.9 * far, "{far} to {near}");
    assert_eq!(changed(&before, &after), ["transformer.wte.weight"]);
    let width = base.config().width();
    let rows = |params: &Params| params.get("transformer.wte.weight").unwrap().to_vec();
    for (id, (a, b)) in rows(&before).chunks(width).zip(rows(&after).chunks(width)).enumerate() {
        assert!(a == b || patch.base_ids(id as u32).is_some(), "row {id} moved");
    }
    let short = InputFit { steps: 3, ..fit };
    let run = |go_on: &mut dyn FnMut(usize, f64) -> bool| {
        let mut params = before.clone();
        fit_inputs(&mut params, &base, &new, &streams, &short, go_on).unwrap();
        params
    };
    let whole = run(&mut |_, _| true);
    assert!(
        changed(&whole, &run(&mut |_, _| true)).is_empty(),
        "the same seed gives the same rows"
    );
    assert!(
        !changed(&whole, &run(&mut |step, _| step < 1)).is_empty(),
        "it stops when told to"
    );
    let none = InputFit {
        threads: 0,
        ..short.clone()
    };
    assert!(fit_inputs(&mut after, &base, &new, &streams, &none, &mut |_, _| true).is_err());
    let outside = [tokenizer.vocab_size() as u32];
    assert!(fit_inputs(&mut after, &base, &outside, &streams, &short, &mut |_, _| true).is_err());
}

#[test]
fn fitted_output_rows_predict_the_text_better_and_nothing_else_moves() {
    let tokenizer = patched();
    let patch = tokenizer.patch_map().unwrap();
    let end = tokenizer.eos_id().unwrap();
    let base = Params::load(Path::new(BASE)).unwrap();
    let before = exponential(&base, patch, PAPER_RATIO, Head::Untied).unwrap();
    let stream = token_stream(&tokenizer, &corpus(), end).unwrap();
    let rows = new_and_pieces(patch);
    let fit = OutputFit {
        places: 500,
        steps: 12,
        batch: 300,
        rate: 1e-2,
        ..OutputFit::default()
    };
    let run = |fit: &OutputFit, threads: usize, until: usize| {
        let (mut params, mut losses) = (before.clone(), Vec::new());
        let steps = std::sync::atomic::AtomicUsize::new(0);
        let go_on = || steps.load(std::sync::atomic::Ordering::Relaxed) < until;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            fit_outputs(&mut params, &rows, &stream, fit, &go_on, &mut |step, loss| {
                steps.store(step + 1, std::sync::atomic::Ordering::Relaxed);
                losses.push(loss);
            })
        })
        .unwrap();
        (params, losses)
    };
    let (after, losses) = run(&fit, 2, usize::MAX);
    assert_eq!(losses.len(), 12);
    assert!(losses[11] < 0.8 * losses[0], "{losses:?}");
    let text = Heldout::read(&tokenizer, &corpus(), end).unwrap();
    let [bits, better] = [&before, &after].map(|params| text.score(params).unwrap().bits_per_byte());
    assert!(better < 0.8 * bits, "{bits} to {better}");
    assert_eq!(changed(&before, &after), ["lm_head.weight"]);
    let width = base.config().width();
    let head = |params: &Params| params.get("lm_head.weight").unwrap().to_vec();
    for (id, (a, b)) in head(&before).chunks(width).zip(head(&after).chunks(width)).enumerate() {
        assert!(a == b || rows.contains(&(id as u32)), "row {id} moved");
    }
    assert!(
        changed(&after, &run(&fit, 1, usize::MAX).0).is_empty(),
        "threads change nothing"
    );
    assert_eq!(run(&fit, 1, 3).1.len(), 3, "it stops when told to");
    assert!(changed(&before, &run(&fit, 1, 0).0).is_empty());

    let refused = |params: &mut Params, rows: &[u32], fit: &OutputFit| {
        fit_outputs(params, rows, &stream, fit, &|| true, &mut |_, _| ()).unwrap_err()
    };
    let none = OutputFit {
        batch: 0,
        ..fit.clone()
    };
    let mut params = before.clone();
    assert!(matches!(refused(&mut params, &rows, &none), ModelError::Request(_)));
    let outside = [tokenizer.vocab_size() as u32];
    assert!(matches!(refused(&mut params, &outside, &fit), ModelError::Request(_)));
    assert!(matches!(
        refused(&mut base.clone(), &rows, &fit),
        ModelError::Mismatch(_)
    ));
}

/// Rows, fits, tuning and files of the other family.
#[test]
fn a_llama_is_adapted_too() {
    let (base_tokenizer, tokenizer) = (base_tokenizer(), patched());
    let patch = tokenizer.patch_map().unwrap();
    let base = Params::random(llama_config(&tokenizer), 2);
    let before = exponential(&base, patch, PAPER_RATIO, Head::Untied).unwrap();
    let streams = TwoStreams::read(&base_tokenizer, &tokenizer, &corpus(), 0, 1 << 20).unwrap();
    let new: Vec<u32> = patch.new_tokens().map(|token| token.id).collect();
    let mut after = before.clone();
    let fit = InputFit {
        steps: 4,
        windows: 2,
        tokens: 32,
        threads: 2,
        ..InputFit::default()
    };
    let mut distances = Vec::new();
    fit_inputs(&mut after, &base, &new, &streams, &fit, &mut |_, distance| {
        distances.push(distance);
        true
    })
    .unwrap();
    assert!(distances.iter().all(|distance| *distance > 0.0));
    assert_eq!(changed(&before, &after), ["model.embed_tokens.weight"]);
    let fit = OutputFit {
        places: 300,
        steps: 20,
        batch: 128,
        rate: 1e-2,
        ..OutputFit::default()
    };
    let mut losses = Vec::new();
    let rows = new_and_pieces(patch);
    fit_outputs(&mut after, &rows, streams.patched(), &fit, &|| true, &mut |_, loss| {
        losses.push(loss)
    })
    .unwrap();
    assert!(losses[19] < losses[0], "{losses:?}");
    assert_eq!(
        changed(&before, &after),
        ["model.embed_tokens.weight", "lm_head.weight"]
    );

    let config = TrainConfig {
        scope: fused_model::train::Scope::Light,
        steps: 20,
        batch: 4,
        tokens: 32,
        warmup: 2,
        threads: 2,
        peak_rate: 1e-2,
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(after.clone(), config).unwrap();
    let reports: Vec<_> = (0..20).map(|_| trainer.step(streams.patched()).unwrap()).collect();
    assert!(reports[19].loss < 0.8 * reports[0].loss, "{reports:?}");
    let tuned = trainer.params();
    let moved = changed(&after, tuned);
    assert!(moved.iter().any(|name| name.starts_with("model.layers.0.")));
    assert!(moved.iter().any(|name| name == "model.norm.weight"));
    assert!(
        !moved.iter().any(|name| name.starts_with("model.layers.1.")),
        "{moved:?}"
    );

    let root = tempfile::tempdir().unwrap();
    write_directory(root.path(), tuned, SaveAs::F32, &tokenizer, Path::new(BASE)).unwrap();
    let back = Params::load(root.path()).unwrap();
    assert!(changed(tuned, &back).is_empty());
    let (ModelConfig::Llama(read), ModelConfig::Llama(want)) = (back.config(), tuned.config()) else {
        panic!("it is no Llama any more: {:?}", back.config());
    };
    assert_eq!(read.other["pretraining_tp"], 1);
    let without_other = |config: &LlamaConfig| LlamaConfig {
        other: serde_json::Map::new(),
        ..config.clone()
    };
    assert_eq!(without_other(read), without_other(want));
}

#[test]
fn weights_of_one_family_are_no_model_of_the_other() {
    let tokenizer = patched();
    let (gpt2, llama) = (
        Params::random(config(&tokenizer), 1),
        Params::random(llama_config(&tokenizer), 1),
    );
    let mismatch = |error: ModelError| matches!(error, ModelError::Mismatch(_));
    assert!(mismatch(
        fused_model::Gpt2::new(&llama, Options::default()).unwrap_err()
    ));
    assert!(mismatch(fused_model::ReferenceGpt2::new(&llama).unwrap_err()));
    assert!(mismatch(
        fused_model::Llama::new(&gpt2, Options::default()).unwrap_err()
    ));
}

/// An adapted directory in a folder of its own, and its model.
fn directory(root: &Path) -> (PathBuf, Params, PatchTokenizer) {
    directory_of(root, Params::random(config(&patched()), 2))
}

fn directory_of(root: &Path, base: Params) -> (PathBuf, Params, PatchTokenizer) {
    let tokenizer = patched();
    let adapted = exponential(&base, tokenizer.patch_map().unwrap(), PAPER_RATIO, Head::Untied).unwrap();
    let out = root.join("made/adapted");
    write_directory(&out, &adapted, SaveAs::F32, &tokenizer, Path::new(BASE)).unwrap();
    (out, adapted, tokenizer)
}

#[test]
fn a_directory_is_complete_and_reads_back() {
    let root = tempfile::tempdir().unwrap();
    let (out, adapted, tokenizer) = directory(root.path());
    assert!(changed(&adapted, &Params::load(&out).unwrap()).is_empty());
    let back = PatchTokenizer::load(&out).unwrap();
    let text = "The write-ahead log is read by the background writer.";
    assert_eq!(back.encode(text), tokenizer.encode(text));
    assert_eq!(back.patch_map(), tokenizer.patch_map());
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        assert!(out.join(name).exists(), "{name}");
    }
    let class = std::fs::read_to_string(out.join("tokenizer_config.json")).unwrap();
    assert!(
        class.contains("PreTrainedTokenizerFast") && class.contains("<|endoftext|>"),
        "{class}"
    );
    let generation = std::fs::read_to_string(out.join("generation_config.json")).unwrap();
    let generation: serde_json::Value = serde_json::from_str(&generation).unwrap();
    assert_eq!(generation["eos_token_id"], tokenizer.eos_id().unwrap());
}

/// Where there is a Python with transformers: `PYTHON`, else `python3`.
#[test]
fn transformers_loads_a_directory_unchanged_and_agrees() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python)
        .args(["-c", "import torch, transformers"])
        .output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no transformers with torch");
        return;
    }
    let tokenizer = patched();
    for base in [
        Params::random(config(&tokenizer), 2),
        Params::random(llama_config(&tokenizer), 2),
    ] {
        let root = tempfile::tempdir().unwrap();
        let (out, _, tokenizer) = directory_of(root.path(), base);
        let text = "The background writer reads the write-ahead log; case 7 is read by the writer.";
        let ids = tokenizer.encode(text);

        let mut model = load(&out, Options::default()).unwrap();
        let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
        let sequence = kv.open().unwrap();
        let logits = model
            .forward(&mut kv, &[Chunk { sequence, ids: &ids }], Logits::All)
            .unwrap();

        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transformers_logits.py");
        let run = Command::new(&python).arg(script).arg(&out).arg(text).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let theirs: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        assert_eq!(theirs["ids"], serde_json::json!(ids));
        let theirs: Vec<f32> = serde_json::from_value(theirs["logits"].clone()).unwrap();
        assert_eq!(theirs.len(), logits.len());
        let worst = theirs
            .iter()
            .zip(logits)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-4, "logits differ by {worst}");
    }
}
