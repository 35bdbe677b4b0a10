//! Means, quantiles and bootstrap confidence intervals, with a random generator that gives the same
//! numbers on every machine.
//!
//! Intervals are percentile bootstraps (Efron and Tibshirani, *An Introduction to the Bootstrap*,
//! 1993, chapter 13). Where an observation has two sources of variation, the machine's mood in a
//! round and the text of a batch, rounds and batches are resampled independently and crossed (Owen,
//! "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007): every drawn round meets
//! every drawn batch. That interval is on the wide side rather than too narrow.

use schemars::JsonSchema;
use serde::Serialize;

/// Resamples behind every interval.
pub const RESAMPLES: usize = 2_000;
/// Fewest repetitions of a run for which an interval is given: of fewer, resampling sees too little of the machine's moods.
pub const LEAST_ROUNDS: usize = 5;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
/// 2014): eight bytes of state, equidistributed, and good enough to draw indices.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator whose whole sequence follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number in `0..n`; 0 when `n` is 0. The bias of the multiplication is below `n /
    /// 2^64`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// The arithmetic mean; not a number for an empty slice.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The `q` quantile (0 to 1) with linear interpolation between order statistics; not a number for an
/// empty slice.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, q)
}

/// The middle value; not a number for an empty slice.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

fn quantile_of_sorted(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = q.clamp(0.0, 1.0) * last as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

/// A 95% confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[serde(into = "[f64; 2]")]
#[schemars(with = "[f64; 2]")]
pub struct Interval {
    /// The 2.5% end.
    pub low: f64,
    /// The 97.5% end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies inside, ends included.
    pub fn covers(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

impl From<Interval> for [f64; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

/// The 95% interval of `statistic` over `n` independent observations, which it is given as indices
/// drawn with replacement. `None` for fewer than two observations, where nothing can be said, where the statistic is
/// not a number for some of the draws, and where an end of the interval would be infinite.
///
/// Cost: [`RESAMPLES`] calls of `statistic`.
pub fn bootstrap(n: usize, seed: u64, mut statistic: impl FnMut(&[usize]) -> f64) -> Option<Interval> {
    resample([n, 1], seed, |drawn, _| statistic(drawn))
}

/// [`bootstrap`] over repetitions of the same run; `None` for fewer than [`LEAST_ROUNDS`] of them.
pub fn bootstrap_rounds(rounds: usize, seed: u64, statistic: impl FnMut(&[usize]) -> f64) -> Option<Interval> {
    (rounds >= LEAST_ROUNDS)
        .then(|| bootstrap(rounds, seed, statistic))
        .flatten()
}

/// The 95% interval of `statistic` over a complete table of `rounds` × `columns` observations: indices of
/// both are drawn with replacement, independently. `None` for fewer than [`LEAST_ROUNDS`], and where [`bootstrap`] has none.
///
/// Cost: [`RESAMPLES`] calls of `statistic`.
pub fn crossed_bootstrap(
    [rounds, columns]: [usize; 2],
    seed: u64,
    statistic: impl FnMut(&[usize], &[usize]) -> f64,
) -> Option<Interval> {
    (rounds >= LEAST_ROUNDS)
        .then(|| resample([rounds, columns], seed, statistic))
        .flatten()
}

fn resample(
    [rows, columns]: [usize; 2],
    seed: u64,
    mut statistic: impl FnMut(&[usize], &[usize]) -> f64,
) -> Option<Interval> {
    if rows < 2 || columns == 0 {
        return None;
    }
    let mut rng = Rng::new(seed);
    let (mut row_draw, mut column_draw) = (vec![0; rows], vec![0; columns]);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            row_draw.fill_with(|| rng.below(rows));
            column_draw.fill_with(|| rng.below(columns));
            statistic(&row_draw, &column_draw)
        })
        .collect();
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let [low, high] = [0.025, 0.975].map(|q| quantile_of_sorted(&values, q));
    (low.is_finite() && high.is_finite()).then_some(Interval { low, high })
}

/// What an interval of a change allows one to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The whole interval lies on the good side of 0.
    Better,
    /// The whole interval lies on the bad side of 0.
    Worse,
    /// The interval covers 0.
    NoDifferenceShown,
    /// There is no interval.
    NotJudged,
}

/// Which direction of a change is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// More is better, as of throughput.
    Higher,
    /// Less is better, as of memory.
    Lower,
}

impl Verdict {
    /// Judges a change by its interval.
    pub fn of(interval: Option<Interval>, wanted: Wanted) -> Self {
        match interval {
            Some(i) if !i.covers(0.0) => {
                if (i.low > 0.0) == (wanted == Wanted::Higher) {
                    Self::Better
                } else {
                    Self::Worse
                }
            }
            Some(_) => Self::NoDifferenceShown,
            None => Self::NotJudged,
        }
    }

    /// The verdict in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifferenceShown => "no difference shown",
            Self::NotJudged => "not judged",
        }
    }
}

/// The change from `before` to `after` in per cent; `None` for a rise from 0, which has none.
pub fn percent_change(before: f64, after: f64) -> Option<f64> {
    if before != 0.0 {
        Some((after / before - 1.0) * 100.0)
    } else {
        (after == 0.0).then_some(0.0)
    }
}

