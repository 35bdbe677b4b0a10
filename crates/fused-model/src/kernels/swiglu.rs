//! SwiGLU (Shazeer 2020): one half of a layer's outputs gates the other.

use super::exp::exp;
use super::simd::simd_fn;

simd_fn! {
    /// `out[i] = silu(gate[i]) * up[i]`.
    pub(crate) fn forward(out: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}
