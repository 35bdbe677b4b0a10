//! Bits per byte of a text: the one quality figure that can be compared across tokenizers.

use std::num::NonZeroUsize;

use patchtok::{Corpus, PatchTokenizer};
use rayon::prelude::*;
use serde::Serialize;

use crate::error::ModelError;
use crate::kv::KvStore;
use crate::model::{CausalLm, Chunk, Logits};
use crate::params::Params;
use crate::pass::{Batch, Pass};
use crate::train::check_ids;

/// What a model needed to predict a text.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Score {
    /// Information of all tokens under the model, in bits.
    pub bits: f64,
    /// Tokens predicted.
    pub tokens: usize,
    /// Bytes of text they stand for.
    pub bytes: usize,
}

impl Score {
    /// Bits per byte of text; zero for an empty text.
    pub fn bits_per_byte(&self) -> f64 {
        if self.bytes == 0 {
            0.0
        } else {
            self.bits / self.bytes as f64
        }
    }
}

impl std::iter::Sum for Score {
    fn sum<I: Iterator<Item = Self>>(scores: I) -> Self {
        scores.fold(Self::default(), |a, b| Self {
            bits: a.bits + b.bits,
            tokens: a.tokens + b.tokens,
            bytes: a.bytes + b.bytes,
        })
    }
}

/// Held-out documents as tokens, to be scored again and again.
#[derive(Debug, Clone)]
pub struct Heldout {
    start: u32,
    /// Tokens of a window at most.
    window: NonZeroUsize,
    /// Tokens of each document, and the bytes they stand for.
    documents: Vec<(Vec<u32>, usize)>,
}

impl Heldout {
    /// Encodes the documents of `corpus`; `start` is the id read before each.
    ///
    /// # Errors
    /// [`ModelError::Text`] when the corpus cannot be read, [`ModelError::Request`] when it holds no text.
    pub fn read(tokenizer: &PatchTokenizer, corpus: &Corpus, start: u32) -> Result<Self, ModelError> {
        let mut documents = Vec::new();
        for document in corpus.documents() {
            let text = document?;
            if !text.is_empty() {
                documents.push((tokenizer.encode_ordinary(&text), text.len()));
            }
        }
        if documents.is_empty() {
            return Err(ModelError::Request("the held-out corpus holds no text".into()));
        }
        Ok(Self {
            start,
            window: NonZeroUsize::MAX,
            documents,
        })
    }

    /// The same text, read in windows of at most so many tokens: what a model with a context of thousands is compared by.
    pub fn in_windows(self, tokens: NonZeroUsize) -> Self {
        Self { window: tokens, ..self }
    }

