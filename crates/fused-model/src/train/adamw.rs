//! AdamW (Loshchilov and Hutter 2019) in place over flat weights.

use std::ops::Range;

use crate::kernels::simd::simd_fn;

/// Moment estimates, as long as the weights.
#[derive(Debug)]
pub(crate) struct AdamW {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    pub(crate) steps: i32,
}

/// What one step does to every weight it moves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) rate: f32,
    pub(crate) betas: (f32, f32),
    /// Scales the gradient.
    pub(crate) clip: f32,
}

/// Factors of one step, the same for every weight of a range.
#[derive(Debug, Clone, Copy)]
struct Factors {
    clip: f32,
    beta1: f32,
    beta2: f32,
    /// rate / (1 - beta1^t)
    rate: f32,
    /// 1 / (1 - beta2^t)
    second_scale: f32,
    /// 1 - rate * decay
    keep: f32,
}

simd_fn! {
    fn update(weights: &mut [f32], grads: &[f32], first: &mut [f32], second: &mut [f32], f: Factors) {
        for (((w, &g), m), v) in weights.iter_mut().zip(grads).zip(first).zip(second) {
            let g = g * f.clip;
            *m = f.beta1 * *m + (1.0 - f.beta1) * g;
            *v = f.beta2 * *v + (1.0 - f.beta2) * g * g;
            *w = *w * f.keep - f.rate * *m / ((*v * f.second_scale).sqrt() + 1e-8);
        }
    }
}

impl AdamW {
    pub(crate) fn new(len: usize) -> Self {
        Self {
            first: vec![0.0; len],
            second: vec![0.0; len],
            steps: 0,
        }
    }

    /// Moves the weights of `ranges` once, each range with its own weight decay.
    pub(crate) fn step(
        &mut self,
        weights: &mut [f32],
        grads: &[f32],
        ranges: impl Iterator<Item = (Range<usize>, f32)>,
        step: Step,
    ) {
        self.steps += 1;
        let (beta1, beta2) = step.betas;
        for (range, decay) in ranges {
            let factors = Factors {
                clip: step.clip,
                beta1,
                beta2,
                rate: step.rate / (1.0 - beta1.powi(self.steps)),
                second_scale: 1.0 / (1.0 - beta2.powi(self.steps)),
                keep: 1.0 - step.rate * decay,
            };
            update(
                &mut weights[range.clone()],
                &grads[range.clone()],
                &mut self.first[range.clone()],
                &mut self.second[range],
                factors,
            );
        }
    }
}
