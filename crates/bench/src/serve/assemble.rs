//! From runs to the report: statistics only, no clock is read here.
//!
//! A load is a table of rounds × blocks of consecutive requests. Requests that follow each other share a queue and are not
//! independent, so blocks of them are resampled (Künsch, "The jackknife and the bootstrap for general stationary
//! observations", Annals of Statistics 17(3), 1989), crossed with rounds. Arms are compared on the same drawn rounds and
//! blocks: the same texts, at the same times unless clients wait for their answers.

use super::drive::Run;
use super::record::{Measure, Objective, Outcome, Record};
use super::report::{
    ArmChange, ArmDetail, ArmLoad, Detail, EngineLoad, EngineTimeline, Latency, LoadKind, LoadReport, Outcomes,
};
use super::target::State;
use crate::report::{Change, Figure, Series, Unit};
use crate::stats::{Interval, Wanted, bootstrap_rounds, crossed_bootstrap, mean, percent_or_infinite, quantile};

/// Most points of a timeline in the report.
const MOST_POINTS: usize = 400;
/// Most requests of a round in the report; all are in the file of requests.
const MOST_REQUESTS: usize = 200;
/// Parts of a round for which the longest silence is given.
const GAP_PARTS: usize = 120;

/// A load and what came of it.
#[derive(Debug)]
pub struct LoadRuns {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: LoadKind,
    /// Requests a second to be sent.
    pub offered: Option<f64>,
    /// Clients that wait for their answers.
    pub clients: Option<usize>,
    /// Runs by arm, then by round.
    pub runs: Vec<Vec<Run>>,
}

/// How runs are judged.
#[derive(Debug, Clone)]
pub struct Judge<'a> {
    /// Names of the arms.
    pub arms: &'a [String],
    /// What a good request keeps to.
    pub objectives: &'a [Objective],
    /// A silence that counts as a stall, in milliseconds.
    pub stall_ms: f64,
    /// Seed of the intervals.
    pub seed: u64,
}

/// Numbers of requests by round and block.
type Table = Vec<Vec<Vec<f64>>>;

/// A load, cut into blocks.
struct Load<'a> {
    judge: &'a Judge<'a>,
    runs: &'a [Vec<Run>],
    block: usize,
    shape: [usize; 2],
}

impl LoadRuns {
    /// The load in the report.
    pub fn report(&self, judge: &Judge<'_>) -> LoadReport {
        let most = self
            .runs
            .iter()
            .flatten()
            .map(|run| run.records.len())
            .max()
            .unwrap_or(0)
            .max(1);
        let block = most.isqrt().max(1);
        let load = Load {
            judge,
            runs: &self.runs,
            block,
            shape: [self.runs.first().map_or(0, Vec::len), most.div_ceil(block)],
        };
        let arms = (0..self.runs.len()).map(|arm| load.arm(arm)).collect();
        LoadReport {
            name: self.name.clone(),
            kind: self.kind,
            offered: self.offered.map(|rate| Figure::computed(rate, Unit::RequestsPerSecond)),
            clients: self.clients,
            arms,
            changes: (1..self.runs.len()).map(|arm| load.change(arm, self.kind)).collect(),
        }
    }

    /// The load from close by.
    pub fn detail(&self, judge: &Judge<'_>) -> Detail {
        let arms = judge
            .arms
            .iter()
            .zip(&self.runs)
            .map(|(name, rounds)| detail(name, rounds));
        Detail {
            load: self.name.clone(),
            arms: arms.collect(),
        }
    }
}

/// Quantile of values in any order; not a number for none.
fn quantile_of(values: &mut [f64], q: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = q * last as f64;
    let (_, low, above) = values.select_nth_unstable_by(place.floor() as usize, f64::total_cmp);
    let (low, part) = (*low, place.fract());
    match above.iter().copied().reduce(f64::min) {
        Some(high) if part > 0.0 => low + (high - low) * part,
        _ => low,
    }
}

/// The table's sum divided by the seconds of the rounds.
fn rate(runs: &[Run], table: &Table) -> impl Fn(&[usize], &[usize]) -> f64 + use<> {
    let sums: Vec<Vec<f64>> = table
        .iter()
        .map(|row| row.iter().map(|block| block.iter().sum()).collect())
        .collect();
    let seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
    move |rounds, blocks| {
        let sum: f64 = rounds
            .iter()
            .map(|&r| blocks.iter().map(|&b| sums[r][b]).sum::<f64>())
            .sum();
        let time: f64 = rounds.iter().map(|&r| seconds[r]).sum();
        if time > 0.0 { sum / time } else { 0.0 }
    }
}

