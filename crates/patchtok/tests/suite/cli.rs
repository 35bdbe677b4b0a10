//! The program `build-vocab`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{DEMO, demo_path, documents};
use patchtok::{NgramTokenizer, PatchTokenizer};
use serde_json::Value;

/// Runs the program in `folder`, where `docs/` is a corpus.
fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_build-vocab"))
        .current_dir(folder)
        .args(args)
        .output()
        .unwrap()
}

/// [`run`] with `input` on standard input.
fn run_with_input(folder: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_build-vocab"))
        .current_dir(folder)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs the program, which is to succeed, and returns its output.
fn succeed(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs the program, which is to fail, and returns what it says.
fn fail(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "", "{args:?}");
    text(&output.stderr)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
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

/// Counts `docs/` into `c.parquet`.
const COUNT: [&str; 7] = [
    "count",
    "--base",
    "tokenizer.json",
    "--corpus",
    "docs",
    "--out",
    "c.parquet",
];

/// Builds from these counts.
const SELECT: [&str; 9] = [
    "select",
    "--base",
    "tokenizer.json",
    "--counts",
    "c.parquet",
    "--swaps",
    "9",
    "--out",
    "selected",
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
    assert_eq!(names(folder.path()), ["docs", "out", "tokenizer.json"]);
    // The command may be named.
    let named = [&["build"][..], &BUILD[..7], &["named"]].concat();
    assert_eq!(succeed(folder.path(), &named), report);
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
    let message = fail(folder.path(), &BUILD);
    assert!(message.contains("--force"), "{message}");
    assert_eq!(fs::read_to_string(out.join("tokenizer.json")).unwrap(), "old");
    let forced = [&BUILD[..], &["--force"]].concat();
    assert!(run(folder.path(), &forced).status.success());
    PatchTokenizer::from_file(out.join("tokenizer.json")).unwrap();
    fs::write(out.join("model.safetensors"), "mine").unwrap();
    let message = fail(folder.path(), &forced);
    assert!(message.contains("model.safetensors"), "{message}");
    assert_eq!(fs::read_to_string(out.join("model.safetensors")).unwrap(), "mine");
}

#[test]
fn failures_exit_1_and_name_the_file() {
    let folder = folder();
    for (at, value) in [(1, "missing.json"), (3, "missing")] {
        let mut args = BUILD;
        args[at] = value;
        let message = fail(folder.path(), &args);
        assert!(message.contains(value), "{message}");
    }
    fs::write(folder.path().join("docs/bad.txt"), [0xff]).unwrap();
    let message = fail(folder.path(), &[&BUILD[..], &["--strict"]].concat());
    assert!(message.contains("bad.txt"), "{message}");
    assert!(!folder.path().join("out").exists());
    // Without --strict it is skipped, and said so.
    let output = run(folder.path(), &[&BUILD[..], &["--json"]].concat());
    assert!(output.status.success());
    assert!(
        text(&output.stderr).contains("1 records were skipped"),
        "{}",
        text(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["counts"]["rejected"]["not_utf8"], 1);
}

#[test]
fn parts_give_what_the_whole_gives() {
    let folder = folder();
    let count = |shard: &str, out: &str| {
        let base = ["count", "--base", "tokenizer.json", "--corpus", "docs"];
        let rest = ["--shard", shard, "--out", out, "--json", "--memory", "64M"];
        let summary: Value = serde_json::from_str(&succeed(folder.path(), &[&base[..], &rest].concat())).unwrap();
        summary["documents"].as_u64().unwrap() + summary["heldout_documents"].as_u64().unwrap()
    };
    let documents = count("0/2", "a.parquet") + count("1/2", "b.parquet");
    assert_eq!(
        documents,
        fs::read_dir(folder.path().join("docs")).unwrap().count() as u64
    );
    let base = ["--base", "tokenizer.json"];
    let merge = [
        &["merge"],
        &base[..],
        &["a.parquet", "b.parquet", "--out", "ab.parquet"],
    ]
    .concat();
    let merged = succeed(folder.path(), &merge);
    assert!(merged.contains("chunks"), "{merged}");
    let select = |counts: &[&str], out: &str| {
        let rest = ["--swaps", "100", "--json", "--out", out];
        succeed(
            folder.path(),
            &[&["select"], &base[..], &["--counts"], counts, &rest].concat(),
        )
    };
    let whole = succeed(folder.path(), &[&BUILD[..], &["--json"]].concat());
    assert_eq!(select(&["ab.parquet"], "merged"), whole);
    assert_eq!(select(&["b.parquet", "a.parquet"], "parts"), whole);
    for name in ["tokenizer.json", "patch_map.json", "patch_tokenizer.bin"] {
        let read = |out: &str| fs::read(folder.path().join(out).join(name)).unwrap();
        assert!(read("out") == read("merged") && read("out") == read("parts"), "{name}");
    }
    // An existing file is replaced only by force.
    let message = fail(folder.path(), &merge);
    assert!(message.contains("--force"), "{message}");
    succeed(folder.path(), &[&merge[..], &["--force"]].concat());
}

#[test]
fn standard_input_is_a_corpus() {
    let folder = folder();
    let documents: Vec<_> = names(&folder.path().join("docs"))
        .iter()
        .map(|name| fs::read_to_string(folder.path().join("docs").join(name)).unwrap())
        .collect();
    let lines: String = documents
        .iter()
        .map(|document| format!("{}\n", serde_json::json!({ "body": document })))
        .collect();
    let packed = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    let args = ["--base", "tokenizer.json", "--corpus", "-", "--field", "body"];
    let rest = ["--swaps", "100", "--out", "stdin"];
    let output = run_with_input(folder.path(), &[&args[..], &rest].concat(), &packed);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), succeed(folder.path(), &BUILD));
}

#[test]
fn a_tokenizer_can_be_looked_at() {
    let folder = folder();
    succeed(folder.path(), &BUILD);
    let shown = succeed(folder.path(), &["inspect", "out"]);
    assert!(shown.contains("8192 tokens, 1 special"), "{shown}");
    assert!(shown.contains("100 new tokens, 100 removed"), "{shown}");
    let json: Value = serde_json::from_str(&succeed(folder.path(), &["inspect", "out", "--json"])).unwrap();
    assert_eq!(json["new"].as_array().unwrap().len(), 100);
    let base = succeed(folder.path(), &["inspect", "tokenizer.json"]);
    assert!(base.contains("a base tokenizer"), "{base}");

    let sentence = "The default is to use the table's name.";
    let json: Value = serde_json::from_str(&succeed(folder.path(), &["encode", "out", sentence, "--json"])).unwrap();
    let tokenizer = PatchTokenizer::load(folder.path().join("out")).unwrap();
    assert_eq!(json["ids"], serde_json::json!(tokenizer.encode(sentence)));
    let tokens = json["tokens"].as_array().unwrap();
    let together: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(together, sentence);
    assert!(succeed(folder.path(), &["encode", "out", sentence]).contains(&format!("{} tokens", tokens.len())));
    let ids = run_with_input(folder.path(), &["encode", "out", "--ids"], b"any \xff bytes\n").stdout;
    let back = run_with_input(folder.path(), &["decode", "out"], &ids).stdout;
    assert_eq!(back, b"any \xff bytes\n");
    let message = fail(folder.path(), &["decode", "out", "70000"]);
    assert!(message.contains("70000"), "{message}");
}

#[test]
fn the_report_is_whole() {
    let folder = folder();
    fs::write(
        folder.path().join("outside.txt"),
        "An apple and a pear, and nothing of tables.",
    )
    .unwrap();
    let more = ["--outside", "outside.txt", "--plot", "saving.png"];
    let printed = succeed(folder.path(), &[&BUILD[..], &more].concat());
    for part in [
        "tokens per word",
        "outside     outside.txt",
        "unused",
        "by number of new ones",
        "removed tokens",
    ] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let png = fs::read(folder.path().join("saving.png")).unwrap();
    assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
    assert!(png.len() > 20_000, "{} bytes: an empty picture", png.len());
    let again = [&BUILD[..], &more, &["--json", "--force"]].concat();
    let report: Value = serde_json::from_str(&succeed(folder.path(), &again)).unwrap();
    assert!(
        fs::read(folder.path().join("saving.png")).unwrap() == png,
        "the same report is the same picture"
    );
    let base = PatchTokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    let outside = base.encode("An apple and a pear, and nothing of tables.").len();
    assert_eq!(report["outside"][0]["base"]["tokens"], outside);
    let curve = report["build"]["curve"].as_array().unwrap();
    assert_eq!(
        curve.last().unwrap()["heldout_tokens"],
        report["heldout"]["patched"]["tokens"]
    );
    assert_eq!(curve.last().unwrap()["new_tokens"], 100);
    assert_eq!(report["build"]["removed"].as_array().unwrap().len(), 100);
    // What is missing is known before anything is built.
    let missing = [&BUILD[..], &["--force", "--outside", "missing.txt"]].concat();
    let message = fail(folder.path(), &missing);
    assert!(message.contains("missing.txt"), "{message}");
}

#[test]
fn every_method_mode_and_segmentation_builds() {
    let folder = folder();
    let build = |out: &str, more: &[&str]| -> Value {
        let args = [&BUILD[..6], &["--json", "--out", out], more].concat();
        serde_json::from_str(&succeed(folder.path(), &args)).unwrap()
    };
    let tokens = |report: &Value, part: &str| report["heldout"][part]["tokens"].as_u64().unwrap();
    let swapped = build("swapped", &[]);
    let grown = build("grown", &["--mode", "grow"]);
    assert_eq!(swapped["vocab_size"], 8192);
    assert_eq!(grown["vocab_size"], 8292);
    assert!(PatchTokenizer::load(folder.path().join("grown")).unwrap().vocab_size() == 8292);
    let shortest = build("shortest", &["--segmentation", "min-tokens"]);
    assert!(tokens(&shortest, "patched") <= tokens(&swapped, "patched"));

    for method in ["adaptivocab-paper", "adaptivocab-released"] {
        let report = build(method, &["--method", method, "--outside", "docs/000.txt"]);
        assert_eq!(report["outside"][0]["base"]["documents"], 1);
        assert!(
            report["outside"][0]["saving_percent"].as_f64().unwrap() > 0.0,
            "{report}"
        );
        assert_eq!(tokens(&report, "base"), tokens(&swapped, "base"));
        let patched = tokens(&report, "patched");
        assert!(patched < tokens(&report, "base"), "{report}");
        assert!(patched > tokens(&swapped, "patched"), "{report}");
        let tokenizer = NgramTokenizer::load(folder.path().join(method)).unwrap();
        assert_eq!(report["swaps"], tokenizer.ngrams().len());
        let message = fail(folder.path(), &["encode", method, "text"]);
        assert!(message.contains("AdaptiVocab"), "{message}");
        let again = [&BUILD[..6], &["--out", method, "--method", method]].concat();
        let message = fail(folder.path(), &again);
        assert!(message.contains("--force"), "{message}");
        let printed = succeed(
            folder.path(),
            &[&again[..], &["--force", "--outside", "docs/000.txt"]].concat(),
        );
        assert!(printed.contains(&format!("swapped by {method}")), "{printed}");
        assert!(printed.contains("outside     docs/000.txt: "), "{printed}");
    }
}

#[test]
fn pinned_and_general_tokens_are_respected() {
    let folder = folder();
    let removed = |more: &[&str]| -> Vec<u64> {
        let args = [&BUILD[..], &["--force"], more].concat();
        succeed(folder.path(), &args);
        let json: Value = serde_json::from_str(&succeed(folder.path(), &["inspect", "out", "--json"])).unwrap();
        let removed = json["removed"].as_array().unwrap().iter();
        removed.map(|token| token["id"].as_u64().unwrap()).collect()
    };
    let free = removed(&[]);
    let (first, second) = (free[0].to_string(), free[1].to_string());
    let pinned = removed(&["--pin", &first, &second]);
    assert!(!pinned.contains(&free[0]) && !pinned.contains(&free[1]));
    assert_eq!(pinned.len(), free.len());
    let base = PatchTokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    fs::write(
        folder.path().join("general.txt"),
        base.decode(&[free[0] as u32]).unwrap(),
    )
    .unwrap();
    assert!(!removed(&["--general", "general.txt"]).contains(&free[0]));
    let message = fail(folder.path(), &[&BUILD[..], &["--force", "--pin", "8192"]].concat());
    assert!(message.contains("--pin 8192"), "{message}");
}

/// All texts that are named are read in the same way.
#[test]
fn field_and_strict_are_of_every_text() {
    let folder = folder();
    let lines = |bad: &str| format!("{{\"body\": \"An apple and a pear.\"}}\n{bad}");
    fs::write(folder.path().join("good.jsonl"), lines("")).unwrap();
    fs::write(folder.path().join("bad.jsonl"), lines("no JSON\n")).unwrap();
    fn build<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&BUILD[..], &["--force", "--json"], more].concat()
    }
    for option in ["--general", "--outside", "--heldout"] {
        succeed(
            folder.path(),
            &build(&["--field", "body", option, "good.jsonl", "--strict"]),
        );
        let output = run(folder.path(), &build(&["--field", "body", option, "bad.jsonl"]));
        assert!(output.status.success(), "{option}: {}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains("1 records were skipped"),
            "{}",
            text(&output.stderr)
        );
        let message = fail(
            folder.path(),
            &build(&["--field", "body", option, "bad.jsonl", "--strict"]),
        );
        assert!(message.contains("bad.jsonl:2"), "{option}: {message}");
    }
    // Counts have no records, but other texts do.
    succeed(folder.path(), &COUNT);
    let more = [
        "--field",
        "body",
        "--outside",
        "good.jsonl",
        "--general",
        "good.jsonl",
        "--strict",
    ];
    succeed(folder.path(), &[&SELECT[..], &more].concat());
}

