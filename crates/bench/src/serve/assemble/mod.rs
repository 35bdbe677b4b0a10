//! From runs to the report: statistics only, no clock is read here.
//!
//! A load is a table of rounds × blocks of consecutive requests. Requests that follow each other share a queue and are not
//! independent, so blocks of them are resampled (Künsch, "The jackknife and the bootstrap for general stationary
//! observations", Annals of Statistics 17(3), 1989), crossed with rounds. Arms are compared on the same drawn rounds and
//! blocks: the same texts, at the same times unless clients wait for their answers.

mod detail;
mod engine;

use super::drive::Run;
use super::record::{Measure, Objective, Outcome, Record};
use super::report::{ArmChange, ArmLoad, Detail, EngineLoad, Latency, LoadKind, LoadReport, Outcomes};
use crate::report::{Change, Figure, Unit};
use crate::stats::{Interval, Wanted, bootstrap_rounds, crossed_bootstrap, mean, percent_or_infinite, quantile};
use detail::detail;
use engine::EngineRound;

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

#[cfg(test)]
mod tests;
