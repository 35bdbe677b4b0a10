//! The Llama family in plain candle operations: short, obviously right, and what the fast path is held to.

use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::{ops, rotary_emb};

use super::{Files, LlamaConfig, Random, Source, rope};
use crate::error::ModelError;
use crate::kv::{KvGeometry, KvStore, Rows};
use crate::model::{Batch, CausalLm, Chunk, Logits, Part, plan};
use crate::reference::{by_head, causal, stored};

#[derive(Debug, Clone)]
struct Linear {
    /// (out, in)
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// `x (N, in)` to `(N, out)`.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = x.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => x.broadcast_add(bias),
            None => Ok(x),
        }
    }
}

#[derive(Debug, Clone)]
struct Block {
    attention_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    mlp_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A Llama-family model in candle's own operations, in `f32` on the CPU.
///
/// Each pass copies keys and values out of the store and allocates every intermediate tensor: use it to check
/// another implementation, not to serve.
#[derive(Debug, Clone)]
pub struct ReferenceLlama {
    config: LlamaConfig,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
    head: Linear,
    frequencies: Vec<f32>,
    logits: Vec<f32>,
}

impl ReferenceLlama {
    /// Loads a Hugging Face directory; see [`Llama::load`](crate::Llama::load).
    ///
    /// # Errors
    /// As [`Llama::load`](crate::Llama::load).
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let config = LlamaConfig::load(dir)?;
        let progress = &mut |_| {};
        let mut files = Files::open(dir, &config, progress)?;
        Self::build(config, &mut files)
    }

    /// The model that [`Llama::random`](crate::Llama::random) makes from the same seed.
    ///
    /// # Errors
    /// [`ModelError::Request`] for a shape that [`load`](Self::load) would refuse, [`ModelError::Tensor`] when a tensor cannot be
    /// made.
    pub fn random(config: LlamaConfig, seed: u64) -> Result<Self, ModelError> {
        config.check().map_err(ModelError::Request)?;
        Self::build(config, &mut Random { seed })
    }

    fn build(config: LlamaConfig, source: &mut dyn Source) -> Result<Self, ModelError> {
        let (c, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let (q, kv) = (config.heads().query_row(), config.heads().kv_row());
        let embedding = linear(source, "model.embed_tokens".into(), [vocab, c], false)?;
        let head = match config.tie_word_embeddings {
            true => embedding.clone(),
            false => linear(source, "lm_head".into(), [vocab, c], false)?,
        };
        let mut blocks = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let (in_attention, in_mlp) = (config.attention_bias, config.mlp_bias);
            blocks.push(Block {
                attention_norm: tensor(source, &name("input_layernorm.weight"), &[c])?,
                q: linear(source, name("self_attn.q_proj"), [q, c], in_attention)?,
                k: linear(source, name("self_attn.k_proj"), [kv, c], in_attention)?,
                v: linear(source, name("self_attn.v_proj"), [kv, c], in_attention)?,
                out: linear(source, name("self_attn.o_proj"), [c, q], in_attention)?,
                mlp_norm: tensor(source, &name("post_attention_layernorm.weight"), &[c])?,
                gate: linear(source, name("mlp.gate_proj"), [inner, c], in_mlp)?,
                up: linear(source, name("mlp.up_proj"), [inner, c], in_mlp)?,
                down: linear(source, name("mlp.down_proj"), [c, inner], in_mlp)?,
            });
        }
        Ok(Self {
            embedding: embedding.weight,
            blocks,
            norm: tensor(source, "model.norm.weight", &[c])?,
            head,
            frequencies: rope::frequencies(&config),
            config,
            logits: Vec::new(),
        })
    }

