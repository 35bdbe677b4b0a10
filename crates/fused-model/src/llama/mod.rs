//! The Llama family for inference: RMS norms, rotary positions, grouped heads, SwiGLU; on the packed layers and the KV
//! stores that GPT-2 runs on.
#![allow(unsafe_code)] // threads write disjoint rows of one buffer

mod config;
pub(crate) mod reference;
pub(crate) mod rope;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

pub use config::{LlamaConfig, RopeScaling};

use crate::attention::{self, attend, store};
use crate::error::ModelError;
use crate::kernels::{rms_norm, swiglu};
use crate::kv::{KvGeometry, KvStore};
use crate::linear::{Linear, Precision, Scratch, Then};
use crate::model::{Batch, CausalLm, Chunk, Logits, Options, keep_last, plan};
use crate::params::{Layout, Params};
use crate::rng::Rng;
use crate::threads::{Parts, Pool};
use crate::weights::{Progress, WeightFiles};

/// Where the weights of a model come from: a tensor by its name and shape.
trait Source {
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError>;
}

/// Files, and who hears how far they have been read.
struct Files<'a> {
    files: WeightFiles,
    progress: &'a mut dyn FnMut(Progress),
    done: usize,
    total: usize,
}

impl<'a> Files<'a> {
    fn open(dir: &Path, config: &LlamaConfig, progress: &'a mut dyn FnMut(Progress)) -> Result<Self, ModelError> {
        let layout = Layout::of_llama(config);
        Ok(Self {
            files: layout.open(dir)?,
            progress,
            done: 0,
            total: layout.len(),
        })
    }
}

impl Source for Files<'_> {
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        let values = self.files.read(name, shape)?;
        self.done += values.len();
        (self.progress)(Progress {
            done: self.done,
            total: self.total,
        });
        Ok(values)
    }
}

/// Weights in memory.
impl Source for &Params {
    fn read(&mut self, name: &str, _: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        let values = self.get(name);
        let values = values.ok_or_else(|| ModelError::Mismatch(format!("the model has no weights called {name}")))?;
        Ok(values.into())
    }
}

/// Weights drawn by [`draw`].
struct Random {
    seed: u64,
}

impl Source for Random {
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, ModelError> {
        let mut values = vec![0.0; shape.iter().product()];
        draw(&mut values, name, self.seed);
        Ok(values.into())
    }
}

/// Normal weights with deviation 0.02 and norms of one. A tensor depends on its name and the seed alone.
pub(crate) fn draw(values: &mut [f32], name: &str, seed: u64) {
    if name.ends_with("norm.weight") {
        values.fill(1.0);
        return;
    }
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut rng = Rng::new(seed ^ hash);
    values.iter_mut().for_each(|value| *value = 0.02 * rng.normal());
}

#[derive(Debug)]
struct Block {
    attention_norm: Vec<f32>,
    /// Queries, keys and values.
    qkv: Linear,
    out: Linear,
    mlp_norm: Vec<f32>,
    /// The gate, then what it gates.
    gate_up: Linear,
    down: Linear,
}

#[derive(Debug)]
struct Weights {
    /// The token embedding of an untied model; a tied one reads the head's columns.
    embedding: Option<Linear>,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    head: Linear,
}

/// Packs the tensors of a model.
struct Packer<'a> {
    source: &'a mut dyn Source,
    precision: Precision,
}

impl Packer<'_> {
    fn norm(&mut self, name: &str, width: usize) -> Result<Vec<f32>, ModelError> {
        Ok(self.source.read(name, &[width])?.into_owned())
    }

    /// One layer from matrices `(outputs, inputs)` over the same inputs, their outputs side by side.
    fn linear(&mut self, parts: &[(String, usize)], inputs: usize, bias: bool) -> Result<Linear, ModelError> {
        let (precision, outputs) = (self.precision, parts.iter().map(|(_, outputs)| outputs).sum());
        let pack = |weights: &[f32], biases: &[f32]| {
            let biases = bias.then_some(biases);
            Linear::new(weights, (inputs, outputs), (1, inputs), biases, precision)
        };
        let [mut weights, mut biases] = [Vec::new(), Vec::new()];
        for (name, outputs) in parts {
            if bias {
                biases.extend_from_slice(&self.source.read(&format!("{name}.bias"), &[*outputs])?);
            }
            let values = self.source.read(&format!("{name}.weight"), &[*outputs, inputs])?;
            if parts.len() == 1 {
                // In place: a head is as large as the rest of a small model.
                return Ok(pack(&values, &biases));
            }
            weights.extend_from_slice(&values);
        }
        Ok(pack(&weights, &biases))
    }
}

