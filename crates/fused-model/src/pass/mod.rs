//! Whole sequences through the model at once: losses, and gradients for training.
//!
//! The forward and backward passes are written out over flat `f32` buffers with fused kernels, because a general
//! autograd spends most of its time on temporaries at this size. Buffers are reused from call to call. One pass is
//! single-threaded; callers run one per thread.

mod layers;

use layers::Layers;

use crate::kernels::attention::{self, Shape};
use crate::kernels::matmul::{Into, Mat, matmul};
use crate::kernels::{cross_entropy, elementwise};
use crate::llama::rope;
use crate::params::{Block, ModelConfig, Params};

/// Rows of logits that exist at one time.
const HEAD_ROWS: usize = 128;

/// A batch of equally long sequences: `ids` and `targets` are `(sequences, tokens)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) targets: &'a [u32],
    pub(crate) tokens: usize,
}

impl<'a> Batch<'a> {
    /// One sequence that is read only: nothing is predicted.
    pub(crate) fn to_read(ids: &'a [u32]) -> Self {
        Self {
            ids,
            targets: &[],
            tokens: ids.len(),
        }
    }
}

/// Dropout of one pass: the same seed and first row give the same masks in both directions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dropout {
    pub(crate) rate: f32,
    pub(crate) seed: u32,
    /// Row of the whole step at which this batch starts, so that shards draw different masks.
    pub(crate) first_row: usize,
}

impl Dropout {
    fn apply(self, values: &mut [f32], site: usize, width: usize) {
        let seed = self.seed ^ (site as u32 + 1).wrapping_mul(0x6c8e_9cf5);
        elementwise::dropout(values, seed, (self.first_row * width) as u32, self.rate);
    }
}

/// Which weights get gradients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trainable {
    pub(crate) blocks: Vec<bool>,
}

/// What one block's backward pass needs of its forward pass.
#[derive(Debug, Default)]
struct BlockState {
    /// The residual stream ahead of it.
    x: Vec<f32>,
    norm1: Vec<f32>,
    stats1: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    lse: Vec<f32>,
    /// The residual stream between attention and MLP.
    middle: Vec<f32>,
    norm2: Vec<f32>,
    stats2: Vec<f32>,
    up: Vec<f32>,
    activated: Vec<f32>,
}

/// The buffers of one pass.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    blocks: Vec<BlockState>,
    /// The residual stream behind the blocks that are done.
    x: Vec<f32>,
    /// Cosines and sines of the positions of a sequence; empty for a model without rotations.
    turns: Vec<f32>,
    norm: Vec<f32>,
    stats: Vec<f32>,
    logits: Vec<f32>,
    losses: Vec<f32>,
    scratch: attention::Scratch,
    // Gradients of the residual stream, of one branch's output and input, of the activated and of a wide layer.
    dx: Vec<f32>,
    dbranch: Vec<f32>,
    dinput: Vec<f32>,
    dactivated: Vec<f32>,
    dwide: Vec<f32>,
}

impl Pass {
    /// Natural-log loss of each target, `(sequences * tokens)`, without gradients or dropout.
    pub(crate) fn losses(&mut self, params: &Params, batch: Batch<'_>) -> &[f32] {
        self.forward(params, batch, Dropout::default(), false);
        self.head(params, batch, None, 0.0);
        &self.losses
    }

    /// Inputs of the output head, `(sequences * tokens, C)`; targets are not read.
    pub(crate) fn hidden(&mut self, params: &Params, batch: Batch<'_>) -> &[f32] {
        self.forward(params, batch, Dropout::default(), false);
        &self.norm
    }

    /// Adds the gradient of `scale * sum of squares` of the distances between inputs of the head and those wanted,
    /// `(row, values)`, to `grads`, and returns the sum.
    pub(crate) fn hidden_gradients(
        &mut self,
        params: &Params,
        batch: Batch<'_>,
        wanted: &[(usize, &[f32])],
        trainable: &Trainable,
        grads: &mut [f32],
        scale: f32,
    ) -> f64 {
        self.forward(params, batch, Dropout::default(), true);
        let width = params.config().width();
        self.dbranch.fill(0.0);
        let mut sum = 0.0;
        for (row, wanted) in wanted {
            let at = row * width..(row + 1) * width;
            for ((d, &have), want) in self.dbranch[at.clone()].iter_mut().zip(&self.norm[at]).zip(*wanted) {
                sum += f64::from(have - want).powi(2);
                *d = 2.0 * scale * (have - want);
            }
        }
        self.backward(params, batch, Dropout::default(), trainable, grads);
        sum
    }

    /// Adds the gradient of `scale * sum of losses` to `grads` and returns the sum of losses.
    pub(crate) fn gradients(
        &mut self,
        params: &Params,
        batch: Batch<'_>,
        dropout: Dropout,
        trainable: &Trainable,
        grads: &mut [f32],
        scale: f32,
    ) -> f64 {
        self.forward(params, batch, dropout, true);
        self.head(params, batch, Some(grads), scale);
        self.backward(params, batch, dropout, trainable, grads);
        self.losses.iter().map(|&loss| f64::from(loss)).sum()
    }

