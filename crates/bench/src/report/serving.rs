//! Statistics of the served workload: times over rounds and batches, memory over batches.

use super::{
    ArmKv, ArmPerformance, ArmReport, ArmTokens, Change, Distribution, Effects, Figure, Interaction,
    PerformanceComparison, Series, Timeline, Unit,
};
use crate::arms::{Arm, FUSED, KvChoice, NORMAL, TokenizerChoice};
use crate::measure::serving::{ArmRuns, BatchTime, BatchTokens, KvPoint, ServingData};
use crate::stats::{Interval, Wanted, bootstrap, crossed_bootstrap, median, percent_or_infinite, quantile};

/// Statistics over the table of rounds × batches that every arm has filled.
pub(crate) struct Serving<'a> {
    pub(crate) data: &'a ServingData,
    pub(crate) seed: u64,
}

impl Serving<'_> {
    fn runs(&self, arm: Arm) -> &ArmRuns {
        &self.data.arms[arm.index()]
    }

    fn shape(&self) -> [usize; 2] {
        [self.data.arms[0].rounds.len(), self.data.batches.len()]
    }

    /// `statistic` over all rounds and batches, with its crossed-bootstrap interval.
    fn estimate(&self, statistic: impl Fn(&[usize], &[usize]) -> f64) -> (f64, Option<Interval>, usize) {
        let [rounds, batches] = self.shape();
        let all = |n: usize| (0..n).collect::<Vec<_>>();
        let ci = crossed_bootstrap([rounds, batches], self.seed, &statistic);
        (statistic(&all(rounds), &all(batches)), ci, rounds * batches)
    }

    fn figure(&self, unit: Unit, statistic: impl Fn(&[usize], &[usize]) -> f64) -> Figure {
        let (value, ci, n) = self.estimate(statistic);
        Figure::measured(value, unit).with_interval(ci, n)
    }

    fn change(
        &self,
        wanted: Wanted,
        before: impl Fn(&[usize], &[usize]) -> f64,
        after: impl Fn(&[usize], &[usize]) -> f64,
    ) -> Change {
        let (value, ci, n) = self.estimate(|r, b| percent_or_infinite(before(r, b), after(r, b)));
        Change::percent(value, ci, n, wanted)
    }

    /// Sum of `of` over the drawn runs of an arm.
    fn sum(&self, arm: Arm, rounds: &[usize], batches: &[usize], of: impl Fn(&BatchTime) -> f64) -> f64 {
        let runs = &self.runs(arm).rounds;
        rounds
            .iter()
            .flat_map(|&r| batches.iter().map(move |&b| (r, b)))
            .map(|(r, b)| of(&runs[r][b]))
            .sum()
    }

    /// `amount` of each drawn batch, per second of the arm's wall time.
    fn rate(&self, arm: Arm, rounds: &[usize], batches: &[usize], amount: impl Fn(usize) -> f64) -> f64 {
        let total: f64 = batches.iter().map(|&b| amount(b)).sum::<f64>() * rounds.len() as f64;
        total / self.sum(arm, rounds, batches, |run| run.wall)
    }

    fn bytes_per_second(&self, arm: Arm) -> impl Fn(&[usize], &[usize]) -> f64 + '_ {
        move |r, b| self.rate(arm, r, b, |b| self.data.batches[b].reply_bytes as f64)
    }

    fn tokens_per_second(&self, arm: Arm) -> impl Fn(&[usize], &[usize]) -> f64 + '_ {
        move |r, b| self.rate(arm, r, b, |b| self.runs(arm).batch_tokens[b].reply as f64)
    }

    /// Mean over the drawn texts of a time, in milliseconds.
    fn mean_time(&self, arm: Arm, of: impl Fn(&BatchTime) -> &[f64]) -> impl Fn(&[usize], &[usize]) -> f64 {
        move |r, b| {
            let count = self.sum(arm, r, b, |run| of(run).len() as f64);
            1e3 * self.sum(arm, r, b, |run| of(run).iter().sum()) / count
        }
    }

    /// Mean over the drawn batches of the peak of physical memory, which has no rounds.
    fn mean_peak(&self, arm: Arm, batches: &[usize]) -> f64 {
        let memory = &self.runs(arm).memory;
        batches.iter().map(|&b| memory[b].peak.physical as f64).sum::<f64>() / batches.len() as f64
    }

    /// `statistic` over all batches, with its bootstrap interval.
    fn over_batches(&self, statistic: impl Fn(&[usize]) -> f64) -> (f64, Option<Interval>, usize) {
        let batches = self.data.batches.len();
        let all: Vec<usize> = (0..batches).collect();
        (statistic(&all), bootstrap(batches, self.seed, &statistic), batches)
    }

    fn speed_change(&self, before: Arm, after: Arm) -> Change {
        self.change(
            Wanted::Higher,
            self.bytes_per_second(before),
            self.bytes_per_second(after),
        )
    }

    pub(crate) fn kv_change(&self, before: Arm, after: Arm) -> Change {
        self.memory_change(|b| percent_or_infinite(self.mean_peak(before, b), self.mean_peak(after, b)))
    }

    fn memory_change(&self, statistic: impl Fn(&[usize]) -> f64) -> Change {
        let (value, ci, n) = self.over_batches(statistic);
        Change::percent(value, ci, n, Wanted::Lower)
    }

    pub(crate) fn comparison(&self) -> PerformanceComparison {
        let time = |of: fn(&BatchTime) -> &[f64]| {
            self.change(Wanted::Lower, self.mean_time(NORMAL, of), self.mean_time(FUSED, of))
        };
        PerformanceComparison {
            bytes_per_second: self.speed_change(NORMAL, FUSED),
            latency: time(|run| &run.latency),
            time_to_first_byte: time(|run| &run.first_byte),
            tokens_per_second: self.change(
                Wanted::Higher,
                self.tokens_per_second(NORMAL),
                self.tokens_per_second(FUSED),
            ),
        }
    }

    /// The 2×2 of the tokenizers and the static store and another one.
    pub(crate) fn interaction(&self, store: KvChoice) -> Interaction {
        let tokenizer_only = Arm {
            tokenizer: TokenizerChoice::Patched,
            ..NORMAL
        };
        let store_only = Arm {
            kv_store: store,
            ..NORMAL
        };
        let both = Arm {
            kv_store: store,
            ..FUSED
        };
        let arms = [NORMAL, tokenizer_only, store_only, both];
        // The change from what the two would give if each multiplied what it is applied to.
        let beyond = |of: [f64; 4]| percent_or_infinite(of[1] * of[2], of[3] * of[0]);
        let (speed, ci, n) = self.estimate(|r, b| beyond(arms.map(|arm| self.bytes_per_second(arm)(r, b))));
        Interaction {
            bytes_per_second: Effects {
                tokenizer: self.speed_change(NORMAL, tokenizer_only),
                kv_store: self.speed_change(NORMAL, store_only),
                both: self.speed_change(NORMAL, both),
                interaction: Change::percent(speed, ci, n, Wanted::Higher),
            },
            kv_memory: Effects {
                tokenizer: self.kv_change(NORMAL, tokenizer_only),
                kv_store: self.kv_change(NORMAL, store_only),
                both: self.kv_change(NORMAL, both),
                interaction: self.memory_change(|b| beyond(arms.map(|arm| self.mean_peak(arm, b)))),
            },
        }
    }

    pub(crate) fn arm(&self, arm: Arm) -> ArmReport {
        let tokens = |of: fn(&BatchTokens) -> usize| {
            self.runs(arm)
                .batch_tokens
                .iter()
                .map(|batch| of(batch) as f64)
                .sum::<f64>()
        };
        let (prompt, reply) = (tokens(|b| b.prompt), tokens(|b| b.reply));
        let texts: usize = self.data.batches.iter().map(|batch| batch.texts).sum();
        ArmReport {
            name: arm.name(),
            tokenizer: arm.tokenizer,
            kv_store: arm.kv_store,
            role: arm.role(),
            tokens: ArmTokens {
                prompt_tokens: Figure::measured(prompt, Unit::Tokens),
                reply_tokens: Figure::measured(reply, Unit::Tokens),
                tokens_per_text: Figure::measured((prompt + reply) / texts as f64, Unit::TokensPerText),
            },
            kv_cache: self.arm_kv(arm),
            performance: self.arm_performance(arm),
        }
    }

    fn arm_kv(&self, arm: Arm) -> ArmKv {
        let runs = self.runs(arm);
        let peaks = runs.memory.iter().map(|memory| memory.peak).enumerate();
        let (at, peak) = peaks.max_by_key(|(_, peak)| peak.physical).unwrap_or_default();
        let batch = &self.data.batches[at];
        let (physical, used) = (peak.physical as f64, peak.used as f64);
        let text_bytes = (batch.prompt_bytes + batch.reply_bytes) as f64;
        let timeline = runs.memory.first().map_or(&[][..], |memory| &memory.timeline);
        let mean_peak = self.over_batches(|b| self.mean_peak(arm, b));
        let bytes = |value| Figure::measured(value, Unit::Bytes);
        let points = |of: fn(&KvPoint) -> usize| {
            Series::measured(
                timeline.iter().map(|(_, point)| of(point) as f64).collect(),
                Unit::Bytes,
            )
        };
        ArmKv {
            reserved: bytes(runs.reserved as f64),
            physical_at_peak: bytes(physical),
            physical_per_text: bytes(physical / batch.texts as f64),
            physical_per_text_byte: Figure::measured(physical / text_bytes, Unit::BytesPerByte),
            used_at_peak: bytes(used),
            waste_at_peak: bytes(physical - used),
            waste_share: Figure::measured(100.0 * (physical - used) / physical, Unit::Percent),
            estimated_at_peak: Figure::computed(runs.estimated_peak[at] as f64, Unit::Bytes),
            mean_batch_peak: bytes(mean_peak.0).with_interval(mean_peak.1, mean_peak.2),
            vs_normal: self.kv_change(NORMAL, arm),
            timeline: Timeline {
                time: Series::measured(timeline.iter().map(|(t, _)| t * 1e3).collect(), Unit::Milliseconds),
                physical: points(|point| point.physical),
                used: points(|point| point.used),
            },
        }
    }

    fn arm_performance(&self, arm: Arm) -> ArmPerformance {
        let batches = &self.data.batches;
        let texts = |b: usize| batches[b].texts as f64;
        let total_bytes = |b: usize| (batches[b].prompt_bytes + batches[b].reply_bytes) as f64;
        let tokens = &self.runs(arm).batch_tokens;
        let total_tokens = |b: usize| (tokens[b].prompt + tokens[b].reply) as f64;
        let rounds = self
            .runs(arm)
            .rounds
            .iter()
            .map(|round| round.iter().map(|run| run.wall).sum());
        ArmPerformance {
            texts_per_second: self.figure(Unit::TextsPerSecond, |r, b| self.rate(arm, r, b, texts)),
            time_per_text: self.figure(Unit::Milliseconds, |r, b| 1e3 / self.rate(arm, r, b, texts)),
            reply_bytes_per_second: self.figure(Unit::BytesPerSecond, self.bytes_per_second(arm)),
            total_bytes_per_second: self.figure(Unit::BytesPerSecond, |r, b| self.rate(arm, r, b, total_bytes)),
            reply_tokens_per_second: self.figure(Unit::TokensPerSecond, self.tokens_per_second(arm)),
            total_tokens_per_second: self.figure(Unit::TokensPerSecond, |r, b| self.rate(arm, r, b, total_tokens)),
            latency: self.distribution(arm, |run| &run.latency),
            time_to_first_byte: self.distribution(arm, |run| &run.first_byte),
            vs_normal: self.speed_change(NORMAL, arm),
            wall_time_by_round: Series::measured(rounds.collect(), Unit::Seconds),
            latency_by_text: Series::measured(self.by_text(arm, |run| &run.latency), Unit::Milliseconds),
        }
    }

    fn distribution(&self, arm: Arm, of: fn(&BatchTime) -> &[f64]) -> Distribution {
        let by_text = self.by_text(arm, of);
        let at = |q| Figure {
            n: Some(by_text.len()),
            ..Figure::measured(quantile(&by_text, q), Unit::Milliseconds)
        };
        Distribution {
            mean: self.figure(Unit::Milliseconds, self.mean_time(arm, of)),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
        }
    }

    /// A time of each text, median of rounds, in milliseconds.
    fn by_text(&self, arm: Arm, of: fn(&BatchTime) -> &[f64]) -> Vec<f64> {
        let runs = &self.runs(arm).rounds;
        let texts = self
            .data
            .batches
            .iter()
            .enumerate()
            .flat_map(|(b, batch)| (0..batch.texts).map(move |t| (b, t)));
        texts
            .map(|(b, t)| 1e3 * median(&runs.iter().map(|round| of(&round[b])[t]).collect::<Vec<_>>()))
            .collect()
    }
}
