//! Causal self-attention over whole sequences, forward and backward, in blocks of query rows.
//!
//! Scores are never kept: the forward pass stores one log-sum-exp per row and the backward pass makes the
//! probabilities again from it (FlashAttention, Dao et al. 2022, section 3.1, without the key blocking,
//! since a row of scores fits the cache here).

use super::exp::exp;
use super::matmul::{Into, Mat, matmul};
use super::simd::{LANES, max, reduce2, simd_fn};
use crate::attention::Heads;

/// Query rows handled at once.
const BLOCK: usize = 128;

/// Shape of one sequence: `tokens` T and its heads; `qkv` rows are `[q | k | v]`, `fused_row` wide.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) tokens: usize,
    pub(crate) heads: Heads,
}

/// First columns of one head's queries, keys and values in a fused row.
#[derive(Debug, Clone, Copy)]
struct Columns {
    q: usize,
    k: usize,
    v: usize,
}

impl Shape {
    /// Query heads share the keys and values of their group.
    fn columns(self, head: usize) -> Columns {
        let heads = self.heads;
        let shared = head / (heads.query / heads.kv) * heads.dim;
        Columns {
            q: head * heads.dim,
            k: heads.query_row() + shared,
            v: heads.query_row() + heads.kv_row() + shared,
        }
    }

    fn part<'a>(self, qkv: &'a [f32], column: usize, rows: std::ops::Range<usize>) -> Mat<'a> {
        let stride = self.heads.fused_row();
        Mat::strided(&qkv[rows.start * stride + column..], rows.len(), self.heads.dim, stride)
    }

    fn scale(self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }
}

simd_fn! {
    /// Row `i` of `scores` (rows `stride` wide) sees keys `0..=first+i`: softmax in place, zeros behind,
    /// log-sum-exp to `lse[i]`.
    fn causal_softmax(scores: &mut [f32], stride: usize, first: usize, lse: &mut [f32]) {
        for (i, (row, lse)) in scores.chunks_exact_mut(stride).zip(lse).enumerate() {
            let (seen, hidden) = row.split_at_mut(first + i + 1);
            let top = max(seen);
            for score in seen.iter_mut() {
                *score = exp(*score - top);
            }
            let sum = reduce2(seen, seen, |p, _| p);
            *lse = top + sum.ln();
            let scale = 1.0 / sum;
            seen.iter_mut().for_each(|p| *p *= scale);
            hidden.fill(0.0);
        }
    }

    /// Scores to probabilities from the stored log-sum-exp; hidden keys get zero.
    fn causal_probabilities(scores: &mut [f32], stride: usize, first: usize, lse: &[f32]) {
        for (i, (row, &lse)) in scores.chunks_exact_mut(stride).zip(lse).enumerate() {
            let (seen, hidden) = row.split_at_mut(first + i + 1);
            seen.iter_mut().for_each(|score| *score = exp(*score - lse));
            hidden.fill(0.0);
        }
    }

    /// `dscores = p * (dp - delta)`, in place of `dp`; `delta[i]` is the dot product of output and its gradient.
    fn softmax_backward(dp: &mut [f32], p: &[f32], stride: usize, delta: &[f32]) {
        for ((dp, p), &delta) in dp.chunks_exact_mut(stride).zip(p.chunks_exact(stride)).zip(delta) {
            dp.iter_mut().zip(p).for_each(|(dp, &p)| *dp = p * (*dp - delta));
        }
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        reduce2(a, b, |a, b| a * b)
    }
}

/// Scratch of both passes, reused over heads and layers.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    p: Vec<f32>,
    dp: Vec<f32>,
}