    /// Fills [`norm`](Self::norm); what [`backward`](Self::backward) needs stays only where `keep` says so.
    fn forward(&mut self, params: &Params, batch: Batch<'_>, dropout: Dropout, keep: bool) {
        let (config, layout) = (params.config(), &params.layout);
        let (c, heads, rows) = (config.width(), config.heads(), batch.ids.len());
        let layers = Layers { params, rows };
        self.blocks
            .resize_with(if keep { config.layers() } else { 1 }, BlockState::default);
        self.x.resize(rows * c, 0.0);
        self.dbranch.resize(rows * c, 0.0);
        embed(&mut self.x, params, batch);
        dropout.apply(&mut self.x, 0, c);
        self.turns.clear();
        if let ModelConfig::Llama(config) = config {
            let frequencies = rope::frequencies(config);
            (0..batch.tokens).for_each(|position| rope::angles(&mut self.turns, &frequencies, position));
        }

        let shape = Shape {
            tokens: batch.tokens,
            heads,
        };
        for (layer, part) in layout.blocks.iter().enumerate() {
            let state = &mut self.blocks[if keep { layer } else { 0 }];
            state.resize(rows, params, part);
            std::mem::swap(&mut state.x, &mut self.x);

            layers.norm(&mut state.norm1, &mut state.stats1, &state.x, &part.norm1);
            layers.linear(&mut state.qkv, &state.norm1, &part.qkv);
            for sequence in 0..rows / batch.tokens {
                let at = |width: usize| sequence * batch.tokens * width..(sequence + 1) * batch.tokens * width;
                let (out, lse) = (
                    &mut state.attended[at(heads.query_row())],
                    &mut state.lse[at(heads.query)],
                );
                let qkv = &mut state.qkv[at(heads.fused_row())];
                // Of a GPT-2 there are no turns.
                rope::apply(heads, qkv, &self.turns);
                attention::forward(shape, out, lse, qkv, &mut self.scratch);
            }
            layers.linear(&mut self.dbranch, &state.attended, &part.out);
            dropout.apply(&mut self.dbranch, 2 * layer + 1, c);
            elementwise::add(&mut state.middle, &state.x, &self.dbranch);

            layers.norm(&mut state.norm2, &mut state.stats2, &state.middle, &part.norm2);
            layers.linear(&mut state.up, &state.norm2, &part.up);
            layers.activate(&mut state.activated, &state.up);
            layers.linear(&mut self.dbranch, &state.activated, &part.down);
            dropout.apply(&mut self.dbranch, 2 * layer + 2, c);
            self.x.resize(rows * c, 0.0);
            elementwise::add(&mut self.x, &state.middle, &self.dbranch);
        }
        self.norm.resize(rows * c, 0.0);
        self.stats.resize(rows * 2, 0.0);
        layers.norm(&mut self.norm, &mut self.stats, &self.x, &layout.norm);
    }

    /// Losses block by block, so that the logits of a whole batch never exist; with `grads` also the gradients of the
    /// head and, in `dbranch`, of its input.
    fn head(&mut self, params: &Params, batch: Batch<'_>, mut grads: Option<&mut [f32]>, scale: f32) {
        let (c, vocab) = (params.config().width(), params.config().vocab_size());
        let weight = Mat::new(params.part(&params.layout.head), vocab, c);
        self.losses.resize(batch.ids.len(), 0.0);
        self.logits.resize(HEAD_ROWS.min(batch.ids.len()) * vocab, 0.0);
        for first in (0..batch.ids.len()).step_by(HEAD_ROWS) {
            let rows = HEAD_ROWS.min(batch.ids.len() - first);
            let logits = &mut self.logits[..rows * vocab];
            let norm = Mat::new(&self.norm[first * c..(first + rows) * c], rows, c);
            let (targets, losses) = (
                &batch.targets[first..first + rows],
                &mut self.losses[first..first + rows],
            );
            matmul(logits, vocab, Into::Set, norm, weight.t(), 1.0);
            if let Some(grads) = grads.as_deref_mut() {
                cross_entropy::losses_and_gradient(losses, logits, targets, vocab, scale);
                let dlogits = Mat::new(logits, rows, vocab);
                matmul(
                    &mut grads[params.layout.head.clone()],
                    c,
                    Into::Add,
                    dlogits.t(),
                    norm,
                    1.0,
                );
                matmul(
                    &mut self.dbranch[first * c..(first + rows) * c],
                    c,
                    Into::Set,
                    dlogits,
                    weight,
                    1.0,
                );
            } else {
                cross_entropy::losses(losses, logits, targets, vocab);
            }
        }
    }

