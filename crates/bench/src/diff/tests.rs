use std::path::PathBuf;

use super::*;
use crate::sample;

struct Files {
    _folder: tempfile::TempDir,
    args: DiffArgs,
}

/// The sample's report and the same with changes, as files.
fn files(change: impl FnOnce(&mut Value), gates: &[&str]) -> Files {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let before = serde_json::to_value(sample::report()).expect("serializes");
    let mut after = before.clone();
    change(&mut after);
    let write = |name: &str, value: &Value| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string()).expect("writes");
        path
    };
    let args = DiffArgs {
        before: write("a.json", &before),
        after: write("b.json", &after),
        gate: gates.iter().map(|gate| Gate::parse(gate).expect(gate)).collect(),
        arm: None,
        json: false,
    };
    Files { _folder: folder, args }
}

fn scale(report: &mut Value, path: &str, factor: f64) {
    let value = report["arms"][5].pointer_mut(path).expect(path);
    *value = (value.as_f64().expect("a number") * factor).into();
}

#[test]
fn a_report_against_itself_shows_no_difference() {
    let files = files(|_| {}, &["kv_peak_bytes=+0%", "bytes_per_second=-0%"]);
    let diff = diff(&files.args).expect("compares");
    assert!(diff.metrics.len() == COMPARED.len() && diff.notes.is_empty() && diff.arm == "fused");
    for metric in &diff.metrics {
        assert_eq!(metric.change, Some(0.0));
        let verdict = metric.ci95.map_or(Verdict::NotJudged, |_| Verdict::NoDifferenceShown);
        assert_eq!(metric.verdict, verdict, "{metric:?}");
    }
    assert!(!diff.is_regression());
}

#[test]
fn a_gate_is_broken_beyond_its_limit_in_its_direction() {
    for (gate, factor, broken) in [
        ("kv_peak_bytes=+2%", 1.03, true),
        ("kv_peak_bytes=+2%", 1.01, false),
        ("kv_peak_bytes=+2%", 0.5, false),
        ("kv_peak_bytes=-5%", 0.94, true),
        ("kv_peak_bytes=-5%", 2.0, false),
    ] {
        let files = files(
            |report| scale(report, "/kv_cache/physical_at_peak/value", factor),
            &[gate],
        );
        let diff = diff(&files.args).expect("compares");
        assert_eq!(diff.is_regression(), broken, "{gate} {factor}");
        assert_eq!(diff.table().contains("REGRESSION"), broken);
    }
}

#[test]
fn a_rise_from_nothing_breaks_every_limit_on_rising() {
    for (gate, broken) in [("latency_ms=+1000%", true), ("latency_ms=-5%", false)] {
        let mut files = files(|report| scale(report, "/performance/latency/mean/value", 0.0), &[gate]);
        std::mem::swap(&mut files.args.before, &mut files.args.after);
        let risen = diff(&files.args).expect("compares");
        assert_eq!(risen.is_regression(), broken, "{gate}");
        assert!(risen.table().contains("from 0"));
    }
}

#[test]
fn what_only_one_report_has_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let before = serde_json::to_value(sample::serve_report()).expect("serializes");
    let mut after = before.clone();
    after["loads"].as_array_mut().expect("loads").remove(2);
    after["loads"][1]["arms"][1]["ttfb"]["p99"] = Value::Null;
    after["max_rates"] = Value::Array(Vec::new());
    let [a, b] = [("a.json", &before), ("b.json", &after)].map(|(name, value)| {
        let path = folder.path().join(name);
        std::fs::write(&path, value.to_string()).expect("writes");
        path
    });
    let args = |before: &PathBuf, after: &PathBuf| DiffArgs {
        before: before.clone(),
        after: after.clone(),
        gate: Vec::new(),
        arm: None,
        json: false,
    };
    let notes = diff(&args(&a, &b)).expect("compares").notes.join("; ");
    for (note, which) in [
        ("load \"12 requests/s\" is only in", "first"),
        ("highest rate of \"normal\" is only in", "first"),
        ("ttfb_p99_ms under 6 requests/s is only in", "first"),
    ] {
        assert!(notes.contains(&format!("{note} the {which} report")), "{notes}");
    }
    let turned = diff(&args(&b, &a)).expect("compares").notes.join("; ");
    assert!(
        turned.contains("load \"12 requests/s\" is only in the second report"),
        "{turned}"
    );
}

#[test]
fn intervals_of_two_runs_are_combined() {
    let interval = |low, high| Interval { low, high };
    let both = ratio([100.0, 110.0], (interval(95.0, 105.0), interval(104.5, 115.5))).expect("above 0");
    // Two relative errors of 5%: together about 7%.
    assert!(
        (both.low - 10.0 + 7.6).abs() < 0.3 && (both.high - 10.0 - 8.1).abs() < 0.4,
        "{both:?}"
    );
    assert_eq!(ratio([0.0, 1.0], (interval(0.0, 1.0), interval(0.0, 1.0))), None);
}

#[test]
fn what_cannot_be_compared_is_named() {
    let unknown = files(|_| {}, &["speed=+1%"]);
    let error = diff(&unknown.args).expect_err("no such quantity").to_string();
    assert!(
        error.contains("\"speed\"") && error.contains("kv_peak_bytes"),
        "{error}"
    );
    let mut other = files(|report| report["schema"] = "other.v1".into(), &[]);
    assert!(
        diff(&other.args)
            .expect_err("another schema")
            .to_string()
            .contains("other.v1")
    );
    other.args.after = "nowhere.json".into();
    assert!(
        diff(&other.args)
            .expect_err("no file")
            .to_string()
            .contains("nowhere.json")
    );
    let mut arm = files(|_| {}, &[]);
    arm.args.arm = Some("third".to_owned());
    assert!(diff(&arm.args).expect_err("no arm").to_string().contains("base+paged"));
    let seed = files(|report| report["environment"]["seed"] = 9.into(), &[]);
    assert_eq!(diff(&seed.args).expect("compares").notes.len(), 1);
}
