//! From a base model to one that reads and writes a patched tokenizer's ids.
//!
//! [`exponential`] makes rows for the new tokens from the rows of their pieces, as AdaptiVocab does. Three fits make
//! better ones from text of the domain, without training anything else:
//!
//! * [`fit_inputs`] moves input rows until the model's states after a new token are the base model's after its pieces;
//! * [`calibrate`] shifts output rows until every token is expected as often as it comes;
//! * [`fit_outputs`] moves the output rows of new tokens and of their pieces by gradient steps on states that are computed
//!   once.
//!
//! [`write_directory`] puts model and tokenizer into a Hugging Face directory. Tuning is
//! [`Trainer`](crate::train::Trainer)'s.

mod calibrate;
mod directory;
mod inputs;
mod linalg;
mod outputs;
mod rows;
mod states;

pub use calibrate::{LEAST_SHARE, calibrate};
pub use directory::write_directory;
pub use inputs::{InputFit, TwoStreams, fit_inputs};
pub use outputs::{OutputFit, fit_outputs};
pub use rows::{CODE_RATIO, Head, PAPER_RATIO, exponential, weigh_rows};

use crate::error::ModelError;
use crate::params::Params;

/// Refuses a fit of output rows to a model that has none of its own.
fn check_untied(params: &Params) -> Result<(), ModelError> {
    if params.config().is_tied() {
        return Err(ModelError::Mismatch(
            "the model's output rows are its input rows; only a model with an output head of its own can have them fitted"
                .into(),
        ));
    }
    Ok(())
}

/// Windows of `length` tokens and one more spread evenly over `stream`, at most `positions` tokens in all.
fn windows(stream: &[u32], length: usize, positions: usize) -> Vec<&[u32]> {
    let length = length.min(stream.len().saturating_sub(1));
    if length == 0 {
        return Vec::new();
    }
    let count = (stream.len() - 1).min(positions.max(length)) / length;
    let spread = (stream.len() - 1 - count * length) as f64 / count.max(1) as f64;
    (0..count)
        .map(|i| {
            let start = i * length + (i as f64 * spread) as usize;
            &stream[start..start + length + 1]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::windows;

    #[test]
    fn windows_lie_inside_and_apart() {
        for len in [0usize, 1, 2, 10, 57, 1000] {
            let stream: Vec<u32> = (0..len as u32).collect();
            for length in [1, 7, 64] {
                for positions in [1, 64, 500, 5000] {
                    let mut end = 0;
                    let all = windows(&stream, length, positions);
                    assert_eq!(all.is_empty(), len < 2);
                    for window in all {
                        assert!(window[0] as usize >= end && window.len() <= length + 1 && window.len() > 1);
                        end = window[window.len() - 1] as usize;
                    }
                    assert!(end < len.max(1));
                }
            }
        }
    }
}
