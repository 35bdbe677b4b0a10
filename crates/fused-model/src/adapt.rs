//! From a base model to one that reads and writes a patched tokenizer's ids.

use patchtok::PatchMap;

use crate::error::ModelError;
use crate::params::Params;
use crate::train::check_ids;

/// Ratio of neighbouring weights in [`exponential`] as the AdaptiVocab paper gives it (section 3.2): e squared.
pub const PAPER_RATIO: f32 = 7.389_056;

/// Gives each new token of `patch` an input and an output row made from the rows of the base tokens it stands for.
///
/// With base tokens `t_1..t_k`, the input row weighs `t_i` by `ratio^i` (what was read last matters most) and the output
/// row by `ratio^-i` (what is said next matters most), weights summing to one: the exponential initialisation of
/// AdaptiVocab (Nakash et al. 2025, section 3.2). A ratio of 1 is the plain mean. All other rows and all other weights
/// stay as they are. The result has an output head of its own, since the two rows differ.
///
/// # Errors
/// [`ModelError::Mismatch`] when the patch was made for a vocabulary of another size, names ids outside it, or lists a
/// token without base tokens; [`ModelError::Request`] when the ratio is not a positive number.
pub fn exponential(base: &Params, patch: &PatchMap, ratio: f32) -> Result<Params, ModelError> {
    let vocab_size = base.config().vocab_size;
    if patch.base_vocab_size() as usize != vocab_size {
        return Err(ModelError::Mismatch(format!(
            "the patch map is for a vocabulary of {}; the model has {vocab_size}: adapt the model the tokenizer was built for",
            patch.base_vocab_size()
        )));
    }
    if !(ratio.is_finite() && ratio > 0.0) {
        return Err(ModelError::Request(format!(
            "the ratio is {ratio}; it must be a positive number"
        )));
    }
    let mut adapted = base.untied();
    let width = base.config().n_embd;
    let parts = [
        (base.layout.wte.clone(), adapted.layout.wte.clone(), ratio),
        (base.layout.head.clone(), adapted.layout.head.clone(), 1.0 / ratio),
    ];
    for token in patch.new_tokens() {
        let mismatch = |why: String| ModelError::Mismatch(format!("new token {}: {why}", token.id));
        check_ids(&[token.id], vocab_size).map_err(|error| mismatch(error.to_string()))?;
        check_ids(&token.base_ids, vocab_size).map_err(|error| mismatch(error.to_string()))?;
        if token.base_ids.is_empty() {
            return Err(mismatch("it stands for no base tokens".into()));
        }
        for (from, to, ratio) in &parts {
            let weights = weights(token.base_ids.len(), *ratio);
            let start = to.start + token.id as usize * width;
            let row = &mut adapted.data[start..start + width];
            row.fill(0.0);
            for (&id, weight) in token.base_ids.iter().zip(weights) {
                let source = &base.data[from.start + id as usize * width..][..width];
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
