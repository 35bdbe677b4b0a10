//! Input rows of new tokens, distilled from the base model.
//!
//! Token distillation (Dobler and others, arXiv 2505.20133): the row of a new token is moved by gradient steps until the
//! model's state after the token is the base model's state after the pieces it stands for. Both models read the same text,
//! each in its own tokens; states are compared wherever tokens of both end at the same byte.

use patchtok::{Corpus, PatchTokenizer};

use super::check_untied;
use crate::error::ModelError;
use crate::kernels::elementwise;
use crate::params::Params;
use crate::pass::{Batch, Pass, Trainable};
use crate::rng::Rng;
use crate::train::adamw::{AdamW, Step};
use crate::train::check_ids;

/// Settings of [`fit_inputs`].
#[derive(Debug, Clone)]
pub struct InputFit {
    /// Optimiser steps.
    pub steps: usize,
    /// Windows of text in a step.
    pub windows: usize,
    /// Tokens of a window, at most the model's context.
    pub tokens: usize,
    /// Learning rate of the first step; it falls to zero in a line.
    pub rate: f32,
    /// Threads; the result is reproducible for a seed and a number of threads.
    pub threads: usize,
    /// Seed of the windows.
    pub seed: u64,
}

impl Default for InputFit {
    fn default() -> Self {
        Self {
            steps: 200,
            windows: 8,
            tokens: 512,
            rate: 3e-3,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            seed: 1,
        }
    }
}

/// A text in the tokens of two tokenizers.
#[derive(Debug, Clone)]
pub struct TwoStreams {
    /// Ids, and the place behind each token.
    base: (Vec<u32>, Vec<u64>),
    patched: (Vec<u32>, Vec<u64>),
}

impl TwoStreams {
    /// Reads `corpus`, each document between two `separator`s, up to about `max_bytes` of it.
    ///
    /// # Errors
    /// [`ModelError::Text`] when the corpus cannot be read.
    pub fn read(
        base: &PatchTokenizer,
        patched: &PatchTokenizer,
        corpus: &Corpus,
        separator: u32,
        max_bytes: usize,
    ) -> Result<Self, ModelError> {
        let mut streams = [(base, Vec::new(), Vec::new()), (patched, Vec::new(), Vec::new())];
        let mut read = 0;
        for document in corpus.documents() {
            let text = document?;
            for (tokenizer, ids, ends) in &mut streams {
                let mut end = ends.last().copied().unwrap_or(0u64);
                let document = tokenizer.encode_ordinary(&text);
                ids.push(separator);
                ends.push(end + 1);
                end += 1;
                for id in document {
                    end += tokenizer.token_bytes(id).map_or(0, <[u8]>::len) as u64;
                    ids.push(id);
                    ends.push(end);
                }
            }
            read += text.len();
            if read >= max_bytes {
                break;
            }
        }
        let [(_, ids, ends), (_, patched_ids, patched_ends)] = streams;
        Ok(Self {
            base: (ids, ends),
            patched: (patched_ids, patched_ends),
        })
    }

    /// The ids of the base tokenizer.
    pub fn base(&self) -> &[u32] {
        &self.base.0
    }

    /// The ids of the patched tokenizer.
    pub fn patched(&self) -> &[u32] {
        &self.patched.0
    }

    /// A window of at most `length` tokens of either, beginning at or after base token `start` where both have a token
    /// begin: the ranges of both.
    fn window(&self, start: usize, length: usize) -> Option<Window> {
        let ((_, ends), (_, patched_ends)) = (&self.base, &self.patched);
        let begin = |ends: &[u64], at: usize| if at == 0 { 0 } else { ends[at - 1] };
        let (base, patched) = (start..ends.len()).find_map(|at| {
            let place = begin(ends, at);
            let patched = patched_ends.partition_point(|&end| end <= place);
            (begin(patched_ends, patched) == place).then_some((at, patched))
        })?;
        let base = base..(base + length).min(ends.len());
        let last = *ends[base.clone()].last()?;
        let patched_end = patched_ends.partition_point(|&end| end <= last);
        let patched = patched..patched_end.min(patched + length);
        let (mut i, mut pairs) = (0, Vec::new());
        for (row, end) in patched_ends[patched.clone()].iter().enumerate() {
            while i < base.len() && ends[base.start + i] < *end {
                i += 1;
            }
            if i < base.len() && ends[base.start + i] == *end {
                pairs.push((row, i));
            }
        }
        (!pairs.is_empty()).then_some(Window { base, patched, pairs })
    }
}

