//! A load from close by: its requests, silences and memory through time.

use crate::report::{Series, Unit};
use crate::serve::drive::Run;
use crate::serve::record::{Measure, Outcome, Record};
use crate::serve::report::{ArmDetail, EngineTimeline};
use crate::serve::target::State;

/// Most points of a timeline in the report.
const MOST_POINTS: usize = 400;
/// Most requests of a round in the report; all are in the file of requests.
pub(super) const MOST_REQUESTS: usize = 200;
/// Parts of a round for which the longest silence is given.
pub(super) const GAP_PARTS: usize = 120;

/// Every so many items that at most `most` are left.
fn thinned<T>(items: &[T], most: usize) -> impl Iterator<Item = &T> {
    items.iter().step_by(items.len().div_ceil(most).max(1))
}

pub(super) fn detail(name: &str, rounds: &[Run]) -> ArmDetail {
    let records = || rounds.iter().flat_map(|run| &run.records);
    let complete = || records().filter(|record| record.outcome == Outcome::Complete);
    let ms = |values: &mut dyn Iterator<Item = f64>| Series::measured(values.collect(), Unit::Milliseconds);
    let first = rounds.first().cloned().unwrap_or_default();
    let requests = &first.records[..first.records.len().min(MOST_REQUESTS)];
    let seconds = |of: &dyn Fn(&Record) -> f64| Series::measured(requests.iter().map(of).collect(), Unit::Seconds);
    let part = (first.seconds / GAP_PARTS as f64).max(1e-3);
    let mut gaps = vec![0.0; GAP_PARTS];
    for (at, gap) in first.records.iter().flat_map(Record::text_gaps) {
        let place = ((at / part) as usize).min(GAP_PARTS - 1);
        gaps[place] = f64::max(gaps[place], gap);
    }
    ArmDetail {
        arm: name.to_owned(),
        e2e: ms(&mut complete().filter_map(|record| record.measure(Measure::E2e))),
        e2e_of: records().filter(|record| record.outcome != Outcome::Abandoned).count(),
        ttfb: ms(&mut records().filter_map(|record| record.measure(Measure::Ttfb))),
        scheduled: seconds(&|record| record.scheduled),
        first_byte: seconds(&|record| record.first_byte().unwrap_or(record.ended)),
        ended: seconds(&|record| record.ended),
        longest_gap: Series::measured(gaps, Unit::Milliseconds),
        gap_part: part,
        timeline: (!first.states.is_empty()).then(|| timeline(&first.states)),
    }
}

fn timeline(states: &[(f64, State)]) -> EngineTimeline {
    let of = |unit, value: fn(&(f64, State)) -> f64| {
        Series::measured(thinned(states, MOST_POINTS).map(value).collect(), unit)
    };
    EngineTimeline {
        time: of(Unit::Seconds, |point| point.0),
        reserved: of(Unit::Bytes, |point| point.1.memory.reserved_bytes as f64),
        mapped: of(Unit::Bytes, |point| point.1.memory.physical_bytes as f64),
        used: of(Unit::Bytes, |point| point.1.memory.used_bytes as f64),
        running: of(Unit::Documents, |point| point.1.running as f64),
        waiting: of(Unit::Count, |point| point.1.waiting as f64),
    }
}
