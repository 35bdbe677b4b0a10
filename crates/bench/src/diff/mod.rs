//! Two reports of the same kind against each other, and limits on what may have changed.
//!
//! The two come from different runs, so nothing is paired: a change is the ratio of two independent estimates, and its interval
//! combines theirs on a logarithmic scale. A gate looks at the change itself, so that it says the same on the same two files
//! whatever the intervals are.

mod gate;
mod table;

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::cli::DiffArgs;
use crate::stats::{Interval, Verdict, Wanted, percent_change};
use crate::{report, serve};

pub use gate::Gate;

/// Name and version of the format of `--json`.
pub const SCHEMA: &str = "fused-bench.diff.v1";

/// Why two files cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is no report.
    #[error("{path} is no report of this program: {why}")]
    NoReport {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The files are of different kinds.
    #[error("the files are of different kinds: {before} and {after}")]
    Kinds {
        /// Schema of the first.
        before: String,
        /// Schema of the second.
        after: String,
    },
    /// The reports have nothing under this name.
    #[error("{what} names nothing that both reports have; there are {known}")]
    Unknown {
        /// What was asked for.
        what: String,
        /// What could have been.
        known: String,
    },
}

/// A quantity in both reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    /// Under which load; absent in reports of the comparison.
    pub load: Option<String>,
    /// Its name, for gates.
    pub name: &'static str,
    /// Its unit.
    pub unit: String,
    /// In the first report.
    pub before: f64,
    /// In the second.
    pub after: f64,
    /// In per cent; absent for a rise from 0.
    pub change: Option<f64>,
    /// 95% interval of the change; absent where one of the two has none.
    pub ci95: Option<Interval>,
    /// Which direction is good.
    pub wanted: Wanted,
    /// What the interval allows one to say.
    pub verdict: Verdict,
    /// Gates that it breaks, in per cent.
    pub broken: Vec<f64>,
}

/// Two reports compared.
#[derive(Debug, Clone, Serialize)]
pub struct Diff {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The first file.
    pub before: String,
    /// The second.
    pub after: String,
    /// Which arm.
    pub arm: String,
    /// In what the runs differ beside their results.
    pub notes: Vec<String>,
    /// Every quantity that both have.
    pub metrics: Vec<Metric>,
}

/// A quantity of a report: its name, where it stands inside the arm, which direction is good.
type Place = (&'static str, &'static str, Wanted);

const COMPARED: [Place; 11] = [
    ("kv_peak_bytes", "/kv_cache/physical_at_peak", Wanted::Lower),
    ("kv_mean_peak_bytes", "/kv_cache/mean_batch_peak", Wanted::Lower),
    ("kv_waste_percent", "/kv_cache/waste_share", Wanted::Lower),
    ("tokens_per_text", "/tokens/tokens_per_text", Wanted::Lower),
    (
        "bytes_per_second",
        "/performance/reply_bytes_per_second",
        Wanted::Higher,
    ),
    ("texts_per_second", "/performance/texts_per_second", Wanted::Higher),
    ("latency_ms", "/performance/latency/mean", Wanted::Lower),
    ("latency_p99_ms", "/performance/latency/p99", Wanted::Lower),
    ("ttfb_ms", "/performance/time_to_first_byte/mean", Wanted::Lower),
    ("ttfb_p99_ms", "/performance/time_to_first_byte/p99", Wanted::Lower),
    ("bits_per_byte", "", Wanted::Lower),
];

const SERVED: [Place; 11] = [
    ("bytes_per_second", "/reply_bytes_per_second", Wanted::Higher),
    ("requests_per_second", "/requests_per_second", Wanted::Higher),
    ("goodput", "/goodput", Wanted::Higher),
    ("ttfb_p50_ms", "/ttfb/p50", Wanted::Lower),
    ("ttfb_p99_ms", "/ttfb/p99", Wanted::Lower),
    ("e2e_p50_ms", "/e2e/p50", Wanted::Lower),
    ("e2e_p99_ms", "/e2e/p99", Wanted::Lower),
    ("ms_per_char", "/ms_per_char/mean", Wanted::Lower),
    ("documents", "/engine/documents_peak", Wanted::Higher),
    ("kv_peak_bytes", "/engine/kv_mapped_peak", Wanted::Lower),
    ("max_rate", "", Wanted::Higher),
];

