//! Whole sequences through the model at once: losses, and gradients for training.
//!
//! The forward and backward passes are written out over flat `f32` buffers with fused kernels, because a general
//! autograd spends most of its time on temporaries at this size. Buffers are reused from call to call. One pass is
//! single-threaded; callers run one per thread.

use std::ops::Range;

use crate::config::Gpt2Config;
use crate::kernels::attention::{self, Shape};
use crate::kernels::matmul::{Into, Mat, matmul};
use crate::kernels::{cross_entropy, elementwise, gelu, layer_norm};
use crate::params::{Layout, Params};

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

#[derive(Debug, Default)]
struct BlockState {
    norm1: Vec<f32>,
    stats1: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    lse: Vec<f32>,
    middle: Vec<f32>,
    norm2: Vec<f32>,
    stats2: Vec<f32>,
    fc: Vec<f32>,
    activated: Vec<f32>,
    out: Vec<f32>,
}

/// The buffers of one pass.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    embedded: Vec<f32>,
    blocks: Vec<BlockState>,
    norm: Vec<f32>,
    stats: Vec<f32>,
    logits: Vec<f32>,
    losses: Vec<f32>,
    scratch: attention::Scratch,
    // Gradients of the residual stream, of one branch's output and input, of a wide layer.
    dx: Vec<f32>,
    dbranch: Vec<f32>,
    dinput: Vec<f32>,
    dwide: Vec<f32>,
}

/// `out (N, out) = x (N, in) @ weight (in, out) + bias`.
fn linear(out: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32]) {
    let (width, inner) = (bias.len(), weight.len() / bias.len());
    elementwise::fill_rows(out, bias);
    let rows = out.len() / width;
    matmul(
        out,
        width,
        Into::Add,
        Mat::new(x, rows, inner),
        Mat::new(weight, inner, width),
        1.0,
    );
}

/// Gradients of [`linear`]: `dx` is overwritten, weight and bias gradients are added where wanted.
fn linear_backward(
    dx: &mut [f32],
    grads: Option<(&mut [f32], &[Range<usize>; 2])>,
    dout: &[f32],
    x: &[f32],
    weight: &[f32],
    width: usize,
) {
    let (rows, inner) = (dout.len() / width, weight.len() / width);
    if let Some((grads, [weight_range, bias_range])) = grads {
        let dweight = &mut grads[weight_range.clone()];
        matmul(
            dweight,
            width,
            Into::Add,
            Mat::new(x, rows, inner).t(),
            Mat::new(dout, rows, width),
            1.0,
        );
        elementwise::add_column_sums(&mut grads[bias_range.clone()], dout);
    }
    matmul(
        dx,
        inner,
        Into::Set,
        Mat::new(dout, rows, width),
        Mat::new(weight, inner, width).t(),
        1.0,
    );
}

/// Two different parts of one gradient vector, for a weight and its bias.
fn pair<'a>(grads: &'a mut [f32], [weight, bias]: &[Range<usize>; 2]) -> (&'a mut [f32], &'a mut [f32]) {
    let (head, tail) = grads.split_at_mut(bias.start);
    (&mut head[weight.clone()], &mut tail[..bias.len()])
}

impl Pass {
    /// Natural-log loss of each target, `(sequences * tokens)`, without gradients or dropout.
    pub(crate) fn losses(&mut self, params: &Params, batch: Batch<'_>) -> &[f32] {
        self.forward(params, batch, Dropout::default());
        self.head(params, batch, None, 0.0);
        &self.losses
    }

    /// Inputs of the output head, `(sequences * tokens, C)`; targets are not read.
    pub(crate) fn hidden(&mut self, params: &Params, batch: Batch<'_>) -> &[f32] {
        self.forward(params, batch, Dropout::default());
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
        self.forward(params, batch, Dropout::default());
        let width = params.config().n_embd;
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
        self.forward(params, batch, dropout);
        self.head(params, batch, Some(grads), scale);
        self.backward(params, batch, dropout, trainable, grads);
        self.losses.iter().map(|&loss| f64::from(loss)).sum()
    }

