//! What is timed: decoding of some sequences, and reading of a prompt.

use std::time::Instant;

use anyhow::{Result, ensure};
use fused_model::kv::{KvId, KvStore, StaticKv};
use fused_model::{CausalLm, Chunk, Gpt2, Gpt2Config, Logits, Params};

/// Tokens of each sequence before decoding is timed, where nothing else is said.
pub(crate) const CONTEXT: usize = 128;
/// Tokens of the prompt that is timed.
pub(crate) const PROMPT: usize = 512;
/// Steps of a measurement of decoding.
pub(crate) const STEPS: usize = 16;

/// Random weights in the shape of GPT-2 with 124 million.
pub(crate) fn weights() -> Params {
    Params::random(Gpt2Config::new(50_257, 1024, 768, 12, 12), 1)
}

/// Token ids without a pattern that matters.
pub(crate) fn ids(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i * 37 % 50_000).collect()
}

/// Sequences of the same length that are decoded together.
#[derive(Debug)]
pub(crate) struct Sequences {
    kv: StaticKv,
    sequences: Vec<KvId>,
    context: usize,
}

impl Sequences {
    /// `batch` sequences of `context` tokens.
    pub(crate) fn new(model: &mut Gpt2, batch: usize, context: usize) -> Result<Self> {
        let mut geometry = model.kv_geometry(batch);
        ensure!(context + STEPS <= geometry.max_tokens, "a context of {context} tokens");
        geometry.max_tokens = context + STEPS;
        let mut kv = StaticKv::new(&geometry)?;
        let first = kv.open()?;
        let ids = ids(context);
        model.forward(
            &mut kv,
            &[Chunk {
                sequence: first,
                ids: &ids,
            }],
            Logits::Last,
        )?;
        let mut sequences = vec![first];
        for _ in 1..batch {
            sequences.push(kv.fork(first, context)?);
        }
        Ok(Self { kv, sequences, context })
    }

    /// Median seconds of a step, one token for each sequence; they are as before afterwards.
    pub(crate) fn decode(&mut self, model: &mut Gpt2) -> Result<f64> {
        let id = [7];
        let chunks: Vec<_> = self
            .sequences
            .iter()
            .map(|&sequence| Chunk { sequence, ids: &id })
            .collect();
        let mut seconds = Vec::with_capacity(STEPS);
        for _ in 0..STEPS {
            let start = Instant::now();
            model.forward(&mut self.kv, &chunks, Logits::Last)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        for &sequence in &self.sequences {
            self.kv.truncate(sequence, self.context)?;
        }
        Ok(median(seconds))
    }
}

/// A prompt that is read again and again.
#[derive(Debug)]
pub(crate) struct Prompt {
    kv: StaticKv,
    sequence: KvId,
    ids: Vec<u32>,
}

impl Prompt {
    pub(crate) fn new(model: &Gpt2, tokens: usize) -> Result<Self> {
        let mut kv = StaticKv::new(&model.kv_geometry(1))?;
        let sequence = kv.open()?;
        Ok(Self {
            kv,
            sequence,
            ids: ids(tokens),
        })
    }

    /// Seconds from the prompt to the logits of its last token.
    pub(crate) fn read(&mut self, model: &mut Gpt2) -> Result<f64> {
        let chunk = Chunk {
            sequence: self.sequence,
            ids: &self.ids,
        };
        let start = Instant::now();
        model.forward(&mut self.kv, &[chunk], Logits::Last)?;
        let seconds = start.elapsed().as_secs_f64();
        self.kv.truncate(self.sequence, 0)?;
        Ok(seconds)
    }
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
