//! GPT-2 for inference: packed weights, reused buffers, attention over the rows of a [`KvStore`] in place.

pub(crate) mod reference;

use std::path::Path;
use std::sync::Arc;

use crate::attention::{self, attend, store};
use crate::config::Gpt2Config;
use crate::error::ModelError;
use crate::kernels::layer_norm;
use crate::kv::{KvGeometry, KvStore};
use crate::linear::{Linear, Scratch, Then};
use crate::model::{Batch, CausalLm, Chunk, Logits, Options, keep_last, plan};
use crate::params::Params;
use crate::threads::Pool;

#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct Block {
    ln1: Norm,
    qkv: Linear,
    proj: Linear,
    ln2: Norm,
    fc: Linear,
    fc_proj: Linear,
}

#[derive(Debug)]
struct Weights {
    /// The token embedding of an untied model; a tied one reads the head's columns.
    wte: Option<Linear>,
    wpe: Vec<f32>,
    blocks: Vec<Block>,
    ln_f: Norm,
    head: Linear,
}

/// Buffers of a pass; they grow to the largest pass and stay.
#[derive(Debug, Default)]
struct Work {
    parts: Batch,
    /// The residual stream `(N, C)`.
    x: Vec<f32>,
    normed: Vec<f32>,
    stats: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    wide: Vec<f32>,
    logits: Vec<f32>,
    scratch: Scratch,
    attention: attention::Scratch,
}

/// A GPT-2 model ready to run on the CPU.
///
/// A clone shares the weights and the threads and has its own buffers. A token's logits have the same bits whatever else
/// is in the pass, however its prompt was cut into chunks, and on any number of threads.
#[derive(Debug)]
pub struct Gpt2 {
    config: Gpt2Config,
    weights: Arc<Weights>,
    pool: Arc<Pool>,
    work: Work,
}

impl Clone for Gpt2 {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            weights: Arc::clone(&self.weights),
            pool: Arc::clone(&self.pool),
            work: Work::default(),
        }
    }
}

impl Gpt2 {
    /// Loads a Hugging Face directory; see [`Params::load`].
    ///
    /// # Errors
    /// As [`Params::load`] and [`Gpt2::new`].
    pub fn load(dir: &Path, options: Options) -> Result<Self, ModelError> {
        Self::new(&Params::load(dir)?, options)
    }

    /// A model from weights already in memory; they are packed into a copy.
    ///
    /// # Errors
    /// [`ModelError::Request`] when the options ask for no threads or the precision does not fit; [`ModelError::Threads`]
    /// when they cannot be started; [`ModelError::Mismatch`] for the weights of another family.
    pub fn new(params: &Params, options: Options) -> Result<Self, ModelError> {
        let config = params.config().gpt2()?.clone();
        let pool = options.pool(config.inner())?;
        let layout = &params.layout;
        let (c, inner, vocab) = (config.n_embd, config.inner(), config.vocab_size);
        let part = |range: &std::ops::Range<usize>| params.part(range);
        let norm = |[weight, bias]: &[std::ops::Range<usize>; 2]| Norm {
            weight: part(weight).to_vec(),
            bias: part(bias).to_vec(),
        };
        let linear = |[weight, bias]: &[std::ops::Range<usize>; 2], shape: (usize, usize)| {
            Linear::new(part(weight), shape, (shape.1, 1), Some(part(bias)), options.precision)
        };
        let table = |range| Linear::new(part(range), (c, vocab), (1, c), None, options.precision);
        let blocks = layout
            .blocks
            .iter()
            .map(|block| Block {
                ln1: norm(&block.norm1),
                qkv: linear(&block.qkv, (c, 3 * c)),
                proj: linear(&block.out, (c, c)),
                ln2: norm(&block.norm2),
                fc: linear(&block.up, (c, inner)),
                fc_proj: linear(&block.down, (inner, c)),
            })
            .collect();
        let weights = Weights {
            wte: (!config.tie_word_embeddings).then(|| table(&layout.embedding)),
            wpe: part(&layout.positions).to_vec(),
            blocks,
            ln_f: norm(&layout.norm),
            head: table(&layout.head),
        };
        Ok(Self {
            config,
            weights: Arc::new(weights),
            pool: Arc::new(pool),
            work: Work::default(),
        })
    }