    fn forward(&mut self, params: &Params, batch: Batch<'_>, dropout: Dropout) {
        let config = params.config();
        let (c, inner, rows) = (config.n_embd, config.inner(), batch.ids.len());
        let epsilon = config.layer_norm_epsilon as f32;
        self.blocks.resize_with(config.n_layer, BlockState::default);
        self.embedded.resize(rows * c, 0.0);
        self.dbranch.resize(rows * c, 0.0);
        embed(&mut self.embedded, params, batch);
        dropout.apply(&mut self.embedded, 0, c);

        let shape = attention_shape(config, batch);
        for layer in 0..config.n_layer {
            let (before, from_here) = self.blocks.split_at_mut(layer);
            let x = before.last().map_or(&self.embedded, |block| &block.out);
            let (state, part) = (&mut from_here[0], &params.layout.blocks[layer]);
            let weights = |range| params.part(range);
            state.resize(rows, c, inner, config.n_head);

            layer_norm::forward(
                &mut state.norm1,
                &mut state.stats1,
                x,
                weights(&part.ln1[0]),
                weights(&part.ln1[1]),
                epsilon,
            );
            linear(
                &mut state.qkv,
                &state.norm1,
                weights(&part.qkv[0]),
                weights(&part.qkv[1]),
            );
            for sequence in 0..rows / batch.tokens {
                let at = |width: usize| sequence * batch.tokens * width..(sequence + 1) * batch.tokens * width;
                let (out, lse) = (&mut state.attended[at(c)], &mut state.lse[at(config.n_head)]);
                attention::forward(shape, out, lse, &state.qkv[at(3 * c)], &mut self.scratch);
            }
            linear(
                &mut self.dbranch,
                &state.attended,
                weights(&part.proj[0]),
                weights(&part.proj[1]),
            );
            dropout.apply(&mut self.dbranch, 2 * layer + 1, c);
            elementwise::add(&mut state.middle, x, &self.dbranch);

            layer_norm::forward(
                &mut state.norm2,
                &mut state.stats2,
                &state.middle,
                weights(&part.ln2[0]),
                weights(&part.ln2[1]),
                epsilon,
            );
            linear(&mut state.fc, &state.norm2, weights(&part.fc[0]), weights(&part.fc[1]));
            gelu::forward(config.activation_function, &mut state.activated, &state.fc);
            linear(
                &mut self.dbranch,
                &state.activated,
                weights(&part.fc_proj[0]),
                weights(&part.fc_proj[1]),
            );
            dropout.apply(&mut self.dbranch, 2 * layer + 2, c);
            elementwise::add(&mut state.out, &state.middle, &self.dbranch);
        }
        self.norm.resize(rows * c, 0.0);
        self.stats.resize(rows * 2, 0.0);
        let [weight, bias] = &params.layout.ln_f;
        let x = self.blocks.last().map_or(&self.embedded, |block| &block.out);
        layer_norm::forward(
            &mut self.norm,
            &mut self.stats,
            x,
            params.part(weight),
            params.part(bias),
            epsilon,
        );
    }

    /// Losses block by block, so that the logits of a whole batch never exist; with `grads` also the gradients of the
    /// head and, in `dbranch`, of its input.
    fn head(&mut self, params: &Params, batch: Batch<'_>, mut grads: Option<&mut [f32]>, scale: f32) {
        let (c, vocab) = (params.config().n_embd, params.config().vocab_size);
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
        let config = params.config();
        let layout: &Layout = &params.layout;
        let (c, inner, rows) = (config.n_embd, config.inner(), batch.ids.len());
        let shape = attention_shape(config, batch);
        self.dx.clear();
        self.dx.resize(rows * c, 0.0);
        self.dinput.resize(rows * c, 0.0);
        self.dwide.resize(rows * inner.max(3 * c), 0.0);

        let x = self.blocks.last().map_or(&self.embedded, |block| &block.out);
        let weight = params.part(&layout.ln_f[0]);
        let wanted = Some(pair(grads, &layout.ln_f));
        layer_norm::backward(&mut self.dx, wanted, &self.dbranch, x, &self.stats, weight);

        for layer in (0..config.n_layer).rev() {
            let x = if layer == 0 {
                &self.embedded
            } else {
                &self.blocks[layer - 1].out
            };
            let (state, part) = (&self.blocks[layer], &layout.blocks[layer]);
            let train = trainable.blocks[layer];

            self.dbranch.copy_from_slice(&self.dx);
            dropout.apply(&mut self.dbranch, 2 * layer + 2, c);
            let dfc = &mut self.dwide[..rows * inner];
            let wanted = train.then_some((&mut *grads, &part.fc_proj));
            linear_backward(
                dfc,
                wanted,
                &self.dbranch,
                &state.activated,
                params.part(&part.fc_proj[0]),
                c,
            );
            gelu::backward(config.activation_function, dfc, &state.fc);
            let wanted = train.then_some((&mut *grads, &part.fc));
            linear_backward(
                &mut self.dinput,
                wanted,
                dfc,
                &state.norm2,
                params.part(&part.fc[0]),
                inner,
            );
            let wanted = train.then(|| pair(grads, &part.ln2));
            let weight = params.part(&part.ln2[0]);
            layer_norm::backward(&mut self.dx, wanted, &self.dinput, &state.middle, &state.stats2, weight);

            self.dbranch.copy_from_slice(&self.dx);
            dropout.apply(&mut self.dbranch, 2 * layer + 1, c);
            let wanted = train.then_some((&mut *grads, &part.proj));
            let weight = params.part(&part.proj[0]);
            linear_backward(&mut self.dinput, wanted, &self.dbranch, &state.attended, weight, c);
            let dqkv = &mut self.dwide[..rows * 3 * c];
            for sequence in 0..rows / batch.tokens {
                let at = |width: usize| sequence * batch.tokens * width..(sequence + 1) * batch.tokens * width;
                attention::backward(
                    shape,
                    &mut dqkv[at(3 * c)],
                    &self.dinput[at(c)],
                    &state.attended[at(c)],
                    &state.lse[at(config.n_head)],
                    &state.qkv[at(3 * c)],
                    &mut self.scratch,
                );
            }
            let wanted = train.then_some((&mut *grads, &part.qkv));
            linear_backward(
                &mut self.dinput,
                wanted,
                dqkv,
                &state.norm1,
                params.part(&part.qkv[0]),
                3 * c,
            );
            let wanted = train.then(|| pair(grads, &part.ln1));
            let weight = params.part(&part.ln1[0]);
            layer_norm::backward(&mut self.dx, wanted, &self.dinput, x, &state.stats1, weight);
        }

        dropout.apply(&mut self.dx, 0, c);
        for (row, (&id, dx)) in batch.ids.iter().zip(self.dx.chunks_exact(c)).enumerate() {
            let token = layout.wte.start + id as usize * c;
            elementwise::accumulate(&mut grads[token..token + c], dx);
            let position = layout.wpe.start + row % batch.tokens * c;
            elementwise::accumulate(&mut grads[position..position + c], dx);
        }
    }
}

