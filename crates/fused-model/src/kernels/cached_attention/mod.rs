//! Causal attention of new tokens over stored rows, for inference.
//!
//! Stored rows are read in order, sixteen tokens at a time, and each is used for every query and head before the next. The
//! arithmetic of a query is the same in the same order however many queries are handled together and whatever the rows
//! are cut into: **a token's result has the same bits in a prompt of any chunking and in a decode step.** That order:
//!
//! * a score is sixteen chains of products along the head, lane by lane, added by halves;
//! * an output is one chain of products along the tokens.
//!
//! Rows in half precision are widened as they are read, exactly: they give the bits that their values in `f32` give. A block
//! of them that is used more than once is widened once.
//!
//! Scores of sixteen tokens come out of one tree of additions as one vector; outputs of a few queries stay in registers
//! while some tokens pass. Heads of 16, 32, 64, 80, 96 and 128 floats are worked on in vectors, heads of any other width in
//! plain loops.
#![allow(unsafe_code)] // vectors and pointers into slices whose sizes are checked in `attend`

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::float32x4_t;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m256;
use std::ops::Range;

use half::f16;

use super::exp::exp;
use super::simd::{Level, each, max, reduce2, simd_fn, sum_lanes};
#[cfg(target_arch = "aarch64")]
use super::vector::Neon;
#[cfg(target_arch = "x86_64")]
use super::vector::{Avx2, Avx512};
use super::vector::{Element, Float, LANES, Plain};
use crate::kv::{Rows, RowsOf};

/// Queries handled together.
pub(crate) const QUERIES: usize = 16;
/// Stored rows handled together.
const TOKENS: usize = LANES;

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

    /// Where a head's columns start in a stored row.
    fn stored(self, head: usize) -> usize {
        self.column + head / self.group * self.head_dim
    }

    /// Where the scores of a query and a head start.
    fn scores(self, query: usize, head: usize) -> usize {
        (query * self.heads + head) * self.tokens()
    }
}

/// `out (queries, heads * head_dim)`, packed, from `q`, which starts at the first query's first head, and the sequence's rows.
///
/// `scores` and `wide` are scratch. Costs `queries * heads * tokens * head_dim` products for the scores and as many for the values.
pub(crate) fn attend(
    shape: Shape,
    out: &mut [f32],
    [scores, wide]: [&mut Vec<f32>; 2],
    q: &[f32],
    k: Rows<'_>,
    v: Rows<'_>,
) {
    let (tokens, width) = (shape.tokens(), shape.heads * shape.head_dim);
    if shape.queries == 0 || shape.heads == 0 {
        return;
    }
    assert!(
        (shape.queries - 1) * shape.query_stride + width <= q.len() && out.len() == shape.queries * width,
        "queries of an attention"
    );
    assert!(
        shape.stored(shape.heads - 1) + shape.head_dim <= shape.row && tokens <= k.len().min(v.len()),
        "stored rows of an attention"
    );
    scores.resize(shape.queries * shape.heads * tokens, 0.0);
    for_each_block(shape, k, wide, &mut Score { scores, q });
    softmax(shape, scores);
    out.fill(0.0);
    for_each_block(shape, v, wide, &mut Weigh { out, p: scores });
}

/// What is done with each block of stored rows.
trait Visit {
    /// `shape` says where a row's heads are in `rows`, whose first one is token `first`'s.
    fn block<T: Element>(&mut self, shape: Shape, first: usize, rows: &[T]);
}

struct Score<'a> {
    scores: &'a mut [f32],
    q: &'a [f32],
}

impl Visit for Score<'_> {
    fn block<T: Element>(&mut self, shape: Shape, first: usize, k: &[T]) {
        let (scores, q) = (&mut *self.scores, self.q);
        run(
            shape.head_dim,
            Scores {
                shape,
                scores,
                first,
                q,
                k,
            },
        );
    }
}

struct Weigh<'a> {
    out: &'a mut [f32],
    p: &'a [f32],
}

impl Visit for Weigh<'_> {
    fn block<T: Element>(&mut self, shape: Shape, first: usize, v: &[T]) {
        let (out, p) = (&mut *self.out, self.p);
        run(
            shape.head_dim,
            Values {
                shape,
                out,
                p,
                first,
                v,
            },
        );
    }
}

/// Visits the stored rows that a query sees, at most [`TOKENS`] at a time.
fn for_each_block(shape: Shape, rows: Rows<'_>, wide: &mut Vec<f32>, visitor: &mut impl Visit) {
    match rows {
        Rows::F32(rows) => blocks(shape, rows, |first, rows| visitor.block(shape, first, rows)),
        Rows::F16(rows) if shape.queries * shape.group == 1 => {
            blocks(shape, rows, |first, rows| visitor.block(shape, first, rows));
        }
        Rows::F16(rows) => blocks(shape, rows, |first, rows| {
            let used = shape.column..shape.stored(shape.heads - 1) + shape.head_dim;
            wide.resize(rows.len() / shape.row * used.len(), 0.0);
            for (row, wide) in rows.chunks_exact(shape.row).zip(wide.chunks_exact_mut(used.len())) {
                let halves = &row[used.clone()];
                run(shape.head_dim, Widen { wide, halves });
            }
            let shape = Shape {
                row: used.len(),
                column: 0,
                ..shape
            };
            visitor.block(shape, first, wide);
        }),
    }
}

