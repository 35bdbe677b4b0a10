//! Layer norm over the last axis, forward and backward.

use super::simd::{reduce2, simd_fn};

simd_fn! {
    /// `x (N,C)`, `weight (C)`, `bias (C)` give `out (N,C)`; `stats (N,2)` keeps the mean and the
    /// reciprocal standard deviation of each row for the backward pass.
    pub(crate) fn forward(out: &mut [f32], stats: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
        let width = weight.len();
        for ((out, x), stat) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(stats.chunks_exact_mut(2)) {
            let mean = reduce2(x, x, |x, _| x) / width as f32;
            let variance = reduce2(x, x, |x, _| (x - mean) * (x - mean)) / width as f32;
            let scale = 1.0 / (variance + epsilon).sqrt();
            stat[0] = mean;
            stat[1] = scale;
            for (((out, &x), &w), &b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                *out = (x - mean) * scale * w + b;
            }
        }
    }

    /// Adds the gradient of [`forward`] to `dx (N,C)` and, where given, to `dweight` and `dbias` (C).
    pub(crate) fn backward(
        dx: &mut [f32], params: Option<(&mut [f32], &mut [f32])>, dout: &[f32], x: &[f32], stats: &[f32], weight: &[f32],
    ) {
        let width = weight.len();
        for (((dx, dout), x), stat) in
            dx.chunks_exact_mut(width).zip(dout.chunks_exact(width)).zip(x.chunks_exact(width)).zip(stats.chunks_exact(2))
        {
            let (mean, scale) = (stat[0], stat[1]);
            let mut dnorm_sum = [0.0f32; 16];
            let mut dnorm_norm_sum = [0.0f32; 16];
            let mut add = |lane: usize, d: f32, w: f32, x: f32| {
                let dnorm = d * w;
                dnorm_sum[lane] += dnorm;
                dnorm_norm_sum[lane] += dnorm * ((x - mean) * scale);
            };
            let (d16, d_tail) = dout.as_chunks::<16>();
            let (w16, w_tail) = weight.as_chunks::<16>();
            let (x16, x_tail) = x.as_chunks::<16>();
            for ((d, w), x) in d16.iter().zip(w16).zip(x16) {
                for lane in 0..16 {
                    add(lane, d[lane], w[lane], x[lane]);
                }
            }
            for (lane, ((&d, &w), &x)) in d_tail.iter().zip(w_tail).zip(x_tail).enumerate() {
                add(lane, d, w, x);
            }
            let a = dnorm_sum.iter().sum::<f32>() / width as f32;
            let b = dnorm_norm_sum.iter().sum::<f32>() / width as f32;
            for (((dx, &d), &x), &w) in dx.iter_mut().zip(dout).zip(x).zip(weight) {
                let norm = (x - mean) * scale;
                *dx += (d * w - a - norm * b) * scale;
            }
        }
        if let Some((dweight, dbias)) = params {
            for ((dout, x), stat) in dout.chunks_exact(width).zip(x.chunks_exact(width)).zip(stats.chunks_exact(2)) {
                for (((dw, db), &d), &x) in dweight.iter_mut().zip(dbias.iter_mut()).zip(dout).zip(x) {
                    *dw += d * ((x - stat[0]) * stat[1]);
                    *db += d;
                }
            }
        }
    }
}
