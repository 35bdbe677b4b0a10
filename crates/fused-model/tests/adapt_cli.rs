//! The program `adapt`, end to end on a model that knows nothing.

use std::path::Path;
use std::process::{Command, Output};

use fused_model::{Gpt2Config, Params, SaveAs};
use patchtok::{Corpus, PatchTokenizer, VocabBuilder};

fn adapt(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adapt")).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A base model, a patched tokenizer and a text in `root`.
fn inputs(root: &Path) {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/demo/base/tokenizer.json");
    let base = PatchTokenizer::from_file(base).unwrap();
    let mut config = Gpt2Config::new(base.vocab_size(), 32, 8, 3, 2);
    config.eos_token_id = base.eos_id();
    Params::random(config, 4).save(&root.join("base"), SaveAs::F32).unwrap();
    base.save(root.join("base")).unwrap();
    let texts: Vec<String> = (0..60)
        .map(|i| format!("Row {i} of the table is locked by process {}.\n", i % 7))
        .collect();
    std::fs::write(root.join("text.jsonl"), {
        let lines = texts
            .iter()
            .map(|text| serde_json::json!({ "text": text }).to_string() + "\n");
        lines.collect::<String>()
    })
    .unwrap();
    let builder = VocabBuilder::new(base).swaps(10).min_count(3);
    let built = builder.build(Corpus::from_texts(texts)).unwrap();
    built.tokenizer.save(root.join("patched")).unwrap();
}

#[test]
fn a_model_is_adapted_stopped_early_and_resumed() {
    let root = tempfile::tempdir().unwrap();
    inputs(root.path());
    let path = |name: &str| root.path().join(name).display().to_string();
    let (model, tokenizer, corpus, out) = (path("base"), path("patched"), path("text.jsonl"), path("out"));
    let common = [
        "--model", &model, "--corpus", &corpus, "--out", &out, "--steps", "12", "--batch", "2",
    ];
    let more = [
        "--rate",
        "0.01",
        "--every",
        "4",
        "--threads",
        "2",
        "--fit-steps",
        "3",
        "--json",
    ];
    let mut args = [&common[..], &more[..]].concat();
    args.extend(["--tokenizer", &tokenizer]);

    let output = adapt(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["new_tokens"], 10);
    assert_eq!(report["fit"], serde_json::json!(["inputs", "calibrate", "outputs"]));
    assert_eq!(report["tuning"]["steps_done"], 12);
    let bits = |name: &str| report[name].as_f64().unwrap();
    assert!(bits("bits_per_byte") < bits("fitted_bits_per_byte"));
    Params::load(&root.path().join("out")).unwrap();
    assert_eq!(
        PatchTokenizer::load(root.path().join("out"))
            .unwrap()
            .patch_map()
            .unwrap()
            .new_tokens()
            .len(),
        10
    );

    // A folder that holds something is not written over; a finished run can be taken up, and has nothing left to do.
    let again = adapt(&args);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("--resume"), "{}", stderr(&again));
    args.push("--resume");
    let resumed = adapt(&args);
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    let resumed: serde_json::Value = serde_json::from_slice(&resumed.stdout).unwrap();
    assert_eq!(resumed["bits_per_byte"], report["bits_per_byte"]);
    assert_eq!(resumed["tuning"]["resumed"], true);
    for name in [
        "init",
        "ratio",
        "fit",
        "initial_bits_per_byte",
        "fitted_bits_per_byte",
        "fit_seconds",
    ] {
        assert!(!report[name].is_null(), "{name}");
        assert!(resumed.get(name).is_none(), "a resumed run knows nothing of {name}");
    }
    // Other settings are another run, and so are other inputs; what was written stays as it is.
    let written = || std::fs::read(root.path().join("out/model.safetensors")).unwrap();
    let before = written();
    let other = path("other.jsonl");
    std::fs::write(
        &other,
        r#"{"text": "Another text, read again and again by the same process."}"#.to_owned() + "\n",
    )
    .unwrap();
    let without_tokenizer: Vec<&str> = args
        .iter()
        .copied()
        .filter(|&arg| arg != "--tokenizer" && arg != tokenizer)
        .collect();
    for (args, code, named) in [
        ([&args[..], &["--seed", "9"]].concat(), 1, "other settings"),
        ([&args[..], &["--tune", "none"]].concat(), 2, "--tune none"),
        (without_tokenizer, 1, "another tokenizer"),
        ([&args[..], &["--heldout", &other]].concat(), 1, "another text"),
    ] {
        let output = adapt(&args);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert!(stderr(&output).contains(named), "{named}: {}", stderr(&output));
        assert!(written() == before, "{named}");
    }
}

