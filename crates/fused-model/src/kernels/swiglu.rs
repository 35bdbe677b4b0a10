//! SwiGLU (Shazeer 2020): one half of a layer's outputs gates the other. Forward and backward.

use super::exp::exp;
use super::simd::simd_fn;

simd_fn! {
    /// `out[i] = silu(gate[i]) * up[i]`.
    pub(crate) fn forward(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }

    /// Gradient of [`forward`]: overwrites `dgate` and `dup`.
    pub(crate) fn backward(dgate: &mut [f32], dup: &mut [f32], dout: &[f32], gate: &[f32], up: &[f32]) {
        for ((((dgate, dup), &d), &gate), &up) in dgate.iter_mut().zip(dup).zip(dout).zip(gate).zip(up) {
            let sigmoid = 1.0 / (1.0 + exp(-gate));
            *dup = d * gate * sigmoid;
            *dgate = d * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
        }
    }
}