    /// Bytes of all documents.
    pub fn bytes(&self) -> usize {
        self.documents.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Every nth document, with n such that about `bytes` are left: what a long run is watched by.
    pub fn thinned(&self, bytes: usize) -> Self {
        let step = self.bytes().div_ceil(bytes.max(1)).max(1);
        Self {
            start: self.start,
            window: self.window,
            documents: self.documents.iter().step_by(step).cloned().collect(),
        }
    }

    /// Scores every document under `params`.
    ///
    /// # Errors
    /// [`ModelError::Request`] when a token is outside the model's vocabulary.
    pub fn score(&self, params: &Params) -> Result<Score, ModelError> {
        let documents = self.documents.iter();
        documents
            .map(|(ids, bytes)| score_in_windows(params, self.window, self.start, ids, *bytes))
            .sum()
    }
}

/// Scores one document: `ids` are its tokens, `bytes` the length of its text.
///
/// The document is read behind `start`, the id that separates documents in training, in windows of the model's
/// context that overlap by half, so that every token but the first few has at least half a context before it. Windows
/// are spread over rayon's threads; the result does not depend on their number.
///
/// # Errors
/// [`ModelError::Request`] for an id outside the vocabulary.
pub fn score(params: &Params, start: u32, ids: &[u32], bytes: usize) -> Result<Score, ModelError> {
    score_in_windows(params, NonZeroUsize::MAX, start, ids, bytes)
}

/// As [`score`], in windows of at most `window` tokens.
fn score_in_windows(
    params: &Params,
    window: NonZeroUsize,
    start: u32,
    ids: &[u32],
    bytes: usize,
) -> Result<Score, ModelError> {
    check_ids(ids, params.config().vocab_size())?;
    check_ids(&[start], params.config().vocab_size())?;
    let context = params.config().context().min(window.get());
    let sequence: Vec<u32> = std::iter::once(start).chain(ids.iter().copied()).collect();
    let nats: Vec<f64> = windows(ids.len(), context)
        .into_par_iter()
        .map_init(Pass::default, |pass, (first, new, end)| {
            let batch = Batch {
                ids: &sequence[first..end],
                targets: &sequence[first + 1..end + 1],
                tokens: end - first,
            };
            pass.losses(params, batch)[new - first..]
                .iter()
                .map(|&loss| f64::from(loss))
                .sum()
        })
        .collect();
    let bits = nats.iter().sum::<f64>() / std::f64::consts::LN_2;
    Ok(Score {
        bits,
        tokens: ids.len(),
        bytes,
    })
}

/// Tokens of a pass of [`score_model`].
const CHUNK: usize = 128;

/// As [`score`], for any model: rows go through `kv`, one window at a time.
///
/// # Errors
/// As [`CausalLm::forward`].
pub fn score_model(
    model: &mut dyn CausalLm,
    kv: &mut dyn KvStore,
    start: u32,
    ids: &[u32],
    bytes: usize,
) -> Result<Score, ModelError> {
    let vocab = model.vocab_size();
    check_ids(ids, vocab)?;
    let sequence: Vec<u32> = std::iter::once(start).chain(ids.iter().copied()).collect();
    let mut nats = 0.0;
    for (first, new, end) in windows(ids.len(), model.context()) {
        let id = kv.open()?;
        let mut read = first;
        while read < end {
            // Of rows that were scored in the window before, no logits are needed.
            let (next, wanted) = match read < new {
                true => (new.min(read + CHUNK), Logits::Last),
                false => (end.min(read + CHUNK), Logits::All),
            };
            let chunk = Chunk {
                sequence: id,
                ids: &sequence[read..next],
            };
            match model.forward(kv, &[chunk], wanted) {
                Ok(logits) if wanted == Logits::All => {
                    let rows = logits.chunks_exact(vocab).zip(&sequence[read + 1..=next]);
                    nats += rows.map(|(row, &target)| loss(row, target)).sum::<f64>();
                }
                Ok(_) => {}
                Err(error) => {
                    kv.free(id)?;
                    return Err(error);
                }
            }
            read = next;
        }
        kv.free(id)?;
    }
    Ok(Score {
        bits: nats / std::f64::consts::LN_2,
        tokens: ids.len(),
        bytes,
    })
}

/// Information of `target` under a row of logits, in nats.
fn loss(logits: &[f32], target: u32) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - top).exp()).sum();
    sum.ln() - f64::from(logits[target as usize] - top)
}

/// Windows `(first, new, end)` over `len` predictions: the window reads `first..end` and scores `new..end`.
fn windows(len: usize, context: usize) -> Vec<(usize, usize, usize)> {
    let mut windows = Vec::new();
    let mut done = 0;
    while done < len {
        let end = if done == 0 {
            context.min(len)
        } else {
            (done + context.div_ceil(2)).min(len)
        };
        windows.push((end.saturating_sub(context), done, end));
        done = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Gpt2Config;

    #[test]
    fn windows_cover_every_prediction_once() {
        for len in 0..200 {
            for context in 1..20 {
                let mut next = 0;
                for (first, new, end) in windows(len, context) {
                    assert_eq!(new, next);
                    assert!(first <= new && new < end && end - first <= context);
                    next = end;
                }
                assert_eq!(next, len);
            }
        }
    }

    /// A model behind a KV store needs what the whole-sequence pass says, over windows that overlap.
    #[test]
    fn a_model_and_its_weights_score_the_same() {
        let params = Params::random(Gpt2Config::new(32, 16, 8, 2, 2), 1);
        let ids: Vec<u32> = (0..61).map(|i| i * i % 32).collect();
        let want = score(&params, 3, &ids, 100).unwrap();
        let mut model = crate::Gpt2::new(&params, crate::Options::default()).unwrap();
        let mut kv = crate::kv::StaticKv::new(&model.kv_geometry(1)).unwrap();
        let got = score_model(&mut model, &mut kv, 3, &ids, 100).unwrap();
        assert!((got.bits - want.bits).abs() < 1e-3, "{got:?} {want:?}");
        assert_eq!((got.tokens, got.bytes), (want.tokens, want.bytes));
        assert!(score_model(&mut model, &mut kv, 32, &ids, 1).is_err());
        assert!(score_model(&mut model, &mut kv, 0, &[32], 1).is_err());
        assert_eq!(kv.memory().used_bytes, 0);
    }

    #[test]
    fn a_uniform_model_needs_log2_of_the_vocabulary() {
        let mut params = Params::random(Gpt2Config::new(32, 8, 4, 1, 1), 1);
        let head = params.layout.head.clone();
        params.data[head].fill(0.0);
        let ids: Vec<u32> = (0..50).map(|i| i % 32).collect();
        let score = score(&params, 0, &ids, 25).unwrap();
        assert!((score.bits - 250.0).abs() < 1e-3, "{score:?}");
        assert!((score.bits_per_byte() - 10.0).abs() < 1e-4);
        assert!(super::score(&params, 0, &[32], 1).is_err());
    }
}
