//! Rotary positions (Su et al. 2021): each pair of a head's elements, half a head apart, is turned by an angle that grows
//! with the position.

use super::config::{LlamaConfig, RopeScaling};
use crate::attention::Heads;
use crate::kernels::simd::simd_fn;

/// Angles a position adds for each pair of a head, `(head_dim / 2)`, in `f32` as transformers computes them.
pub(crate) fn frequencies(config: &LlamaConfig) -> Vec<f32> {
    let d = config.head_dim;
    let plain = (0..d).step_by(2).map(|i| {
        let exponent = i as f32 / d as f32;
        1.0 / config.rope_theta.powf(f64::from(exponent)) as f32
    });
    plain.map(|frequency| stretch(config.rope_scaling, frequency)).collect()
}

fn stretch(scaling: RopeScaling, frequency: f32) -> f32 {
    match scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let frequency = f64::from(frequency);
            let turns = original_max_position_embeddings * frequency / std::f64::consts::TAU;
            // 0 for a frequency that is divided, 1 for one that is kept.
            let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            ((1.0 - kept) * frequency / factor + kept * frequency) as f32
        }
    }
}

/// Appends cosines, then sines, of a position's angles: `head_dim` floats.
pub(crate) fn angles(turns: &mut Vec<f32>, frequencies: &[f32], position: usize) {
    // The angle is rounded to `f32` before its sine is taken, as transformers does: at large positions that is visible.
    let angle = |&frequency: &f32| f64::from(position as f32 * frequency);
    turns.extend(frequencies.iter().map(|frequency| angle(frequency).cos() as f32));
    turns.extend(frequencies.iter().map(|frequency| angle(frequency).sin() as f32));
}

/// Turns the queries and keys of `qkv (N, fused_row)` by the angles `turns (N, head_dim)`.
pub(crate) fn apply(heads: Heads, qkv: &mut [f32], turns: &[f32]) {
    let turned = heads.query_row() + heads.kv_row();
    for (row, turns) in qkv
        .chunks_exact_mut(heads.fused_row())
        .zip(turns.chunks_exact(heads.dim))
    {
        turn(&mut row[..turned], turns);
    }
}

/// The angles `turns (N, head_dim)` negated: the gradient of a turn is a turn back.
pub(crate) fn back(turns: &[f32], head_dim: usize) -> Vec<f32> {
    let mut back = turns.to_vec();
    for turns in back.chunks_exact_mut(head_dim) {
        turns[head_dim / 2..].iter_mut().for_each(|sin| *sin = -*sin);
    }
    back
}

simd_fn! {
    /// Turns whole heads by one position's cosines and sines.
    fn turn(row: &mut [f32], turns: &[f32]) {
        let half = turns.len() / 2;
        let (cos, sin) = turns.split_at(half);
        for head in row.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
