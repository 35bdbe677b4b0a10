//! Beam search: the most likely continuations of one prompt, several at a time.

use std::cmp::Ordering;

use super::prefix::free;
use crate::error::ModelError;
use crate::kv::{KvId, KvStore};
use crate::model::{CausalLm, Chunk, Logits};

/// What [`beam_search`] looks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Beams {
    /// Continuations followed at once, and returned.
    pub width: usize,
    /// Most new tokens of each.
    pub max_tokens: usize,
    /// Ids that end a continuation; they are not part of it.
    pub stop_ids: Vec<u32>,
    /// Exponent of the length that log probabilities are divided by: 0 prefers short continuations, 1 compares per token.
    pub length_penalty: f64,
}

/// A continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// New tokens.
    pub tokens: Vec<u32>,
    /// Log probability of the tokens, and of the stop id where one came, under the model.
    pub log_probability: f64,
    /// Whether a stop id came; else it has [`Beams::max_tokens`].
    pub stopped: bool,
}

impl Hypothesis {
    /// What hypotheses are compared by.
    fn score(&self, length_penalty: f64) -> f64 {
        let length = self.tokens.len() + usize::from(self.stopped);
        self.log_probability / (length as f64).powf(length_penalty)
    }
}

/// A continuation whose rows are in the store, all but the last token's.
#[derive(Debug)]
struct Beam {
    kv: KvId,
    tokens: Vec<u32>,
    log_probability: f64,
}

/// A token after a beam.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    beam: usize,
    id: u32,
    log_probability: f64,
}

/// The `width` continuations of `prompt` with the best scores that a search of that width finds, best first.
///
/// Each step reads one token of every beam in one pass and keeps the `width` most likely of all their continuations, as
/// Hugging Face's generation does. Beams share the rows of what they have in common: one that goes on in two ways is
/// forked ([`KvStore::fork`]). The store needs `width` places; it is left without the sequences of this call.
///
/// # Errors
/// [`ModelError::Request`] for an empty prompt, or a width or length of 0; as [`CausalLm::forward`] and [`KvStore::fork`].
pub fn beam_search(
    model: &mut dyn CausalLm,
    kv: &mut dyn KvStore,
    prompt: &[u32],
    search: &Beams,
) -> Result<Vec<Hypothesis>, ModelError> {
    if search.width == 0 || search.max_tokens == 0 || prompt.is_empty() {
        return Err(ModelError::Request(format!(
            "a beam search of width {} for {} tokens after {}; each must be at least 1",
            search.width,
            search.max_tokens,
            prompt.len()
        )));
    }
    let mut beams = Vec::with_capacity(search.width);
    let found = run(model, kv, prompt, search, &mut beams);
    beams.iter().for_each(|beam| free(kv, beam.kv));
    found
}