impl BlockState {
    fn resize(&mut self, rows: usize, c: usize, inner: usize, heads: usize) {
        for (buffer, width) in [
            (&mut self.norm1, c),
            (&mut self.stats1, 2),
            (&mut self.qkv, 3 * c),
            (&mut self.attended, c),
            (&mut self.lse, heads),
            (&mut self.middle, c),
            (&mut self.norm2, c),
            (&mut self.stats2, 2),
            (&mut self.fc, inner),
            (&mut self.activated, inner),
            (&mut self.out, c),
        ] {
            buffer.resize(rows * width, 0.0);
        }
    }
}

fn attention_shape(config: &Gpt2Config, batch: Batch<'_>) -> Shape {
    Shape {
        tokens: batch.tokens,
        heads: config.n_head,
        head_dim: config.head_dim(),
    }
}

/// `out (N, C)`: token row plus position row.
fn embed(out: &mut [f32], params: &Params, batch: Batch<'_>) {
    let c = params.config().n_embd;
    let (wte, wpe) = (params.part(&params.layout.wte), params.part(&params.layout.wpe));
    for (row, (&id, out)) in batch.ids.iter().zip(out.chunks_exact_mut(c)).enumerate() {
        let (token, position) = (id as usize * c, row % batch.tokens * c);
        elementwise::add(out, &wte[token..token + c], &wpe[position..position + c]);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Loss and gradients of transformers on PyTorch, in the fixture.
    #[test]
    fn loss_and_gradients_agree_with_transformers() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2-tiny");
        let params = Params::load(&dir).unwrap();
        let golden = std::fs::read(dir.join("golden.safetensors")).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
        let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let text: serde_json::Value = serde_json::from_str(&text).unwrap();
        let ids: Vec<u32> = golden
            .tensor("train.ids")
            .unwrap()
            .data()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes) as u32)
            .collect();
        let (inputs, targets): (Vec<u32>, Vec<u32>) = ids
            .chunks(16)
            .flat_map(|row| row.windows(2).map(|pair| (pair[0], pair[1])))
            .unzip();
        let batch = Batch {
            ids: &inputs,
            targets: &targets,
            tokens: 15,
        };
        let trainable = Trainable { blocks: vec![true; 2] };
        let mut grads = vec![0.0; params.len()];
        let mut pass = Pass::default();
        let sum = pass.gradients(&params, batch, Dropout::default(), &trainable, &mut grads, 1.0 / 30.0);
        let want = text["train"]["loss"].as_f64().unwrap();
        assert!((sum / 30.0 - want).abs() < 1e-4, "loss {} wants {want}", sum / 30.0);

        let losses: f64 = pass.losses(&params, batch).iter().map(|&loss| f64::from(loss)).sum();
        assert!(
            (losses - sum).abs() < 1e-3,
            "scoring and training disagree: {losses} and {sum}"
        );

        for tensor in params.tensors() {
            let got = elementwise::sum_of_squares(&grads[tensor.range.clone()]).sqrt();
            let want = text["train"]["grad_l2"][&tensor.name].as_f64().unwrap();
            assert!(
                (got - want).abs() < 1e-3 * want + 1e-6,
                "{}: norm {got} wants {want}",
                tensor.name
            );
            if let Ok(view) = golden.tensor(&format!("train.grad.{}", tensor.name)) {
                for (i, bytes) in view.data().as_chunks::<4>().0.iter().enumerate() {
                    let (got, want) = (grads[tensor.range.start + i], f32::from_le_bytes(*bytes));
                    assert!((got - want).abs() < 2e-4, "{}[{i}]: {got} wants {want}", tensor.name);
                }
            }
        }
    }
}
