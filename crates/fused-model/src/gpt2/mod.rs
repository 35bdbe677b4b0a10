//! GPT-2 for inference: packed weights, reused buffers, attention over the rows of a [`KvStore`] in place.

pub(crate) mod reference;

use std::path::Path;
use std::sync::Arc;

use crate::config::Gpt2Config;
use crate::error::ModelError;
use crate::kernels::cached_attention::{self, QUERIES};
use crate::kernels::layer_norm;
use crate::kv::{KvError, KvGeometry, KvStore};
use crate::linear::{Linear, Precision, Scratch, Then};
use crate::model::{CausalLm, Chunk, Logits, Part, plan};
use crate::params::Params;
use crate::threads::{Parts, Pool};

/// How a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How its matrices are kept.
    pub precision: Precision,
    /// Threads of a pass, the caller's included.
    pub threads: usize,
}

impl Default for Options {
    /// Exact weights, a thread for each processor.
    fn default() -> Self {
        Self {
            precision: Precision::F32,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

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
    parts: Vec<Part>,
    /// The residual stream `(N, C)`.
    x: Vec<f32>,
    normed: Vec<f32>,
    stats: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    wide: Vec<f32>,
    logits: Vec<f32>,
    scratch: Scratch,
    /// Scores and output of one attention task, for each thread.
    attention: Vec<[Vec<f32>; 2]>,
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
    /// [`ModelError::Request`] when the options ask for no threads or the precision does not fit; [`ModelError::Threads`] when they cannot be started.
    pub fn new(params: &Params, options: Options) -> Result<Self, ModelError> {
        if options.threads == 0 {
            return Err(ModelError::Request("threads is 0; it must be at least 1".into()));
        }
        let (widest, limit) = (params.config().inner(), options.precision.max_inputs());
        if widest > limit {
            return Err(ModelError::Request(format!(
                "the model has layers of {widest} inputs; int8 weights allow {limit}: load it in f16 or f32"
            )));
        }
        let pool = Pool::new(options.threads).map_err(|source| ModelError::Threads {
            threads: options.threads,
            source,
        })?;
        let config = params.config().clone();
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
                ln1: norm(&block.ln1),
                qkv: linear(&block.qkv, (c, 3 * c)),
                proj: linear(&block.proj, (c, c)),
                ln2: norm(&block.ln2),
                fc: linear(&block.fc, (c, inner)),
                fc_proj: linear(&block.fc_proj, (inner, c)),
            })
            .collect();
        let weights = Weights {
            wte: (!config.tie_word_embeddings).then(|| table(&layout.wte)),
            wpe: part(&layout.wpe).to_vec(),
            blocks,
            ln_f: norm(&layout.ln_f),
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
            store(kv, layer, &work.parts, &work.qkv, c)?;
            attend(
                config,
                pool,
                &mut work.attention,
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
            for (index, part) in work.parts.iter().enumerate() {
                let last = part.row + part.rows - 1;
                work.x.copy_within(last * c..(last + 1) * c, index * c);
            }
            work.x.truncate(work.parts.len() * c);
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

/// Writes the K and V of `qkv (N, 3C)` into the store.
fn store(kv: &mut dyn KvStore, layer: usize, parts: &[Part], qkv: &[f32], width: usize) -> Result<(), KvError> {
    for part in parts {
        let rows = &qkv[part.row * 3 * width..];
        kv.write(
            part.sequence,
            layer,
            part.start..part.start + part.rows,
            &mut |row, k, v| {
                let row = &rows[row * 3 * width..][..3 * width];
                k.copy_from_slice(&row[width..2 * width]);
                v.copy_from_slice(&row[2 * width..]);
            },
        )?;
    }
    Ok(())
}

/// Attention of all rows over their sequences' stored rows: `out (N, C)`.
///
/// A task is a few queries of one sequence; where there are fewer than threads, heads are split too.
#[allow(clippy::too_many_arguments)] // one call: the model's shape, buffers, and where the rows are
fn attend(
    config: &Gpt2Config,
    pool: &Pool,
    buffers: &mut Vec<[Vec<f32>; 2]>,
    kv: &dyn KvStore,
    layer: usize,
    parts: &[Part],
    qkv: &[f32],
    out: &mut [f32],
) -> Result<(), KvError> {
    let (c, head_dim) = (config.n_embd, config.head_dim());
    buffers.resize_with(pool.threads(), Default::default);
    let blocks = parts.iter().map(|part| part.rows.div_ceil(QUERIES)).sum::<usize>();
    let shares = if blocks < 2 * pool.threads() {
        pool.threads().min(config.n_head)
    } else {
        1
    };
    for part in parts {
        kv.rows(part.sequence, layer)?; // so that the tasks below cannot fail
    }
    let (buffers, out) = (Parts::new(buffers), Parts::new(out));
    pool.for_each(blocks * shares, &|thread, task| {
        let (mut block, share) = (task / shares, task % shares);
        let Some(part) = parts.iter().find(|part| {
            let mine = part.rows.div_ceil(QUERIES);
            let here = block < mine;
            block -= if here { 0 } else { mine };
            here
        }) else {
            return;
        };
        let Ok((k, v)) = kv.rows(part.sequence, layer) else {
            return;
        };
        let heads = config.n_head * share / shares..config.n_head * (share + 1) / shares;
        let first = block * QUERIES;
        let shape = cached_attention::Shape {
            position: part.start + first,
            queries: QUERIES.min(part.rows - first),
            query_stride: 3 * c,
            heads: heads.len(),
            head_dim,
            group: 1,
            row: c,
            column: heads.start * head_dim,
        };
        let [[scores, result]] = buffers.part(thread..thread + 1) else {
            return;
        };
        let width = heads.len() * head_dim;
        result.resize(shape.queries * width, 0.0);
        let row = part.row + first;
        cached_attention::attend(
            shape,
            result,
            scores,
            &qkv[row * 3 * c + heads.start * head_dim..],
            k,
            v,
        );
        for (query, result) in result.chunks_exact(width).enumerate() {
            let start = (row + query) * c + heads.start * head_dim;
            out.part(start..start + width).copy_from_slice(result);
        }
    });
    Ok(())
}
