//! Root-mean-square norm over the last axis (Zhang and Sennrich 2019), forward and backward.

use super::simd::{LANES, reduce2, simd_fn, sum_lanes};

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

    /// Adds the gradient of [`forward`] to `dx (N,C)` and, where given, to `dweight` (C).
    pub(crate) fn backward(
        dx: &mut [f32], dweight: Option<&mut [f32]>, dout: &[f32], x: &[f32], weight: &[f32], epsilon: f32,
    ) {
        let (width, mut dweight) = (weight.len(), dweight);
        for ((dx, dout), x) in dx.chunks_exact_mut(width).zip(dout.chunks_exact(width)).zip(x.chunks_exact(width)) {
            let square = reduce2(x, x, |x, _| x * x) / width as f32;
            let scale = 1.0 / (square + epsilon).sqrt();
            let mut along = [0.0f32; LANES];
            let mut add = |lane: usize, d: f32, w: f32, x: f32| along[lane] += d * w * x;
            let (d16, d_tail) = dout.as_chunks::<LANES>();
            let (w16, w_tail) = weight.as_chunks::<LANES>();
            let (x16, x_tail) = x.as_chunks::<LANES>();
            for ((d, w), x) in d16.iter().zip(w16).zip(x16) {
                for lane in 0..LANES {
                    add(lane, d[lane], w[lane], x[lane]);
                }
            }
            for (lane, ((&d, &w), &x)) in d_tail.iter().zip(w_tail).zip(x_tail).enumerate() {
                add(lane, d, w, x);
            }
            // The part of the gradient along `x`, which changes nothing: the norm takes the length of `x` away.
            let along = sum_lanes(along) / width as f32 * scale * scale;
            for (((dx, &d), &x), &w) in dx.iter_mut().zip(dout).zip(x).zip(weight) {
                *dx += (d * w - x * along) * scale;
            }
            if let Some(dweight) = dweight.as_deref_mut() {
                for ((dw, &d), &x) in dweight.iter_mut().zip(dout).zip(x) {
                    *dw += d * x * scale;
                }
            }
        }
    }
}
