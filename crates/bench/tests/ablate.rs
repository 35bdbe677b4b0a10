//! `bench ablate` as a user meets it, on a model that knows nothing.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// A small model, the same with a tokenizer patched for a small text, that text, and pages held out from it.
fn inputs(root: &Path) {
    let pages = common::pages();
    let lines = |pages: &[String]| -> String {
        let lines = pages.iter().map(|page| serde_json::json!({ "text": page }).to_string());
        lines.map(|line| line + "\n").collect()
    };
    fs::write(root.join("heldout.jsonl"), lines(&pages[..6])).expect("writes");
    fs::write(root.join("train.jsonl"), lines(&pages[6..])).expect("writes");
    for (name, tokenizer) in ["model", "patched"].iter().zip(common::tokenizers(&pages)) {
        common::save_model(&root.join(name), &tokenizer);
    }
}

/// `bench ablate` on the files; `{}` stands for their folder.
fn ablate(root: &Path, more: &str) -> Output {
    let usual = "ablate --base {}/model --domain {}/heldout.jsonl --out {}/out --swaps 5,10 --texts 2 --rounds 2";
    let folder = root.display().to_string();
    let words = format!("{usual} {more}").replace("{}", &folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
    command.args(words.split_whitespace()).output().expect("runs")
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn stages_swaps_and_stores_are_measured_and_every_field_is_documented() {
    let root = tempfile::tempdir().expect("a temporary folder");
    inputs(root.path());
    let more = "--adapted {}/patched --base-tuned {}/model --train {}/train.jsonl --outside {}/train.jsonl --json";
    let report = report(&ablate(root.path(), more));
    assert_eq!(report["schema"], "fused-bench.ablation.v1");
    let stages = report["quality"]["domain"]["stages"].as_array().expect("stages");
    let names: Vec<&str> = stages.iter().filter_map(|stage| stage["stage"].as_str()).collect();
    assert_eq!(names, ["base", "base_tuned", "adapted_untuned", "adapted"]);
    let bits = |stage: &Value| stage["bits_per_byte"]["value"].as_f64();
    // The control is the base itself here, and the adapted model made here is another than the one that was named.
    assert_eq!(stages[1]["vs_base"]["value"], 0.0);
    assert!(stages[0]["vs_base"].is_null() && stages[1]["vs_base_tuned"].is_null());
    assert_eq!(stages[3]["vs_base"]["value"], stages[3]["vs_base_tuned"]["value"]);
    assert!(bits(&stages[2]).is_some() && bits(&stages[2]) != bits(&stages[3]));
    assert!(report["quality"]["claims"][1]["holds"].is_boolean());
    assert_eq!(report["quality"]["adoption"].as_array().map(Vec::len), Some(2));
    let samples = &report["quality"]["samples"];
    assert_eq!(samples[0]["models"].as_array().map(Vec::len), Some(4));

    let points = report["frontier"].as_array().expect("points");
    let methods: Vec<_> = points.iter().filter_map(|point| point["method"].as_str()).collect();
    assert_eq!(methods, ["base", "swap_bpe", "swap_bpe", "adaptivocab", "tuned"]);
    let swaps: Vec<_> = points.iter().filter_map(|point| point["swaps"].as_u64()).collect();
    assert_eq!(swaps[..3], [0, 5, 10]);
    for point in &points[1..] {
        assert!(
            point["tokens"]["value"].as_f64().is_some_and(|change| change < 0.0),
            "{point}"
        );
        assert!(
            point["reply_bytes_per_second"]["value"]
                .as_f64()
                .is_some_and(|speed| speed > 0.0)
        );
        assert_eq!(point["speed"]["verdict"], "not_judged", "two rounds");
    }
    let memory = &report["factorial"]["virtual_store"]["kv_memory"];
    assert!(
        memory["both"]["value"].as_f64().is_some_and(|change| change < 0.0),
        "{memory}"
    );
    assert_eq!(report["factorial"]["arms"].as_array().map(Vec::len), Some(6));

    let shares = report["frames"].as_array().expect("frames").iter();
    let shares: Vec<f64> = shares.filter_map(|of| of["waste_share"]["value"].as_f64()).collect();
    assert!(shares.len() == 5 && shares.is_sorted(), "{shares:?}");
    for of in report["depths"].as_array().expect("depths") {
        // A context of 128 tokens, of which 16 are the prompt.
        assert_eq!(of["depth"], serde_json::json!([48, 80, 112]), "{of}");
    }

    for file in [
        "ablation_results.json",
        "report.html",
        "frontier_quality.png",
        "factorial_memory.svg",
    ] {
        assert!(root.path().join("out").join(file).exists(), "{file}");
    }
    let missing = undocumented(&report);
    assert!(missing.is_empty(), "not in docs/report-schema.md: {missing:?}");
}

/// Names of fields that the document does not have between backticks.
fn undocumented(report: &Value) -> BTreeSet<String> {
    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => object.iter().for_each(|(key, value)| {
                found.insert(key.clone());
                names(value, found);
            }),
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }
    let document = include_str!("../../../docs/report-schema.md");
    let code = document.split('`').skip(1).step_by(2);
    let words: BTreeSet<&str> = code.flat_map(|code| code.split(['.', ',', ' ', '[', ']'])).collect();
    let mut found = BTreeSet::new();
    names(report, &mut found);
    found.retain(|name| !words.contains(name.as_str()));
    found
}

#[test]
fn what_is_missing_is_not_measured_and_said() {
    let root = tempfile::tempdir().expect("a temporary folder");
    inputs(root.path());
    let alone = report(&ablate(root.path(), "--json"));
    let stages = &alone["quality"]["domain"]["stages"];
    assert!(stages[0]["bits_per_byte"].is_object() && stages[3]["bits_per_byte"].is_null());
    assert!(alone["factorial"].is_null() && alone["quality"]["outside"].is_null());
    assert_eq!(alone["frontier"], Value::Array(Vec::new()));
    let why = alone["not_measured"].to_string();
    for option in ["--base-tuned", "--adapted", "--outside", "--train"] {
        assert!(why.contains(option), "{option}: {why}");
    }
    let page = fs::read_to_string(root.path().join("out/report.html")).expect("reads");
    assert!(page.contains("not measured"));

    let output = ablate(root.path(), "");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        table.contains("adapted, tuned") && table.contains("not measured"),
        "{table}"
    );
    for (more, message) in [
        ("--base-tuned {}/absent", "absent"),
        ("--adapted {}/model", "is not patched"),
        ("--adapted {}/model --adapted-untuned {}/patched", "is not patched"),
        ("--adapted-untuned {}/model", "is not patched"),
        ("--base-tuned {}/patched", "is not the base's"),
        ("--train {}/absent.jsonl", "absent.jsonl"),
    ] {
        let output = ablate(root.path(), more);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{more}: {talk}");
        assert!(talk.starts_with("bench: ") && talk.contains(message), "{more}: {talk}");
        assert!(output.stdout.is_empty(), "{more}");
    }
}
