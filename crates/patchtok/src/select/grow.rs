//! Byte pair encoding, continued: which neighbours to make one token.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::{HashMap, HashSet};

use super::Guards;
use super::fold::Tokens;
use super::prune::Removal;
use crate::count::{ChunkCounts, Weight};
use crate::encode::pair_key;
use crate::model::{Hasher, Model};
use crate::report::Stop;
use crate::{Error, Result};

/// Swaps over which a stall on the held-out corpus is judged.
const STALL_WINDOW: usize = 100;

/// Position of no symbol.
const NONE: u32 = u32::MAX;

/// Symbol at a position that was merged into the one before it.
const GONE: u32 = u32::MAX;

/// What was found.
#[derive(Debug)]
pub(super) struct Grown {
    /// In rank order. Token `i` of these is called `vocabulary size + i` where a later one uses it.
    pub(super) merges: Vec<NewMerge>,
    /// Why there are not more.
    pub(super) stop: Stop,
    /// Tokens of the corpora before the first merge.
    pub(super) before: Weight,
}

/// A merge of two neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NewMerge {
    pub(super) left: u32,
    pub(super) right: u32,
    /// How many tokens it saves: its occurrences.
    pub(super) gain: Weight,
}

/// Finds at most one merge for each of `losses`, the most frequent first.
///
/// `model` is the base without the `removed` tokens, and the losses are what each new token must
/// gain more than. A merge of count c makes the corpus shorter by
/// exactly c tokens, so the greedy choice is the pair of highest count; counts only fall while
/// merges go on (a pair cannot arise anew from older tokens), so a pair keeps the count of its
/// birth as an upper bound and is counted again when it comes to the top of the heap. Ties go to
/// the smaller ids. Memory: 16 bytes a token of the distinct chunks, and 4 bytes an occurrence of a
/// frequent pair.
pub(super) fn grow(
    model: &Model,
    removed: &[Removal],
    losses: &[Weight],
    chunks: &ChunkCounts,
    guards: Guards,
    stop_on_stall: bool,
    mut progress: impl FnMut(usize),
) -> Result<Grown> {
    let tokens = Tokens::of(chunks, model);
    let before = tokens.total(chunks);
    let mut text = Text::new(tokens, chunks)?;
    let mut strings = Strings::new(model, removed, guards.max_token_bytes);
    let mut queue = Queue::new(&text, &strings, guards.min_count);
    let mut merges: Vec<NewMerge> = Vec::new();
    let stop = loop {
        let Some(loss) = losses.get(merges.len()) else {
            break Stop::Requested;
        };
        let Some(candidate) = queue.pop(&text, |pair, positions| {
            strings.allows(pair) && text.documents(positions, guards.min_documents) >= guards.min_documents
        }) else {
            break Stop::NoMoreCandidates;
        };
        if candidate.gain.train <= loss.train {
            break Stop::GainBelowLoss;
        }
        let (left, right) = candidate.pair;
        let id = strings.add(candidate.pair);
        queue.merge(&mut text, &candidate, id, &strings);
        merges.push(NewMerge {
            left,
            right,
            gain: candidate.gain,
        });
        progress(merges.len());
        if stop_on_stall && merges.len().is_multiple_of(STALL_WINDOW) {
            let start = merges.len() - STALL_WINDOW;
            let (mut gain, mut lost) = (Weight::default(), Weight::default());
            merges[start..].iter().for_each(|merge| gain += merge.gain);
            losses[start..merges.len()].iter().for_each(|&loss| lost += loss);
            if gain.heldout <= lost.heldout {
                merges.truncate(start);
                break Stop::HeldOutStalled;
            }
        }
    };
    Ok(Grown { merges, stop, before })
}

/// Fails when positions are no 32-bit numbers. (Chunks are fewer: each has a token.)
fn check_positions(tokens: usize) -> Result<()> {
    if tokens < NONE as usize {
        return Ok(());
    }
    Err(Error::Build(format!(
        "the distinct chunks of the corpus have {tokens} tokens, the limit is {}; with a limit on memory they are sampled",
        NONE - 1
    )))
}

/// The chunks as linked lists of symbols in one array.
struct Text<'c> {
    symbols: Vec<u32>,
    next: Vec<u32>,
    prev: Vec<u32>,
    /// Index of the chunk that a position belongs to.
    chunk_of: Vec<u32>,
    chunks: &'c ChunkCounts,
}

