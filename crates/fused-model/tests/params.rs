//! Loading and saving weights, and files that are wrong.

use std::path::Path;

use fused_model::{Gpt2Config, ModelError, Params, SaveAs};

fn model() -> Params {
    Params::random(Gpt2Config::new(20, 8, 8, 2, 2), 5)
}

fn values(params: &Params) -> Vec<f32> {
    params
        .tensors()
        .iter()
        .flat_map(|tensor| params.get(&tensor.name).unwrap().to_vec())
        .collect()
}

fn refused(dir: &Path) -> String {
    Params::load(dir).expect_err("a wrong directory was loaded").to_string()
}

#[test]
fn a_saved_model_is_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let params = model().untied();
    params.save(dir.path(), SaveAs::F32).unwrap();
    let loaded = Params::load(dir.path()).unwrap();
    assert_eq!(values(&loaded), values(&params));
    assert!(!loaded.config().is_tied());

    params.save(dir.path(), SaveAs::F16).unwrap();
    let rounded = Params::load(dir.path()).unwrap();
    assert_eq!(rounded.config().to_json()["dtype"], "float16");
    for (got, want) in values(&rounded).iter().zip(values(&params)) {
        assert!((got - want).abs() <= want.abs() / 1024.0 + 1e-7, "{got} wants {want}");
    }
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "temporary files are left: {names:?}");
}

#[test]
fn unknown_keys_of_the_configuration_are_carried_along() {
    let dir = tempfile::tempdir().unwrap();
    model().save(dir.path(), SaveAs::F32).unwrap();
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path)
        .unwrap()
        .replacen('{', "{\"summary_type\": \"cls_index\",", 1);
    std::fs::write(&path, text).unwrap();
    Params::load(dir.path()).unwrap().save(dir.path(), SaveAs::F32).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("cls_index"));
}

#[test]
fn wrong_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refused(dir.path()).contains("config.json"));

    model().save(dir.path(), SaveAs::F32).unwrap();
    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::remove_file(&weights).unwrap();
    assert!(matches!(Params::load(dir.path()), Err(ModelError::Io { path, .. }) if path == weights));

    for cut in [0, 7, 8, 100, bytes.len() - 1] {
        std::fs::write(&weights, &bytes[..cut]).unwrap();
        assert!(refused(dir.path()).contains("model.safetensors"), "cut at {cut}");
    }
    // A header that claims to be longer than any file.
    let mut long = bytes.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&weights, &long).unwrap();
    assert!(refused(dir.path()).contains("model.safetensors"));
}

#[test]
fn missing_misshapen_and_broken_tensors_are_named() {
    let dir = tempfile::tempdir().unwrap();
    model().save(dir.path(), SaveAs::F32).unwrap();
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    let change = |from: &str, to: &str| {
        assert!(config.contains(from), "{from} is not in {config}");
        std::fs::write(dir.path().join("config.json"), config.replace(from, to)).unwrap();
        refused(dir.path())
    };
    assert!(change("\"n_layer\": 2", "\"n_layer\": 3").contains("transformer.h.2.ln_1.weight is missing"));
    let wrong = change("\"vocab_size\": 20", "\"vocab_size\": 21");
    assert!(wrong.contains("transformer.wte.weight") && wrong.contains("[20, 8]") && wrong.contains("[21, 8]"));
    assert!(change("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false").contains("lm_head.weight"));
    assert!(change("\"n_head\": 2", "\"n_head\": 3").contains("n_head 3"));
    assert!(change("\"n_embd\": 8", "\"n_embd\": 0").contains("n_embd is 0"));
    assert!(change("\"model_type\": \"gpt2\"", "\"model_type\": \"llama\"").contains("llama"));
    assert!(change("gelu_new", "relu").contains("relu"));
    // A vocabulary that would need terabytes is refused by the shape in the file, not by trying.
    assert!(change("\"vocab_size\": 20", "\"vocab_size\": 16000000").contains("transformer.wte.weight"));
    std::fs::write(dir.path().join("config.json"), &config).unwrap();

    let weights = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).unwrap();
    assert!(refused(dir.path()).contains("holds NaN"));
}

#[test]
fn the_fixture_is_accepted_without_the_name_prefix() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2-tiny");
    let dir = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(fixture.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let short = file
        .iter()
        .map(|(name, view)| (name.strip_prefix("transformer.").unwrap().to_owned(), view));
    let short = safetensors::serialize(short.collect::<Vec<_>>(), None).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), short).unwrap();
    std::fs::copy(fixture.join("config.json"), dir.path().join("config.json")).unwrap();
    assert_eq!(
        values(&Params::load(dir.path()).unwrap()),
        values(&Params::load(&fixture).unwrap())
    );
}
