//! The program as a user meets it: its exit status, what it prints, what it writes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fused_model::{Gpt2Config, Params, SaveAs};
use patchtok::PatchTokenizer;
use tempfile::TempDir;

const REPORT: &str = "comprehensive_benchmark_results.json";

/// A small model, a tokenizer patched for a small corpus, and that corpus, in a temporary folder.
struct Files {
    root: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            root: tempfile::tempdir().expect("a temporary folder"),
        };
        let pages = common::pages();
        let [base, patched] = common::tokenizers(&pages);
        common::save_model(&files.path("model"), &base);
        fs::copy(common::TOKENIZER_JSON, files.path("model/tokenizer.json")).expect("copies");
        fs::write(files.path("heldout.txt"), pages[..4].join("\n")).expect("writes");
        patched.save(files.path("patched")).expect("saves");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The program on these files, a small workload, and more arguments; `{}` stands for the
    /// folder.
    fn command(&self, more: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
        let root = self.root.path().display().to_string();
        let small = "--texts 3 --batch 2 --rounds 2 --out {}/out";
        let own = "--model {}/model --tokenizer {}/patched --corpus {}/heldout.txt";
        // Later options win over earlier ones only where clap is told so; here each stands once.
        let named = |option: &str| more.split_whitespace().any(|word| word == option);
        for pair in [small, own].join(" ").split(' ').collect::<Vec<_>>().chunks(2) {
            if !named(pair[0]) {
                command.args([pair[0], &pair[1].replace("{}", &root)]);
            }
        }
        command.args(more.split_whitespace().map(|word| word.replace("{}", &root)));
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, more: &str) -> Output {
        self.command(more).output().expect("runs")
    }
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_run_on_own_files_writes_the_report_and_the_figures() {
    let files = Files::new();
    let output = files.run("--json --seed 5");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{talk}");
    let pages = [
        "comparison_dashboard",
        "kv_cache_comparison",
        "performance_comparison",
        "token_comparison",
    ];
    let panels = [
        "tokens",
        "fertility_by_domain",
        "kv_memory_by_arm",
        "kv_memory_over_time",
        "throughput_by_arm",
        "latency_ecdf",
        "ablation_speed",
        "ablation_memory",
    ];
    let figures = pages
        .map(|page| format!("comprehensive_{page}"))
        .into_iter()
        .chain(panels.map(str::to_owned));
    let mut expected: Vec<String> = figures
        .flat_map(|name| [format!("{name}.png"), format!("{name}.svg")])
        .collect();
    expected.extend([REPORT, "report.html"].map(str::to_owned));
    expected.sort();
    assert_eq!(names(&files.path("out")), expected);
    let written = fs::read(files.path("out").join(REPORT)).expect("reads");
    assert_eq!(output.stdout, written, "standard output is the report");
    let report: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(report["schema"], "fused-bench.report.v1");
    assert_eq!(report["inputs"]["mode"], "own");
    assert_eq!(report["inputs"]["fused_model_origin"], "adapted on the fly, not tuned");
    assert_eq!(report["inputs"]["workload"]["texts"], 3);
    assert_eq!(report["environment"]["seed"], 5);
    let [base, patched] = [0, 1].map(|i| &report["tokenization"]["tokenizers"][i]);
    for tokenizer in [base, patched] {
        assert_eq!(tokenizer["same_ids_as_hugging_face"], true, "{tokenizer}");
        assert_eq!(tokenizer["lossless"], true, "{tokenizer}");
    }
    let number = |value: &serde_json::Value| value.as_f64().expect("a number");
    for arm in report["arms"].as_array().expect("arms") {
        let kv = &arm["kv_cache"];
        let at = |name: &str| number(&kv[name]["value"]);
        assert!(
            at("used_at_peak") > 0.0 && at("used_at_peak") <= at("physical_at_peak"),
            "{kv}"
        );
        // The kernel's count and the formula agree to the page.
        assert_eq!(at("physical_at_peak"), at("estimated_at_peak"), "{} {kv}", arm["name"]);
        assert!(number(&arm["performance"]["reply_bytes_per_second"]["value"]) > 0.0);
    }
    assert!(number(&report["improvements"]["kv_cache_reduction_percent"]) > 0.0);
    assert!(number(&report["improvements"]["token_reduction_percent"]) > 0.0);
}