/// The same text in two tokenizers.
#[derive(Debug)]
struct Window {
    base: std::ops::Range<usize>,
    patched: std::ops::Range<usize>,
    /// Tokens of the patched and of the base window that end at the same byte.
    pairs: Vec<(usize, usize)>,
}

/// One thread's buffers.
#[derive(Debug, Default)]
struct Shard {
    teacher: Pass,
    student: Pass,
    grads: Vec<f32>,
    sum: f64,
    values: usize,
}

/// Moves the input rows of `tokens` in `params`, the new ones, until the model's states are those of `base` on the same
/// text. All other weights stay as they are. `observe` is told each step and its mean squared distance, and says whether
/// to go on.
///
/// Costs about as much a step as tuning on as many tokens.
///
/// # Errors
/// [`ModelError::Mismatch`] for a model whose output rows are its input rows; [`ModelError::Request`] when the text is
/// too short or the two do not belong together.
pub fn fit_inputs(
    params: &mut Params,
    base: &Params,
    tokens: &[u32],
    streams: &TwoStreams,
    fit: &InputFit,
    observe: &mut dyn FnMut(usize, f64) -> bool,
) -> Result<(), ModelError> {
    check_untied(params)?;
    check_ids(streams.base(), base.config().vocab_size())?;
    check_ids(streams.patched(), params.config().vocab_size())?;
    check_ids(tokens, params.config().vocab_size())?;
    let (width, length) = (params.config().width(), params.config().context().min(fit.tokens));
    if fit.threads == 0 || fit.windows == 0 || streams.window(0, length).is_none() {
        return Err(ModelError::Request(
            "fitting input rows needs a thread, a window and text of which both tokenizers have a token".into(),
        ));
    }
    let trainable = Trainable {
        blocks: vec![false; params.config().layers()],
    };
    let table = params.layout.embedding.clone();
    let mut optimiser = AdamW::new(table.end);
    let mut shards: Vec<Shard> = (0..fit.threads.min(fit.windows)).map(|_| Shard::default()).collect();
    let mut rng = Rng::new(fit.seed);
    for step in 0..fit.steps {
        let last = streams.base().len().saturating_sub(length).max(1);
        let mut windows: Vec<Window> = (0..fit.windows)
            .filter_map(|_| streams.window(rng.below(last), length))
            .collect();
        if windows.is_empty() {
            // Both have a token begin at the start, which need not be so anywhere behind the places drawn.
            windows.extend(streams.window(0, length));
        }
        let per_shard = windows.len().div_ceil(shards.len());
        let (student, trainable) = (&*params, &trainable);
        std::thread::scope(|scope| {
            for (shard, windows) in shards.iter_mut().zip(windows.chunks(per_shard)) {
                scope.spawn(move || shard.windows(student, base, streams, windows, trainable));
            }
        });
        let used = windows.len().div_ceil(per_shard);
        let (first, others) = shards[..used].split_at_mut(1);
        for other in others.iter() {
            elementwise::accumulate(&mut first[0].grads[table.clone()], &other.grads[table.clone()]);
        }
        let (sum, values) = shards[..used].iter().fold((0.0, 0), |(sum, values), shard| {
            (sum + shard.sum, values + shard.values)
        });
        let rows = tokens.iter().map(|&token| {
            let start = table.start + token as usize * width;
            (start..start + width, 0.0)
        });
        let settings = Step {
            rate: fit.rate * (1.0 - step as f32 / fit.steps as f32),
            betas: (0.9, 0.98),
            clip: 1.0 / values as f32,
        };
        optimiser.step(
            &mut params.data[..table.end],
            &shards[0].grads[..table.end],
            rows,
            settings,
        );
        if !observe(step, sum / values as f64) {
            break;
        }
    }
    Ok(())
}