/// Buffers of a pass; they grow to the largest pass and stay.
#[derive(Debug, Default)]
struct Work {
    parts: Batch,
    /// The residual stream `(N, C)`.
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    /// Cosines and sines of each row's position `(N, head_dim)`.
    turns: Vec<f32>,
    attended: Vec<f32>,
    /// Gates and what they gate `(N, 2 * intermediate)`.
    wide: Vec<f32>,
    gated: Vec<f32>,
    logits: Vec<f32>,
    scratch: Scratch,
    attention: attention::Scratch,
}

/// A Llama-family model ready to run on the CPU.
///
/// A clone shares the weights and the threads and has its own buffers. A token's logits have the same bits whatever else
/// is in the pass, however its prompt was cut into chunks, and on any number of threads.
#[derive(Debug)]
pub struct Llama {
    config: LlamaConfig,
    frequencies: Vec<f32>,
    weights: Arc<Weights>,
    pool: Arc<Pool>,
    work: Work,
}

impl Clone for Llama {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            frequencies: self.frequencies.clone(),
            weights: Arc::clone(&self.weights),
            pool: Arc::clone(&self.pool),
            work: Work::default(),
        }
    }
}

impl Llama {
    /// Reads `config.json` and the weights of a Hugging Face `LlamaForCausalLM` directory: `model.safetensors`, or the
    /// shards that `model.safetensors.index.json` names, in F32, F16 or BF16. Files are mapped and packed one layer at a
    /// time: loading takes the packed weights and one layer more.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Config`], [`ModelError::Weights`] naming the tensors that are missing, misshapen, of
    /// another type, or not finite; as [`Gpt2::new`](crate::Gpt2::new) for the options.
    pub fn load(dir: &Path, options: Options) -> Result<Self, ModelError> {
        Self::load_and_tell(dir, options, &mut |_| {})
    }