impl<'c> Text<'c> {
    fn new(tokens: Tokens, chunks: &'c ChunkCounts) -> Result<Self> {
        let length = tokens.ids.len();
        check_positions(length)?;
        let mut next: Vec<u32> = (1..=length as u32).collect();
        let mut prev: Vec<u32> = (0..length as u32).map(|at| at.wrapping_sub(1)).collect();
        let mut chunk_of = vec![0; length];
        let mut start = 0;
        for (chunk, &end) in tokens.ends.iter().enumerate() {
            if start < end {
                prev[start] = NONE;
                next[end - 1] = NONE;
                chunk_of[start..end].fill(chunk as u32);
            }
            start = end;
        }
        Ok(Text {
            symbols: tokens.ids,
            next,
            prev,
            chunk_of,
            chunks,
        })
    }

    /// The two symbols from `at` on, when there are two.
    fn pair_at(&self, at: u32) -> Option<(u32, u32)> {
        let next = self.next[at as usize];
        let left = self.symbols[at as usize];
        (left != GONE && next != NONE).then(|| (left, self.symbols[next as usize]))
    }

    /// Place of the chunk that a position belongs to.
    fn chunk(&self, at: u32) -> usize {
        self.chunk_of[at as usize] as usize
    }

    /// How often the chunk of a position occurs.
    fn weight(&self, at: u32) -> Weight {
        self.chunks.count(self.chunk(at))
    }

    /// Number of documents of the corpus in which the positions lie, counted up to `enough`.
    fn documents(&self, positions: &[u32], enough: usize) -> usize {
        let mut found: Vec<i64> = Vec::new();
        for &at in positions {
            for document in self.chunks.documents(self.chunk(at)) {
                if found.len() < enough && !found.contains(document) {
                    found.push(*document);
                }
            }
            if found.len() >= enough {
                break;
            }
        }
        found.len()
    }
}

/// The strings of the tokens, by which a new one is accepted or not.
struct Strings<'m> {
    model: &'m Model,
    /// Strings of new tokens.
    new: Vec<Vec<u8>>,
    /// Strings that a new token must not have: each string has one token and one merge that makes
    /// it.
    taken: HashSet<Vec<u8>, Hasher>,
    max_bytes: usize,
}

impl<'m> Strings<'m> {
    fn new(model: &'m Model, removed: &[Removal], max_bytes: usize) -> Self {
        let removed: HashSet<u32, Hasher> = removed.iter().map(|removal| removal.id).collect();
        let taken = model
            .vocab()
            .iter()
            .filter(|(id, _)| !removed.contains(id))
            .map(|(_, token)| token.to_vec());
        Strings {
            model,
            new: Vec::new(),
            taken: taken.collect(),
            max_bytes,
        }
    }

    fn get(&self, id: u32) -> &[u8] {
        match self.model.vocab().get(id) {
            Some(token) => token,
            None => &self.new[id as usize - self.model.vocab().len()],
        }
    }

    /// Whether the pair is short enough for a token.
    fn fits(&self, (left, right): (u32, u32)) -> bool {
        self.get(left).len() + self.get(right).len() <= self.max_bytes
    }

    fn concat(&self, (left, right): (u32, u32)) -> Vec<u8> {
        [self.get(left), self.get(right)].concat()
    }

    /// Whether the pair may become a token: its string is new and not a mere number.
    fn allows(&self, pair: (u32, u32)) -> bool {
        let string = self.concat(pair);
        !is_number(&string) && !self.taken.contains(&string)
    }

    /// Adds the string of the pair and returns its id.
    fn add(&mut self, pair: (u32, u32)) -> u32 {
        let string = self.concat(pair);
        self.taken.insert(string.clone());
        self.new.push(string);
        (self.model.vocab().len() + self.new.len() - 1) as u32
    }
}

/// Whether a token is digits and spaces only. Such tokens save much on tables and say nothing about
/// the domain.
fn is_number(token: &[u8]) -> bool {
    token.iter().any(u8::is_ascii_digit)
        && token
            .iter()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace())
}

/// A pair that is next to be merged.
struct Candidate {
    pair: (u32, u32),
    /// Where it stands, ascending; overlapping occurrences of a doubled token included.
    positions: Vec<u32>,
    gain: Weight,
}