fn read(path: &Path) -> Result<(Value, String), DiffError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| DiffError::Read {
        path: name.clone(),
        source,
    })?;
    let fail = |why: String| DiffError::NoReport {
        path: name.clone(),
        why,
    };
    let value: Value = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    let schema = value["schema"].as_str().map(str::to_owned);
    let schema = schema.ok_or_else(|| fail("it has no schema".to_owned()))?;
    if schema != report::SCHEMA && schema != serve::report::SCHEMA {
        return Err(fail(format!(
            "its schema is {schema}; known are {} and {}",
            report::SCHEMA,
            serve::report::SCHEMA
        )));
    }
    Ok((value, schema))
}

/// Compares what the command line names.
///
/// # Errors
///
/// [`DiffError`] when they cannot be compared, or a gate or the arm names nothing.
pub fn diff(args: &DiffArgs) -> Result<Diff, DiffError> {
    let [(before, kind), (after, other)] = [read(&args.before)?, read(&args.after)?];
    if kind != other {
        return Err(DiffError::Kinds {
            before: kind,
            after: other,
        });
    }
    let arms = names(&before);
    let arm = args.arm.clone().or_else(|| arms.last().cloned()).unwrap_or_default();
    if !arms.contains(&arm) {
        return Err(DiffError::Unknown {
            what: format!("arm {arm:?}"),
            known: arms.join(", "),
        });
    }
    let served = kind == serve::report::SCHEMA;
    let mut metrics = if served {
        served_metrics(&before, &after, &arm)
    } else {
        compared_metrics(&before, &after, &arm)
    };
    let places = if served { SERVED } else { COMPARED };
    for gate in &args.gate {
        if !metrics.iter().any(|metric| metric.name == gate.metric) {
            let known = places.map(|(name, ..)| name).join(", ");
            return Err(DiffError::Unknown {
                what: format!("gate {:?}", gate.metric),
                known,
            });
        }
        for metric in metrics.iter_mut().filter(|metric| metric.name == gate.metric) {
            if gate.is_broken_by(metric.change) {
                metric.broken.push(gate.percent);
            }
        }
    }
    Ok(Diff {
        schema: SCHEMA,
        before: args.before.display().to_string(),
        after: args.after.display().to_string(),
        notes: [notes(&before, &after), missing(&before, &after, &arm)].concat(),
        arm,
        metrics,
    })
}

/// The item of a list whose `key` is `name`.
fn find<'v>(list: &'v Value, key: &str, name: &str) -> Option<&'v Value> {
    list.as_array()?.iter().find(|item| item[key] == name)
}

fn names(report: &Value) -> Vec<String> {
    let names = report["arms"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|arm| arm["name"].as_str());
    names.map(str::to_owned).collect()
}

fn compared_metrics(before: &Value, after: &Value, arm: &str) -> Vec<Metric> {
    let figure = |report: &'_ Value, path: &str| -> Option<Value> {
        let item = find(&report["arms"], "name", arm)?;
        if path.is_empty() {
            let side = if item["tokenizer"] == "base" { "normal" } else { "fused" };
            return Some(report["quality"]["domain"][side]["bits_per_byte"].clone());
        }
        item.pointer(path).cloned()
    };
    let metric =
        |&(name, path, wanted): &Place| metric(None, name, wanted, &figure(before, path)?, &figure(after, path)?);
    COMPARED.iter().filter_map(metric).collect()
}

fn served_metrics(before: &Value, after: &Value, arm: &str) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for load in before["loads"].as_array().into_iter().flatten() {
        let name = load["name"].as_str().unwrap_or_default();
        let Some(other) = find(&after["loads"], "name", name) else {
            continue;
        };
        let pair = find(&load["arms"], "arm", arm).zip(find(&other["arms"], "arm", arm));
        for (metric_name, path, wanted) in SERVED.iter().filter(|place| !place.1.is_empty()) {
            let figures = pair.and_then(|(before, after)| before.pointer(path).zip(after.pointer(path)));
            metrics.extend(figures.and_then(|(before, after)| metric(Some(name), metric_name, *wanted, before, after)));
        }
    }
    let rate = |report: &'_ Value| Some(find(&report["max_rates"], "arm", arm)?["rate"].clone());
    if let Some((before, after)) = rate(before).zip(rate(after)) {
        metrics.extend(metric(None, "max_rate", Wanted::Higher, &before, &after));
    }
    metrics
}