#[test]
fn a_broken_gate_exits_with_1_and_wrong_use_with_2() {
    let files = Files::new();
    let report = |name: &str, peak: f64| {
        let figure = serde_json::json!({"value": peak, "unit": "bytes", "kind": "measured"});
        let arm =
            serde_json::json!({"name": "fused", "tokenizer": "patched", "kv_cache": {"physical_at_peak": figure}});
        let report = serde_json::json!({"schema": "fused-bench.report.v1", "arms": [arm]});
        fs::write(files.path(name), report.to_string()).expect("writes");
    };
    report("a.json", 1_000.0);
    report("b.json", 1_030.0);
    let diff = |arguments: &str| {
        let root = files.root.path().display().to_string();
        let arguments = format!("diff {arguments}").replace("{}", &root);
        Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(arguments.split_whitespace())
            .output()
            .expect("runs")
    };
    for (arguments, code) in [
        ("{}/a.json {}/b.json", 0),
        ("{}/a.json {}/b.json --gate kv_peak_bytes=+4%", 0),
        ("{}/a.json {}/b.json --gate kv_peak_bytes=+2%", 1),
        ("{}/b.json {}/a.json --gate kv_peak_bytes=-2%", 1),
        ("{}/a.json {}/b.json --gate other=+2%", 2),
        ("{}/a.json {}/b.json --gate kv_peak_bytes=2", 2),
        ("{}/a.json {}/missing.json", 2),
        ("{}/a.json {}/heldout.txt", 2),
        ("{}/a.json", 2),
    ] {
        let output = diff(arguments);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {talk}");
        assert_eq!(code == 2, output.stdout.is_empty(), "{arguments}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&diff("{}/a.json {}/b.json --gate kv_peak_bytes=+2% --json").stdout).expect("JSON");
    assert_eq!(
        (&json["schema"], &json["metrics"][0]["broken"][0]),
        (&"fused-bench.diff.v1".into(), &2.0.into())
    );
}

#[test]
fn wrong_use_is_named_and_writes_nothing() {
    let files = Files::new();
    fs::write(files.path("empty.txt"), "").expect("writes");
    fs::write(files.path("latin1.txt"), b"caf\xe9 au lait").expect("writes");
    fs::write(files.path("short.txt"), "short").expect("writes");
    fs::write(files.path("a-file"), "mine").expect("writes");
    fs::create_dir(files.path("no-model")).expect("makes");
    let cases = [
        ("--model {}/no-model", "no-model/config.json"),
        ("--model {}/missing", "missing/config.json"),
        ("--tokenizer {}/missing", "missing/tokenizer.json"),
        ("--tokenizer {}/model", "is not patched"),
        ("--corpus {}/missing.txt", "missing.txt"),
        ("--corpus {}/empty.txt", "empty.txt is empty"),
        ("--corpus {}/latin1.txt", "not UTF-8 at byte 3"),
        ("--corpus {}/short.txt", "longest page has 5 bytes"),
        ("--fused-model {}/missing", "missing/config.json"),
        ("--out {}/a-file", "a-file: is not a folder"),
    ];
    let before = names(files.root.path());
    for (arguments, message) in cases {
        let output = files.run(arguments);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments}: {talk}");
        assert!(
            talk.starts_with("bench: ") && talk.contains(message),
            "{arguments}: {talk}"
        );
        assert!(output.stdout.is_empty(), "{arguments}");
        assert_eq!(names(files.root.path()), before, "{arguments} left something");
    }
    assert_eq!(fs::read_to_string(files.path("a-file")).expect("reads"), "mine");
}

#[test]
fn a_budget_that_no_text_fits_in_is_refused_with_the_need() {
    // 512 row runs of at least a frame each: two MiB for the shortest text.
    let files = Files::new();
    let base = PatchTokenizer::load(files.path("model")).expect("loads");
    let mut config = Gpt2Config::new(base.vocab_size(), 128, 16, 256, 2);
    config.eos_token_id = base.eos_id();
    let deep = Params::random(config, 1);
    deep.save(&files.path("model"), SaveAs::F32).expect("saves");
    let output = files.run("--kv-budget 1");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(
        talk.contains("--kv-budget 1 gives 1048576 bytes, but one text of"),
        "{talk}"
    );
    assert!(!files.path("out").exists());
}

/// `bench serve` on the files, with more arguments.
fn serve(files: &Files, more: &str) -> Output {
    let root = files.root.path().display().to_string();
    let usual =
        "serve --model {}/model --tokenizer {}/patched --corpus {}/heldout.txt --out {}/out --rounds 2 --max-batch 4";
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(
            format!("{usual} {more}")
                .split_whitespace()
                .map(|word| word.replace("{}", &root)),
        )
        .stdin(Stdio::null())
        .output()
        .expect("runs")
}

#[test]
fn serving_gives_a_report_and_every_request() {
    let files = Files::new();
    let output = serve(
        &files,
        "--arms normal,base+paged,fused --rates 200,20 --seconds 0.3 --json --seed 3",
    );
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{talk}");
    let written = fs::read(files.path("out/serve_results.json")).expect("reads");
    assert_eq!(output.stdout, written, "standard output is the report");
    let report: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
    assert_eq!(report["schema"], "fused-bench.serve.v1");
    let loads = report["loads"].as_array().expect("loads");
    let kinds: Vec<_> = loads
        .iter()
        .map(|load| load["kind"].as_str().expect("a kind"))
        .collect();
    assert_eq!(kinds, ["all_at_once", "open", "open"]);
    assert_eq!(
        (
            loads[1]["offered"]["value"].as_f64(),
            loads[1]["offered"]["kind"].as_str()
        ),
        (Some(20.0), Some("computed"))
    );
    let mut sent = 0;
    for load in loads {
        assert_eq!(load["changes"].as_array().map(Vec::len), Some(2));
        let first = &load["arms"][0]["requests"]["sent"];
        for arm in load["arms"].as_array().expect("arms") {
            let requests = &arm["requests"];
            assert_eq!(&requests["sent"], first, "every arm has the same requests");
            assert_eq!(requests["complete"], requests["sent"], "{requests}");
            let kv = &arm["engine"];
            let at = |name: &str| kv[name]["value"].as_f64().expect("a number");
            assert!(
                at("kv_used_peak") > 0.0 && at("kv_used_peak") <= at("kv_mapped_peak"),
                "{kv}"
            );
            assert!(
                at("kv_mapped_peak")
                    <= at("kv_reserved").max(report["inputs"]["kv_budget"]["value"].as_f64().expect("bytes"))
            );
            assert!(at("documents_peak") >= 1.0 && at("documents_peak") <= 4.0);
            sent += requests["sent"].as_u64().expect("a number");
        }
    }
    // Every run begins with an empty store: a lighter load after a heavy one maps less.
    let mapped = |load: usize, arm: usize| loads[load]["arms"][arm]["engine"]["kv_mapped_peak"]["value"].as_f64();
    assert!(mapped(1, 1) < mapped(0, 1), "{:?} {:?}", mapped(1, 1), mapped(0, 1));
    let lines = fs::read_to_string(files.path("out/serve_requests.jsonl")).expect("reads");
    assert_eq!(lines.lines().count() as u64, sent);
    let mut bytes = std::collections::HashMap::new();
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let key = (line["load"].to_string(), line["request"].to_string());
        let text = [&line["prompt_bytes"], &line["reply_bytes"]].map(|value| value.as_u64().expect("bytes"));
        assert_eq!(
            *bytes.entry(key).or_insert(text),
            text,
            "the same request is the same text in every arm"
        );
        assert_eq!(
            line["piece_bytes"]
                .as_array()
                .expect("pieces")
                .iter()
                .filter_map(|b| b.as_u64())
                .sum::<u64>(),
            text[1]
        );
    }
}

