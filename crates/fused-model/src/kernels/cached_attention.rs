//! Causal attention of new tokens over stored rows, for inference.
//!
//! Tokens are outermost, so that stored rows are read in order and each is used for every query and head before the
//! next. The arithmetic of a query is the same in the same order however many queries are handled together and
//! whatever the rows are cut into, so a token's result has the same bits in a prompt of any chunking and in a decode step.

use super::exp::exp;
use super::simd::{LANES, max, reduce2, simd_fn, sum_lanes};
use crate::kv::Rows;

/// Queries handled together.
pub(crate) const QUERIES: usize = 8;

/// Some queries and heads of one sequence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Position in the sequence of the first query.
    pub(crate) position: usize,
    /// Queries, at most [`QUERIES`].
    pub(crate) queries: usize,
    /// Floats from one query to the next.
    pub(crate) query_stride: usize,
    /// Heads worked on.
    pub(crate) heads: usize,
    /// Width of a head.
    pub(crate) head_dim: usize,
    /// Query heads that share one K and V head.
    pub(crate) group: usize,
    /// Floats of a stored row.
    pub(crate) row: usize,
    /// First column in a stored row of the first K and V head.
    pub(crate) column: usize,
}

impl Shape {
    /// Tokens the last query sees.
    fn tokens(self) -> usize {
        self.position + self.queries
    }
}

/// `out (queries, heads * head_dim)`, packed, from `q`, which starts at the first query's first head, and the sequence's rows.
///
/// `scores` is scratch. Costs `queries * heads * tokens * head_dim` products for the scores and as many for the values.
pub(crate) fn attend(shape: Shape, out: &mut [f32], scores: &mut Vec<f32>, q: &[f32], k: Rows<'_>, v: Rows<'_>) {
    let tokens = shape.tokens();
    scores.resize(shape.queries * shape.heads * tokens, 0.0);
    let mut first = 0;
    for run in k.runs() {
        score(shape, scores, first, q, run);
        first += run.len() / shape.row;
    }
    softmax(shape, scores);
    out.fill(0.0);
    let mut first = 0;
    for run in v.runs() {
        values(shape, out, scores, first, run);
        first += run.len() / shape.row;
    }
}

/// Calls `$body::<D>($($arg),*)` with the head width as a constant where it is a usual one, else 0.
macro_rules! by_head_dim {
    ($head_dim:expr, $body:ident($($arg:expr),*)) => {
        match $head_dim {
            32 => $body::<32>($($arg),*),
            64 => $body::<64>($($arg),*),
            80 => $body::<80>($($arg),*),
            96 => $body::<96>($($arg),*),
            128 => $body::<128>($($arg),*),
            _ => $body::<0>($($arg),*),
        }
    };
}

/// Dot product; `D` is the length where it is a multiple of the lanes known when compiling.
#[inline(always)]
fn dot<const D: usize>(a: &[f32], b: &[f32]) -> f32 {
    if D == 0 {
        return reduce2(a, b, |a, b| a * b);
    }
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a[..D].as_chunks::<LANES>().0.iter().zip(b[..D].as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    sum_lanes(lanes)
}

#[inline(always)]
fn score_body<const D: usize>(shape: Shape, scores: &mut [f32], first: usize, q: &[f32], k: &[f32]) {
    let (tokens, d) = (shape.tokens(), shape.head_dim);
    let scale = 1.0 / (d as f32).sqrt();
    for (token, row) in (first..tokens).zip(k.chunks_exact(shape.row)) {
        let row = &row[shape.column..];
        // Queries before this token do not see it.
        for query in token.saturating_sub(shape.position)..shape.queries {
            let q = &q[query * shape.query_stride..];
            for head in 0..shape.heads {
                let (q, k) = (&q[head * d..][..d], &row[head / shape.group * d..][..d]);
                scores[(query * shape.heads + head) * tokens + token] = dot::<D>(q, k) * scale;
            }
        }
    }
}

#[inline(always)]
fn values_body<const D: usize>(shape: Shape, out: &mut [f32], p: &[f32], first: usize, v: &[f32]) {
    let (tokens, d) = (shape.tokens(), shape.head_dim);
    let d = if D == 0 { d } else { D };
    for (token, row) in (first..tokens).zip(v.chunks_exact(shape.row)) {
        let row = &row[shape.column..];
        for query in token.saturating_sub(shape.position)..shape.queries {
            for head in 0..shape.heads {
                let weight = p[(query * shape.heads + head) * tokens + token];
                let out = &mut out[(query * shape.heads + head) * d..][..d];
                let v = &row[head / shape.group * d..][..d];
                out.iter_mut().zip(v).for_each(|(out, &v)| *out += weight * v);
            }
        }
    }
}

simd_fn! {
    /// Scores `(queries, heads, tokens)` of a run of K rows that starts at token `first`.
    fn score(shape: Shape, scores: &mut [f32], first: usize, q: &[f32], k: &[f32]) {
        by_head_dim!(shape.head_dim, score_body(shape, scores, first, q, k))
    }

    /// Softmax of what each query sees, in place.
    fn softmax(shape: Shape, scores: &mut [f32]) {
        let tokens = shape.tokens();
        for (index, row) in scores.chunks_exact_mut(tokens).enumerate() {
            let seen = &mut row[..shape.position + index / shape.heads + 1];
            let top = max(seen);
            seen.iter_mut().for_each(|score| *score = exp(*score - top));
            let scale = 1.0 / reduce2(seen, seen, |p, _| p);
            seen.iter_mut().for_each(|p| *p *= scale);
        }
    }

    /// Adds a run of V rows that starts at token `first`, weighted by `p (queries, heads, tokens)`.
    fn values(shape: Shape, out: &mut [f32], p: &[f32], first: usize, v: &[f32]) {
        by_head_dim!(shape.head_dim, values_body(shape, out, p, first, v))
    }
}
