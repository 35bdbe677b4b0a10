//! Attention of a whole pass: new keys and values go into the store, queries read the store's rows in place.
//!
//! Rows of the fused projection hold `heads` queries, then `kv_heads` keys, then as many values, `head_dim` floats each.
#![allow(unsafe_code)] // threads write disjoint parts of one output

use crate::kernels::cached_attention::{self, QUERIES};
use crate::kv::{KvError, KvStore};
use crate::model::Part;
use crate::threads::{Parts, Pool};

/// Heads of one layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// Heads of queries, a multiple of `kv`.
    pub(crate) query: usize,
    /// Heads of keys and of values.
    pub(crate) kv: usize,
    /// Width of a head.
    pub(crate) dim: usize,
}

impl Heads {
    /// Floats of a row of K, and of V.
    pub(crate) fn kv_row(self) -> usize {
        self.kv * self.dim
    }

    /// Floats of the queries of a token, and of what attention gives for it.
    pub(crate) fn query_row(self) -> usize {
        self.query * self.dim
    }

    /// Floats of a row of the fused projection.
    pub(crate) fn fused_row(self) -> usize {
        self.query_row() + 2 * self.kv_row()
    }
}

/// Scores, widened rows and output of one task, for each thread; reused over calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<[Vec<f32>; 3]>);

/// Writes the keys and values of `qkv (N, fused_row)` into a layer of the store.
pub(crate) fn store(
    kv: &mut dyn KvStore,
    layer: usize,
    parts: &[Part],
    qkv: &[f32],
    heads: Heads,
) -> Result<(), KvError> {
    let (fused, start, width) = (heads.fused_row(), heads.query_row(), heads.kv_row());
    for part in parts {
        let rows = &qkv[part.row * fused..];
        kv.write(
            part.sequence,
            layer,
            part.start..part.start + part.rows,
            &mut |row, k, v| {
                let row = &rows[row * fused + start..][..2 * width];
                k.copy_from_slice(&row[..width]);
                v.copy_from_slice(&row[width..]);
            },
        )?;
    }
    Ok(())
}

/// Attention of the queries of `qkv (N, fused_row)` over their sequences' stored rows: `out (N, query_row)`.
///
/// A task is a few queries of one sequence; where there are fewer than threads, heads are split too.
#[allow(clippy::too_many_arguments)] // one call: threads, buffers, shape, and where the rows are
pub(crate) fn attend(
    pool: &Pool,
    scratch: &mut Scratch,
    heads: Heads,
    kv: &dyn KvStore,
    layer: usize,
    parts: &[Part],
    qkv: &[f32],
    out: &mut [f32],
) -> Result<(), KvError> {
    let (fused, width, d) = (heads.fused_row(), heads.query_row(), heads.dim);
    let group = heads.query / heads.kv;
    scratch.0.resize_with(pool.threads(), Default::default);
    let blocks = parts.iter().map(|part| part.rows.div_ceil(QUERIES)).sum::<usize>();
    let shares = if blocks < 2 * pool.threads() {
        pool.threads().min(heads.kv)
    } else {
        1
    };
    for part in parts {
        kv.rows(part.sequence, layer)?; // so that the tasks below cannot fail
    }
    let (buffers, out) = (Parts::new(&mut scratch.0), Parts::new(out));
    pool.for_each(blocks * shares, &|thread, task| {
        let (mut block, share) = (task / shares, task % shares);
        let Some(part) = parts.iter().find(|part| {
            let mine = part.rows.div_ceil(QUERIES);
            let here = block < mine;
            block -= if here { 0 } else { mine };
            here
        }) else {
            return;
        };
        let Ok((k, v)) = kv.rows(part.sequence, layer) else {
            return;
        };
        let kv_heads = heads.kv * share / shares..heads.kv * (share + 1) / shares;
        let first = block * QUERIES;
        let shape = cached_attention::Shape {
            position: part.start + first,
            queries: QUERIES.min(part.rows - first),
            query_stride: fused,
            heads: kv_heads.len() * group,
            head_dim: d,
            group,
            row: heads.kv_row(),
            column: kv_heads.start * d,
        };
        // SAFETY: each thread has a number of its own.
        let [[scores, wide, result]] = (unsafe { buffers.part(thread..thread + 1) }) else {
            return;
        };
        let (column, share_width) = (kv_heads.start * group * d, shape.heads * d);
        result.resize(shape.queries * share_width, 0.0);
        let row = part.row + first;
        cached_attention::attend(shape, result, [scores, wide], &qkv[row * fused + column..], k, v);
        for (query, result) in result.chunks_exact(share_width).enumerate() {
            let start = (row + query) * width + column;
            // SAFETY: tasks differ in their queries or in their heads.
            unsafe { out.part(start..start + share_width) }.copy_from_slice(result);
        }
    });
    Ok(())
}
