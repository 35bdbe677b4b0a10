//! From a row of logits to the next token.

use std::cmp::Ordering;

use super::request::{Logprobs, Sampling};
use crate::model::argmax;
use crate::rng::Rng;

/// Draws tokens; owns the memory that takes, so that a draw allocates nothing once it has seen the vocabulary.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    penalised: Vec<f32>,
    /// (id, logit) of the tokens that are left.
    left: Vec<(u32, f32)>,
    /// Running sums of the weights of `left`.
    sums: Vec<f64>,
    logprobs: Logprobs,
}

impl Sampler {
    /// The next token of a sequence with tokens `seen` so far. O(V) and one number of `rng`, none for the most likely
    /// token. Values that are not numbers are never drawn unless nothing else is there.
    pub(super) fn pick(&mut self, logits: &[f32], seen: &[u32], sampling: &Sampling, rng: &mut Rng) -> u32 {
        let mut logits = logits;
        if sampling.repetition_penalty != 1.0 {
            self.penalised.clear();
            self.penalised.extend_from_slice(logits);
            for &id in seen {
                // From the model's own value, so that a token that was seen twice is penalised once.
                let logit = logits[id as usize];
                self.penalised[id as usize] = if logit > 0.0 {
                    logit / sampling.repetition_penalty
                } else {
                    logit * sampling.repetition_penalty
                };
            }
            logits = &self.penalised;
        }
        if sampling.temperature == 0.0 {
            return argmax(logits);
        }
        self.left.clear();
        let numbers = logits.iter().enumerate().filter(|(_, logit)| !logit.is_nan());
        self.left.extend(numbers.map(|(id, &logit)| (id as u32, logit)));
        let best = self
            .left
            .iter()
            .map(|&(_, logit)| logit)
            .fold(f32::NEG_INFINITY, f32::max);
        if !best.is_finite() {
            return argmax(logits);
        }
        let weight = |logit: f32| f64::from(((logit - best) / sampling.temperature).exp());
        if sampling.top_k > 0 && sampling.top_k < self.left.len() {
            keep_top(&mut self.left, sampling.top_k);
        }
        if sampling.top_p < 1.0 {
            keep_nucleus(&mut self.left, f64::from(sampling.top_p), weight);
        }
        if sampling.min_p > 0.0 {
            self.left
                .retain(|&(_, logit)| weight(logit) >= f64::from(sampling.min_p));
        }
        self.sums.clear();
        let mut sum = 0.0;
        self.sums.extend(self.left.iter().map(|&(_, logit)| {
            sum += weight(logit);
            sum
        }));
        let draw = rng.unit() * sum;
        let at = self.sums.partition_point(|&sum| sum < draw);
        self.left[at.min(self.left.len() - 1)].0
    }

    /// Log probabilities of the model at this position. O(V).
    pub(super) fn logprobs(&mut self, logits: &[f32], chosen: u32, top: usize) -> &Logprobs {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from((logit - best).exp())).sum();
        let log_sum = f64::from(best) + sum.ln();
        let logprob = |logit: f32| (f64::from(logit) - log_sum) as f32;
        self.left.clear();
        self.left
            .extend(logits.iter().enumerate().map(|(id, &logit)| (id as u32, logit)));
        keep_top(&mut self.left, top.min(logits.len()));
        self.logprobs.chosen = logprob(logits[chosen as usize]);
        self.logprobs.top.clear();
        let alternatives = self.left.iter().map(|&(id, logit)| (id, logprob(logit)));
        self.logprobs.top.extend(alternatives);
        &self.logprobs
    }
}