fn blocks<T>(shape: Shape, rows: RowsOf<'_, T>, mut visit: impl FnMut(usize, &[T])) {
    let mut first = 0;
    for block in rows.runs().flat_map(|run| run.chunks(TOKENS * shape.row)) {
        let count = (block.len() / shape.row).min(shape.tokens() - first);
        visit(first, &block[..count * shape.row]);
        first += count;
        if first == shape.tokens() {
            return;
        }
    }
}

/// Work on a block, for heads of `16 * N` floats, or of any width where `N` is 0.
trait Step {
    /// # Safety
    /// Inlined into a function that enables `V`'s instruction set, on a processor that has it.
    unsafe fn run<V: Float, const N: usize>(self);
}

/// Runs a step for its width; one that is not here takes plain loops.
macro_rules! by_width {
    ($vector:ty, $head_dim:expr, $step:expr) => {
        match $head_dim {
            16 => $step.run::<$vector, 1>(),
            32 => $step.run::<$vector, 2>(),
            64 => $step.run::<$vector, 4>(),
            80 => $step.run::<$vector, 5>(),
            96 => $step.run::<$vector, 6>(),
            128 => $step.run::<$vector, 8>(),
            _ => $step.run::<$vector, 0>(),
        }
    };
}
/// Runs a step by the widest instruction set there is.
fn run(head_dim: usize, step: impl Step) {
    match Level::get() {
        // SAFETY: the processor has the instruction set.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni => unsafe { avx512(head_dim, step) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(head_dim, step) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => unsafe { neon(head_dim, step) },
        // SAFETY: every processor has the baseline.
        Level::Baseline => unsafe { by_width!(Plain<f32>, head_dim, step) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512(head_dim: usize, step: impl Step) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { by_width!(Avx512, head_dim, step) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2(head_dim: usize, step: impl Step) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { by_width!(Avx2<__m256>, head_dim, step) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(head_dim: usize, step: impl Step) {
    // SAFETY: the caller's promise; this function enables the instruction set.
    unsafe { by_width!(Neon<float32x4_t>, head_dim, step) }
}

/// Halves as `f32`.
struct Widen<'a> {
    wide: &'a mut [f32],
    halves: &'a [f16],
}

impl Step for Widen<'_> {
    #[inline(always)]
    unsafe fn run<V: Float, const N: usize>(self) {
        let (wide, wide_rest) = self.wide.as_chunks_mut::<LANES>();
        let (halves, rest) = self.halves.as_chunks::<LANES>();
        for (wide, halves) in wide.iter_mut().zip(halves) {
            // SAFETY: the caller's promise; both are sixteen long.
            unsafe { f16::load::<V>(halves.as_ptr()).store(wide.as_mut_ptr()) }
        }
        for (wide, half) in wide_rest.iter_mut().zip(rest) {
            *wide = half.widen();
        }
    }
}

/// Scores `(queries, heads, tokens)` of a block of K rows that starts at token `first`.
struct Scores<'a, T> {
    shape: Shape,
    scores: &'a mut [f32],
    first: usize,
    q: &'a [f32],
    k: &'a [T],
}

impl<T: Element> Step for Scores<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Float, const N: usize>(self) {
        let Self {
            shape,
            scores,
            first,
            q,
            k,
        } = self;
        let (d, count) = (shape.head_dim, k.len() / shape.row);
        let scale = 1.0 / (d as f32).sqrt();
        for head in 0..shape.heads {
            let k = &k[shape.stored(head)..];
            // Queries before the block do not see it.
            for query in first.saturating_sub(shape.position)..shape.queries {
                let q = &q[query * shape.query_stride + head * d..][..d];
                let scores = &mut scores[shape.scores(query, head) + first..][..count];
                if N > 0 && count == TOKENS {
                    assert!((TOKENS - 1) * shape.row + N * LANES <= k.len() && q.len() == N * LANES);
                    // SAFETY: the caller's promise; the rows, the query and sixteen scores are there.
                    unsafe { dots::<V, T, N>(scores.as_mut_ptr(), q.as_ptr(), k.as_ptr(), shape.row, scale) }
                    continue;
                }
                for (score, k) in scores.iter_mut().zip(k.chunks(shape.row)) {
                    // SAFETY: the caller's promise.
                    *score = unsafe { dot::<V, T, N>(q, &k[..d]) } * scale;
                }
            }
        }
    }
}

/// The scores of sixteen rows, `row` floats apart.
///
/// # Safety
/// As [`Step::run`]; the pointers are good for sixteen scores, a query, and a head of sixteen rows.
#[inline(always)]
unsafe fn dots<V: Float, T: Element, const N: usize>(
    scores: *mut f32,
    q: *const f32,
    k: *const T,
    row: usize,
    scale: f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut query = [V::zero(); N];
        each!(i < N, query[i] = V::load(q.add(i * LANES)));
        let mut sums = [V::zero(); TOKENS];
        each!(t < TOKENS, sums[t] = products(&query, k.add(t * row)));
        V::sums(sums).mul(V::splat(scale)).store(scores);
    }
}

