//! Softmax cross-entropy over rows of logits, with the gradient in place.

use super::exp::exp;
use super::simd::{max, reduce2, simd_fn};

simd_fn! {
    /// Per row of `logits (N,V)`: `losses[i] = -ln softmax(logits[i])[targets[i]]`, in nats.
    pub(crate) fn losses(losses: &mut [f32], logits: &[f32], targets: &[u32], vocab: usize) {
        for ((row, &target), loss) in logits.chunks_exact(vocab).zip(targets).zip(losses) {
            let top = max(row);
            let sum = reduce2(row, row, |x, _| exp(x - top));
            *loss = top + sum.ln() - row[target as usize];
        }
    }

    /// As [`losses`], and turns each row into `scale * (softmax - onehot(target))`.
    pub(crate) fn losses_and_gradient(losses: &mut [f32], logits: &mut [f32], targets: &[u32], vocab: usize, scale: f32) {
        for ((row, &target), loss) in logits.chunks_exact_mut(vocab).zip(targets).zip(losses) {
            let top = max(row);
            let at_target = row[target as usize];
            for x in row.iter_mut() {
                *x = exp(*x - top);
            }
            let sum = reduce2(row, row, |x, _| x);
            *loss = top + sum.ln() - at_target;
            let factor = scale / sum;
            row.iter_mut().for_each(|x| *x *= factor);
            row[target as usize] -= scale;
        }
    }
}
