//! Two reports of the comparison, or two of a load, against each other, and limits on what may have changed.
//!
//! The two come from different runs, so nothing is paired: a change is the ratio of two independent estimates, and its interval
//! combines theirs on a logarithmic scale. A gate looks at the change itself, so that it says the same on the same two files
//! whatever the intervals are.

mod gate;
mod quantities;
mod table;

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::cli::DiffArgs;
use crate::stats::{Interval, Verdict, Wanted, percent_change};
use crate::{report, serve};

pub use gate::Gate;
use quantities::Pair;

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
    #[error("{what} names nothing that both reports have; both have {known}")]
    Unknown {
        /// What was asked for.
        what: String,
        /// What could have been.
        known: String,
    },
    /// A gate is on something that the second report no longer has, so that nothing can be said of its change.
    #[error("gate {metric:?} cannot be held: the first report has it and the second has not: {lost}")]
    Lost {
        /// Of which quantity.
        metric: String,
        /// Where, and why not.
        lost: String,
    },
}

impl DiffError {
    fn unknown<'n>(what: String, known: impl Iterator<Item = &'n str>) -> Self {
        let known = match known.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "nothing".to_owned(),
            known => known,
        };
        Self::Unknown { what, known }
    }
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
/// [`DiffError`] when they cannot be compared, when a gate or the arm names nothing that both have, and when a gate is on what
/// only the first has.
pub fn diff(args: &DiffArgs) -> Result<Diff, DiffError> {
    let [(before, kind), (after, other)] = [read(&args.before)?, read(&args.after)?];
    if kind != other {
        return Err(DiffError::Kinds {
            before: kind,
            after: other,
        });
    }
    let arm = arm(args, &before, &after)?;
    let pairs = quantities::pairs(&before, &after, &arm, kind == serve::report::SCHEMA);
    let mut metrics: Vec<Metric> = pairs.iter().filter_map(metric).collect();
    for gate in &args.gate {
        hold(gate, &pairs, &mut metrics)?;
    }
    Ok(Diff {
        schema: SCHEMA,
        before: args.before.display().to_string(),
        after: args.after.display().to_string(),
        notes: [differences(&before, &after), quantities::notes(&before, &after, &pairs)].concat(),
        arm,
        metrics,
    })
}

/// The arm that is compared: as asked for, or the last of the first report. Both reports have to have it.
fn arm(args: &DiffArgs, before: &Value, after: &Value) -> Result<String, DiffError> {
    let [first, second] = [before, after].map(|report| quantities::names(report, "arms", "name"));
    let arm = args.arm.clone().or_else(|| first.last().cloned()).unwrap_or_default();
    if first.contains(&arm) && second.contains(&arm) {
        return Ok(arm);
    }
    let both = first.iter().filter(|name| second.contains(name)).map(String::as_str);
    Err(DiffError::unknown(format!("arm {arm:?}"), both))
}

/// Holds a gate against every change of its quantity.
fn hold(gate: &Gate, pairs: &[Pair<'_>], metrics: &mut [Metric]) -> Result<(), DiffError> {
    let lost: Vec<String> = pairs
        .iter()
        .filter(|pair| pair.name == gate.metric)
        .filter_map(Pair::lost)
        .collect();
    if !lost.is_empty() {
        return Err(DiffError::Lost {
            metric: gate.metric.clone(),
            lost: lost.join("; "),
        });
    }
    if !metrics.iter().any(|metric| metric.name == gate.metric) {
        let known: BTreeSet<&str> = metrics.iter().map(|metric| metric.name).collect();
        return Err(DiffError::unknown(format!("gate {:?}", gate.metric), known.into_iter()));
    }
    for metric in metrics.iter_mut().filter(|metric| metric.name == gate.metric) {
        if gate.is_broken_by(metric.change) {
            metric.broken.push(gate.percent);
        }
    }
    Ok(())
}

/// The change of a quantity that both reports have.
fn metric(pair: &Pair<'_>) -> Option<Metric> {
    let [Ok(before), Ok(after)] = pair.sides else {
        return None;
    };
    let interval = |figure: &Value| {
        let ends = [figure["ci95"][0].as_f64()?, figure["ci95"][1].as_f64()?];
        Some(Interval {
            low: ends[0],
            high: ends[1],
        })
    };
    let (from, to) = (before["value"].as_f64()?, after["value"].as_f64()?);
    let ci95 = interval(before)
        .zip(interval(after))
        .and_then(|intervals| ratio([from, to], intervals));
    Some(Metric {
        load: pair.load.map(str::to_owned),
        name: pair.name,
        unit: before["unit"].as_str().unwrap_or_default().to_owned(),
        before: from,
        after: to,
        change: percent_change(from, to),
        ci95,
        wanted: pair.wanted,
        verdict: Verdict::of(ci95, pair.wanted),
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
fn differences(before: &Value, after: &Value) -> Vec<String> {
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

impl Diff {
    /// Whether a gate is broken.
    pub fn is_regression(&self) -> bool {
        self.metrics.iter().any(|metric| !metric.broken.is_empty())
    }
}

#[cfg(test)]
mod tests;