/// The pairs by frequency.
struct Queue {
    /// Positions of each pair, ascending, of which some may have become stale.
    positions: HashMap<u64, Vec<u32>, Hasher>,
    /// Upper bound of the count, and the pair; smaller pairs first among equals.
    heap: BinaryHeap<(u64, Reverse<u64>)>,
    min_count: u64,
}

impl Queue {
    fn new(text: &Text<'_>, strings: &Strings<'_>, min_count: u64) -> Self {
        let mut counts: HashMap<u64, u64, Hasher> = HashMap::default();
        let pairs = || (0..text.symbols.len() as u32).filter_map(|at| Some((at, text.pair_at(at)?)));
        for (at, (left, right)) in pairs() {
            *counts.entry(pair_key(left, right)).or_default() += text.weight(at).train;
        }
        counts.retain(|&key, count| *count >= min_count && strings.fits(pair_of(key)));
        let mut positions: HashMap<u64, Vec<u32>, Hasher> = HashMap::default();
        for (at, (left, right)) in pairs() {
            let key = pair_key(left, right);
            if counts.contains_key(&key) {
                positions.entry(key).or_default().push(at);
            }
        }
        let heap = counts.into_iter().map(|(key, count)| (count, Reverse(key))).collect();
        Queue {
            positions,
            heap,
            min_count,
        }
    }

    /// Takes out the most frequent pair that `accepts` accepts; pairs that it does not are dropped
    /// for good.
    fn pop(&mut self, text: &Text<'_>, mut accepts: impl FnMut((u32, u32), &[u32]) -> bool) -> Option<Candidate> {
        while let Some((bound, Reverse(key))) = self.heap.pop() {
            let pair = pair_of(key);
            let Some(mut positions) = self.positions.remove(&key) else {
                continue;
            };
            positions.retain(|&at| text.pair_at(at) == Some(pair));
            let gain = count(text, pair, &positions);
            if gain.train < self.min_count {
                continue;
            }
            if gain.train < bound {
                self.heap.push((gain.train, Reverse(key)));
                self.positions.insert(key, positions);
            } else if accepts(pair, &positions) {
                return Some(Candidate { pair, positions, gain });
            }
        }
        None
    }

    /// Replaces every occurrence of the candidate by `id` and adds the pairs that arise.
    fn merge(&mut self, text: &mut Text<'_>, candidate: &Candidate, id: u32, strings: &Strings<'_>) {
        let mut arisen: HashMap<u64, (u64, Vec<u32>), Hasher> = HashMap::default();
        for &at in &candidate.positions {
            // In a run of one token the occurrence before may have taken this one's left half.
            if text.pair_at(at) != Some(candidate.pair) {
                continue;
            }
            let right = text.next[at as usize];
            let next = text.next[right as usize];
            let prev = text.prev[at as usize];
            text.symbols[at as usize] = id;
            text.symbols[right as usize] = GONE;
            text.next[at as usize] = next;
            if next != NONE {
                text.prev[next as usize] = at;
            }
            let weight = text.weight(at).train;
            for start in [prev, at] {
                if start != NONE
                    && let Some((left, right)) = text.pair_at(start)
                {
                    let (count, positions) = arisen.entry(pair_key(left, right)).or_default();
                    *count += weight;
                    positions.push(start);
                }
            }
        }
        for (key, (count, positions)) in arisen {
            if count >= self.min_count && strings.fits(pair_of(key)) {
                self.heap.push((count, Reverse(key)));
                self.positions.insert(key, positions);
            }
        }
    }
}

/// Occurrences of a pair at positions where it stands, without overlaps, from the left.
fn count(text: &Text<'_>, pair: (u32, u32), positions: &[u32]) -> Weight {
    let mut count = Weight::default();
    let mut taken = NONE;
    for &at in positions {
        if at == taken {
            continue;
        }
        if pair.0 == pair.1 {
            taken = text.next[at as usize];
        }
        count += text.weight(at);
    }
    count
}

fn pair_of(key: u64) -> (u32, u32) {
    ((key >> 32) as u32, key as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_have_a_limit() {
        check_positions(u32::MAX as usize - 1).unwrap();
        let message = check_positions(5_000_000_000).unwrap_err().to_string();
        assert!(
            message.contains("5000000000 tokens, the limit is 4294967294"),
            "{message}"
        );
    }
}