#[test]
fn a_control_has_no_new_tokens_and_a_tied_model_stays_tied() {
    let root = tempfile::tempdir().unwrap();
    inputs(root.path());
    let path = |name: &str| root.path().join(name).display().to_string();
    let (model, corpus) = (path("base"), path("text.jsonl"));
    let out = path("control");
    let args = [
        "--model", &model, "--corpus", &corpus, "--out", &out, "--tune", "none", "--dtype", "f32",
    ];
    let output = adapt(&[&args[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["new_tokens"], 0);
    assert_eq!(report["bits_per_byte"], report["base_bits_per_byte"]);

    let (out, tokenizer) = (path("tied"), path("patched"));
    let tied = [
        "--model",
        &model,
        "--corpus",
        &corpus,
        "--out",
        &out,
        "--tokenizer",
        &tokenizer,
    ];
    let output = adapt(&[&tied[..], &["--head", "tied", "--init", "mean", "--tune", "none"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(Params::load(&root.path().join("tied")).unwrap().config().is_tied());
}

#[test]
fn what_cannot_serve_is_named() {
    let root = tempfile::tempdir().unwrap();
    inputs(root.path());
    let path = |name: &str| root.path().join(name).display().to_string();
    let (model, corpus, out) = (path("base"), path("text.jsonl"), path("out"));
    assert_eq!(adapt(&["--model", &model]).status.code(), Some(2));
    let cases = [
        (["--model", &path("absent"), "--corpus", &corpus], "absent"),
        (["--model", &model, "--corpus", &path("nothing.txt")], "nothing.txt"),
    ];
    for (args, named) in cases {
        let output = adapt(&[&args[..], &["--out", &out]].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(named), "{}", stderr(&output));
        assert!(!root.path().join("out").exists());
    }
    // Settings that cannot be are refused before any work, and no folder is made.
    let tokenizer = path("patched");
    let short = path("short.jsonl");
    std::fs::write(&short, "{\"text\": \"A few words.\"}\n").unwrap();
    let cases: [(&str, &[&str], i32, &str); 10] = [
        (&corpus, &["--batch", "0"], 1, "batch"),
        (&corpus, &["--context", "0", "--tune", "none"], 2, "--context"),
        (&corpus, &["--context", "9999"], 1, "windows of 9999 tokens"),
        (&corpus, &["--dropout", "1"], 1, "dropout is 1"),
        (&corpus, &["--rate", "nan"], 1, "learning rate"),
        (&short, &["--heldout", &corpus], 1, "tokens of training text"),
        (&corpus, &["--tokenizer", &tokenizer, "--ratio", "0"], 1, "ratio is 0"),
        (
            &corpus,
            &["--tokenizer", &tokenizer, "--head", "tied", "--fit", "inputs"],
            2,
            "--head tied",
        ),
        (&corpus, &["--fit", "calibrate"], 2, "--tokenizer"),
        (&corpus, &["--fit", "none,inputs"], 2, "--fit none"),
    ];
    for (corpus, more, code, named) in cases {
        let output = adapt(&[&["--model", &model, "--corpus", corpus, "--out", &out], more].concat());
        assert_eq!(output.status.code(), Some(code), "{named}: {}", stderr(&output));
        assert!(stderr(&output).contains(named), "{named}: {}", stderr(&output));
        assert!(!root.path().join("out").exists(), "{named}");
    }
    let args = [
        "--model",
        &model,
        "--corpus",
        &corpus,
        "--out",
        &out,
        "--tokenizer",
        &model,
    ];
    assert!(stderr(&adapt(&args)).contains("build-vocab"));
}