    /// The model's shape.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// Bytes of matrix weights that a decode step reads once.
    pub fn step_bytes(&self) -> usize {
        let blocks = self.weights.blocks.iter();
        let inside = blocks.map(|block| {
            [&block.qkv, &block.proj, &block.fc, &block.fc_proj]
                .map(Linear::bytes)
                .iter()
                .sum::<usize>()
        });
        inside.sum::<usize>() + self.weights.head.bytes()
    }
}

impl CausalLm for Gpt2 {
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
        let mut parts = std::mem::take(&mut self.work.parts);
        let planned = plan(&mut parts, self, kv, chunks);
        self.work.parts = parts;
        planned?;
        let Self {
            config,
            weights,
            pool,
            work,
        } = self;
        let (c, epsilon) = (config.n_embd, config.layer_norm_epsilon as f32);
        let heads = config.heads();
        let rows = work.parts.iter().map(|part| part.rows).sum::<usize>();
        for (buffer, width) in [
            (&mut work.x, c),
            (&mut work.normed, c),
            (&mut work.stats, 2),
            (&mut work.qkv, 3 * c),
            (&mut work.attended, c),
            (&mut work.wide, config.inner()),
        ] {
            buffer.resize(rows * width, 0.0);
        }
        embed(weights, work, chunks, c);
        for (layer, block) in weights.blocks.iter().enumerate() {
            let scratch = &mut work.scratch;
            normalize(&block.ln1, &mut work.normed, &mut work.stats, &work.x, epsilon);
            block
                .qkv
                .forward(pool, scratch, &mut work.qkv, &work.normed, Then::Store);
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
            block
                .proj
                .forward(pool, scratch, &mut work.x, &work.attended, Then::Add);
            normalize(&block.ln2, &mut work.normed, &mut work.stats, &work.x, epsilon);
            let activate = Then::Activate(config.activation_function);
            block.fc.forward(pool, scratch, &mut work.wide, &work.normed, activate);
            block.fc_proj.forward(pool, scratch, &mut work.x, &work.wide, Then::Add);
        }
        if wanted == Logits::Last {
            keep_last(&mut work.x, &work.parts, c);
        }
        let outputs = work.x.len() / c;
        work.normed.truncate(outputs * c);
        work.stats.truncate(outputs * 2);
        normalize(&weights.ln_f, &mut work.normed, &mut work.stats, &work.x, epsilon);
        work.logits.resize(outputs * config.vocab_size, 0.0);
        weights
            .head
            .forward(pool, &mut work.scratch, &mut work.logits, &work.normed, Then::Store);
        Ok(&work.logits)
    }
}

/// Token and position embeddings of all rows into the residual stream.
fn embed(weights: &Weights, work: &mut Work, chunks: &[Chunk<'_>], width: usize) {
    let table = weights.wte.as_ref().unwrap_or(&weights.head);
    let mut rows = work.x.chunks_exact_mut(width);
    for (part, chunk) in work.parts.iter().zip(chunks) {
        let positions = weights.wpe[part.start * width..].chunks_exact(width);
        for ((&id, position), row) in chunk.ids.iter().zip(positions).zip(&mut rows) {
            table.column(id as usize, row);
            row.iter_mut().zip(position).for_each(|(x, p)| *x += p);
        }
    }
}

fn normalize(norm: &Norm, out: &mut [f32], stats: &mut [f32], x: &[f32], epsilon: f32) {
    layer_norm::forward(out, stats, x, &norm.weight, &norm.bias, epsilon);
}
