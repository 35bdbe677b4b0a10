//! What an engine needs of a model: new tokens of many sequences in, logits out, keys and values in a [`KvStore`].

use crate::error::ModelError;
use crate::kv::{KvGeometry, KvId, KvStore};
use crate::linear::Precision;
use crate::threads::Pool;
use crate::train::check_ids;

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

impl Options {
    /// The threads, for a model whose widest layer has so many inputs.
    pub(crate) fn pool(&self, widest: usize) -> Result<Pool, ModelError> {
        if self.threads == 0 {
            return Err(ModelError::Request("threads is 0; it must be at least 1".into()));
        }
        let limit = self.precision.max_inputs();
        if widest > limit {
            return Err(ModelError::Request(format!(
                "the model has layers of {widest} inputs; int8 weights allow {limit}: load it in f16 or f32"
            )));
        }
        Pool::new(self.threads).map_err(|source| ModelError::Threads {
            threads: self.threads,
            source,
        })
    }
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

/// A decoder that appends rows to a [`KvStore`] and gives logits.
pub trait CausalLm: std::fmt::Debug + Send {
    /// V, the number of token ids.
    fn vocab_size(&self) -> usize;

    /// Longest sequence in tokens.
    fn context(&self) -> usize;

    /// Shape of a KV store for up to `max_sequences` sequences of the model's full context.
    fn kv_geometry(&self, max_sequences: usize) -> KvGeometry;

    /// Runs the chunks through the model, appending their rows to `kv`, and returns logits `(rows, V)`, valid until
    /// the next call.
    ///
    /// The store is grown first, for all chunks or none: after a [`ModelError::Kv`] no sequence has changed.
    ///
    /// # Errors
    /// [`ModelError::Request`] for no chunks, an empty chunk, an id outside the vocabulary or a sequence longer than the
    /// context; [`ModelError::Kv`] when the store refuses; [`ModelError::Mismatch`] when it has another shape.
    fn forward(&mut self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<&[f32], ModelError>;
}

/// Index of the largest value, the lowest of equals: the greedy choice from one row of logits.
///
/// # Panics
/// When `logits` is empty.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &value) in logits.iter().enumerate() {
        if value > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// Rows of one sequence inside a pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) sequence: KvId,
    /// First row of the pass that is this sequence's.
    pub(crate) row: usize,
    pub(crate) rows: usize,
    /// Position of its first row in the sequence.
    pub(crate) start: usize,
}

/// The sequences of a pass, in memory that the next pass uses again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    parts: Vec<Part>,
    lengths: Vec<(KvId, usize)>,
}

impl std::ops::Deref for Batch {
    type Target = [Part];

    fn deref(&self) -> &[Part] {
        &self.parts
    }
}

/// Checks the chunks against the model and the store, grows the store, and says which rows are whose in `parts`.
pub(crate) fn plan(
    Batch { parts, lengths }: &mut Batch,
    model: &dyn CausalLm,
    kv: &mut dyn KvStore,
    chunks: &[Chunk<'_>],
) -> Result<(), ModelError> {
    parts.clear();
    lengths.clear();
    let (shape, want) = (*kv.geometry(), model.kv_geometry(1));
    if shape.layers != want.layers || shape.row_floats != want.row_floats {
        return Err(ModelError::Mismatch(format!(
            "the KV store has {} layers of {} floats a row; the model needs {} of {}",
            shape.layers, shape.row_floats, want.layers, want.row_floats
        )));
    }
    let mut row = 0;
    for chunk in chunks {
        let start = kv.len(chunk.sequence)?;
        let (len, limit) = (start + chunk.ids.len(), model.context());
        if chunk.ids.is_empty() {
            return Err(ModelError::Request("a chunk without tokens".into()));
        }
        if len > limit {
            return Err(ModelError::Request(format!(
                "a sequence of {len} tokens; the model's context is {limit}: shorten the prompt or ask for fewer new tokens"
            )));
        }
        check_ids(chunk.ids, model.vocab_size())?;
        lengths.push((chunk.sequence, len));
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
    Ok(kv.grow(lengths)?)
}

/// Moves the last row of each part to the front of `x (N, width)` and drops the others.
pub(crate) fn keep_last(x: &mut Vec<f32>, parts: &[Part], width: usize) {
    for (index, part) in parts.iter().enumerate() {
        let last = part.row + part.rows - 1;
        x.copy_within(last * width..(last + 1) * width, index * width);
    }
    x.truncate(parts.len() * width);
}