#[test]
fn what_cannot_be_done_is_said_with_what_can() {
    let folder = folder();
    let message = fail(folder.path(), &[&BUILD[..], &["--memory", "100M"]].concat());
    assert!(
        message.contains("it takes 2") && message.contains("bytes or more"),
        "{message}"
    );
    // A patched tokenizer is no base, which is known before anything is read.
    succeed(folder.path(), &BUILD);
    for method in ["swap-bpe", "adaptivocab-paper"] {
        let args = ["--base", "out", "--corpus", "-", "--swaps", "5", "--out", "twice"];
        let args = match method {
            "swap-bpe" => args.to_vec(),
            _ => [&BUILD[2..6], &["--base", "out", "--out", "twice", "--method", method]].concat(),
        };
        let message = fail(folder.path(), &args);
        assert!(message.contains("the base is a patched tokenizer"), "{message}");
    }
    // A base of another kind, before the corpus is looked for.
    let mut file: Value = serde_json::from_slice(&fs::read(demo_path()).unwrap()).unwrap();
    file["model"]["byte_fallback"] = true.into();
    fs::write(folder.path().join("llama.json"), file.to_string()).unwrap();
    let args = [
        "--base",
        "llama.json",
        "--corpus",
        "missing",
        "--swaps",
        "5",
        "--out",
        "llama",
    ];
    let message = fail(folder.path(), &args);
    assert!(message.contains("byte_fallback"), "{message}");
    // More listed documents for a higher guard.
    succeed(folder.path(), &COUNT);
    let select = [&SELECT[..], &["--min-df", "9"]].concat();
    let message = fail(folder.path(), &select);
    assert!(message.contains("at most 8 documents"), "{message}");
    let again = [&COUNT[..], &["--force", "--list-documents", "9"]].concat();
    succeed(folder.path(), &again);
    succeed(folder.path(), &select);
}