/// [`percent_change`] as a statistic to resample: a rise from 0 is larger than any other.
pub fn percent_or_infinite(before: f64, after: f64) -> f64 {
    percent_change(before, after).unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_known_values() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(mean(&values), 2.5);
        assert_eq!(median(&values), 2.5);
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 1.0), 4.0);
        assert!((quantile(&values, 0.9) - 3.7).abs() < 1e-12);
        assert!(mean(&[]).is_nan() && median(&[]).is_nan(), "nothing has no mean");
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn the_generator_follows_its_definition_and_stays_in_range() {
        // First outputs for seed 1234567, from the algorithm's published reference sequence.
        let mut rng = Rng::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
        let mut seen = [0_u32; 5];
        for _ in 0..5_000 {
            seen[rng.below(5)] += 1;
        }
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
        let mut items: Vec<_> = (0..50).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn the_interval_of_a_mean_has_the_width_theory_gives() {
        // 100 observations, half 0 and half 1: standard error 0.05, so about 0.5 ± 0.098.
        let data: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let statistic = |drawn: &[usize]| drawn.iter().map(|&i| data[i]).sum::<f64>() / 100.0;
        let interval = bootstrap(100, 1, statistic).expect("100 observations");
        assert!((interval.low - 0.402).abs() < 0.02, "{interval:?}");
        assert!((interval.high - 0.598).abs() < 0.02, "{interval:?}");
        assert_eq!(bootstrap(100, 1, statistic), Some(interval));
        assert_ne!(bootstrap(100, 2, statistic), Some(interval));
    }

    #[test]
    fn no_interval_without_repetition() {
        assert_eq!(bootstrap(1, 1, |_| 1.0), None);
        assert_eq!(bootstrap(0, 1, |_| 1.0), None);
        assert_eq!(crossed_bootstrap([5, 0], 1, |_, _| 1.0), None);
        assert!(crossed_bootstrap([5, 1], 1, |_, _| 1.0).is_some());
        assert_eq!(crossed_bootstrap([4, 100], 1, |_, _| 1.0), None);
        assert_eq!(bootstrap_rounds(4, 1, |_| 1.0), None);
        assert!(bootstrap_rounds(5, 1, |_| 1.0).is_some());
    }

    #[test]
    fn no_interval_without_ends() {
        // One in five observations has nothing to divide by: fewer than one draw in a thousand is all of it.
        let parts = [0.0, 1.0, 1.0, 1.0, 1.0];
        let share = |drawn: &[usize]| {
            let sum: f64 = drawn.iter().map(|&i| parts[i]).sum();
            percent_or_infinite(sum, 5.0)
        };
        let interval = bootstrap(5, 1, share).expect("nearly every draw has a base");
        assert!(interval.high.is_finite());
        let rare = |drawn: &[usize]| percent_or_infinite(drawn.iter().filter(|&&i| i == 0).count() as f64, 1.0);
        assert_eq!(bootstrap(5, 1, rare), None, "a third of the draws has no base");
        assert_eq!(
            bootstrap(5, 1, |drawn| if drawn[0] == 0 { f64::NAN } else { 1.0 }),
            None
        );
    }

    #[test]
    fn crossed_resampling_sees_both_sources_of_variation() {
        // Constant over columns: only drawing rows can move the statistic, and the other way round.
        let width = |by_row: f64, by_column: f64| {
            let interval = crossed_bootstrap([6, 6], 9, |rows, columns| {
                let sum = |drawn: &[usize]| drawn.iter().map(|&i| i as f64).sum::<f64>();
                by_row * sum(rows) + by_column * sum(columns)
            });
            interval.map(|i| i.high - i.low).expect("6 rows")
        };
        assert!(width(1.0, 0.0) > 5.0);
        assert!(width(0.0, 1.0) > 5.0);
        assert!(width(1.0, 1.0) > 1.2 * width(1.0, 0.0));
        assert_eq!(width(0.0, 0.0), 0.0);
    }

    #[test]
    fn verdicts() {
        let of = |low, high, wanted| Verdict::of(Some(Interval { low, high }), wanted);
        assert_eq!(of(1.0, 3.0, Wanted::Higher), Verdict::Better);
        assert_eq!(of(1.0, 3.0, Wanted::Lower), Verdict::Worse);
        assert_eq!(of(-3.0, -1.0, Wanted::Lower), Verdict::Better);
        assert_eq!(of(-3.0, -1.0, Wanted::Higher), Verdict::Worse);
        assert_eq!(of(-1.0, 1.0, Wanted::Higher), Verdict::NoDifferenceShown);
        assert_eq!(of(0.0, 1.0, Wanted::Higher), Verdict::NoDifferenceShown);
        assert_eq!(Verdict::of(None, Wanted::Higher), Verdict::NotJudged);
        assert_eq!(percent_change(50.0, 75.0), Some(50.0));
        assert_eq!(percent_change(0.0, 75.0), None);
        assert_eq!(percent_change(0.0, 0.0), Some(0.0));
    }
}