/// One head, one block of query rows at positions `first..`: `out` rows are `stride` apart, `p` is scratch for
/// `(rows, keys)` scores, where `keys` reaches to the last row's own position.
#[allow(clippy::too_many_arguments)] // three matrices, their result, and where they meet
fn attend(
    out: &mut [f32],
    stride: usize,
    lse: &mut [f32],
    q: Mat<'_>,
    k: Mat<'_>,
    v: Mat<'_>,
    first: usize,
    p: &mut [f32],
) {
    let keys = k.rows();
    let p = &mut p[..q.rows() * keys];
    matmul(p, keys, Into::Set, q, k.t(), 1.0 / (q.cols() as f32).sqrt());
    causal_softmax(p, keys, first, lse);
    matmul(out, stride, Into::Set, Mat::new(p, q.rows(), keys), v, 1.0);
}

/// `qkv (T, fused_row)` gives `out (T, query_row)` and `lse (H, T)`.
pub(crate) fn forward(shape: Shape, out: &mut [f32], lse: &mut [f32], qkv: &[f32], scratch: &mut Scratch) {
    let Shape { tokens, heads } = shape;
    scratch.p.resize(BLOCK.min(tokens) * tokens, 0.0);
    for head in 0..heads.query {
        let columns = shape.columns(head);
        for first in (0..tokens).step_by(BLOCK) {
            let end = tokens.min(first + BLOCK);
            let lse = &mut lse[head * tokens + first..head * tokens + end];
            let out = &mut out[first * heads.query_row() + head * heads.dim..];
            let part = |column, rows| shape.part(qkv, column, rows);
            attend(
                out,
                heads.query_row(),
                lse,
                part(columns.q, first..end),
                part(columns.k, 0..end),
                part(columns.v, 0..end),
                first,
                &mut scratch.p,
            );
        }
    }
}

/// Gradient of [`forward`]: overwrites `dqkv (T, fused_row)` from `dout (T, query_row)`.
pub(crate) fn backward(
    shape: Shape,
    dqkv: &mut [f32],
    dout: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &[f32],
    scratch: &mut Scratch,
) {
    let Shape { tokens, heads } = shape;
    let (width, stride) = (heads.query_row(), heads.fused_row());
    scratch.p.resize(BLOCK.min(tokens) * tokens, 0.0);
    scratch.dp.resize(BLOCK.min(tokens) * tokens, 0.0);
    dqkv.fill(0.0);
    let mut delta = [0.0f32; BLOCK];
    for head in 0..heads.query {
        let columns = shape.columns(head);
        for first in (0..tokens).step_by(BLOCK) {
            let end = tokens.min(first + BLOCK);
            let rows = end - first;
            let (p, dp) = (&mut scratch.p[..rows * end], &mut scratch.dp[..rows * end]);
            for (i, delta) in delta[..rows].iter_mut().enumerate() {
                let at = (first + i) * width + columns.q;
                *delta = dot(&out[at..at + heads.dim], &dout[at..at + heads.dim]);
            }
            let q = shape.part(qkv, columns.q, first..end);
            let k = shape.part(qkv, columns.k, 0..end);
            let v = shape.part(qkv, columns.v, 0..end);
            let dout = Mat::strided(&dout[first * width + columns.q..], rows, heads.dim, width);
            matmul(p, end, Into::Set, q, k.t(), shape.scale());
            causal_probabilities(p, end, first, &lse[head * tokens + first..head * tokens + end]);
            matmul(dp, end, Into::Set, dout, v.t(), 1.0);
            let dv = &mut dqkv[columns.v..];
            matmul(dv, stride, Into::Add, Mat::new(p, rows, end).t(), dout, 1.0);
            softmax_backward(dp, p, end, &delta[..rows]);
            let ds = Mat::new(dp, rows, end);
            let dq = &mut dqkv[first * stride + columns.q..];
            matmul(dq, stride, Into::Set, ds, k, shape.scale());
            matmul(&mut dqkv[columns.k..], stride, Into::Add, ds.t(), q, shape.scale());
        }
    }
}

const _: () = assert!(BLOCK.is_multiple_of(LANES));