impl Load<'_> {
    /// What `of` gives for the requests of an arm.
    fn table(&self, arm: usize, of: impl Fn(&Record) -> Option<f64>) -> Table {
        let [_, blocks] = self.shape;
        let by_round = self.runs[arm].iter().map(|run| {
            let mut row = vec![Vec::new(); blocks];
            for (i, record) in run.records.iter().enumerate() {
                row[i / self.block].extend(of(record));
            }
            row
        });
        by_round.collect()
    }

    /// `statistic` over all rounds and blocks, with its interval.
    fn estimate(&self, mut statistic: impl FnMut(&[usize], &[usize]) -> f64) -> (f64, Option<Interval>) {
        let [rounds, blocks] = self.shape;
        let all = |n: usize| (0..n).collect::<Vec<_>>();
        let value = statistic(&all(rounds), &all(blocks));
        (value, crossed_bootstrap([rounds, blocks], self.judge.seed, statistic))
    }

    fn mean<'t>(&self, table: &'t Table) -> impl Fn(&[usize], &[usize]) -> f64 + 't {
        move |rounds, blocks| {
            let (mut sum, mut count) = (0.0, 0_u32);
            for &r in rounds {
                for &b in blocks {
                    sum += table[r][b].iter().sum::<f64>();
                    count += table[r][b].len() as u32;
                }
            }
            sum / f64::from(count)
        }
    }

    fn quantile<'t>(&self, table: &'t Table, q: f64) -> impl FnMut(&[usize], &[usize]) -> f64 + 't {
        let mut pool = Vec::new();
        move |rounds, blocks| {
            pool.clear();
            for &r in rounds {
                for &b in blocks {
                    pool.extend_from_slice(&table[r][b]);
                }
            }
            quantile_of(&mut pool, q)
        }
    }

    fn figure(&self, unit: Unit, n: usize, statistic: impl FnMut(&[usize], &[usize]) -> f64) -> Figure {
        let (value, interval) = self.estimate(statistic);
        Figure::measured(value, unit).with_interval(interval, n)
    }

    fn latency(&self, arm: usize, on: Measure) -> Latency {
        let table = self.table(arm, |record| record.measure(on));
        let n = count(&table);
        let unit = if on == Measure::MsPerChar {
            Unit::MillisecondsPerCharacter
        } else {
            Unit::Milliseconds
        };
        let at = |q: f64| shown(n, q).then(|| self.figure(unit, n, self.quantile(&table, q)));
        Latency {
            mean: (n > 0).then(|| self.figure(unit, n, self.mean(&table))),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
        }
    }

    /// Over all tokens. They are many, so only the mean has an interval.
    fn token_gaps(&self, arm: usize) -> Latency {
        let mut gaps: Vec<f64> = Vec::new();
        for record in self.runs[arm].iter().flat_map(|run| &run.records) {
            gaps.extend(record.token_gaps());
        }
        gaps.sort_by(f64::total_cmp);
        let n = gaps.len();
        let by_request = self.table(arm, |record| record.token_gaps().reduce(|a, b| a + b));
        let counts = self.table(arm, |record| Some(record.token_gaps().count() as f64));
        let sum = |table: &Table, rounds: &[usize], blocks: &[usize]| -> f64 {
            rounds
                .iter()
                .map(|&r| blocks.iter().flat_map(|&b| &table[r][b]).sum::<f64>())
                .sum()
        };
        let average =
            |rounds: &[usize], blocks: &[usize]| sum(&by_request, rounds, blocks) / sum(&counts, rounds, blocks);
        let at = |q: f64| {
            shown(n, q).then(|| Figure {
                n: Some(n),
                ..Figure::measured(quantile(&gaps, q), Unit::Milliseconds)
            })
        };
        Latency {
            mean: (n > 0).then(|| self.figure(Unit::Milliseconds, n, average)),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
        }
    }

    fn good(&self, arm: usize) -> Table {
        self.table(arm, |record| {
            Some(f64::from(u8::from(record.is_good(self.judge.objectives))))
        })
    }

    fn arm(&self, arm: usize) -> ArmLoad {
        let runs = &self.runs[arm];
        let records = || runs.iter().flat_map(|run| &run.records);
        let n = records().count();
        let per_second =
            |unit, of: &dyn Fn(&Record) -> Option<f64>| self.figure(unit, n, rate(runs, &self.table(arm, of)));
        let good = self.good(arm);
        let whole = |record: &Record| Some(f64::from(u8::from(record.outcome == Outcome::Complete)));
        let stalls = self.table(arm, |record| Some(record.stalls(self.judge.stall_ms) as f64));
        let longest = records()
            .filter_map(|record| record.measure(Measure::Gap))
            .reduce(f64::max);
        let delays: Vec<f64> = records().map(|record| 1e3 * (record.sent - record.scheduled)).collect();
        ArmLoad {
            arm: self.judge.arms[arm].clone(),
            requests: outcomes(records()),
            saturated_rounds: runs.iter().filter(|run| run.saturated).count(),
            send_delay_p99: Figure::measured(quantile(&delays, 0.99), Unit::Milliseconds),
            requests_per_second: per_second(Unit::RequestsPerSecond, &whole),
            reply_bytes_per_second: per_second(Unit::BytesPerSecond, &|record| Some(record.reply_bytes() as f64)),
            reply_tokens_per_second: per_second(Unit::TokensPerSecond, &|record| Some(record.reply_tokens as f64)),
            goodput: self.figure(Unit::RequestsPerSecond, n, rate(runs, &good)),
            good_share: {
                let share = self.mean(&good);
                self.figure(Unit::Percent, n, |rounds, blocks| 100.0 * share(rounds, blocks))
            },
            ttft: self.latency(arm, Measure::Ttft),
            ttfb: self.latency(arm, Measure::Ttfb),
            e2e: self.latency(arm, Measure::E2e),
            ms_per_char: self.latency(arm, Measure::MsPerChar),
            tpot: self.latency(arm, Measure::Tpot),
            itl: self.token_gaps(arm),
            stalls_per_text: self.figure(Unit::Count, n, self.mean(&stalls)),
            longest_gap: longest.map(|ms| Figure::measured(ms, Unit::Milliseconds)),
            engine: self.engine(arm),
        }
    }

    fn engine(&self, arm: usize) -> Option<EngineLoad> {
        let all = self.engines(arm)?;
        let of = |unit, value: fn(&EngineRound) -> f64| {
            let values: Vec<f64> = all.iter().map(value).collect();
            let statistic = |drawn: &[usize]| mean(&drawn.iter().map(|&i| values[i]).collect::<Vec<_>>());
            let interval = bootstrap_rounds(values.len(), self.judge.seed, statistic);
            Figure::measured(mean(&values), unit).with_interval(interval, values.len())
        };
        let largest =
            |unit, value: fn(&EngineRound) -> f64| Figure::measured(all.iter().map(value).fold(0.0, f64::max), unit);
        Some(EngineLoad {
            documents_peak: largest(Unit::Documents, |round| round.documents_peak),
            documents_mean: of(Unit::Documents, |round| round.documents_mean),
            waiting_peak: largest(Unit::Count, |round| round.waiting_peak),
            preemptions: of(Unit::Count, |round| round.preemptions),
            kv_reserved: largest(Unit::Bytes, |round| round.reserved),
            kv_mapped_peak: of(Unit::Bytes, |round| round.mapped_peak),
            kv_mapped_mean: of(Unit::Bytes, |round| round.mapped_mean),
            kv_used_peak: of(Unit::Bytes, |round| round.used_peak),
            kv_used_mean: of(Unit::Bytes, |round| round.used_mean),
        })
    }

    fn engines(&self, arm: usize) -> Option<Vec<EngineRound>> {
        self.runs[arm].iter().map(|run| EngineRound::of(&run.states)).collect()
    }

    /// The change of a statistic of each arm's own table; `None` for one from nothing.
    fn compared<S>(&self, wanted: Wanted, [mut before, mut after]: [S; 2]) -> Option<Change>
    where
        S: FnMut(&[usize], &[usize]) -> f64,
    {
        let [rounds, blocks] = self.shape;
        let (value, interval) = self.estimate(|r, b| percent_or_infinite(before(r, b), after(r, b)));
        value
            .is_finite()
            .then(|| Change::percent(value, interval, rounds * blocks, wanted))
    }

    fn change(&self, arm: usize, kind: LoadKind) -> ArmChange {
        // A round that was stopped has cut off the longest times.
        let whole = ![0, arm]
            .iter()
            .any(|&arm| self.runs[arm].iter().any(|run| run.saturated));
        // An average over whole replies leaves out those that were slowest.
        let cut_off = [0, arm].iter().any(|&arm| {
            let mut records = self.runs[arm].iter().flat_map(|run| &run.records);
            records.any(|record| record.outcome == Outcome::Unfinished)
        });
        let times = |on: Measure| whole.then(|| [0, arm].map(|arm| self.table(arm, |record| record.measure(on))));
        let quantiles = |on: Measure, q: f64| {
            let [before, after] = times(on)?;
            shown(count(&before).min(count(&after)), q)
                .then(|| self.compared(Wanted::Lower, [self.quantile(&before, q), self.quantile(&after, q)]))
                .flatten()
        };
        let bytes = |arm| self.table(arm, |record| Some(record.reply_bytes() as f64));
        let of_engines = |wanted, of: fn(&EngineRound) -> f64| {
            let (before, after) = (self.engines(0)?, self.engines(arm)?);
            let change = |drawn: &[usize]| {
                let sum = |rounds: &[EngineRound]| drawn.iter().map(|&r| of(&rounds[r])).sum::<f64>();
                percent_or_infinite(sum(&before), sum(&after))
            };
            let rounds = before.len();
            let value = change(&(0..rounds).collect::<Vec<_>>());
            let interval = bootstrap_rounds(rounds, self.judge.seed, change);
            value
                .is_finite()
                .then(|| Change::percent(value, interval, rounds, wanted))
        };
        ArmChange {
            arm: self.judge.arms[arm].clone(),
            against: self.judge.arms[0].clone(),
            reply_bytes_per_second: self
                .compared(Wanted::Higher, [0, arm].map(|arm| rate(&self.runs[arm], &bytes(arm)))),
            goodput: self.compared(
                Wanted::Higher,
                [0, arm].map(|arm| rate(&self.runs[arm], &self.good(arm))),
            ),
            ttfb_p50: quantiles(Measure::Ttfb, 0.5),
            ttfb_p99: quantiles(Measure::Ttfb, 0.99),
            e2e_p50: quantiles(Measure::E2e, 0.5),
            e2e_p99: quantiles(Measure::E2e, 0.99),
            ms_per_char: times(Measure::MsPerChar)
                .filter(|_| !cut_off)
                .and_then(|[before, after]| self.compared(Wanted::Lower, [self.mean(&before), self.mean(&after)])),
            // Under a light load fewer at once means that each is done sooner, and is nothing bad.
            documents_peak: (kind == LoadKind::AllAtOnce)
                .then(|| of_engines(Wanted::Higher, |round| round.documents_peak))
                .flatten(),
            kv_mapped_peak: of_engines(Wanted::Lower, |round| round.mapped_peak),
        }
    }
}

