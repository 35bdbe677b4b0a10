//! GPT-2 on candle: new tokens of many sequences in one pass, keys and values in a [`KvStore`].

use std::borrow::Cow;
use std::path::Path;
use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use crate::config::{Activation, Gpt2Config};
use crate::error::ModelError;
use crate::kernels::{attention, gelu};
use crate::kv::{KvError, KvGeometry, KvId, KvStore, Rows};
use crate::params::Params;
use crate::train::check_ids;

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

/// New tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// The sequence in the store.
    pub sequence: KvId,
    /// Its next tokens; not empty.
    pub ids: &'a [u32],
}

/// Which positions logits are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// The last token of each chunk: `(chunks, V)`.
    Last,
    /// Every token: `(all tokens, V)`.
    All,
}

/// A GPT-2 model ready to run on the CPU.
#[derive(Debug, Clone)]
pub struct Gpt2 {
    config: Gpt2Config,
    wte: Tensor,
    wpe: Tensor,
    blocks: Vec<Block>,
    ln_f: Affine,
    head: Tensor,
}

impl Gpt2 {
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
    /// [`ModelError::Tensor`] when a tensor cannot be made.
    pub fn new(params: &Params) -> Result<Self, ModelError> {
        let config = params.config().clone();
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
                    ln1: affine(&block.ln1, &[c])?,
                    qkv: affine(&block.qkv, &[c, 3 * c])?,
                    proj: affine(&block.proj, &[c, c])?,
                    ln2: affine(&block.ln2, &[c])?,
                    fc: affine(&block.fc, &[c, inner])?,
                    fc_proj: affine(&block.fc_proj, &[inner, c])?,
                })
            })
            .collect::<Result<_, candle_core::Error>>()?;
        let wte = tensor(&layout.wte, &[config.vocab_size, c])?;
        let head = if config.tie_word_embeddings {
            wte.clone()
        } else {
            tensor(&layout.head, &[config.vocab_size, c])?
        };
        Ok(Self {
            wpe: tensor(&layout.wpe, &[config.n_positions, c])?,
            blocks,
            ln_f: affine(&layout.ln_f, &[c])?,
            head: head.t()?,
            wte,
            config,
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Shape of a KV store for up to `max_sequences` sequences of the model's full context.
    pub fn kv_geometry(&self, max_sequences: usize) -> KvGeometry {
        KvGeometry {
            layers: self.config.n_layer,
            row_floats: self.config.n_embd,
            max_tokens: self.config.n_positions,
            max_sequences,
        }
    }

    /// Runs the chunks through the model, appending their rows to `kv`, and returns logits in `f32`.
    ///
    /// The store is grown first, for all chunks or none: after a [`ModelError::Kv`] no sequence has changed.
    ///
    /// # Errors
    /// [`ModelError::Request`] for an empty chunk, an id outside the vocabulary or a sequence longer than the context;
    /// [`ModelError::Kv`] when the store refuses; [`ModelError::Mismatch`] when it has another shape.
    pub fn forward(&self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<Tensor, ModelError> {
        let shape = *kv.geometry();
        if shape.layers != self.config.n_layer || shape.row_floats != self.config.n_embd {
            return Err(ModelError::Mismatch(format!(
                "the KV store has {} layers of {} floats a row; the model needs {} of {}",
                shape.layers, shape.row_floats, self.config.n_layer, self.config.n_embd
            )));
        }
        let mut parts = Vec::with_capacity(chunks.len());
        let mut row = 0;
        for chunk in chunks {
            let start = kv.len(chunk.sequence)?;
            let len = start + chunk.ids.len();
            if chunk.ids.is_empty() {
                return Err(ModelError::Request("a chunk without tokens".into()));
            }
            if len > self.config.n_positions {
                let limit = self.config.n_positions;
                return Err(ModelError::Request(format!(
                    "a sequence of {len} tokens; the model's context is {limit}: shorten the prompt or ask for fewer new tokens"
                )));
            }
            check_ids(chunk.ids, self.config.vocab_size)?;
            parts.push(Part {
                sequence: chunk.sequence,
                row,
                rows: chunk.ids.len(),
                start,
            });
            row += chunk.ids.len();
        }
        if parts.is_empty() {
            return Err(ModelError::Request("no chunks to run".into()));
        }
        let lengths: Vec<_> = parts
            .iter()
            .map(|part| (part.sequence, part.start + part.rows))
            .collect();
        kv.grow(&lengths)?;

        let ids: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.ids).copied().collect();
        let positions: Vec<u32> = parts
            .iter()
            .flat_map(|part| part.start as u32..(part.start + part.rows) as u32)
            .collect();
        let ids = Tensor::from_vec(ids, row, &Device::Cpu)?;
        let positions = Tensor::from_vec(positions, row, &Device::Cpu)?;
        let mut x = self.wte.embedding(&ids)?.add(&self.wpe.embedding(&positions)?)?;
        let kv = Mutex::new(kv);
        for (layer, block) in self.blocks.iter().enumerate() {
            let epsilon = self.config.layer_norm_epsilon;
            let qkv = block.qkv.linear(&block.ln1.norm(&x, epsilon)?)?;
            let attend = Attend {
                kv: &kv,
                layer,
                parts: &parts,
                heads: self.config.n_head,
            };
            let attended = qkv.apply_op1_no_bwd(&attend)?;
            x = x.add(&block.proj.linear(&attended)?)?;
            let wide = block.fc.linear(&block.ln2.norm(&x, epsilon)?)?;
            let wide = wide.apply_op1_no_bwd(&Gelu(self.config.activation_function))?;
            x = x.add(&block.fc_proj.linear(&wide)?)?;
        }
        if wanted == Logits::Last {
            let last: Vec<u32> = parts.iter().map(|part| (part.row + part.rows - 1) as u32).collect();
            x = x.index_select(&Tensor::from_vec(last, parts.len(), &Device::Cpu)?, 0)?;
        }
        let x = self.ln_f.norm(&x, self.config.layer_norm_epsilon)?;
        Ok(x.matmul(&self.head)?)
    }

    /// The most likely next id for each row of logits `(N, V)`; the lowest id of equals.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when the tensor has another shape or type.
    pub fn greedy(logits: &Tensor) -> Result<Vec<u32>, ModelError> {
        Ok(logits.argmax(D::Minus1)?.to_vec1::<u32>()?)
    }
}

/// Rows of one sequence inside a pass.
#[derive(Debug, Clone, Copy)]
struct Part {
    sequence: KvId,
    /// First row of the pass that is this sequence's.
    row: usize,
    rows: usize,
    /// Position of its first row in the sequence.
    start: usize,
}

/// Stores the K and V of `qkv (N, 3C)` and attends over each sequence's rows in place: `(N, C)`.
struct Attend<'a, 'kv> {
    kv: &'a Mutex<&'kv mut dyn KvStore>,
    layer: usize,
    parts: &'a [Part],
    heads: usize,
}

impl Attend<'_, '_> {
    fn run(&self, qkv: &[f32], width: usize) -> Result<Vec<f32>, KvError> {
        let mut kv = self.kv.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for part in self.parts {
            let rows = &qkv[part.row * 3 * width..(part.row + part.rows) * 3 * width];
            let column = |first: usize| -> Vec<f32> {
                rows.chunks_exact(3 * width)
                    .flat_map(|row| &row[first..first + width])
                    .copied()
                    .collect()
            };
            kv.write(
                part.sequence,
                self.layer,
                part.start,
                &column(width),
                &column(2 * width),
            )?;
        }
        let kv: &dyn KvStore = &**kv;
        let mut out = vec![0.0; qkv.len() / 3];
        let mut jobs = Vec::with_capacity(self.parts.len());
        let mut rest = out.as_mut_slice();
        for part in self.parts {
            let (mine, others) = rest.split_at_mut(part.rows * width);
            rest = others;
            jobs.push((part, mine));
        }
        jobs.into_par_iter().try_for_each(|(part, out)| {
            let (k, v) = kv.rows(part.sequence, self.layer)?;
            let q = &qkv[part.row * 3 * width..(part.row + part.rows) * 3 * width];
            attend(out, q, width, k, v, self.heads);
            Ok::<_, KvError>(())
        })?;
        Ok(out)
    }
}

/// Attention of one sequence: `q (N, 3C)`, whose first C columns are queries; `k` and `v` `(len, C)`; `out (N, C)`.
///
/// The same arithmetic in the same order for every kind of rows, so that all stores give the same bits.
fn attend(out: &mut [f32], q: &[f32], width: usize, k: Rows<'_>, v: Rows<'_>, heads: usize) {
    let head_dim = width / heads;
    if out.len() > width {
        return attention::prefill(out, q, 3 * width, &gathered(k), &gathered(v), heads, head_dim);
    }
    let len = k.len() / width;
    let mut scores = vec![0.0; heads * len];
    let mut first = 0;
    for run in k.runs() {
        attention::decode_scores(&mut scores, len, first, &q[..width], run, head_dim);
        first += run.len() / width;
    }
    attention::decode_softmax(&mut scores, len);
    let mut first = 0;
    for run in v.runs() {
        attention::decode_values(out, &scores, len, first, run, head_dim);
        first += run.len() / width;
    }
}

/// Rows as one run: in place where they are one, copied together where they are blocks.
fn gathered(rows: Rows<'_>) -> Cow<'_, [f32]> {
    match rows {
        Rows::Contiguous(rows) => Cow::Borrowed(rows),
        Rows::Blocks { .. } => Cow::Owned(rows.runs().flatten().copied().collect()),
    }
}

impl CustomOp1 for Attend<'_, '_> {
    fn name(&self) -> &'static str {
        "attention-over-kv-store"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let qkv = contiguous(storage, layout)?;
        let (rows, columns) = layout.shape().dims2()?;
        let out = self.run(qkv, columns / 3).map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), (rows, columns / 3).into()))
    }
}

/// GELU by our vectorised kernel.
struct Gelu(Activation);

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let mut out = vec![0.0; x.len()];
        gelu::forward(self.0, &mut out, x);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(candle_core::Error::RequiresContiguous {
            op: "fused-model kernel",
        }
        .bt()),
    }
}