/// One score without its scale: the same arithmetic as in [`dots`].
///
/// # Safety
/// As [`Step::run`].
#[inline(always)]
unsafe fn dot<V: Float, T: Element, const N: usize>(q: &[f32], k: &[T]) -> f32 {
    if N == 0 {
        return reduce2(q, k, |q, k| q * k.widen());
    }
    assert!(q.len() == N * LANES && k.len() == N * LANES);
    let mut lanes = [0.0; LANES];
    // SAFETY: the caller's promise; the slices are a head wide.
    unsafe {
        let mut query = [V::zero(); N];
        each!(i < N, query[i] = V::load(q.as_ptr().add(i * LANES)));
        products(&query, k.as_ptr()).store(lanes.as_mut_ptr());
    }
    sum_lanes(lanes)
}

/// The products of a query with a row's head, added lane by lane.
///
/// # Safety
/// As [`Step::run`]; the pointer is good for a head.
#[inline(always)]
unsafe fn products<V: Float, T: Element, const N: usize>(query: &[V; N], k: *const T) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = V::zero();
        each!(i < N, sum = sum.add_product(query[i], T::load(k.add(i * LANES))));
        sum
    }
}

/// Adds a block of V rows that starts at token `first`, weighted by `p (queries, heads, tokens)`.
struct Values<'a, T> {
    shape: Shape,
    out: &'a mut [f32],
    p: &'a [f32],
    first: usize,
    v: &'a [T],
}

/// Queries whose outputs stay in registers together where there are enough registers.
const TOGETHER: usize = 4;

impl<T: Element> Step for Values<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Float, const N: usize>(mut self) {
        let (shape, first, count) = (self.shape, self.first, self.v.len() / self.shape.row);
        let together = if TOGETHER * N + N < V::REGISTERS { TOGETHER } else { 1 };
        for head in 0..shape.heads {
            let mut query = first.saturating_sub(shape.position);
            while query < shape.queries {
                // Tokens of the block that a query sees.
                let seen = |query: usize| (shape.position + query + 1 - first).min(count);
                let (all, height) = (seen(query), together.min(shape.queries - query));
                // SAFETY: the caller's promise; a query sees a token more than the one before it.
                unsafe {
                    if N > 0 && height == TOGETHER {
                        self.add::<V, N, TOGETHER>(query, head, 0..all);
                        for query in query + 1..query + TOGETHER {
                            self.add::<V, N, 1>(query, head, all..seen(query));
                        }
                    } else {
                        for query in query..query + height {
                            self.add::<V, N, 1>(query, head, 0..seen(query));
                        }
                    }
                }
                query += height;
            }
        }
    }
}

impl<T: Element> Values<'_, T> {
    /// Adds some tokens of the block to the outputs of `M` queries.
    ///
    /// # Safety
    /// As [`Step::run`].
    #[inline(always)]
    unsafe fn add<V: Float, const N: usize, const M: usize>(
        &mut self,
        query: usize,
        head: usize,
        tokens: Range<usize>,
    ) {
        let Self {
            shape,
            out,
            p,
            first,
            v,
        } = self;
        let (d, stride) = (shape.head_dim, shape.heads * shape.head_dim);
        let p = &p[shape.scores(query, head) + *first..];
        let out = &mut out[query * stride + head * d..];
        let v = &v[shape.stored(head)..];
        if N == 0 {
            for (v, &p) in v.chunks(shape.row).zip(&p[..tokens.end]).skip(tokens.start) {
                out[..d]
                    .iter_mut()
                    .zip(&v[..d])
                    .for_each(|(out, &v)| *out += p * v.widen());
            }
            return;
        }
        if tokens.is_empty() {
            return;
        }
        let next = shape.heads * shape.tokens();
        assert!((M - 1) * stride + N * LANES <= out.len() && (M - 1) * next + tokens.end <= p.len());
        assert!((tokens.end - 1) * shape.row + N * LANES <= v.len());
        // SAFETY: the caller's promise; the outputs, the weights and the rows are there.
        unsafe {
            let (out, p, v) = (out.as_mut_ptr(), p.as_ptr(), v.as_ptr());
            let mut sums = [[V::zero(); N]; M];
            each!(
                r < M,
                each!(i < N, sums[r][i] = V::load(out.add(r * stride + i * LANES)))
            );
            for token in tokens {
                let mut row = [V::zero(); N];
                each!(i < N, row[i] = T::load(v.add(token * shape.row + i * LANES)));
                each!(r < M, {
                    let weight = V::splat(*p.add(r * next + token));
                    each!(i < N, sums[r][i] = sums[r][i].add_product(weight, row[i]));
                });
            }
            each!(r < M, each!(i < N, sums[r][i].store(out.add(r * stride + i * LANES))));
        }
    }
}

simd_fn! {
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
}

#[cfg(test)]
mod tests;
