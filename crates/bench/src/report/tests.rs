//! Shape and content of the report.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::sample;

fn json() -> Value {
    serde_json::to_value(sample::report()).expect("serializes")
}

/// Calls `visit` with every object and its path.
fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            visit(path, object);
            for (key, value) in object {
                walk(value, &format!("{path}.{key}"), visit);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| walk(value, &format!("{path}[]"), visit)),
        _ => {}
    }
}

#[test]
fn every_field_and_every_name_is_documented() {
    let document = include_str!("../../../../docs/report-schema.md");
    let words: BTreeSet<&str> = document
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| std::iter::once(code).chain(code.split(['.', ',', ' ', '['])))
        .collect();
    let mut missing = BTreeSet::new();
    let served = serde_json::to_value(sample::serve_report()).expect("serializes");
    let mut visit = |path: &str, object: &serde_json::Map<String, Value>| {
        for (key, value) in object {
            if path != ".summary_kinds" && !words.contains(key.as_str()) {
                missing.insert(format!("{path}.{key}"));
            }
            let names = [
                "unit",
                "kind",
                "verdict",
                "wanted",
                "role",
                "kv_store",
                "tokenizer",
                "relation",
                "mode",
            ];
            if let (true, Some(name)) = (names.contains(&key.as_str()), value.as_str())
                && !words.contains(name)
            {
                missing.insert(format!("{path}.{key} = {name}"));
            }
        }
    };
    walk(&json(), "", &mut visit);
    walk(&served, "", &mut visit);
    assert!(missing.is_empty(), "not in docs/report-schema.md: {missing:#?}");
    assert!(
        words.contains(SCHEMA) && words.contains(crate::serve::report::SCHEMA) && words.contains(crate::diff::SCHEMA)
    );
}

#[test]
fn the_short_sections_have_exactly_the_agreed_names() {
    let report = json();
    let keys = |value: &Value| {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let expect = |value: &Value, names: &[&str]| {
        let (mut got, mut names) = (keys(value), names.to_vec());
        got.sort();
        names.sort_unstable();
        assert_eq!(got, names);
        for (key, value) in value.as_object().expect("an object") {
            assert!(
                value.is_number() || key.ends_with("_enabled") && value.is_boolean(),
                "{key}: {value}"
            );
        }
    };
    for (side, on) in [("normal_llm", false), ("fused_llm", true)] {
        let side = &report[side];
        assert_eq!(keys(side).len(), 4);
        expect(
            &side["tokenization"],
            &["total_tokens", "avg_tokens_per_text", "adaptivocab_enabled"],
        );
        expect(
            &side["kv_cache"],
            &[
                "measured_total_mb",
                "measured_per_text_mb",
                "estimated_total_mb",
                "estimated_per_text_mb",
                "vattention_enabled",
            ],
        );
        expect(
            &side["performance"],
            &[
                "texts_per_second",
                "tokens_per_second",
                "avg_time_per_text_ms",
                "bytes_per_second",
            ],
        );
        expect(&side["quality"], &["bits_per_byte"]);
        assert_eq!(side["tokenization"]["adaptivocab_enabled"], on);
        assert_eq!(side["kv_cache"]["vattention_enabled"], on);
    }
    expect(
        &report["improvements"],
        &[
            "token_reduction_percent",
            "tokens_saved",
            "kv_cache_reduction_percent",
            "kv_cache_saved_mb",
            "speed_improvement_percent",
            "bits_per_byte_change_percent",
        ],
    );
}

#[test]
fn every_number_of_the_short_sections_has_its_kind() {
    let report = json();
    let kinds = report["summary_kinds"].as_object().expect("an object");
    let mut paths = BTreeSet::new();
    for (prefix, section) in [("", &report["normal_llm"]), ("improvements", &report["improvements"])] {
        walk(section, prefix, &mut |path, object| {
            for (key, _) in object.iter().filter(|(_, value)| value.is_number()) {
                paths.insert(format!("{path}.{key}").trim_start_matches('.').to_owned());
            }
        });
    }
    assert_eq!(paths, kinds.keys().cloned().collect());
}

#[test]
fn every_figure_is_finite_and_lies_in_its_interval() {
    let mut figures = 0;
    walk(&json(), "", &mut |path, object| {
        let Some(value) = object.get("value").filter(|_| object.contains_key("kind")) else {
            return;
        };
        figures += 1;
        let value = value.as_f64().unwrap_or_else(|| panic!("{path} is {value}"));
        if let Some([low, high]) = object.get("ci95").and_then(Value::as_array).map(Vec::as_slice) {
            let (low, high) = (low.as_f64().expect("a number"), high.as_f64().expect("a number"));
            let room = 1e-9 * value.abs();
            assert!(
                low <= value + room && value <= high + room,
                "{path}: {value} outside [{low}, {high}]"
            );
            assert!(object.contains_key("n"), "{path} has an interval of how many?");
        }
    });
    assert!(figures > 150, "{figures}");
}

#[test]
fn known_effects_are_found() {
    let report = sample::report();
    let change = |figure: &Figure, expected: f64, tolerance: f64| {
        assert!(
            (figure.value - expected).abs() < tolerance,
            "{figure:?} is not {expected}"
        );
    };
    let fewer = 100.0 * (1.0 - sample::TOKEN_SHARE);
    change(&report.tokenization.reductions[0].reduction, fewer, 3.0);
    // Wall time goes with tokens in the sample, and the KV store adds nothing to it.
    change(
        &report.performance.bytes_per_second.figure,
        100.0 / sample::TOKEN_SHARE - 100.0,
        4.0,
    );
    change(&report.interaction.bytes_per_second.kv_store.figure, 0.0, 4.0);
    change(&report.interaction.bytes_per_second.interaction.figure, 0.0, 4.0);
    assert_eq!(
        report.interaction.bytes_per_second.interaction.verdict,
        crate::stats::Verdict::NoDifferenceShown
    );
    let effects = &report.interaction.kv_memory;
    let ratio = |change: &Change| 1.0 + change.figure.value / 100.0;
    let product = ratio(&effects.tokenizer) * ratio(&effects.kv_store) * ratio(&effects.interaction);
    assert!((product - ratio(&effects.both)).abs() < 1e-9);
    assert!(report.goals.iter().all(|goal| goal.holds), "{:#?}", report.goals);
    assert_eq!(report.arms.len(), 6);
    assert_eq!((report.arms[0].role, report.arms[5].role), (Role::Normal, Role::Fused));
}

#[test]
fn computed_figures_are_listed_by_their_paths() {
    let paths = computed_paths(&json());
    for path in [
        "arms.kv_cache.estimated_at_peak",
        "kv_cache.estimated_total_mb",
        "inputs.kv_stores.budget",
    ] {
        assert!(paths.contains(path), "{path} is not in {paths:?}");
    }
    assert!(!paths.contains("arms.kv_cache.physical_at_peak"));
}

#[test]
fn expectations_are_judged_by_their_range() {
    let found = |value| Expectation::new("", [15.0, 20.0], Figure::measured(value, Unit::Percent)).found;
    assert_eq!(
        [14.9, 15.0, 20.0, 20.1].map(found),
        [Found::Less, Found::Within, Found::Within, Found::More]
    );
    let tokens = &sample::report().expectations[0];
    assert_eq!(
        (tokens.range(), tokens.measured),
        ("25%".to_owned(), sample::report().tokenization.reductions[0].reduction)
    );
}
