//! The program `build-vocab`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{DEMO, demo_path, documents};
use patchtok::PatchTokenizer;
use serde_json::Value;

/// Runs the program in `folder`, where `docs/` is a corpus.
fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_build-vocab"))
        .current_dir(folder)
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A folder with a base tokenizer and a corpus.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("docs")).unwrap();
    for (i, document) in documents("manual-train", 120_000).iter().enumerate() {
        fs::write(folder.path().join(format!("docs/{i:03}.txt")), document).unwrap();
    }
    fs::copy(demo_path(), folder.path().join("tokenizer.json")).unwrap();
    folder
}

const BUILD: [&str; 8] = [
    "--base",
    "tokenizer.json",
    "--corpus",
    "docs",
    "--swaps",
    "100",
    "--out",
    "out",
];

#[test]
fn builds_and_reports() {
    let folder = folder();
    let output = run(folder.path(), &BUILD);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    let report = text(&output.stdout);
    assert!(report.contains("8192 tokens, 100 of 100 swapped"), "{report}");
    assert!(report.contains("% fewer tokens"), "{report}");
    let tokenizer = PatchTokenizer::load(folder.path().join("out")).unwrap();
    assert_eq!(tokenizer.patch_map().unwrap().new_tokens().len(), 100);
    // Nothing else was left behind.
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["docs", "out", "tokenizer.json"]);
}

#[test]
fn json_holds_the_measurement() {
    let folder = folder();
    let mut args = BUILD.to_vec();
    args.extend(["--heldout", "docs/000.txt", "docs/001.txt", "--json"]);
    let output = run(folder.path(), &args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "patchtok.build.v1");
    assert_eq!(report["build"]["swaps"], 100);
    assert_eq!(report["build"]["tokens"].as_array().unwrap().len(), 100);
    assert_eq!(report["heldout"]["base"]["documents"], 2);
    let tokens: usize = (0..2)
        .map(|i| {
            DEMO.encode(&fs::read_to_string(folder.path().join(format!("docs/{i:03}.txt"))).unwrap())
                .len()
        })
        .sum();
    assert_eq!(report["heldout"]["base"]["tokens"], tokens);
    assert!(report["heldout"]["saving_percent"].as_f64().unwrap() > 1.0, "{report}");
}

#[test]
fn an_existing_folder_is_replaced_only_by_force() {
    let folder = folder();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    assert!(
        run(folder.path(), &BUILD).status.success(),
        "an empty folder is no obstacle"
    );
    fs::write(out.join("tokenizer.json"), "old").unwrap();
    let output = run(folder.path(), &BUILD);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--force"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(out.join("tokenizer.json")).unwrap(), "old");
    let forced = [&BUILD[..], &["--force"]].concat();
    assert!(run(folder.path(), &forced).status.success());
    PatchTokenizer::from_file(out.join("tokenizer.json")).unwrap();
    fs::write(out.join("model.safetensors"), "mine").unwrap();
    let output = run(folder.path(), &forced);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("model.safetensors"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(fs::read_to_string(out.join("model.safetensors")).unwrap(), "mine");
}

#[test]
fn failures_exit_1_and_name_the_file() {
    let folder = folder();
    for (at, value) in [(1, "missing.json"), (3, "missing")] {
        let mut args = BUILD;
        args[at] = value;
        let output = run(folder.path(), &args);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(value), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
    fs::write(folder.path().join("docs/bad.txt"), [0xff]).unwrap();
    let output = run(folder.path(), &BUILD);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("bad.txt"), "{}", text(&output.stderr));
    assert!(!folder.path().join("out").exists());
}

#[test]
fn wrong_usage_exits_2_and_help_shows_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["--swaps", "10"][..],
        &["--base"],
        &["--base", "x", "--corpus", "y", "--out", "z", "--swaps", "many"],
    ] {
        assert_eq!(run(folder.path(), args).status.code(), Some(2), "{args:?}");
    }
    let output = run(folder.path(), &["--help"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("build-vocab --base gpt2/tokenizer.json"));
}
