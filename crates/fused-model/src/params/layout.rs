//! Where each part of a model lies in the flat vector.

use std::ops::Range;
use std::path::Path;

use super::ModelConfig;
use crate::config::Gpt2Config;
use crate::error::ModelError;
use crate::llama::LlamaConfig;
use crate::weights::WeightFiles;

/// One tensor inside the flat vector.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Hugging Face name, for example `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// Shape, as Hugging Face stores it: GPT-2's `Conv1D` weights are (in, out), a Llama's matrices (out, in).
    pub shape: Vec<usize>,
    /// Elements in the flat vector.
    pub range: Range<usize>,
    /// The block it belongs to, if any.
    pub(crate) block: Option<usize>,
}

/// Weight and bias of a norm or a matrix. The bias is empty where the model has none.
pub(crate) type Affine = [Range<usize>; 2];

/// The parts of one block. Matrices that read the same input are one here: they lie side by side.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// Ahead of attention.
    pub(crate) norm1: Affine,
    /// Queries, keys and values.
    pub(crate) qkv: Affine,
    pub(crate) out: Affine,
    /// Ahead of the MLP.
    pub(crate) norm2: Affine,
    /// Into the MLP: of a Llama the gates, then what they gate.
    pub(crate) up: Affine,
    pub(crate) down: Affine,
}

/// Where each part of a model lies in the flat vector.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) embedding: Range<usize>,
    /// Rows of positions; empty where positions are rotations.
    pub(crate) positions: Range<usize>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Affine,
    /// The output head; equal to the embedding when tied.
    pub(crate) head: Range<usize>,
    pub(crate) tensors: Vec<Tensor>,
    /// What all names inside the blocks begin with, and some files leave out.
    prefix: &'static str,
}

/// Adds tensors one behind the other.
struct Tensors {
    tensors: Vec<Tensor>,
    block: Option<usize>,
}

impl Tensors {
    fn add(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let start = self.tensors.last().map_or(0, |last| last.range.end);
        let range = start..start + shape.iter().product::<usize>();
        self.tensors.push(Tensor {
            name,
            shape: shape.to_vec(),
            range: range.clone(),
            block: self.block,
        });
        range
    }

    /// Matrices `(outputs, inputs)` over the same inputs, then their biases.
    fn matrices<const N: usize>(&mut self, parts: [(String, usize); N], inputs: usize, bias: bool) -> Affine {
        let mut side_by_side = |kind: &str, row: &[usize]| {
            let ranges = parts.each_ref().map(|(name, outputs)| {
                let shape: Vec<usize> = std::iter::once(*outputs).chain(row.iter().copied()).collect();
                self.add(format!("{name}.{kind}"), &shape)
            });
            ranges[0].start..ranges[N - 1].end
        };
        let weight = side_by_side("weight", &[inputs]);
        let bias = match bias {
            true => side_by_side("bias", &[]),
            false => 0..0,
        };
        [weight, bias]
    }
}

impl Layout {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        match config {
            ModelConfig::Gpt2(config) => Self::of_gpt2(config),
            ModelConfig::Llama(config) => Self::of_llama(config),
        }
    }

    fn of_gpt2(config: &Gpt2Config) -> Self {
        let (v, t, c, inner) = (config.vocab_size, config.n_positions, config.n_embd, config.inner());
        let mut tensors = Tensors {
            tensors: Vec::new(),
            block: None,
        };
        let embedding = tensors.add("transformer.wte.weight".into(), &[v, c]);
        let positions = tensors.add("transformer.wpe.weight".into(), &[t, c]);
        let blocks = (0..config.n_layer)
            .map(|layer| {
                tensors.block = Some(layer);
                let mut pair = |part: &str, weight: &[usize]| {
                    let bias = [weight[weight.len() - 1]];
                    [("weight", weight), ("bias", &bias[..])]
                        .map(|(kind, shape)| tensors.add(format!("transformer.h.{layer}.{part}.{kind}"), shape))
                };
                Block {
                    norm1: pair("ln_1", &[c]),
                    qkv: pair("attn.c_attn", &[c, 3 * c]),
                    out: pair("attn.c_proj", &[c, c]),
                    norm2: pair("ln_2", &[c]),
                    up: pair("mlp.c_fc", &[c, inner]),
                    down: pair("mlp.c_proj", &[inner, c]),
                }
            })
            .collect();
        tensors.block = None;
        let norm = ["weight", "bias"].map(|kind| tensors.add(format!("transformer.ln_f.{kind}"), &[c]));
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => tensors.add("lm_head.weight".into(), &[v, c]),
        };
        Self {
            embedding,
            positions,
            blocks,
            norm,
            head,
            tensors: tensors.tensors,
            prefix: "transformer.",
        }
    }

    pub(crate) fn of_llama(config: &LlamaConfig) -> Self {
        let (v, c, inner) = (config.vocab_size, config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.heads().query_row(), config.heads().kv_row());
        let mut tensors = Tensors {
            tensors: Vec::new(),
            block: None,
        };
        let embedding = tensors.add("model.embed_tokens.weight".into(), &[v, c]);
        let blocks = (0..config.num_hidden_layers)
            .map(|layer| {
                tensors.block = Some(layer);
                let name = |part: &str| format!("model.layers.{layer}.{part}");
                let (in_attention, in_mlp) = (config.attention_bias, config.mlp_bias);
                let [query, key, value] = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj")));
                Block {
                    norm1: [tensors.add(name("input_layernorm.weight"), &[c]), 0..0],
                    qkv: tensors.matrices([(query, q), (key, kv), (value, kv)], c, in_attention),
                    out: tensors.matrices([(name("self_attn.o_proj"), c)], q, in_attention),
                    norm2: [tensors.add(name("post_attention_layernorm.weight"), &[c]), 0..0],
                    up: tensors.matrices(
                        [(name("mlp.gate_proj"), inner), (name("mlp.up_proj"), inner)],
                        c,
                        in_mlp,
                    ),
                    down: tensors.matrices([(name("mlp.down_proj"), c)], inner, in_mlp),
                }
            })
            .collect();
        tensors.block = None;
        let norm = [tensors.add("model.norm.weight".into(), &[c]), 0..0];
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => tensors.add("lm_head.weight".into(), &[v, c]),
        };
        Self {
            embedding,
            positions: 0..0,
            blocks,
            norm,
            head,
            tensors: tensors.tensors,
            prefix: "model.",
        }
    }

    /// Number of weights.
    pub(crate) fn len(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.range.end)
    }

    /// Maps the weight files of `dir` and checks that they hold every tensor in its shape.
    ///
    /// # Errors
    /// [`ModelError::Io`] for a file that cannot be mapped, [`ModelError::Weights`] naming what is missing or misshapen.
    pub(crate) fn open(&self, dir: &Path) -> Result<WeightFiles, ModelError> {
        let files = WeightFiles::open(dir, self.prefix)?;
        files.check(self.tensors.iter().map(|tensor| (&*tensor.name, &*tensor.shape)))?;
        Ok(files)
    }
}
