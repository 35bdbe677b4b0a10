//! What the reference models have in common: attention in candle's own operations.

use candle_core::{D, Device, Result, Tensor};

use crate::kv::Rows;

/// `(N, heads * d)` as `(heads, N, d)`.
pub(crate) fn by_head(x: &Tensor, heads: usize) -> Result<Tensor> {
    let d = x.dim(D::Minus1)? / heads;
    x.reshape(((), heads, d))?.transpose(0, 1)?.contiguous()
}

/// Stored rows as `(heads, N, d)`.
pub(crate) fn stored(rows: Rows<'_>, heads: usize) -> Result<Tensor> {
    let (len, rows) = (rows.len(), rows.to_vec());
    let width = rows.len() / len.max(1);
    by_head(&Tensor::from_vec(rows, (len, width), &Device::Cpu)?, heads)
}

/// Attention of queries `(heads, N, d)`, the last ones of a sequence, over its keys and values `(heads, len, d)`:
/// `(N, heads * d)`.
pub(crate) fn causal(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let ((heads, rows, d), len) = (q.dims3()?, k.dim(1)?);
    let hidden: Vec<f32> = (len - rows..len)
        .flat_map(|at| (0..len).map(move |key| if key > at { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    let hidden = Tensor::from_vec(hidden, (rows, len), &Device::Cpu)?;
    let scores = (q.matmul(&k.t()?)? / (d as f64).sqrt())?.broadcast_add(&hidden)?;
    let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(v)?;
    out.transpose(0, 1)?.reshape((rows, heads * d))
}