    fn run(&self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<Vec<f32>, ModelError> {
        let mut parts = Batch::default();
        plan(&mut parts, self, kv, chunks)?;
        let ids: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.ids).copied().collect();
        let rows = ids.len();
        let epsilon = self.config.rms_norm_eps as f32;
        let mut x = self.embedding.embedding(&Tensor::from_vec(ids, rows, &Device::Cpu)?)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            let normed = ops::rms_norm(&x, &block.attention_norm, epsilon)?;
            let attended = parts
                .iter()
                .map(|part| self.attend(kv, layer, part, &normed.narrow(0, part.row, part.rows)?))
                .collect::<Result<Vec<_>, _>>()?;
            x = x.add(&block.out.forward(&Tensor::cat(&attended, 0)?)?)?;
            let normed = ops::rms_norm(&x, &block.mlp_norm, epsilon)?;
            let gated = ops::silu(&block.gate.forward(&normed)?)?.mul(&block.up.forward(&normed)?)?;
            x = x.add(&block.down.forward(&gated)?)?;
        }
        if wanted == Logits::Last {
            let last: Vec<u32> = parts.iter().map(|part| (part.row + part.rows - 1) as u32).collect();
            x = x.index_select(&Tensor::from_vec(last, parts.len(), &Device::Cpu)?, 0)?;
        }
        let x = ops::rms_norm(&x, &self.norm, epsilon)?;
        Ok(self.head.forward(&x)?.flatten_all()?.to_vec1()?)
    }

    /// Stores K and V of one sequence's normed rows `x (N, C)` and attends over all its rows: `(N, heads * head_dim)`.
    fn attend(&self, kv: &mut dyn KvStore, layer: usize, part: &Part, x: &Tensor) -> Result<Tensor, ModelError> {
        let (heads, block) = (self.config.heads(), &self.blocks[layer]);
        let len = part.start + part.rows;
        let (cos, sin) = self.angles(part)?;
        let turn =
            |x: &Tensor, heads: usize| rotary_emb::rope(&by_head(x, heads)?.unsqueeze(0)?, &cos, &sin)?.squeeze(0);
        let q = turn(&block.q.forward(x)?, heads.query)?;
        let k = turn(&block.k.forward(x)?, heads.kv)?.transpose(0, 1)?;
        let v = block.v.forward(x)?;
        let width = heads.kv_row();
        let [k, v]: [Vec<f32>; 2] = [k.flatten_all()?.to_vec1()?, v.flatten_all()?.to_vec1()?];
        kv.write(part.sequence, layer, part.start..len, &mut |row, to_k, to_v| {
            to_k.copy_from_slice(&k[row * width..][..width]);
            to_v.copy_from_slice(&v[row * width..][..width]);
        })?;
        let (k, v) = kv.rows(part.sequence, layer)?;
        // Each K and V head once for every query head that reads it.
        let stored = |rows: Rows<'_>| {
            let (rows, group) = (stored(rows, heads.kv)?, heads.query / heads.kv);
            rows.unsqueeze(1)?
                .broadcast_as((heads.kv, group, len, heads.dim))?
                .reshape((heads.query, len, heads.dim))
        };
        Ok(causal(&q, &stored(k)?, &stored(v)?)?)
    }

    /// Cosines and sines of a part's positions, `(N, head_dim / 2)` each.
    fn angles(&self, part: &Part) -> candle_core::Result<(Tensor, Tensor)> {
        let mut turns = Vec::new();
        for position in part.start..part.start + part.rows {
            rope::angles(&mut turns, &self.frequencies, position);
        }
        let half = self.config.head_dim / 2;
        let turns = Tensor::from_vec(turns, (part.rows, 2 * half), &Device::Cpu)?;
        Ok((
            turns.narrow(1, 0, half)?.contiguous()?,
            turns.narrow(1, half, half)?.contiguous()?,
        ))
    }
}

fn tensor(source: &mut dyn Source, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
    Ok(Tensor::from_slice(&source.read(name, shape)?, shape, &Device::Cpu)?)
}

fn linear(source: &mut dyn Source, name: String, shape: [usize; 2], bias: bool) -> Result<Linear, ModelError> {
    let mut part = |kind: &str, shape: &[usize]| tensor(source, &format!("{name}.{kind}"), shape);
    Ok(Linear {
        weight: part("weight", &shape)?,
        bias: bias.then(|| part("bias", &shape[..1])).transpose()?,
    })
}

impl CausalLm for ReferenceLlama {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn context(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn kv_geometry(&self, max_sequences: usize) -> KvGeometry {
        self.config.kv_geometry(max_sequences)
    }

    fn forward(&mut self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<&[f32], ModelError> {
        self.logits = self.run(kv, chunks, wanted)?;
        Ok(&self.logits)
    }
}