#[test]
fn shells_can_complete() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = succeed(folder.path(), &["completions", shell]);
        assert!(script.contains("inspect") && script.contains("shard"), "{shell}");
    }
}

/// Interrupted in the middle of its work, the program leaves nothing behind.
#[cfg(unix)]
#[test]
fn an_interruption_leaves_nothing() {
    let folder = folder();
    let args = [
        "count",
        "--base",
        "tokenizer.json",
        "--corpus",
        "-",
        "--out",
        "out.parquet",
        "--memory",
        "1K",
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_build-vocab"))
        .current_dir(folder.path())
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a batch, so that counts are in files; then it waits for more.
    let mut input = child.stdin.take().unwrap();
    let line = [&b"a line of text that is counted\n"[..]; 1000].concat();
    for _ in 0..400 {
        input.write_all(&line).unwrap();
    }
    while !names(folder.path())
        .iter()
        .any(|name| name.starts_with(".build-vocab-"))
    {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("nothing was written"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(names(folder.path()), ["docs", "tokenizer.json"]);
}

#[test]
fn wrong_usage_exits_2_and_help_shows_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["--swaps", "10"][..],
        &["--base"],
        &["--base", "x", "--corpus", "y", "--out", "z", "--swaps", "many"],
        &[],
        &["select", "--base", "x"],
        &["count", "--base", "x", "--corpus", "y", "--out", "z", "--shard", "2/2"],
        &["count", "--base", "x", "--corpus", "y", "--out", "z", "--memory", "2X"],
        &["--swaps", "10", "inspect", "x"],
        &[&BUILD[..], &["--method", "magic"]].concat(),
        &[&BUILD[..], &["--method", "adaptivocab-paper", "--mode", "grow"]].concat(),
        &[&BUILD[..], &["--method", "adaptivocab-released", "--min-df", "3"]].concat(),
        &[&BUILD[..], &["--method", "adaptivocab-released", "--heldout", "-"]].concat(),
        &[
            "--base",
            "x",
            "--corpus",
            "-",
            "--swaps",
            "9",
            "--out",
            "z",
            "--method",
            "adaptivocab-paper",
        ],
        &[
            "--base",
            "x",
            "--corpus",
            "-",
            "--heldout",
            "-",
            "--swaps",
            "9",
            "--out",
            "z",
        ],
        &["count", "--base", "x", "--corpus", "-", "--heldout", "-", "--out", "z"],
        &[&BUILD[..], &["--outside", "-"]].concat(),
        &[&BUILD[..], &["--general", "-"]].concat(),
        &[
            "select",
            "--base",
            "x",
            "--counts",
            "y",
            "--swaps",
            "9",
            "--out",
            "z",
            "--outside",
            "-",
        ],
        &[&BUILD[..], &["--mode", "grow", "--general", "x"]].concat(),
    ] {
        assert_eq!(run(folder.path(), args).status.code(), Some(2), "{args:?}");
    }
    // Of what a method has no use for, it does not matter whether it is right.
    let both = ["--method", "adaptivocab-paper", "--mode", "grow", "--general", "-"];
    let message = text(&run(folder.path(), &[&BUILD[..], &both].concat()).stderr);
    assert!(message.contains("--mode cannot be used with AdaptiVocab"), "{message}");
    let output = run(folder.path(), &["--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for part in [
        "build-vocab --base gpt2/tokenizer.json",
        "merge",
        "--mode grow",
        "Exit status: 0 done",
    ] {
        assert!(help.contains(part), "{help}");
    }
}
