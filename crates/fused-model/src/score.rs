//! Bits per byte of a text: the one quality figure that can be compared across tokenizers.

use rayon::prelude::*;
use serde::Serialize;

use crate::error::ModelError;
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

/// Scores one document: `ids` are its tokens, `bytes` the length of its text.
///
/// The document is read behind `start`, the id that separates documents in training, in windows of the model's
/// context that overlap by half, so that every token but the first few has at least half a context before it. Windows
/// are spread over rayon's threads; the result does not depend on their number.
///
/// # Errors
/// [`ModelError::Request`] for an id outside the vocabulary.
pub fn score(params: &Params, start: u32, ids: &[u32], bytes: usize) -> Result<Score, ModelError> {
    check_ids(ids, params.config().vocab_size)?;
    check_ids(&[start], params.config().vocab_size)?;
    let context = params.config().n_positions;
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