    /// The same; `progress` hears how far it has come, after each tensor.
    pub(crate) fn load_and_tell(
        dir: &Path,
        options: Options,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ModelError> {
        let config = LlamaConfig::load(dir)?;
        let mut files = Files::open(dir, &config, progress)?;
        Self::build(config, options, &mut files)
    }

    /// A model with weights drawn from `seed`, to measure with.
    ///
    /// # Errors
    /// [`ModelError::Request`] for a shape that [`load`](Self::load) would refuse; as [`Gpt2::new`](crate::Gpt2::new) for the
    /// options.
    pub fn random(config: LlamaConfig, seed: u64, options: Options) -> Result<Self, ModelError> {
        config.check().map_err(ModelError::Request)?;
        Self::build(config, options, &mut Random { seed })
    }

    /// Packs weights that are in memory.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] for the weights of another family; as [`Gpt2::new`](crate::Gpt2::new) for the options.
    pub fn new(mut params: &Params, options: Options) -> Result<Self, ModelError> {
        Self::build(params.config().llama()?.clone(), options, &mut params)
    }

    fn build(config: LlamaConfig, options: Options, source: &mut dyn Source) -> Result<Self, ModelError> {
        let (c, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let (q, kv) = (config.heads().query_row(), config.heads().kv_row());
        let pool = options.pool(inner.max(c).max(q))?;
        let mut pack = Packer {
            source,
            precision: options.precision,
        };
        let embedding = pack.linear(&[("model.embed_tokens".into(), vocab)], c, false)?;
        let mut blocks = Vec::new();
        for layer in 0..config.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let [query, key, value] = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj")));
            blocks.push(Block {
                attention_norm: pack.norm(&name("input_layernorm.weight"), c)?,
                qkv: pack.linear(&[(query, q), (key, kv), (value, kv)], c, config.attention_bias)?,
                out: pack.linear(&[(name("self_attn.o_proj"), c)], q, config.attention_bias)?,
                mlp_norm: pack.norm(&name("post_attention_layernorm.weight"), c)?,
                gate_up: pack.linear(
                    &[(name("mlp.gate_proj"), inner), (name("mlp.up_proj"), inner)],
                    c,
                    config.mlp_bias,
                )?,
                down: pack.linear(&[(name("mlp.down_proj"), c)], inner, config.mlp_bias)?,
            });
        }
        let norm = pack.norm("model.norm.weight", c)?;
        let (embedding, head) = if config.tie_word_embeddings {
            (None, embedding)
        } else {
            (Some(embedding), pack.linear(&[("lm_head".into(), vocab)], c, false)?)
        };
        let weights = Weights {
            embedding,
            blocks,
            norm,
            head,
        };
        Ok(Self {
            frequencies: rope::frequencies(&config),
            config,
            weights: Arc::new(weights),
            pool: Arc::new(pool),
            work: Work::default(),
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Bytes of matrix weights that a decode step reads once.
    pub fn step_bytes(&self) -> usize {
        let layers = |block: &Block| [&block.qkv, &block.out, &block.gate_up, &block.down].map(Linear::bytes);
        let inside = self.weights.blocks.iter().flat_map(layers);
        inside.sum::<usize>() + self.weights.head.bytes()
    }
}

impl CausalLm for Llama {
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
        let mut parts = std::mem::take(&mut self.work.parts);
        let planned = plan(&mut parts, self, kv, chunks);
        self.work.parts = parts;
        planned?;
        let Self {
            config,
            frequencies,
            weights,
            pool,
            work,
        } = self;
        let (c, inner, epsilon) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps as f32);
        let heads = config.heads();
        let rows = work.parts.iter().map(|part| part.rows).sum::<usize>();
        for (buffer, width) in [
            (&mut work.x, c),
            (&mut work.normed, c),
            (&mut work.qkv, heads.fused_row()),
            (&mut work.attended, heads.query_row()),
            (&mut work.wide, 2 * inner),
            (&mut work.gated, inner),
        ] {
            buffer.resize(rows * width, 0.0);
        }
        embed(weights, work, chunks, c);
        work.turns.clear();
        for position in work.parts.iter().flat_map(|part| part.start..part.start + part.rows) {
            rope::angles(&mut work.turns, frequencies, position);
        }
        for (layer, block) in weights.blocks.iter().enumerate() {
            let scratch = &mut work.scratch;
            rms_norm::forward(&mut work.normed, &work.x, &block.attention_norm, epsilon);
            block
                .qkv
                .forward(pool, scratch, &mut work.qkv, &work.normed, Then::Store);
            rope::apply(heads, &mut work.qkv, &work.turns);
            store(kv, layer, &work.parts, &work.qkv, heads)?;
            attend(
                pool,
                &mut work.attention,
                heads,
                kv,
                layer,
                &work.parts,
                &work.qkv,
                &mut work.attended,
            )?;
            block.out.forward(pool, scratch, &mut work.x, &work.attended, Then::Add);
            rms_norm::forward(&mut work.normed, &work.x, &block.mlp_norm, epsilon);
            block
                .gate_up
                .forward(pool, scratch, &mut work.wide, &work.normed, Then::Store);
            gate(pool, &mut work.gated, &work.wide, inner);
            block.down.forward(pool, scratch, &mut work.x, &work.gated, Then::Add);
        }
        if wanted == Logits::Last {
            keep_last(&mut work.x, &work.parts, c);
        }
        work.normed.truncate(work.x.len());
        rms_norm::forward(&mut work.normed, &work.x, &weights.norm, epsilon);
        work.logits.resize(work.x.len() / c * config.vocab_size, 0.0);
        weights
            .head
            .forward(pool, &mut work.scratch, &mut work.logits, &work.normed, Then::Store);
        Ok(&work.logits)
    }
}

/// Token embeddings of all rows into the residual stream.
fn embed(weights: &Weights, work: &mut Work, chunks: &[Chunk<'_>], width: usize) {
    let table = weights.embedding.as_ref().unwrap_or(&weights.head);
    let ids = chunks.iter().flat_map(|chunk| chunk.ids);
    for (&id, row) in ids.zip(work.x.chunks_exact_mut(width)) {
        table.column(id as usize, row);
    }
}

/// `gated (N, inner)` from gates and what they gate, `wide (N, 2 * inner)`.
fn gate(pool: &Pool, gated: &mut [f32], wide: &[f32], inner: usize) {
    let rows = gated.len() / inner;
    let gated = Parts::new(gated);
    pool.for_each(rows, &|_, row| {
        let (gate, up) = wide[row * 2 * inner..][..2 * inner].split_at(inner);
        // SAFETY: each task has a row of its own.
        let gated = unsafe { gated.part(row * inner..(row + 1) * inner) };
        swiglu::forward(gated, gate, up);
    });
}