#[test]
fn a_trace_is_replayed_and_a_rate_is_found() {
    let files = Files::new();
    let trace = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:00.0,200,20\n2024-01-01 00:00:01.0,90,9\n";
    fs::write(files.path("trace.csv"), trace).expect("writes");
    let output = serve(&files, "--trace {}/trace.csv --trace-speed 20 --abandon-every 2");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{talk}");
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(files.path("out/serve_results.json")).expect("reads")).expect("JSON");
    assert_eq!(report["inputs"]["trace"]["requests"], 2);
    let requests = &report["loads"][1]["arms"][1]["requests"];
    assert_eq!(
        (&requests["complete"], &requests["abandoned"]),
        (&2.into(), &2.into()),
        "{requests}"
    );

    let output = serve(&files, "--find-rate --rates 50 --seconds 0.1 --objectives e2e=0.001");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{talk}");
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(files.path("out/serve_results.json")).expect("reads")).expect("JSON");
    let found = &report["max_rates"][1];
    assert_eq!(
        found["rate"]["value"], 0.0,
        "nothing is done within a microsecond: {found}"
    );
    assert!(
        found["probes"].as_array().is_some_and(|probes| probes.len() == 24),
        "{found}"
    );
    assert_eq!(
        (&found["abandoned_searches"], &found["change"]),
        (&2.into(), &serde_json::Value::Null)
    );
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("2 of 2 searches given up"), "{said}");

    fs::write(files.path("trace.csv"), "no trace\n").expect("writes");
    let output = serve(&files, "--trace {}/trace.csv");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(talk.contains("trace.csv: line 1"), "{talk}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let files = Files::new();
    for arguments in [
        "--texts 0",
        "--rounds x",
        "--no-such-option",
        "--demo {}",
        "serve --rates x",
    ] {
        let output = files.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
}

#[test]
fn a_load_or_a_server_named_twice_is_wrong_usage() {
    let files = Files::new();
    for arguments in ["--clients 2,4,2", "--url http://127.0.0.1:1 --url http://127.0.0.1:1"] {
        let output = serve(&files, arguments);
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {talk}");
        assert!(
            output.stdout.is_empty() && talk.contains("error: "),
            "{arguments}: {talk}"
        );
    }
}

#[test]
fn a_signal_ends_the_run_and_leaves_nothing() {
    let files = Files::new();
    fs::create_dir(files.path("out")).expect("makes");
    let mut child = files
        .command("--rounds 1000000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // Signals are caught before the output folder is prepared.
    let deadline = Instant::now() + Duration::from_secs(60);
    while names(&files.path("out")).is_empty() {
        assert!(Instant::now() < deadline, "the run did not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    while child.try_wait().expect("waits").is_none() {
        assert!(Instant::now() < deadline, "the run did not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("waits");
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(talk.contains("interrupted; nothing was written"), "{talk}");
    assert!(output.stdout.is_empty());
    assert_eq!(names(&files.path("out")), Vec::<String>::new());
}
