//! What the families do differently: norms, matrices and activations, forward and backward.

use crate::kernels::matmul::{Into, Mat, matmul};
use crate::kernels::{elementwise, gelu, layer_norm, rms_norm, swiglu};
use crate::params::{Affine, ModelConfig, Params};

/// The layers of one model over its flat weights, for so many rows. Gradients go to the same places of a vector as long as
/// the weights'.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layers<'a> {
    pub(super) params: &'a Params,
    pub(super) rows: usize,
}

/// Two different parts of one gradient vector, for a weight and its bias.
fn pair<'a>(grads: &'a mut [f32], [weight, bias]: &Affine) -> (&'a mut [f32], &'a mut [f32]) {
    let (head, tail) = grads.split_at_mut(bias.start);
    (&mut head[weight.clone()], &mut tail[..bias.len()])
}

impl<'a> Layers<'a> {
    /// Outputs of the matrix into the MLP.
    pub(super) fn up_width(self) -> usize {
        let config = self.params.config();
        match config {
            ModelConfig::Gpt2(_) => config.inner(),
            ModelConfig::Llama(_) => 2 * config.inner(),
        }
    }

    /// `out (N, C)` and, of a layer norm, `stats (N, 2)` from `x (N, C)`.
    pub(super) fn norm(self, out: &mut [f32], stats: &mut [f32], x: &[f32], part: &Affine) {
        let [weight, bias] = part.each_ref().map(|range| self.params.part(range));
        let epsilon = self.params.config().epsilon();
        match self.params.config() {
            ModelConfig::Gpt2(_) => layer_norm::forward(out, stats, x, weight, bias, epsilon),
            ModelConfig::Llama(_) => rms_norm::forward(out, x, weight, epsilon),
        }
    }

    /// Adds the gradient of [`norm`](Self::norm) to `dx` and, where given, to `grads`.
    pub(super) fn norm_backward(
        self,
        dx: &mut [f32],
        grads: Option<&mut [f32]>,
        dout: &[f32],
        x: &[f32],
        stats: &[f32],
        part: &Affine,
    ) {
        let weight = self.params.part(&part[0]);
        match self.params.config() {
            ModelConfig::Gpt2(_) => {
                let wanted = grads.map(|grads| pair(grads, part));
                layer_norm::backward(dx, wanted, dout, x, stats, weight);
            }
            ModelConfig::Llama(_) => {
                let wanted = grads.map(|grads| &mut grads[part[0].clone()]);
                rms_norm::backward(dx, wanted, dout, x, weight, self.params.config().epsilon());
            }
        }
    }

    /// `weight (inputs, outputs)` as a view, however the family stores it.
    fn matrix(self, part: &Affine, inputs: usize) -> Mat<'a> {
        let weight = self.params.part(&part[0]);
        let outputs = weight.len() / inputs;
        match self.params.config() {
            ModelConfig::Gpt2(_) => Mat::new(weight, inputs, outputs),
            ModelConfig::Llama(_) => Mat::new(weight, outputs, inputs).t(),
        }
    }

    /// `out (N, outputs) = x (N, inputs) @ weight + bias`.
    pub(super) fn linear(self, out: &mut [f32], x: &[f32], part: &Affine) {
        let (inputs, outputs) = (x.len() / self.rows, out.len() / self.rows);
        let bias = self.params.part(&part[1]);
        let into = if bias.is_empty() { Into::Set } else { Into::Add };
        if into == Into::Add {
            elementwise::fill_rows(out, bias);
        }
        matmul(
            out,
            outputs,
            into,
            Mat::new(x, self.rows, inputs),
            self.matrix(part, inputs),
            1.0,
        );
    }

    /// Gradients of [`linear`](Self::linear): `dx` is overwritten, those of weight and bias are added where wanted.
    pub(super) fn linear_backward(
        self,
        dx: &mut [f32],
        grads: Option<&mut [f32]>,
        dout: &[f32],
        x: &[f32],
        part: &Affine,
    ) {
        let (inputs, outputs) = (x.len() / self.rows, dout.len() / self.rows);
        let (x, dout_rows) = (Mat::new(x, self.rows, inputs), Mat::new(dout, self.rows, outputs));
        if let Some(grads) = grads {
            let dweight = &mut grads[part[0].clone()];
            match self.params.config() {
                ModelConfig::Gpt2(_) => matmul(dweight, outputs, Into::Add, x.t(), dout_rows, 1.0),
                ModelConfig::Llama(_) => matmul(dweight, inputs, Into::Add, dout_rows.t(), x, 1.0),
            }
            if !part[1].is_empty() {
                elementwise::add_column_sums(&mut grads[part[1].clone()], dout);
            }
        }
        matmul(dx, inputs, Into::Set, dout_rows, self.matrix(part, inputs).t(), 1.0);
    }

    /// `out (N, inner)` from `up (N, up_width)`.
    pub(super) fn activate(self, out: &mut [f32], up: &[f32]) {
        match self.params.config() {
            ModelConfig::Gpt2(config) => gelu::forward(config.activation_function, out, up),
            ModelConfig::Llama(config) => {
                let inner = config.intermediate_size;
                for (out, wide) in out.chunks_exact_mut(inner).zip(up.chunks_exact(2 * inner)) {
                    let (gate, up) = wide.split_at(inner);
                    swiglu::forward(out, gate, up);
                }
            }
        }
    }

    /// Gradient of [`activate`](Self::activate): overwrites `dup (N, up_width)` from `dout (N, inner)`.
    pub(super) fn activate_backward(self, dup: &mut [f32], dout: &[f32], up: &[f32]) {
        match self.params.config() {
            ModelConfig::Gpt2(config) => {
                dup.copy_from_slice(dout);
                gelu::backward(config.activation_function, dup, up);
            }
            ModelConfig::Llama(config) => {
                let inner = config.intermediate_size;
                let rows = dup.chunks_exact_mut(2 * inner).zip(up.chunks_exact(2 * inner));
                for ((dwide, wide), dout) in rows.zip(dout.chunks_exact(inner)) {
                    let ((dgate, dup), (gate, up)) = (dwide.split_at_mut(inner), wide.split_at(inner));
                    swiglu::backward(dgate, dup, dout, gate, up);
                }
            }
        }
    }
}