fn count(table: &Table) -> usize {
    table.iter().flatten().map(Vec::len).sum()
}

/// Whether `n` observations are enough for one of them to lie beyond the `q` quantile.
fn shown(n: usize, q: f64) -> bool {
    n as f64 * (1.0 - q) >= 1.0 - 1e-9
}

fn outcomes<'r>(records: impl Iterator<Item = &'r Record>) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for record in records {
        outcomes.sent += 1;
        *match record.outcome {
            Outcome::Complete => &mut outcomes.complete,
            Outcome::Refused => &mut outcomes.refused,
            Outcome::Failed => &mut outcomes.failed,
            Outcome::Abandoned => &mut outcomes.abandoned,
            Outcome::Unfinished => &mut outcomes.unfinished,
        } += 1;
    }
    outcomes
}

/// An engine through a round.
#[derive(Debug, Clone, Copy, Default)]
struct EngineRound {
    documents_peak: f64,
    documents_mean: f64,
    waiting_peak: f64,
    preemptions: f64,
    reserved: f64,
    mapped_peak: f64,
    mapped_mean: f64,
    used_peak: f64,
    used_mean: f64,
}

impl EngineRound {
    fn of(states: &[(f64, State)]) -> Option<Self> {
        let (_, last) = states.last()?;
        let peak = |of: fn(&State) -> usize| states.iter().map(|(_, state)| of(state)).max().unwrap_or(0) as f64;
        // A state lasts until the next one.
        let average = |of: fn(&State) -> usize| {
            let (mut sum, mut time) = (0.0, 0.0);
            for pair in states.windows(2) {
                let lasts = pair[1].0 - pair[0].0;
                sum += lasts * of(&pair[0].1) as f64;
                time += lasts;
            }
            if time > 0.0 { sum / time } else { of(last) as f64 }
        };
        Some(Self {
            documents_peak: peak(|state| state.running),
            documents_mean: average(|state| state.running),
            waiting_peak: peak(|state| state.waiting),
            preemptions: last.preemptions as f64,
            reserved: peak(|state| state.memory.reserved_bytes),
            mapped_peak: peak(|state| state.memory.physical_bytes),
            mapped_mean: average(|state| state.memory.physical_bytes),
            used_peak: peak(|state| state.memory.used_bytes),
            used_mean: average(|state| state.memory.used_bytes),
        })
    }
}

