//! Output rows shifted until the model expects every token as often as it comes.

use rayon::prelude::*;

use super::check_untied;
use super::linalg::Cholesky;
use super::states::States;
use crate::error::ModelError;
use crate::kernels::cross_entropy;
use crate::kernels::elementwise;
use crate::kernels::matmul::{Into, Mat, matmul};
use crate::params::Params;

/// Rows of logits that one thread holds.
const ROWS: usize = 128;
/// Times the shifts are improved; the counts settle to a per cent in three.
const ROUNDS: usize = 4;
/// Added to both counts, so that a token that hardly comes is hardly shifted.
const SMOOTHING: f64 = 0.5;
/// Least share of a constant that the common direction must hold; trained models hold nearly all of one.
pub const LEAST_SHARE: f64 = 0.9;
/// Share of the mean square of a state that is added to each of its directions when the constant one is looked for.
const RIDGE: f64 = 1e-4;

/// Shifts the logit of every token that comes in `stream` by a constant of its own, so that over up to `positions`
/// places of the stream the model expects each as often as it comes in the whole stream: the condition at which the
/// cross-entropy is least over such constants (iterative scaling, Darroch and Ratcliff 1972).
///
/// GPT-2's head has no bias. The constant is put into the rows along the direction that every input of the head has in
/// common, found by least squares: the last layer norm leaves one, since what it makes sums to zero before its own bias
/// is added. Returns how much of a constant that direction holds, from 0 to 1; where that is not at least [`LEAST_SHARE`],
/// as in a model that was never trained, nothing is changed.
///
/// `go_on` is asked from time to time, on any thread. When it says no, the shifts of the rounds that are done stay, and
/// the result is `None`.
///
/// # Errors
/// [`ModelError::Mismatch`] for a model whose output rows are its input rows, [`ModelError::Request`] for a stream
/// without two tokens or with an id outside the vocabulary.
pub fn calibrate(
    params: &mut Params,
    stream: &[u32],
    positions: usize,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Result<Option<f64>, ModelError> {
    check_untied(params)?;
    let (vocab, width) = (params.config().vocab_size(), params.config().width());
    let Some(states) = States::read(params, stream, positions, go_on)? else {
        return Ok(None);
    };
    let states = states.values;
    let places = states.len() / width;
    let (constant, held) = constant_direction(&states, width);
    // States that are no numbers hold a share that is none either.
    if held.is_nan() || held < LEAST_SHARE {
        return Ok(Some(held));
    }

    let mut seen = vec![0u64; vocab];
    stream.iter().for_each(|&id| seen[id as usize] += 1);
    let share = places as f64 / stream.len() as f64;
    let head = params.layout.head.clone();
    for _ in 0..ROUNDS {
        let Some(expected) = expected_counts(&params.data[head.clone()], &states, vocab, width, go_on) else {
            return Ok(None);
        };
        for (token, row) in params.data[head.clone()].chunks_exact_mut(width).enumerate() {
            if seen[token] > 0 {
                let wanted = seen[token] as f64 * share + SMOOTHING;
                let shift = (wanted / (expected[token] + SMOOTHING)).ln() as f32;
                row.iter_mut().zip(&constant).for_each(|(w, c)| *w += shift * c);
            }
        }
    }
    Ok(Some(held))
}

/// The row whose product with every state of `states (N, C)` is nearest to 1, and the mean of the products.
fn constant_direction(states: &[f32], width: usize) -> (Vec<f32>, f64) {
    let view = Mat::new(states, states.len() / width, width);
    let mut moment = vec![0.0; width * width];
    matmul(&mut moment, width, Into::Set, view.t(), view, 1.0);
    let mut sums = vec![0.0; width];
    elementwise::add_column_sums(&mut sums, states);
    let mut direction: Vec<f64> = sums.iter().map(|&sum| f64::from(sum)).collect();
    match Cholesky::of_ridged(&moment, width, RIDGE) {
        Some(factor) => factor.solve(&mut direction),
        // Only states that are all zero have no factor; no constant can be made of them.
        None => direction.fill(0.0),
    }
    let products: f64 = direction.iter().zip(&sums).map(|(d, &sum)| d * f64::from(sum)).sum();
    let direction = direction.into_iter().map(|value| value as f32).collect();
    (direction, products / view.rows() as f64)
}

/// How often the model expects each token over all states `(N, C)`; the same on any number of threads. `None` once `go_on`
/// says no.
fn expected_counts(
    head: &[f32],
    states: &[f32],
    vocab: usize,
    width: usize,
    go_on: &(dyn Fn() -> bool + Sync),
) -> Option<Vec<f64>> {
    // A fixed number of parts, so that the sums do not depend on the threads.
    let part = (states.len() / width).div_ceil(16).max(1) * width;
    let parts = states
        .par_chunks(part)
        .map(|states| {
            let mut sums = vec![0.0; vocab];
            let mut logits = vec![0.0; ROWS * vocab];
            let mut losses = [0.0; ROWS];
            let targets = [0u32; ROWS];
            for states in states.chunks(ROWS * width) {
                if !go_on() {
                    return None;
                }
                let rows = states.len() / width;
                let logits = &mut logits[..rows * vocab];
                let head = Mat::new(head, vocab, width).t();
                matmul(logits, vocab, Into::Set, Mat::new(states, rows, width), head, 1.0);
                // Its gradient is the probabilities, but for the one that is taken from the target.
                cross_entropy::losses_and_gradient(&mut losses[..rows], logits, &targets[..rows], vocab, 1.0);
                elementwise::add_column_sums(&mut sums, logits);
                sums[0] += rows as f32;
            }
            Some(sums)
        })
        .collect::<Option<Vec<Vec<f32>>>>()?;
    let mut total = vec![0.0; vocab];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(sum, x)| *sum += f64::from(x));
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Gpt2Config;

    #[test]
    fn states_that_are_no_numbers_change_nothing() {
        let mut params = Params::random(Gpt2Config::new(16, 8, 8, 1, 2), 1).untied();
        let bias = params.layout.norm[1].clone();
        params.data[bias][3] = f32::NAN;
        let head = params.layout.head.clone();
        let before = params.data[head.clone()].to_vec();
        let stream: Vec<u32> = (0..40).map(|i| i % 16).collect();
        let held = calibrate(&mut params, &stream, 32, &|| true).unwrap().unwrap();
        assert!(held.is_nan());
        assert_eq!(params.data[head], before);
    }
}
