//! AdamW (Loshchilov and Hutter 2019) in place over the flat weights.

use super::{Scope, TrainConfig};
use crate::kernels::simd::simd_fn;
use crate::params::Params;
use crate::pass::Trainable;

/// Moment estimates, as long as the weights.
#[derive(Debug)]
pub(super) struct AdamW {
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
    pub(super) steps: i32,
}

/// Factors of one step, the same for every weight.
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
    pub(super) fn new(len: usize) -> Self {
        Self {
            first: vec![0.0; len],
            second: vec![0.0; len],
            steps: 0,
        }
    }

    /// Moves every trained weight once; `clip` scales the gradient.
    pub(super) fn step(
        &mut self,
        params: &mut Params,
        grads: &[f32],
        trainable: &Trainable,
        config: &TrainConfig,
        rate: f32,
        clip: f32,
    ) {
        self.steps += 1;
        let (beta1, beta2) = config.betas;
        let factors = Factors {
            clip,
            beta1,
            beta2,
            rate: rate / (1.0 - beta1.powi(self.steps)),
            second_scale: 1.0 / (1.0 - beta2.powi(self.steps)),
            keep: 1.0,
        };
        for tensor in &params.layout.tensors {
            let block = tensor
                .name
                .strip_prefix("transformer.h.")
                .and_then(|rest| rest.split('.').next()?.parse().ok());
            if config.scope == Scope::Light && block.is_some_and(|block: usize| !trainable.blocks[block]) {
                continue;
            }
            let decay = if tensor.shape.len() == 2 {
                config.weight_decay
            } else {
                0.0
            };
            let range = tensor.range.clone();
            update(
                &mut params.data[range.clone()],
                &grads[range.clone()],
                &mut self.first[range.clone()],
                &mut self.second[range],
                Factors {
                    keep: 1.0 - rate * decay,
                    ..factors
                },
            );
        }
    }
}
