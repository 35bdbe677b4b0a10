//! Everything that serves, run by turns.

use super::arrivals::Schedule;
use super::assemble::{Judge, LoadRuns};
use super::drive::{Run, drive};
use super::record::Outcome;
use super::report::{LoadKind, MaxRate, Probe};
use super::search::Search;
use super::target::Target;
use super::{Load, Plan, open, two_digits};
use crate::cli::ServeArgs;
use crate::error::BenchError;
use crate::interrupt;
use crate::measure::turns;
use crate::progress::Stage;
use crate::report::{Change, Figure, Unit};
use crate::stats::{Wanted, bootstrap_rounds, mean, percent_or_infinite};
use crate::workload::Text;

/// Requests of the warm-up.
const WARM_UP: usize = 4;
/// Longest time for them.
pub(super) const WARM_UP_SECONDS: u64 = 120;
/// Share of requests that must be good for a rate to pass.
const PASSING: f64 = 0.9;
/// Longest time for requests that came all at once, in seconds.
const FULL_SECONDS: f64 = 300.0;

/// The targets and what they serve.
pub(super) struct Fleet<'a> {
    pub(super) targets: Vec<Box<dyn Target + 'a>>,
    pub(super) texts: &'a [Text],
    pub(super) abandon_every: usize,
    /// Counts turns, so that every other one goes backwards.
    pub(super) turn: usize,
}

impl Fleet<'_> {
    fn run_one(&mut self, arm: usize, schedule: &Schedule, grace: f64) -> Result<Run, BenchError> {
        interrupt::check()?;
        let mut run = Run::default();
        let texts = self.texts;
        self.targets[arm].serve(texts, self.abandon_every, &mut |port| {
            run = drive(&port, schedule, texts, grace)
        })?;
        interrupt::check()?;
        Ok(run)
    }

    /// The order of the next turn.
    fn order(&mut self) -> impl Iterator<Item = usize> + use<> {
        self.turn += 1;
        turns(self.turn - 1, self.targets.len())
    }

    pub(super) fn warm_up(&mut self) -> Result<(), BenchError> {
        for arm in 0..self.targets.len() {
            let run = self.run_one(arm, &Schedule::At(vec![0.0; WARM_UP]), WARM_UP_SECONDS as f64)?;
            if !run
                .records
                .iter()
                .any(|record| matches!(record.outcome, Outcome::Complete | Outcome::Abandoned))
            {
                let outcome = run.records.first().map(|record| record.outcome);
                return Err(BenchError::Input(format!(
                    "{} served none of {WARM_UP} requests before the run; the first ended as {outcome:?}",
                    self.targets[arm].name()
                )));
            }
        }
        Ok(())
    }

    /// Every load through every arm, in rounds.
    pub(super) fn run_all(&mut self, loads: Vec<Load>, plan: &Plan) -> Result<Vec<LoadRuns>, BenchError> {
        let stage = Stage::new("load", plan.rounds * loads.len() * self.targets.len());
        let mut all: Vec<Vec<Vec<Run>>> = vec![vec![Vec::new(); self.targets.len()]; loads.len()];
        for _ in 0..plan.rounds {
            for (load, runs) in loads.iter().zip(&mut all) {
                for arm in self.order() {
                    // A full arm is to be seen until it is empty.
                    let grace = if load.kind == LoadKind::AllAtOnce {
                        FULL_SECONDS
                    } else {
                        plan.grace
                    };
                    runs[arm].push(self.run_one(arm, &load.schedule, grace)?);
                    stage.step();
                }
            }
        }
        let with_runs = |(load, runs): (Load, Vec<Vec<Run>>)| LoadRuns {
            name: load.name,
            kind: load.kind,
            offered: load.offered,
            clients: load.clients,
            runs,
        };
        Ok(loads.into_iter().zip(all).map(with_runs).collect())
    }

    /// Searches each arm's highest rate, once a round, all arms by turns from one probe to the next.
    pub(super) fn find_rates(
        &mut self,
        args: &ServeArgs,
        plan: &Plan,
        judge: &Judge<'_>,
        start: f64,
    ) -> Result<Vec<MaxRate>, BenchError> {
        let stage = Stage::new("highest rate", plan.rounds);
        let mut probes: Vec<Vec<Probe>> = vec![Vec::new(); self.targets.len()];
        let mut found: Vec<Vec<f64>> = vec![Vec::new(); self.targets.len()];
        let mut given_up = vec![0; self.targets.len()];
        for round in 0..plan.rounds {
            let mut searches = vec![Search::from(two_digits(start)); self.targets.len()];
            let seed = args.seed.wrapping_add(1_000 + round as u64);
            while searches.iter().any(|search| search.rate().is_some()) {
                for arm in self.order() {
                    let Some(rate) = searches[arm].rate() else {
                        continue;
                    };
                    let run = self.run_one(arm, &open(args, rate, plan.seconds, seed)?.schedule, plan.grace)?;
                    let good = run
                        .records
                        .iter()
                        .filter(|record| record.is_good(judge.objectives))
                        .count();
                    let share = good as f64 / run.records.len().max(1) as f64;
                    let passed = share >= PASSING && !run.saturated;
                    searches[arm].tell(passed);
                    probes[arm].push(Probe {
                        round,
                        rate,
                        good_percent: 100.0 * share,
                        saturated: run.saturated,
                        passed,
                    });
                }
            }
            for (arm, search) in searches.iter().enumerate() {
                found[arm].push(search.passed());
                given_up[arm] += usize::from(search.was_given_up());
            }
            stage.step();
        }
        let of = |arm: usize, drawn: &[usize]| mean(&drawn.iter().map(|&round| found[arm][round]).collect::<Vec<_>>());
        let all: Vec<usize> = (0..plan.rounds).collect();
        let rates = probes.into_iter().enumerate().map(|(arm, probes)| {
            let change = |drawn: &[usize]| percent_or_infinite(of(0, drawn), of(arm, drawn));
            let over_rounds = |of: &dyn Fn(&[usize]) -> f64| bootstrap_rounds(plan.rounds, judge.seed, of);
            let comparable = arm > 0 && given_up[0] + given_up[arm] == 0;
            MaxRate {
                arm: judge.arms[arm].clone(),
                rate: Figure::measured(of(arm, &all), Unit::RequestsPerSecond)
                    .with_interval(over_rounds(&|drawn| of(arm, drawn)), plan.rounds),
                abandoned_searches: given_up[arm],
                change: comparable
                    .then(|| Change::percent(change(&all), over_rounds(&change), plan.rounds, Wanted::Higher)),
                probes,
            }
        });
        Ok(rates.collect())
    }
}