fn run(
    model: &mut dyn CausalLm,
    kv: &mut dyn KvStore,
    prompt: &[u32],
    search: &Beams,
    beams: &mut Vec<Beam>,
) -> Result<Vec<Hypothesis>, ModelError> {
    let vocab = model.vocab_size();
    let score = |hypothesis: &Hypothesis| hypothesis.score(search.length_penalty);
    let best_first = |a: &Hypothesis, b: &Hypothesis| score(b).total_cmp(&score(a));
    let mut done: Vec<Hypothesis> = Vec::new();
    beams.push(Beam {
        kv: kv.open()?,
        tokens: Vec::new(),
        log_probability: 0.0,
    });
    for length in 1..=search.max_tokens {
        let chunks: Vec<_> = beams
            .iter()
            .map(|beam| Chunk {
                sequence: beam.kv,
                ids: beam.tokens.last().map_or(prompt, std::slice::from_ref),
            })
            .collect();
        let logits = model.forward(kv, &chunks, Logits::Last)?;
        // Twice the width: were half of them stops, the others would still fill the beams.
        let mut candidates = Vec::new();
        for (index, (beam, row)) in beams.iter().zip(logits.chunks_exact(vocab)).enumerate() {
            best(&mut candidates, index, beam, row, 2 * search.width);
        }
        candidates.sort_by(by_probability);
        let mut next = Vec::with_capacity(search.width);
        for (rank, &candidate) in candidates.iter().enumerate() {
            if next.len() == search.width {
                break;
            }
            if !search.stop_ids.contains(&candidate.id) {
                next.push(candidate);
            } else if rank < search.width {
                done.push(Hypothesis {
                    tokens: beams[candidate.beam].tokens.clone(),
                    log_probability: candidate.log_probability,
                    stopped: true,
                });
            }
        }
        done.sort_by(best_first);
        done.truncate(search.width);
        follow(kv, beams, &next)?;
        // A beam only gets less likely: when none can reach the worst of those that are done, the search is over. Divided by
        // a length, it may still gain until the last step.
        let longest = if search.length_penalty > 0.0 {
            search.max_tokens
        } else {
            length
        };
        let reach = |beam: &Beam| beam.log_probability / (longest as f64).powf(search.length_penalty);
        let full = done.len() == search.width;
        if beams.is_empty() || full && beams.iter().all(|beam| reach(beam) <= score(&done[search.width - 1])) {
            break;
        }
    }
    done.extend(
        beams
            .iter()
            .filter(|beam| beam.tokens.len() == search.max_tokens)
            .map(|beam| Hypothesis {
                tokens: beam.tokens.clone(),
                log_probability: beam.log_probability,
                stopped: false,
            }),
    );
    done.sort_by(best_first);
    done.truncate(search.width);
    Ok(done)
}

/// Adds the `count` most likely tokens after a beam. O(V + count log count).
fn best(candidates: &mut Vec<Candidate>, index: usize, beam: &Beam, logits: &[f32], count: usize) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - top).exp()).sum();
    let start = candidates.len();
    candidates.extend(
        logits
            .iter()
            .zip(0..)
            .filter(|(logit, _)| !logit.is_nan())
            .map(|(&logit, id)| Candidate {
                beam: index,
                id,
                log_probability: beam.log_probability + f64::from(logit - top) - sum.ln(),
            }),
    );
    let mine = &mut candidates[start..];
    if count < mine.len() {
        mine.select_nth_unstable_by(count, by_probability);
        candidates.truncate(start + count);
    }
}

/// Most likely first; equal ones by beam and id, so that the order depends on nothing else.
fn by_probability(a: &Candidate, b: &Candidate) -> Ordering {
    let order = b.log_probability.total_cmp(&a.log_probability);
    order.then((a.beam, a.id).cmp(&(b.beam, b.id)))
}

/// Replaces the beams by their continuations `next`: the first of a beam takes its rows over, the others fork it, and beams
/// without any give theirs back first, so that there are places for the forks.
fn follow(kv: &mut dyn KvStore, beams: &mut Vec<Beam>, next: &[Candidate]) -> Result<(), ModelError> {
    let mut index = 0;
    let mut kept = Vec::with_capacity(beams.len());
    beams.retain(|beam| {
        let goes_on = next.iter().any(|candidate| candidate.beam == index);
        if goes_on {
            kept.push(index);
        } else {
            free(kv, beam.kv);
        }
        index += 1;
        goes_on
    });
    let parents = beams.len();
    let mut taken = vec![false; parents];
    let before: Vec<(Vec<u32>, KvId)> = beams.iter().map(|beam| (beam.tokens.clone(), beam.kv)).collect();
    for candidate in next {
        let Ok(parent) = kept.binary_search(&candidate.beam) else {
            continue;
        };
        let (tokens, source) = &before[parent];
        let mut tokens = tokens.clone();
        tokens.push(candidate.id);
        let log_probability = candidate.log_probability;
        if std::mem::replace(&mut taken[parent], true) {
            let len = kv.len(*source)?;
            let fork = kv.fork(*source, len)?;
            beams.push(Beam {
                kv: fork,
                tokens,
                log_probability,
            });
        } else {
            beams[parent] = Beam {
                kv: *source,
                tokens,
                log_probability,
            };
        }
    }
    Ok(())
}
