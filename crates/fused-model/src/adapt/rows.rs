//! Rows for new tokens made from the rows of the base tokens they stand for.

use patchtok::PatchMap;

use crate::error::ModelError;
use crate::params::Params;
use crate::train::check_ids;

/// Ratio of neighbouring weights in [`weigh_rows`] as the AdaptiVocab paper gives it (section 3.2): e squared.
pub const PAPER_RATIO: f32 = 7.389_056;
/// The ratio that AdaptiVocab's released code uses.
pub const CODE_RATIO: f32 = 2.0;

/// Whether new tokens get one row or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// An output head of its own, so that a token's input and output row can differ.
    Untied,
    /// The base model's single matrix: one row serves as both, and it is weighed as an input row.
    Tied,
}

/// Gives each new token of `patch` rows made from the rows of the base tokens it stands for, as [`weigh_rows`] says.
///
/// # Errors
/// [`ModelError::Mismatch`] when the patch was made for a vocabulary of another size; and those of [`weigh_rows`].
pub fn exponential(base: &Params, patch: &PatchMap, ratio: f32, head: Head) -> Result<Params, ModelError> {
    let vocab_size = base.config().vocab_size();
    if patch.base_vocab_size() as usize != vocab_size {
        return Err(ModelError::Mismatch(format!(
            "the patch map is for a vocabulary of {}; the model has {vocab_size}: adapt the model the tokenizer was \
             built for",
            patch.base_vocab_size()
        )));
    }
    let tokens = patch.new_tokens().map(|token| (token.id, token.base_ids.as_slice()));
    weigh_rows(base, tokens, ratio, head)
}

/// Gives each of `tokens`, an id and the base tokens `t_1..t_k` it stands for, rows made from theirs.
///
/// The input row weighs `t_i` by `ratio^i` (what was read last matters most) and the output row by `ratio^-i` (what is
/// said next matters most), weights summing to one: the exponential initialisation of AdaptiVocab (Nakash et al. 2025,
/// section 3.2). A ratio of 1 is the plain mean. All other rows and all other weights stay as they are.
///
/// # Errors
/// [`ModelError::Mismatch`] when an id is outside the vocabulary, when a token stands for no base tokens, or when one row
/// is wanted for a model that has two; [`ModelError::Request`] when the ratio is not a positive number.
pub fn weigh_rows<'a>(
    base: &Params,
    tokens: impl IntoIterator<Item = (u32, &'a [u32])>,
    ratio: f32,
    head: Head,
) -> Result<Params, ModelError> {
    if !(ratio.is_finite() && ratio > 0.0) {
        return Err(ModelError::Request(format!(
            "the ratio is {ratio}; it must be a positive number"
        )));
    }
    let tied = base.config().is_tied();
    // Each matrix as it is in the base, as it is in the result, and its ratio.
    let (mut adapted, matrices) = match head {
        Head::Tied if !tied => {
            return Err(ModelError::Mismatch(
                "the model has an output head of its own; it cannot be adapted with one row a token".into(),
            ));
        }
        Head::Tied => (
            base.clone(),
            vec![(base.layout.embedding.clone(), base.layout.embedding.clone(), ratio)],
        ),
        Head::Untied => {
            let adapted = base.untied();
            let (from, to) = (&base.layout, &adapted.layout);
            let input = (from.embedding.clone(), to.embedding.clone(), ratio);
            let output = (from.head.clone(), to.head.clone(), 1.0 / ratio);
            (adapted, vec![input, output])
        }
    };
    let (width, vocab_size) = (base.config().width(), base.config().vocab_size());
    for (id, pieces) in tokens {
        let mismatch = |why: String| ModelError::Mismatch(format!("new token {id}: {why}"));
        check_ids(&[id], vocab_size).map_err(|error| mismatch(error.to_string()))?;
        check_ids(pieces, vocab_size).map_err(|error| mismatch(error.to_string()))?;
        if pieces.is_empty() {
            return Err(mismatch("it stands for no base tokens".into()));
        }
        for (from, to, ratio) in &matrices {
            let weights = weights(pieces.len(), *ratio);
            let start = to.start + id as usize * width;
            let row = &mut adapted.data[start..start + width];
            row.fill(0.0);
            for (&piece, weight) in pieces.iter().zip(weights) {
                let source = &base.data[from.start + piece as usize * width..][..width];
                row.iter_mut()
                    .zip(source)
                    .for_each(|(out, &value)| *out += weight * value);
            }
        }
    }
    Ok(adapted)
}

/// `k` weights in the proportions `ratio^1, ratio^2, ..`, summing to one. Computed from the largest down, so that no
/// power overflows.
fn weights(k: usize, ratio: f32) -> Vec<f32> {
    let powers: Vec<f64> = (0..k)
        .map(|i| {
            let below_top = if ratio >= 1.0 { k - 1 - i } else { i };
            let step = if ratio >= 1.0 {
                1.0 / f64::from(ratio)
            } else {
                f64::from(ratio)
            };
            step.powi(below_top as i32)
        })
        .collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| (power / sum) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_the_paper_and_of_the_mean() {
        // Section 3.2 of the paper, for two and three tokens.
        let close = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-3);
        assert!(close(&weights(2, PAPER_RATIO), &[0.119, 0.881]));
        assert!(close(&weights(3, PAPER_RATIO), &[0.016, 0.117, 0.867]));
        assert!(close(&weights(3, 1.0 / PAPER_RATIO), &[0.867, 0.117, 0.016]));
        assert_eq!(weights(4, 1.0), [0.25; 4]);
        let long = weights(400, 1e30);
        assert!(long.iter().all(|weight| weight.is_finite()) && (long.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