fn metric(load: Option<&str>, name: &'static str, wanted: Wanted, before: &Value, after: &Value) -> Option<Metric> {
    let value = |figure: &Value| figure["value"].as_f64();
    let interval = |figure: &Value| {
        let ends = [figure["ci95"][0].as_f64()?, figure["ci95"][1].as_f64()?];
        Some(Interval {
            low: ends[0],
            high: ends[1],
        })
    };
    let (from, to) = (value(before)?, value(after)?);
    let ci95 = interval(before)
        .zip(interval(after))
        .and_then(|intervals| ratio([from, to], intervals));
    Some(Metric {
        load: load.map(str::to_owned),
        name,
        unit: before["unit"].as_str().unwrap_or_default().to_owned(),
        before: from,
        after: to,
        change: percent_change(from, to),
        ci95,
        wanted,
        verdict: Verdict::of(ci95, wanted),
        broken: Vec::new(),
    })
}

/// The interval of the change between two independent estimates: their distances to their ends are added as squares, on a
/// logarithmic scale. `None` unless everything is above 0.
fn ratio([before, after]: [f64; 2], (of_before, of_after): (Interval, Interval)) -> Option<Interval> {
    let lowest = [before, after, of_before.low, of_after.low]
        .into_iter()
        .fold(f64::INFINITY, f64::min);
    if lowest <= 0.0 {
        return None;
    }
    let down = (after / of_after.low).ln().hypot((of_before.high / before).ln());
    let up = (of_after.high / after).ln().hypot((before / of_before.low).ln());
    let percent = |log: f64| 100.0 * ((after / before) * log.exp() - 1.0);
    Some(Interval {
        low: percent(-down),
        high: percent(up),
    })
}

/// In what two runs differ that should be the same.
fn notes(before: &Value, after: &Value) -> Vec<String> {
    let places = [
        "/environment/cpu",
        "/environment/cores",
        "/environment/profile",
        "/environment/seed",
        "/inputs/corpus/path",
        "/inputs/corpus/bytes",
        "/inputs/model_shape",
        "/inputs/workload",
        "/inputs/seconds",
        "/inputs/rounds",
        "/inputs/kv_budget",
        "/objectives",
    ];
    let differs = |place: &&str| before.pointer(place) != after.pointer(place);
    let text = |report: &Value, place: &str| {
        report
            .pointer(place)
            .map_or_else(|| "nothing".to_owned(), Value::to_string)
    };
    let note = |place: &str| {
        format!(
            "{} differs: {} and {}",
            &place[1..],
            text(before, place),
            text(after, place)
        )
    };
    places
        .iter()
        .filter(|place| differs(place))
        .map(|place| note(place))
        .collect()
}

/// What only one of the reports has, so that nothing can be said of it.
fn missing(before: &Value, after: &Value, arm: &str) -> Vec<String> {
    let list = |report: &Value, list: &str, key: &str| -> Vec<String> {
        let items = report[list].as_array().into_iter().flatten();
        items.filter_map(|item| item[key].as_str()).map(str::to_owned).collect()
    };
    let mut notes = Vec::new();
    for (what, of, key) in [
        ("arm", "arms", "name"),
        ("load", "loads", "name"),
        ("highest rate of", "max_rates", "arm"),
    ] {
        let [first, second] = [before, after].map(|report| list(report, of, key));
        let only = |these: &[String], those: &[String], which: &str| -> Vec<String> {
            let alone = these.iter().filter(|name| !those.contains(name));
            alone
                .map(|name| format!("{what} {name:?} is only in the {which} report"))
                .collect()
        };
        notes.extend(only(&first, &second, "first"));
        notes.extend(only(&second, &first, "second"));
    }
    // Quantities that one report gives as null.
    for load in before["loads"].as_array().into_iter().flatten() {
        let name = load["name"].as_str().unwrap_or_default();
        let other = find(&after["loads"], "name", name).and_then(|load| find(&load["arms"], "arm", arm));
        let Some((this, other)) = find(&load["arms"], "arm", arm).zip(other) else {
            continue;
        };
        for (quantity, path, _) in SERVED.iter().filter(|place| !place.1.is_empty()) {
            let [first, second] = [this, other].map(|arm| arm.pointer(path).is_some_and(|figure| !figure.is_null()));
            if first != second {
                let which = if first { "first" } else { "second" };
                notes.push(format!("{quantity} under {name} is only in the {which} report"));
            }
        }
    }
    notes
}

impl Diff {
    /// Whether a gate is broken.
    pub fn is_regression(&self) -> bool {
        self.metrics.iter().any(|metric| !metric.broken.is_empty())
    }
}

#[cfg(test)]
mod tests;