/// Every so many items that at most `most` are left.
fn thinned<T>(items: &[T], most: usize) -> impl Iterator<Item = &T> {
    items.iter().step_by(items.len().div_ceil(most).max(1))
}

fn detail(name: &str, rounds: &[Run]) -> ArmDetail {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::stats::Verdict;

    #[test]
    fn quantiles_agree_with_the_sorted_ones() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0, 7.0];
        for q in [0.0, 0.1, 0.5, 0.9, 0.99, 1.0] {
            assert!(
                (quantile_of(&mut values.clone(), q) - quantile(&values, q)).abs() < 1e-12,
                "{q}"
            );
        }
        assert!(quantile_of(&mut [], 0.5).is_nan());
    }

    #[test]
    fn a_known_difference_is_found_and_none_is_not_invented() {
        let report = sample::serve_report();
        let [before, after] = sample::ALONE;
        let light = &report.loads[1];
        let change = &light.changes[0];
        let latency = change.e2e_p50.expect("requests");
        // Almost nobody waits, so the median changes by as much as the time of a request alone.
        assert!(
            (latency.figure.value - percent_or_infinite(before, after)).abs() < 4.0,
            "{latency:?}"
        );
        assert_eq!(latency.verdict, Verdict::Better);
        assert!(latency.figure.ci95.is_some_and(|i| i.covers(latency.figure.value)));
        // Both keep up: only the last requests end earlier.
        let speed = change.reply_bytes_per_second.expect("bytes").figure.value;
        assert!((0.0..3.0).contains(&speed), "{speed}");
        let full = &report.loads[0].changes[0];
        assert_eq!(full.documents_peak.map(|change| change.figure.value), Some(100.0));
        assert_eq!(
            full.reply_bytes_per_second.map(|change| change.verdict),
            Some(Verdict::Better)
        );
        let same = LoadRuns {
            runs: vec![sample::loads()[1].runs[0].clone(); 2],
            ..sample::loads().remove(1)
        };
        let names = ["a", "b"].map(str::to_owned);
        let judge = Judge {
            arms: &names,
            objectives: &report.objectives,
            stall_ms: 100.0,
            seed: 1,
        };
        let change = same
            .report(&judge)
            .changes
            .remove(0)
            .ms_per_char
            .expect("whole replies");
        assert_eq!((change.figure.value, change.verdict), (0.0, Verdict::NoDifferenceShown));
    }

    /// The sample's light load with its runs changed, judged.
    fn changed(change: impl Fn(&mut Vec<Vec<Run>>)) -> LoadReport {
        let mut load = sample::loads().remove(1);
        change(&mut load.runs);
        let names = ["a", "b"].map(str::to_owned);
        let objectives = sample::serve_report().objectives;
        load.report(&Judge {
            arms: &names,
            objectives: &objectives,
            stall_ms: 100.0,
            seed: 1,
        })
    }

    #[test]
    fn fewer_rounds_than_five_are_not_judged() {
        let few = changed(|arms| arms.iter_mut().for_each(|rounds| rounds.truncate(4)));
        let change = few.changes[0].e2e_p50.expect("requests");
        assert_eq!((change.figure.ci95, change.verdict), (None, Verdict::NotJudged));
        assert_eq!(few.arms[0].reply_bytes_per_second.ci95, None);
        assert_eq!(few.arms[0].engine.and_then(|engine| engine.kv_mapped_peak.ci95), None);
    }

    #[test]
    fn a_saturated_arm_has_no_changes_of_times() {
        let drowned = changed(|arms| arms[1][2].saturated = true);
        let change = &drowned.changes[0];
        let times = [
            change.ttfb_p50,
            change.ttfb_p99,
            change.e2e_p50,
            change.e2e_p99,
            change.ms_per_char,
        ];
        assert!(times.iter().all(Option::is_none), "{times:?}");
        assert!(change.reply_bytes_per_second.is_some());
    }

    #[test]
    fn an_arm_that_left_requests_has_no_change_of_an_average_over_whole_replies() {
        for arm in [0, 1] {
            let left = changed(|arms| arms[arm][0].records[3].outcome = Outcome::Unfinished);
            let change = &left.changes[0];
            assert!(change.ms_per_char.is_none() && change.e2e_p50.is_some(), "{change:?}");
        }
    }

    #[test]
    fn nothing_served_has_no_mean_and_no_change() {
        let nothing = changed(|arms| {
            for record in arms[0].iter_mut().flat_map(|run| &mut run.records) {
                (record.outcome, record.reply_chars, record.reply_tokens) = (Outcome::Failed, 0, 0);
                record.pieces.clear();
            }
        });
        let arm = &nothing.arms[0];
        assert!(arm.ttfb.mean.is_none() && arm.ms_per_char.mean.is_none() && arm.itl.mean.is_none());
        assert!(arm.longest_gap.is_none());
        assert_eq!(arm.goodput.value, 0.0);
        let change = &nothing.changes[0];
        assert!(change.goodput.is_none() && change.reply_bytes_per_second.is_none() && change.ms_per_char.is_none());
    }

    #[test]
    fn only_what_came_whole_is_done_and_what_came_late_is_late() {
        let mut runs = sample::loads().remove(1).runs.remove(0);
        let before = detail("a", &runs);
        let records = &mut runs[0].records;
        (records[0].outcome, records[1].outcome) = (Outcome::Unfinished, Outcome::Abandoned);
        records[2].outcome = Outcome::Failed;
        records[2].pieces.clear();
        let (first_byte, ended) = (records[1].pieces[0].at, records[2].ended);
        let after = detail("a", &runs);
        assert_eq!(after.e2e.values.len(), before.e2e.values.len() - 3);
        assert_eq!(
            after.e2e_of,
            before.e2e_of - 1,
            "what the client left was not waited for"
        );
        assert_eq!(after.first_byte.values[1..3], [first_byte, ended]);
    }

    #[test]
    fn figures_follow_from_the_requests() {
        let report = sample::serve_report();
        let arm = &report.loads[1].arms[0];
        assert_eq!(arm.requests.sent, arm.requests.complete);
        assert!(
            arm.itl
                .mean
                .is_some_and(|mean| (mean.value - 1e3 * sample::ALONE[0] / 100.0).abs() < 0.2),
            "{:?}",
            arm.itl.mean
        );
        assert!((arm.reply_bytes_per_second.value - 500.0 * arm.requests_per_second.value).abs() < 1e-6);
        assert!(arm.good_share.value > 95.0 && arm.goodput.value <= arm.requests_per_second.value);
        assert!(
            arm.ttfb.p99_9.is_none(),
            "{} requests say nothing of one in a thousand",
            arm.requests.sent
        );
        assert!(arm.itl.p99_9.is_some() && arm.ttfb.p50.is_some());
        let engine = report.loads[0].arms[0].engine.expect("an engine");
        assert_eq!((engine.documents_peak.value, engine.waiting_peak.value), (8.0, 32.0));
        assert!(engine.kv_used_peak.value < engine.kv_mapped_peak.value);
        let detail = &report.detail.arms[1];
        assert_eq!(detail.longest_gap.values.len(), GAP_PARTS);
        assert!(detail.scheduled.values.len() <= MOST_REQUESTS);
    }
}