/// Most likely first, equal ones by id: a total order, so that a draw depends on nothing but the logits.
fn by_logit(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Sorts the `k` most likely to the front and drops the rest. O(n + k log k).
fn keep_top(left: &mut Vec<(u32, f32)>, k: usize) {
    if k < left.len() {
        left.select_nth_unstable_by(k, by_logit);
        left.truncate(k);
    }
    left.sort_unstable_by(by_logit);
}

/// Keeps the fewest most likely tokens whose share of the weight reaches `top_p`, sorted; at least one.
///
/// Sorts only as far as it must: the first 64, then eight times as many, and so on.
fn keep_nucleus(left: &mut Vec<(u32, f32)>, top_p: f64, weight: impl Fn(f32) -> f64) {
    let goal = top_p * left.iter().map(|&(_, logit)| weight(logit)).sum::<f64>();
    let (mut sorted, mut reached) = (0, 0.0);
    let mut next = 64;
    while sorted < left.len() {
        let end = next.min(left.len());
        if end < left.len() {
            left[sorted..].select_nth_unstable_by(end - sorted, by_logit);
        }
        left[sorted..end].sort_unstable_by(by_logit);
        for at in sorted..end {
            reached += weight(left[at].1);
            if reached >= goal {
                left.truncate(at + 1);
                return;
            }
        }
        sorted = end;
        next *= 8;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    /// The same by the definition: probabilities of all ids, in the order of the steps, nothing clever.
    fn reference(logits: &[f32], seen: &[u32], sampling: &Sampling) -> Vec<f64> {
        let mut logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
        let penalty = f64::from(sampling.repetition_penalty);
        for id in seen.iter().copied().collect::<std::collections::BTreeSet<_>>() {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
        }
        let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits
            .iter()
            .map(|logit| ((logit - best) / f64::from(sampling.temperature)).exp())
            .collect();
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        if sampling.top_k > 0 {
            order.truncate(sampling.top_k);
        }
        let total: f64 = order.iter().map(|&id| weights[id]).sum();
        let mut reached = 0.0;
        let nucleus = order.iter().position(|&id| {
            reached += weights[id];
            reached >= f64::from(sampling.top_p) * total
        });
        if let Some(last) = nucleus {
            order.truncate(last + 1);
        }
        order.retain(|&id| weights[id] >= f64::from(sampling.min_p));
        let total: f64 = order.iter().map(|&id| weights[id]).sum();
        let mut probabilities = vec![0.0; weights.len()];
        for id in order {
            probabilities[id] = weights[id] / total;
        }
        probabilities
    }

    fn row(values: &[i8]) -> Vec<f32> {
        // Different for each id, so that rounding decides no tie, and far from each other.
        let place = |(id, &value): (usize, &i8)| f32::from(value) / 16.0 + id as f32 / 1024.0;
        values.iter().enumerate().map(place).collect()
    }

    proptest! {
        #[test]
        fn frequencies_follow_the_definition(
            values in prop::collection::vec(any::<i8>(), 2..24),
            seen in prop::collection::vec(0u32..2, 0..3),
            temperature in prop::sample::select(vec![0.3f32, 1.0, 2.0]),
            top_k in 0usize..6,
            top_p in prop::sample::select(vec![0.05f32, 0.5, 0.9, 1.0]),
            min_p in prop::sample::select(vec![0.0f32, 0.02, 0.3]),
            repetition_penalty in prop::sample::select(vec![1.0f32, 1.3]),
            seed in any::<u64>(),
        ) {
            let logits = row(&values);
            let sampling = Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed: None };
            let want = reference(&logits, &seen, &sampling);
            let (mut sampler, mut rng) = (Sampler::default(), Rng::new(seed));
            let mut counts = vec![0usize; logits.len()];
            let draws = 2_000;
            for _ in 0..draws {
                counts[sampler.pick(&logits, &seen, &sampling, &mut rng) as usize] += 1;
            }
            for (id, (&count, &want)) in counts.iter().zip(&want).enumerate() {
                prop_assert!(count == 0 || want > 0.0, "id {} is filtered out but was drawn", id);
                let deviation = (want * (1.0 - want) * draws as f64).sqrt();
                let off = (count as f64 - want * draws as f64).abs();
                prop_assert!(off <= 6.0 * deviation + 1.0, "id {}: {} of {}, probability {}", id, count, draws, want);
            }
        }

        /// The nucleus of a row larger than the first piece that is sorted.
        #[test]
        fn the_nucleus_is_the_smallest(seed in any::<u64>(), top_p in 0.01f64..1.0) {
            let mut rng = Rng::new(seed);
            let all: Vec<(u32, f32)> = (0..1_500).map(|id| (id, rng.normal())).collect();
            let weight = |logit: f32| f64::from(logit.exp());
            let mut left = all.clone();
            keep_nucleus(&mut left, top_p, weight);
            let mut sorted = all;
            sorted.sort_by(by_logit);
            prop_assert_eq!(&left, &sorted[..left.len()]);
            let total: f64 = sorted.iter().map(|&(_, logit)| weight(logit)).sum();
            let sum = |n: usize| sorted[..n].iter().map(|&(_, logit)| weight(logit)).sum::<f64>() / total;
            prop_assert!(sum(left.len()) >= top_p - 1e-9);
            prop_assert!(sum(left.len() - 1) < top_p + 1e-9);
        }
    }

    #[test]
    fn greedy_takes_the_best_after_the_penalty() {
        let (mut sampler, mut rng) = (Sampler::default(), Rng::new(1));
        let logits = [1.0, 3.0, 2.5, -1.0];
        assert_eq!(sampler.pick(&logits, &[1], &Sampling::GREEDY, &mut rng), 1);
        let penalised = Sampling {
            repetition_penalty: 1.5,
            ..Sampling::GREEDY
        };
        assert_eq!(sampler.pick(&logits, &[1, 1], &penalised, &mut rng), 2);
    }

    #[test]
    fn values_that_are_not_numbers_are_not_drawn() {
        let (mut sampler, mut rng) = (Sampler::default(), Rng::new(1));
        let hot = Sampling {
            temperature: 1.0,
            ..Sampling::GREEDY
        };
        for _ in 0..50 {
            assert_eq!(
                sampler.pick(&[f32::NAN, f32::NEG_INFINITY, 0.0], &[], &hot, &mut rng),
                2
            );
        }
        assert_eq!(sampler.pick(&[f32::NAN; 3], &[], &hot, &mut rng), 0);
    }

    #[test]
    fn log_probabilities_are_of_the_model() {
        let mut sampler = Sampler::default();
        let probabilities = [0.5f32, 0.2, 0.3];
        let logits = probabilities.map(|p| p.ln() + 7.0);
        let got = sampler.logprobs(&logits, 1, 2);
        assert!((got.chosen - 0.2f32.ln()).abs() < 1e-6);
        assert_eq!(got.top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), [0, 2]);
        assert!((got.top[1].1 - 0.3f32.ln()).abs() < 1e-6);
        assert!(sampler.logprobs(&logits, 1, 0).top.is_empty());
    }
}
