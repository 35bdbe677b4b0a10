//! Root-mean-square norm over the last axis (Zhang and Sennrich 2019).

use super::simd::{reduce2, simd_fn};

simd_fn! {
    /// `x (N,C)` and `weight (C)` give `out (N,C)`.
    pub(crate) fn forward(out: &mut [f32], x: &[f32], weight: &[f32], epsilon: f32) {
        let width = weight.len();
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let square = reduce2(x, x, |x, _| x * x) / width as f32;
            let scale = 1.0 / (square + epsilon).sqrt();
            for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * w;
            }
        }
    }
}
