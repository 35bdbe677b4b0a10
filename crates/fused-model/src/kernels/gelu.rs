//! GELU, forward and backward, in both forms GPT-2 checkpoints use.

use super::exp::{erf, exp, tanh};
use super::simd::simd_fn;
use crate::config::Activation;

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const INV_SQRT_2PI: f32 = 0.398_942_3;

#[inline(always)]
fn tanh_forward(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

#[inline(always)]
fn tanh_slope(x: f32) -> f32 {
    let t = tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x));
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x)
}

#[inline(always)]
fn erf_forward(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn erf_slope(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * INV_SQRT_2PI * exp(-0.5 * x * x)
}

simd_fn! {
    /// `x[i] = gelu(x[i])`.
    pub(crate) fn in_place(activation: Activation, x: &mut [f32]) {
        match activation {
            Activation::GeluTanh => x.iter_mut().for_each(|x| *x = tanh_forward(*x)),
            Activation::GeluErf => x.iter_mut().for_each(|x| *x = erf_forward(*x)),
        }
    }

    /// `out[i] = gelu(x[i])`.
    pub(crate) fn forward(activation: Activation, out: &mut [f32], x: &[f32]) {
        match activation {
            Activation::GeluTanh => out.iter_mut().zip(x).for_each(|(out, &x)| *out = tanh_forward(x)),
            Activation::GeluErf => out.iter_mut().zip(x).for_each(|(out, &x)| *out = erf_forward(x)),
        }
    }

    /// `grad[i] *= gelu'(x[i])`.
    pub(crate) fn backward(activation: Activation, grad: &mut [f32], x: &[f32]) {
        match activation {
            Activation::GeluTanh => grad.iter_mut().zip(x).for_each(|(grad, &x)| *grad *= tanh_slope(x)),
            Activation::GeluErf => grad.iter_mut().zip(x).for_each(|(grad, &x)| *grad *= erf_slope(x)),
        }
    }
}
