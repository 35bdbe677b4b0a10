use std::path::PathBuf;

use super::quantities::COMPARED;
use super::*;
use crate::sample;

struct Files {
    _folder: tempfile::TempDir,
    args: DiffArgs,
}

/// The sample's report and the same with changes, as files.
fn files(change: impl FnOnce(&mut Value), gates: &[&str]) -> Files {
    pair(sample::report(), |[_, after]| change(after), gates)
}

/// The sample's report on loads, twice, with changes.
fn loads(change: impl FnOnce([&mut Value; 2]), gates: &[&str]) -> Files {
    pair(sample::serve_report(), change, gates)
}

fn pair(report: impl Serialize, change: impl FnOnce([&mut Value; 2]), gates: &[&str]) -> Files {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut before = serde_json::to_value(report).expect("serializes");
    let mut after = before.clone();
    change([&mut before, &mut after]);
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

fn drop_load(report: &mut Value) {
    report["loads"].as_array_mut().expect("loads").remove(2);
}

#[test]
fn what_only_one_report_has_is_said() {
    let less = |report: &mut Value| {
        drop_load(report);
        report["loads"][1]["arms"][1]["ttfb"]["p99"] = Value::Null;
        report["max_rates"] = Value::Array(Vec::new());
    };
    let notes = |files: &Files| diff(&files.args).expect("compares").notes.join("; ");
    let said = notes(&loads(|[_, after]| less(after), &[]));
    for note in [
        "load \"12 requests/s\" is only in",
        "highest rate of \"normal\" is only in",
        "ttfb_p99_ms under 6 requests/s is only in",
    ] {
        assert!(said.contains(&format!("{note} the first report")), "{said}");
    }
    assert!(!said.contains("under 12 requests/s"), "{said}");
    let turned = notes(&loads(|[before, _]| less(before), &[]));
    assert!(
        turned.contains("load \"12 requests/s\" is only in the second report"),
        "{turned}"
    );
}

#[test]
fn a_gate_on_what_is_gone_is_an_error_and_no_pass() {
    let none = |report: &mut Value, path: &str| *report.pointer_mut(path).expect(path) = Value::Null;
    type Change<'c> = &'c dyn Fn(&mut Value);
    let cases: [(&str, &str, Change<'_>); 5] = [
        ("ttfb_p50_ms", "under 12 requests/s, it is not there", &drop_load),
        ("ttfb_p99_ms", "under 6 requests/s, it is not there", &|report| {
            none(report, "/loads/1/arms/1/ttfb/p99");
        }),
        ("goodput", "under 6 requests/s, it is not there", &|report| {
            none(report, "/loads/1/arms/1/goodput/value");
        }),
        ("e2e_p99_ms", "under 18 requests/s, saturated rounds", &|report| {
            report["loads"][3]["arms"][1]["saturated_rounds"] = 2.into();
        }),
        ("ms_per_char", "under 18 requests/s, unfinished requests", &|report| {
            report["loads"][3]["arms"][1]["requests"]["unfinished"] = 1.into();
        }),
    ];
    for (metric, why, change) in cases {
        let gate = format!("{metric}=+50%");
        let error = diff(&loads(|[_, after]| change(after), &[&gate]).args);
        let error = error.expect_err(metric).to_string();
        assert!(error.contains(metric) && error.contains(why), "{error}");
        // What only the second has is new.
        assert!(
            diff(&loads(|[before, _]| change(before), &[&gate]).args).is_ok(),
            "{metric}"
        );
    }
    let peak = files(
        |report| none(report, "/arms/5/kv_cache/physical_at_peak"),
        &["kv_peak_bytes=+2%"],
    );
    let error = diff(&peak.args).expect_err("it is gone").to_string();
    assert!(
        error.contains("kv_peak_bytes") && error.contains("it is not there"),
        "{error}"
    );
}

#[test]
fn an_arm_that_only_one_report_has_is_an_error() {
    let without = |report: &mut Value| {
        report["arms"].as_array_mut().expect("arms").pop();
    };
    for gone in [loads(|[_, after]| without(after), &[]), files(without, &[])] {
        let error = diff(&gone.args).expect_err("no such arm").to_string();
        assert!(
            error.contains("\"fused\"") && error.contains("both have normal"),
            "{error}"
        );
    }
    // The last arm of the first report is there in the second.
    let more = diff(&loads(|[before, _]| without(before), &[]).args).expect("compares");
    assert_eq!(more.arm, "normal");
}

#[test]
fn times_of_a_saturated_arm_and_rates_not_found_are_not_compared() {
    for side in [0, 1] {
        let files = loads(
            |reports| {
                let report = &mut *reports.into_iter().nth(side).expect("two");
                report["loads"][3]["arms"][1]["saturated_rounds"] = 1.into();
            },
            &["bytes_per_second=-50%"],
        );
        let diff = diff(&files.args).expect("compares");
        let under = |load: &str| -> Vec<&str> {
            let of = diff
                .metrics
                .iter()
                .filter(|metric| metric.load.as_deref() == Some(load));
            of.map(|metric| metric.name).collect()
        };
        assert_eq!(
            under("18 requests/s"),
            [
                "bytes_per_second",
                "requests_per_second",
                "goodput",
                "documents",
                "kv_peak_bytes"
            ]
        );
        assert!(under("6 requests/s").contains(&"ttfb_p50_ms"));
        let which = ["first", "second"][side];
        let note = format!("times under 18 requests/s not compared; in the {which} report, saturated rounds");
        let notes = diff.notes.iter().filter(|said| said.starts_with(&note)).count();
        assert_eq!(notes, 1, "{:?}", diff.notes);
    }
    // A search of the sample was given up.
    let mut rates = loads(|_| {}, &[]);
    rates.args.arm = Some("normal".to_owned());
    let given_up = diff(&rates.args).expect("compares");
    assert!(given_up.metrics.iter().all(|metric| metric.name != "max_rate"));
    assert!(
        given_up
            .notes
            .iter()
            .any(|note| note.starts_with("max_rate not compared")),
        "{:?}",
        given_up.notes
    );
    let mut found = loads(
        |reports| {
            reports
                .into_iter()
                .for_each(|report| report["max_rates"][0]["abandoned_searches"] = 0.into())
        },
        &["max_rate=-1%"],
    );
    found.args.arm = Some("normal".to_owned());
    assert!(diff(&found.args).is_ok_and(|diff| !diff.is_regression()));
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