    fn backward(
        &mut self,
        params: &Params,
        batch: Batch<'_>,
        dropout: Dropout,
        trainable: &Trainable,
        grads: &mut [f32],
    ) {
        let (config, layout) = (params.config(), &params.layout);
        let (c, heads, rows) = (config.width(), config.heads(), batch.ids.len());
        let (q, fused) = (heads.query_row(), heads.fused_row());
        let layers = Layers { params, rows };
        let shape = Shape {
            tokens: batch.tokens,
            heads,
        };
        let back = rope::back(&self.turns, heads.dim);
        self.dx.clear();
        self.dx.resize(rows * c, 0.0);
        self.dinput.resize(rows * c.max(q), 0.0);
        self.dactivated.resize(rows * config.inner(), 0.0);
        self.dwide.resize(rows * fused.max(layers.up_width()), 0.0);

        let wanted = Some(&mut *grads);
        layers.norm_backward(&mut self.dx, wanted, &self.dbranch, &self.x, &self.stats, &layout.norm);

        for (layer, part) in layout.blocks.iter().enumerate().rev() {
            let state = &self.blocks[layer];
            let mut grads = trainable.blocks[layer].then_some(&mut *grads);

            self.dbranch.copy_from_slice(&self.dx);
            dropout.apply(&mut self.dbranch, 2 * layer + 2, c);
            let wanted = grads.as_deref_mut();
            layers.linear_backward(
                &mut self.dactivated,
                wanted,
                &self.dbranch,
                &state.activated,
                &part.down,
            );
            let dup = &mut self.dwide[..rows * layers.up_width()];
            layers.activate_backward(dup, &self.dactivated, &state.up);
            let dinput = &mut self.dinput[..rows * c];
            layers.linear_backward(dinput, grads.as_deref_mut(), dup, &state.norm2, &part.up);
            let (wanted, stats) = (grads.as_deref_mut(), &state.stats2);
            layers.norm_backward(&mut self.dx, wanted, dinput, &state.middle, stats, &part.norm2);

            self.dbranch.copy_from_slice(&self.dx);
            dropout.apply(&mut self.dbranch, 2 * layer + 1, c);
            let dattended = &mut self.dinput[..rows * q];
            let wanted = grads.as_deref_mut();
            layers.linear_backward(dattended, wanted, &self.dbranch, &state.attended, &part.out);
            let dqkv = &mut self.dwide[..rows * fused];
            for sequence in 0..rows / batch.tokens {
                let at = |width: usize| sequence * batch.tokens * width..(sequence + 1) * batch.tokens * width;
                let dqkv = &mut dqkv[at(fused)];
                attention::backward(
                    shape,
                    dqkv,
                    &dattended[at(q)],
                    &state.attended[at(q)],
                    &state.lse[at(heads.query)],
                    &state.qkv[at(fused)],
                    &mut self.scratch,
                );
                rope::apply(heads, dqkv, &back);
            }
            let dinput = &mut self.dinput[..rows * c];
            layers.linear_backward(dinput, grads.as_deref_mut(), dqkv, &state.norm1, &part.qkv);
            let stats = &state.stats1;
            layers.norm_backward(&mut self.dx, grads, dinput, &state.x, stats, &part.norm1);
        }

        dropout.apply(&mut self.dx, 0, c);
        for (row, (&id, dx)) in batch.ids.iter().zip(self.dx.chunks_exact(c)).enumerate() {
            let token = layout.embedding.start + id as usize * c;
            elementwise::accumulate(&mut grads[token..token + c], dx);
            if !layout.positions.is_empty() {
                let position = layout.positions.start + row % batch.tokens * c;
                elementwise::accumulate(&mut grads[position..position + c], dx);
            }
        }
    }
}

impl BlockState {
    /// Room for everything but `x`, which is swapped in.
    fn resize(&mut self, rows: usize, params: &Params, part: &Block) {
        let config = params.config();
        let (c, inner, heads) = (config.width(), config.inner(), config.heads());
        for (buffer, width) in [
            (&mut self.norm1, c),
            (&mut self.stats1, 2),
            (&mut self.qkv, heads.fused_row()),
            (&mut self.attended, heads.query_row()),
            (&mut self.lse, heads.query),
            (&mut self.middle, c),
            (&mut self.norm2, c),
            (&mut self.stats2, 2),
            (&mut self.up, part.up[0].len() / c),
            (&mut self.activated, inner),
        ] {
            buffer.resize(rows * width, 0.0);
        }
    }
}

/// `out (N, C)`: token row, and position row where the model has such.
fn embed(out: &mut [f32], params: &Params, batch: Batch<'_>) {
    let (c, layout) = (params.config().width(), &params.layout);
    let (tokens, positions) = (params.part(&layout.embedding), params.part(&layout.positions));
    for (row, (&id, out)) in batch.ids.iter().zip(out.chunks_exact_mut(c)).enumerate() {
        out.copy_from_slice(&tokens[id as usize * c..][..c]);
        if !positions.is_empty() {
            elementwise::accumulate(out, &positions[row % batch.tokens * c..][..c]);
        }
    }
}

#[cfg(test)]
mod tests;
