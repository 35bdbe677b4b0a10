//! What of two reports is compared, where it stands in them, and why something cannot be compared.

use serde_json::Value;

use crate::stats::Wanted;

/// A quantity: its name, where it stands inside the arm, which direction is good.
type Place = (&'static str, &'static str, Wanted);

/// Of the comparison; bits per byte stand elsewhere.
pub(super) const COMPARED: [Place; 11] = [
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

/// Under each load.
const SERVED: [Place; 10] = [
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
];

/// A quantity of an arm in both reports: its figure, or why there is none.
pub(super) struct Pair<'v> {
    /// Under which load.
    pub(super) load: Option<&'v str>,
    pub(super) name: &'static str,
    pub(super) wanted: Wanted,
    pub(super) sides: [Result<&'v Value, Lack>; 2],
}

/// Why a report has no figure that could be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// It says nothing of the quantity.
    Absent,
    /// So many rounds were stopped because more came than was served: the longest times are cut off.
    Saturated(u64),
    /// So many requests were cut off, and an average over whole replies leaves them out.
    Unfinished(u64),
    /// So many searches ended before they had found the rate.
    Abandoned(u64),
}

impl Lack {
    fn words(self) -> String {
        match self {
            Self::Absent => "it is not there".to_owned(),
            Self::Saturated(rounds) => format!("saturated rounds, which cut off the longest times: {rounds}"),
            Self::Unfinished(requests) => format!("unfinished requests, which it leaves out: {requests}"),
            Self::Abandoned(searches) => format!("searches given up before the rate was found: {searches}"),
        }
    }
}

impl Pair<'_> {
    /// Where and why the second report lacks what the first has.
    pub(super) fn lost(&self) -> Option<String> {
        let [Ok(_), Err(lack)] = self.sides else {
            return None;
        };
        Some(match self.load {
            Some(load) => format!("under {load}, {}", lack.words()),
            None => lack.words(),
        })
    }

    fn note(&self) -> Option<String> {
        let under = self.load.map_or_else(String::new, |load| format!(" under {load}"));
        let lacks = self.sides.map(Result::err);
        let doubt = lacks
            .iter()
            .zip(["first", "second"])
            .find_map(|(lack, which)| lack.filter(|lack| *lack != Lack::Absent).map(|lack| (lack, which)));
        if let Some((lack, which)) = doubt {
            // The same for all times of a load.
            let name = if matches!(lack, Lack::Saturated(_)) {
                "times"
            } else {
                self.name
            };
            return Some(format!(
                "{name}{under} not compared; in the {which} report, {}",
                lack.words()
            ));
        }
        let which = match lacks {
            [None, Some(_)] => "first",
            [Some(_), None] => "second",
            _ => return None,
        };
        Some(format!("{}{under} is only in the {which} report", self.name))
    }
}

/// The quantities of an arm, under each load that the first report has.
pub(super) fn pairs<'v>(before: &'v Value, after: &'v Value, arm: &str, served: bool) -> Vec<Pair<'v>> {
    if !served {
        let pair = |&(name, path, wanted): &Place| Pair {
            load: None,
            name,
            wanted,
            sides: [before, after].map(|report| of_batches(report, arm, path)),
        };
        return COMPARED.iter().map(pair).collect();
    }
    let mut pairs = Vec::new();
    for load in items(before, "loads") {
        let name = load["name"].as_str().unwrap_or_default();
        let loads = [Some(load), find(&after["loads"], "name", name)];
        pairs.extend(SERVED.iter().map(|&(quantity, path, wanted)| Pair {
            load: Some(name),
            name: quantity,
            wanted,
            sides: loads.map(|load| under_load(load, arm, path)),
        }));
    }
    pairs.push(Pair {
        load: None,
        name: "max_rate",
        wanted: Wanted::Higher,
        sides: [before, after].map(|report| max_rate(report, arm)),
    });
    pairs
}

/// What of two reports is not compared, and why.
pub(super) fn notes(before: &Value, after: &Value, pairs: &[Pair<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    for (what, of, key) in [
        ("arm", "arms", "name"),
        ("load", "loads", "name"),
        ("highest rate of", "max_rates", "arm"),
    ] {
        let [first, second] = [before, after].map(|report| names(report, of, key));
        let only = |these: &[String], those: &[String], which: &str| -> Vec<String> {
            let alone = these.iter().filter(|name| !those.contains(name));
            alone
                .map(|name| format!("{what} {name:?} is only in the {which} report"))
                .collect()
        };
        notes.extend(only(&first, &second, "first"));
        notes.extend(only(&second, &first, "second"));
    }
    // Of a load that is missing as a whole, that is enough.
    let there = |pair: &&Pair<'_>| match pair.load {
        Some(load) => find(&after["loads"], "name", load).is_some(),
        None => pair.name != "max_rate" || !pair.sides.contains(&Err(Lack::Absent)),
    };
    for note in pairs.iter().filter(there).filter_map(Pair::note) {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// The names in a list of a report.
pub(super) fn names(report: &Value, list: &str, key: &str) -> Vec<String> {
    let names = items(report, list).filter_map(|item| item[key].as_str());
    names.map(str::to_owned).collect()
}

fn items<'v>(report: &'v Value, list: &str) -> impl Iterator<Item = &'v Value> {
    report[list].as_array().into_iter().flatten()
}

/// The item of a list whose `key` is `name`.
fn find<'v>(list: &'v Value, key: &str, name: &str) -> Option<&'v Value> {
    list.as_array()?.iter().find(|item| item[key] == name)
}

/// A figure that has a value.
fn figure(value: Option<&Value>) -> Result<&Value, Lack> {
    value.filter(|figure| figure["value"].is_number()).ok_or(Lack::Absent)
}

fn of_batches<'v>(report: &'v Value, arm: &str, path: &str) -> Result<&'v Value, Lack> {
    let arm = find(&report["arms"], "name", arm).ok_or(Lack::Absent)?;
    if path.is_empty() {
        let side = if arm["tokenizer"] == "base" { "normal" } else { "fused" };
        return figure(report["quality"]["domain"][side].get("bits_per_byte"));
    }
    figure(arm.pointer(path))
}

fn under_load<'v>(load: Option<&'v Value>, arm: &str, path: &str) -> Result<&'v Value, Lack> {
    let arm = load
        .and_then(|load| find(&load["arms"], "arm", arm))
        .ok_or(Lack::Absent)?;
    let figure = figure(arm.pointer(path))?;
    let is_time = ["/ttfb", "/e2e", "/ms_per_char"]
        .iter()
        .any(|time| path.starts_with(time));
    let some = |count: &Value| count.as_u64().filter(|&count| count > 0);
    match (some(&arm["saturated_rounds"]), some(&arm["requests"]["unfinished"])) {
        (Some(rounds), _) if is_time => Err(Lack::Saturated(rounds)),
        (_, Some(requests)) if path.starts_with("/ms_per_char") => Err(Lack::Unfinished(requests)),
        _ => Ok(figure),
    }
}

fn max_rate<'v>(report: &'v Value, arm: &str) -> Result<&'v Value, Lack> {
    let found = find(&report["max_rates"], "arm", arm).ok_or(Lack::Absent)?;
    match found["abandoned_searches"].as_u64() {
        Some(searches) if searches > 0 => Err(Lack::Abandoned(searches)),
        _ => figure(found.get("rate")),
    }
}
