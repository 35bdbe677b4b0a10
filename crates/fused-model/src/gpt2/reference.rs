//! GPT-2 in plain candle operations: short, obviously right, and what the fast path is held to.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::config::{Activation, Gpt2Config};
use crate::error::ModelError;
use crate::kv::{KvGeometry, KvStore};
use crate::model::{Batch, CausalLm, Chunk, Logits, Part, plan};
use crate::params::Params;
use crate::reference::{by_head, causal, stored};

/// Weight and bias of a linear layer (in, out) or of a layer norm.
#[derive(Debug, Clone)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    /// `x (N, in)` to `(N, out)`.
    fn linear(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }

    fn norm(&self, x: &Tensor, epsilon: f64) -> candle_core::Result<Tensor> {
        candle_nn::ops::layer_norm(x, &self.weight, &self.bias, epsilon as f32)
    }
}

#[derive(Debug, Clone)]
struct Block {
    ln1: Affine,
    qkv: Affine,
    proj: Affine,
    ln2: Affine,
    fc: Affine,
    fc_proj: Affine,
}

/// GPT-2 in candle's own operations, in `f32` on the CPU.
///
/// Each pass copies keys and values out of the store and allocates every intermediate tensor: use it to check
/// another implementation, not to serve.
#[derive(Debug, Clone)]
pub struct ReferenceGpt2 {
    config: Gpt2Config,
    wte: Tensor,
    wpe: Tensor,
    blocks: Vec<Block>,
    ln_f: Affine,
    head: Tensor,
    logits: Vec<f32>,
}

impl ReferenceGpt2 {
    /// Loads a Hugging Face directory; see [`Params::load`].
    ///
    /// # Errors
    /// As [`Params::load`].
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        Self::new(&Params::load(dir)?)
    }

    /// A model from weights already in memory; they are copied.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] for the weights of another family, [`ModelError::Tensor`] when a tensor cannot be made.
    pub fn new(params: &Params) -> Result<Self, ModelError> {
        let config = params.config().gpt2()?.clone();
        let layout = &params.layout;
        let (c, inner) = (config.n_embd, config.inner());
        let tensor = |range: &std::ops::Range<usize>, shape: &[usize]| {
            Tensor::from_slice(params.part(range), shape, &Device::Cpu)
        };
        let affine = |pair: &[std::ops::Range<usize>; 2], shape: &[usize]| {
            let width = shape[shape.len() - 1];
            Ok::<_, candle_core::Error>(Affine {
                weight: tensor(&pair[0], shape)?,
                bias: tensor(&pair[1], &[width])?,
            })
        };
        let blocks = layout
            .blocks
            .iter()
            .map(|block| {
                Ok(Block {
                    ln1: affine(&block.norm1, &[c])?,
                    qkv: affine(&block.qkv, &[c, 3 * c])?,
                    proj: affine(&block.out, &[c, c])?,
                    ln2: affine(&block.norm2, &[c])?,
                    fc: affine(&block.up, &[c, inner])?,
                    fc_proj: affine(&block.down, &[inner, c])?,
                })
            })
            .collect::<Result<_, candle_core::Error>>()?;
        Ok(Self {
            wte: tensor(&layout.embedding, &[config.vocab_size, c])?,
            wpe: tensor(&layout.positions, &[config.n_positions, c])?,
            blocks,
            ln_f: affine(&layout.norm, &[c])?,
            // Of a tied model the head's range is the embedding's.
            head: tensor(&layout.head, &[config.vocab_size, c])?.t()?,
            config,
            logits: Vec::new(),
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    fn run(&self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<Vec<f32>, ModelError> {
        let mut parts = Batch::default();
        plan(&mut parts, self, kv, chunks)?;
        let ids: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.ids).copied().collect();
        let positions: Vec<u32> = parts
            .iter()
            .flat_map(|part| part.start as u32..(part.start + part.rows) as u32)
            .collect();
        let rows = ids.len();
        let ids = Tensor::from_vec(ids, rows, &Device::Cpu)?;
        let positions = Tensor::from_vec(positions, rows, &Device::Cpu)?;
        let epsilon = self.config.layer_norm_epsilon;
        let mut x = self.wte.embedding(&ids)?.add(&self.wpe.embedding(&positions)?)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let qkv = block.qkv.linear(&block.ln1.norm(&x, epsilon)?)?;
            let attended = parts
                .iter()
                .map(|part| self.attend(kv, layer, part, &qkv.narrow(0, part.row, part.rows)?))
                .collect::<Result<Vec<_>, _>>()?;
            x = x.add(&block.proj.linear(&Tensor::cat(&attended, 0)?)?)?;
            let wide = block.fc.linear(&block.ln2.norm(&x, epsilon)?)?;
            let wide = match self.config.activation_function {
                Activation::GeluTanh => wide.gelu()?,
                Activation::GeluErf => wide.gelu_erf()?,
            };
            x = x.add(&block.fc_proj.linear(&wide)?)?;
        }
        if wanted == Logits::Last {
            let last: Vec<u32> = parts.iter().map(|part| (part.row + part.rows - 1) as u32).collect();
            x = x.index_select(&Tensor::from_vec(last, parts.len(), &Device::Cpu)?, 0)?;
        }
        let x = self.ln_f.norm(&x, epsilon)?;
        Ok(x.matmul(&self.head)?.flatten_all()?.to_vec1()?)
    }

    /// Stores K and V of one sequence's `qkv (N, 3C)` and attends over all its rows: `(N, C)`.
    fn attend(&self, kv: &mut dyn KvStore, layer: usize, part: &Part, qkv: &Tensor) -> Result<Tensor, ModelError> {
        let (c, heads) = (self.config.n_embd, self.config.n_head);
        let flat: Vec<f32> = qkv.flatten_all()?.to_vec1()?;
        kv.write(
            part.sequence,
            layer,
            part.start..part.start + part.rows,
            &mut |row, k, v| {
                let row = &flat[row * 3 * c..][..3 * c];
                k.copy_from_slice(&row[c..2 * c]);
                v.copy_from_slice(&row[2 * c..]);
            },
        )?;
        let (k, v) = kv.rows(part.sequence, layer)?;
        let q = by_head(&qkv.narrow(1, 0, c)?.contiguous()?, heads)?;
        Ok(causal(&q, &stored(k, heads)?, &stored(v, heads)?)?)
    }
}

impl CausalLm for ReferenceGpt2 {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.n_positions
    }

    fn kv_geometry(&self, max_sequences: usize) -> KvGeometry {
        self.config.kv_geometry(max_sequences)
    }

    fn forward(&mut self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<&[f32], ModelError> {
        self.logits = self.run(kv, chunks, wanted)?;
        Ok(&self.logits)
    }
}
