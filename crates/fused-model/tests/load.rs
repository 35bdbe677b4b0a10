//! The one loader: architectures, shards, types, and directories that are wrong.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use fused_model::hub::Hub;
use fused_model::{Gpt2Config, Options, Params, SaveAs, end_ids, load, load_and_tell};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn refused(dir: &Path) -> String {
    load(dir, Options::default())
        .expect_err("a wrong directory was loaded")
        .to_string()
}

/// A copy of a fixture that a test may change.
fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    dir
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn the_architecture_decides() {
    for (name, vocab) in [("gpt2-tiny", 300), ("llama-tiny/grouped", 96)] {
        assert_eq!(load(&fixture(name), Options::default()).unwrap().vocab_size(), vocab);
    }
    let dir = copy("llama-tiny/grouped");
    let config = dir.path().join("config.json");
    edit(&config, "LlamaForCausalLM", "LlamaForSequenceClassification");
    let error = refused(dir.path());
    assert!(
        error.contains("\"LlamaForSequenceClassification\"") && error.contains("\"LlamaForCausalLM\""),
        "{error}"
    );

    // A model without a head predicts nothing.
    let headless = copy("gpt2-tiny");
    edit(&headless.path().join("config.json"), "GPT2LMHeadModel", "GPT2Model");
    assert!(refused(headless.path()).contains("\"GPT2Model\" is not supported"));

    // Without classes the type decides.
    edit(&config, "\"LlamaForSequenceClassification\"", "");
    assert!(load(dir.path(), Options::default()).is_ok());
    edit(&config, "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"");
    assert!(refused(dir.path()).contains("\"mamba\""));
    edit(&config, "\"model_type\": \"mamba\",", "");
    assert!(refused(dir.path()).contains("names no architecture"));
    std::fs::write(&config, "{").unwrap();
    assert!(refused(dir.path()).contains("config.json"));
}

#[test]
fn progress_counts_every_weight() {
    for name in ["gpt2-tiny", "llama-tiny/grouped", "llama-tiny/stretched"] {
        let seen = RefCell::new(Vec::new());
        load_and_tell(&fixture(name), Options::default(), &mut |progress| {
            seen.borrow_mut().push(progress)
        })
        .unwrap();
        let seen = seen.into_inner();
        let last = seen.last().unwrap();
        assert!(last.done == last.total && last.total > 10_000, "{name}: {last:?}");
        assert!(
            seen.is_sorted_by(|a, b| a.done < b.done && a.total == b.total),
            "{name}"
        );
    }
}

/// Shards of GPT-2 too, in each type, through the same files.
#[test]
fn shards_and_types_are_the_same_weights() {
    let dir = tempfile::tempdir().unwrap();
    let params = Params::random(Gpt2Config::new(20, 8, 8, 2, 2), 5);
    params.save(dir.path(), SaveAs::F32).unwrap();
    let whole = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let whole = SafeTensors::deserialize(&whole).unwrap();
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();

    // One tensor of each type in turn, over three files.
    type Stored = (String, Dtype, Vec<usize>, Vec<u8>);
    let mut shards: [Vec<Stored>; 3] = Default::default();
    let mut map = BTreeMap::new();
    for (number, (name, view)) in whole.iter().enumerate() {
        let values = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let (dtype, bytes) = match number % 3 {
            0 => (Dtype::F32, view.data().to_vec()),
            1 => (
                Dtype::F16,
                values.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
            ),
            _ => (
                Dtype::BF16,
                values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            ),
        };
        let shard = number / 3 % 3;
        map.insert(name.to_owned(), format!("model-{shard}.safetensors"));
        shards[shard].push((name.to_owned(), dtype, view.shape().to_vec(), bytes));
    }
    for (number, shard) in shards.iter().enumerate() {
        let views = shard
            .iter()
            .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        let file = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
        std::fs::write(dir.path().join(format!("model-{number}.safetensors")), file).unwrap();
    }
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();

    let loaded = Params::load(dir.path()).unwrap();
    for tensor in params.tensors() {
        let [got, want] = [&loaded, &params].map(|params| params.get(&tensor.name).unwrap());
        for (got, want) in got.iter().zip(want) {
            // bfloat16 keeps 8 bits.
            assert!(
                (got - want).abs() <= want.abs() / 256.0 + 1e-7,
                "{}: {got} wants {want}",
                tensor.name
            );
        }
    }

    let text = std::fs::read_to_string(&index).unwrap();
    for (from, to, named) in [
        ("model-1.safetensors", "model-9.safetensors", "model-9.safetensors"),
        (
            "\"model-1.safetensors\"",
            "\"../model-1.safetensors\"",
            "no name of a file",
        ),
        ("\"model-1.safetensors\"", "\"\"", "no name of a file"),
        (
            "\"model-1.safetensors\"",
            "\"model-0.safetensors\"",
            "is not in model-0.safetensors",
        ),
        ("weight_map", "weights", "not an index of shards"),
    ] {
        std::fs::write(&index, &text).unwrap();
        edit(&index, from, to);
        let error = refused(dir.path());
        assert!(error.contains(named), "{to}: {error}");
    }
}

#[test]
fn a_tensor_that_is_there_twice_is_refused() {
    let dir = copy("gpt2-tiny");
    let path = dir.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let whole = SafeTensors::deserialize(&whole).unwrap();
    let mut tensors: Vec<_> = whole.iter().map(|(name, view)| (name.to_owned(), view)).collect();
    let name = "transformer.wte.weight";
    tensors.push(("wte.weight".into(), whole.tensor(name).unwrap()));
    std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let error = refused(dir.path());
    assert!(error.contains("wte.weight is there twice"), "{error}");
}

#[test]
fn sizes_that_no_machine_has_are_refused_by_name() {
    let dir = copy("gpt2-tiny");
    for (from, to, named) in [
        (
            "\"n_embd\": 32",
            "\"n_embd\": 9223372036854775808",
            "n_embd is 9223372036854775808",
        ),
        ("\"n_embd\": 9223372036854775808", "\"n_embd\": 0", "n_embd is 0"),
    ] {
        edit(&dir.path().join("config.json"), from, to);
        assert!(refused(dir.path()).contains(named));
    }
}

#[test]
fn every_wrong_tensor_is_named_with_both_shapes() {
    let dir = copy("llama-tiny/grouped");
    let config = dir.path().join("config.json");
    edit(&config, "\"intermediate_size\": 40", "\"intermediate_size\": 48");
    let error = refused(dir.path());
    for part in [
        "layers.0.mlp.gate_proj",
        "layers.0.mlp.down_proj",
        "layers.1.mlp.up_proj",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(error.contains("[40, 24]") && error.contains("[48, 24]"), "{error}");
    edit(&config, "\"intermediate_size\": 48", "\"intermediate_size\": 40");
    edit(&config, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000");
    let error = refused(dir.path());
    assert!(
        error.contains("model.layers.2.input_layernorm.weight is missing") && error.contains("more"),
        "{error}"
    );
    assert!(error.len() < 2000, "{error}");
    edit(&config, "\"num_hidden_layers\": 1000", "\"num_hidden_layers\": 2");
    edit(&config, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4");
    let error = refused(dir.path());
    assert!(
        error.contains("self_attn.k_proj.weight has shape [16, 24]") && error.contains("[32, 24]"),
        "{error}"
    );
}

#[test]
fn ids_that_end_a_text() {
    let dir = copy("llama-tiny/grouped");
    assert_eq!(end_ids(dir.path()).unwrap(), [95]);
    let generation = dir.path().join("generation_config.json");
    std::fs::write(&generation, "{\"eos_token_id\": [7, 8]}").unwrap();
    assert_eq!(end_ids(dir.path()).unwrap(), [7, 8]);
    for (damaged, named) in [
        ("{\"eos_token_id\": ", "EOF"),
        ("{\"eos_token_id\": -1}", "-1"),
        ("{\"eos_token_id\": [7, \"x\"]}", "\"x\""),
    ] {
        std::fs::write(&generation, damaged).unwrap();
        let error = end_ids(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("generation_config.json") && error.contains(named),
            "{error}"
        );
    }
    std::fs::write(&generation, "{}").unwrap();
    edit(
        &dir.path().join("config.json"),
        "\"eos_token_id\": 95",
        "\"eos_token_id\": null",
    );
    assert_eq!(end_ids(dir.path()).unwrap(), [] as [u32; 0]);
}

/// A cache as `huggingface_hub` leaves it, with links to blobs.
#[test]
fn models_of_the_hub_are_found_in_its_cache() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::offline(cache.path());
    let repository = cache.path().join("models--some-org--tiny.model");
    let snapshot = repository.join("snapshots/0123abcd");
    let blobs = repository.join("blobs");
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    let refused = |model: &str| hub.directory(model).unwrap_err().to_string();
    assert!(refused("some-org/tiny.model").contains("lacks revision \"main\""));

    std::fs::write(repository.join("refs/main"), "0123abcd").unwrap();
    let error = refused("some-org/tiny.model");
    assert!(
        error.contains("lacks config.json, model.safetensors") && error.contains("offline"),
        "{error}"
    );
    let link = |name: &str| {
        std::fs::copy(fixture("llama-tiny/stretched").join(name), blobs.join(name)).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
    };
    link("config.json");
    link("model.safetensors.index.json");
    link("model-00001-of-00003.safetensors");
    link("model-00003-of-00003.safetensors");
    assert!(refused("some-org/tiny.model").contains("lacks model-00002-of-00003.safetensors,"));
    link("model-00002-of-00003.safetensors");
    for name in [
        "some-org/tiny.model",
        "some-org/tiny.model@main",
        "some-org/tiny.model@0123abcd",
    ] {
        let found = hub.directory(name).unwrap();
        assert_eq!(found, snapshot, "{name}");
        assert_eq!(load(&found, Options::default()).unwrap().vocab_size(), 96);
    }

    let folder = fixture("gpt2-tiny");
    assert_eq!(hub.directory(folder.to_str().unwrap()).unwrap(), folder);
    assert!(refused("some-org/tiny.model@v2").contains("\"v2\""));
    for name in [
        "nothing",
        "a/b/c",
        "../b",
        "a/..",
        "a/b@../../c",
        "/etc",
        "",
        "a/",
        "/b",
    ] {
        let error = refused(if name == "/etc" { "/etc/x" } else { name });
        assert!(error.contains("org/name"), "{name}: {error}");
    }
}
