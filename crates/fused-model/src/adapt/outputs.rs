//! Output rows of new tokens, fitted by gradient steps on stored states.

use rayon::prelude::*;

use super::check_untied;
use super::states::States;
use crate::error::ModelError;
use crate::kernels::matmul::{Into, Mat, matmul};
use crate::kernels::{cross_entropy, elementwise};
use crate::params::Params;
use crate::rng::Rng;
use crate::train::adamw::{AdamW, Step};
use crate::train::check_ids;

/// Places whose logits one thread holds. Sums are made by parts of so many, the same on any number of threads.
const PART: usize = 128;

/// Settings of [`fit_outputs`].
#[derive(Debug, Clone)]
pub struct OutputFit {
    /// Places of the text whose states are stored, 4 bytes for each of the model's columns.
    pub places: usize,
    /// Optimiser steps.
    pub steps: usize,
    /// Places in a step.
    pub batch: usize,
    /// Learning rate of the first step; it falls to zero in a line.
    pub rate: f32,
    /// Seed of the places.
    pub seed: u64,
}

impl Default for OutputFit {
    fn default() -> Self {
        Self {
            places: 1 << 17,
            steps: 200,
            batch: 1024,
            rate: 1e-3,
            seed: 1,
        }
    }
}

/// Moves the output rows of `tokens` in `params` towards the least cross-entropy of `stream`; all other weights stay as they
/// are. What comes ahead of the head is computed once, so that a step costs one product with the head: for given
/// states the problem is convex (multinomial logistic regression). `tokens` should be the new tokens and those they stand
/// for: a new token takes its probability from its first piece.
///
/// `go_on` is asked from time to time, on any thread; once it says no, the rows stay as the steps that are done have made
/// them. `observe` is told each step and its mean loss in nats.
///
/// # Errors
/// [`ModelError::Mismatch`] for a model whose output rows are its input rows; [`ModelError::Request`] for settings without
/// a place to learn from, for a stream without two tokens or for an id outside the vocabulary.
pub fn fit_outputs(
    params: &mut Params,
    tokens: &[u32],
    stream: &[u32],
    fit: &OutputFit,
    go_on: &(dyn Fn() -> bool + Sync),
    observe: &mut dyn FnMut(usize, f64),
) -> Result<(), ModelError> {
    check_untied(params)?;
    check_ids(tokens, params.config().vocab_size())?;
    if fit.places == 0 || fit.batch == 0 {
        return Err(ModelError::Request(
            "fitting output rows needs places to learn from, and one in each step".into(),
        ));
    }
    let Some(states) = States::read(params, stream, fit.places, go_on)? else {
        return Ok(());
    };
    let mut tokens = tokens.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    let width = params.config().width();
    let head = params.layout.head.clone();
    let rows: Vec<_> = tokens
        .iter()
        .map(|&token| head.start + token as usize * width..head.start + (token as usize + 1) * width)
        .collect();
    // The rows side by side, which is how their gradient comes.
    let mut trained: Vec<f32> = rows.iter().flat_map(|row| &params.data[row.clone()]).copied().collect();
    let mut optimiser = AdamW::new(trained.len());
    let mut rng = Rng::new(fit.seed);
    for step in 0..fit.steps {
        if !go_on() {
            break;
        }
        let places: Vec<usize> = (0..fit.batch).map(|_| rng.below(states.next.len())).collect();
        let parts: Vec<_> = places
            .par_chunks(PART)
            .map(|places| gradient(&params.data[head.clone()], width, &states, places, &tokens, fit.batch))
            .collect();
        let mut parts = parts.into_iter();
        let Some((mut grads, mut loss)) = parts.next() else {
            break;
        };
        for (part, part_loss) in parts {
            elementwise::accumulate(&mut grads, &part);
            loss += part_loss;
        }
        let settings = Step {
            rate: fit.rate * (1.0 - step as f32 / fit.steps as f32),
            betas: (0.9, 0.98),
            clip: 1.0,
        };
        let all = std::iter::once((0..trained.len(), 0.0));
        optimiser.step(&mut trained, &grads, all, settings);
        for (row, values) in rows.iter().zip(trained.chunks_exact(width)) {
            params.data[row.clone()].copy_from_slice(values);
        }
        observe(step, loss / fit.batch as f64);
    }
    Ok(())
}

/// Gradient of the mean loss of a step's `batch` places by the rows of `tokens`, as far as it comes from `places`, and the
/// sum of their losses.
fn gradient(
    head: &[f32],
    width: usize,
    states: &States,
    places: &[usize],
    tokens: &[u32],
    batch: usize,
) -> (Vec<f32>, f64) {
    let (rows, vocab) = (places.len(), head.len() / width);
    let read: Vec<f32> = places
        .iter()
        .flat_map(|&place| &states.values[place * width..][..width])
        .copied()
        .collect();
    let read = Mat::new(&read, rows, width);
    let next: Vec<u32> = places.iter().map(|&place| states.next[place]).collect();
    let mut logits = vec![0.0; rows * vocab];
    matmul(
        &mut logits,
        vocab,
        Into::Set,
        read,
        Mat::new(head, vocab, width).t(),
        1.0,
    );
    let mut losses = vec![0.0; rows];
    cross_entropy::losses_and_gradient(&mut losses, &mut logits, &next, vocab, 1.0 / batch as f32);
    let wanted: Vec<f32> = logits
        .chunks_exact(vocab)
        .flat_map(|row| tokens.iter().map(|&token| row[token as usize]))
        .collect();
    let mut grads = vec![0.0; tokens.len() * width];
    let wanted = Mat::new(&wanted, rows, tokens.len());
    matmul(&mut grads, width, Into::Set, wanted.t(), read, 1.0);
    (grads, losses.iter().map(|&loss| f64::from(loss)).sum())
}