impl Shard {
    fn windows(
        &mut self,
        params: &Params,
        base: &Params,
        streams: &TwoStreams,
        windows: &[Window],
        trainable: &Trainable,
    ) {
        self.grads.clear();
        self.grads.resize(params.len(), 0.0);
        (self.sum, self.values) = (0.0, 0);
        let width = params.config().width();
        for window in windows {
            let states = self
                .teacher
                .hidden(base, Batch::to_read(&streams.base()[window.base.clone()]));
            let wanted: Vec<(usize, &[f32])> = window
                .pairs
                .iter()
                .map(|&(row, i)| (row, &states[i * width..][..width]))
                .collect();
            let ids = Batch::to_read(&streams.patched()[window.patched.clone()]);
            let grads = &mut self.grads;
            self.sum += self
                .student
                .hidden_gradients(params, ids, &wanted, trainable, grads, 1.0);
            self.values += wanted.len() * width;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Gpt2Config;

    /// The patched tokenizer's second token is the rest of the text: windows begin at its first bytes only.
    #[test]
    fn a_text_with_hardly_a_place_to_begin_can_be_fitted() {
        let two = TwoStreams {
            base: ((0..400).map(|i| i % 8).collect(), (1..=400).collect()),
            patched: (vec![1, 2], vec![1, 400]),
        };
        assert!(two.window(0, 8).is_some() && two.window(2, 8).is_none());
        let base = Params::random(Gpt2Config::new(8, 8, 8, 2, 2), 1);
        let mut params = base.untied();
        let fit = InputFit {
            steps: 3,
            windows: 2,
            threads: 2,
            ..InputFit::default()
        };
        let mut steps = 0;
        fit_inputs(&mut params, &base, &[2], &two, &fit, &mut |_, distance| {
            steps += 1;
            distance.is_finite()
        })
        .unwrap();
        assert_eq!(steps, 3);
    }

    #[test]
    fn windows_hold_the_same_text_and_pairs_end_together() {
        // Places behind tokens: of the base every byte or two, of the patched up to five.
        let mut rng = Rng::new(5);
        let mut stream = |most: usize| {
            let mut ends = Vec::new();
            while ends.last().copied().unwrap_or(0) < 400 {
                let end = ends.last().copied().unwrap_or(0) + 1 + rng.below(most) as u64;
                ends.push(end.min(400));
            }
            ((0..ends.len() as u32).collect(), ends)
        };
        let two = TwoStreams {
            base: stream(2),
            patched: stream(5),
        };
        let (base, patched) = (&two.base.1, &two.patched.1);
        let begin = |ends: &[u64], at: usize| if at == 0 { 0 } else { ends[at - 1] };
        let mut seen = 0;
        for start in 0..base.len() {
            let Some(window) = two.window(start, 40) else { continue };
            seen += 1;
            assert!(window.base.start >= start && window.base.len() <= 40 && window.patched.len() <= 40);
            assert_eq!(begin(base, window.base.start), begin(patched, window.patched.start));
            assert!(patched[window.patched.end - 1] <= base[window.base.end - 1]);
            let both = |&(row, i): &(usize, usize)| (patched[window.patched.start + row], base[window.base.start + i]);
            assert!(window.pairs.iter().map(both).all(|(a, b)| a == b));
            let ends = &base[window.base.clone()];
            let shared = patched[window.patched.clone()]
                .iter()
                .filter(|end| ends.contains(end))
                .count();
            assert_eq!(window.pairs.len(), shared);
        }
        assert!(seen > 100);
    }
}
