//! Byte pair encoding in linear time, for sequences of any length.
//!
//! Tokens are chosen from the left, the longest first, out of a trie of the vocabulary; one that
//! cannot stand behind the token before it is refused, and when none is left the last choice is
//! taken back. As the tokens of each prefix are unique, a place that was left once is never entered
//! again. `docs/tokenizer.md` has the proof.

use hashbrown::HashMap;

use super::merges::Merges;
use super::spine::Spines;
use crate::model::{Hasher, Model};

const NO_TOKEN: u32 = u32::MAX;

/// The trie of the tokens that byte pair encoding can give.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    /// By node and byte; the root is node 0.
    edges: HashMap<u64, u32, Hasher>,
    /// The token that ends at each node, or [`NO_TOKEN`].
    ends: Vec<u32>,
    /// For each token the longest one that is a proper prefix of it.
    shorter: Box<[u32]>,
}

impl Trie {
    /// O(bytes of the vocabulary).
    pub(super) fn new(model: &Model, tokens: impl Iterator<Item = u32>) -> Self {
        let bytes_of = |token| model.vocab().get(token).unwrap_or(&[]);
        // Short ones first, so that a token finds its prefixes when it comes.
        let mut tokens: Vec<u32> = tokens.collect();
        tokens.sort_unstable_by_key(|&token| (bytes_of(token).len(), token));
        let mut trie = Trie {
            edges: HashMap::default(),
            ends: vec![NO_TOKEN],
            shorter: vec![NO_TOKEN; model.vocab().len()].into_boxed_slice(),
        };
        for token in tokens {
            let (mut node, mut shorter) = (0, NO_TOKEN);
            for &byte in bytes_of(token) {
                let known = trie.ends[node as usize];
                if known != NO_TOKEN {
                    shorter = known;
                }
                let next = trie.ends.len() as u32;
                node = *trie.edges.entry(edge(node, byte)).or_insert(next);
                if node == next {
                    trie.ends.push(NO_TOKEN);
                }
            }
            trie.ends[node as usize] = token;
            trie.shorter[token as usize] = shorter;
        }
        trie
    }

    /// The longest token at the start of `bytes`, [`NO_TOKEN`] when there is none.
    fn longest(&self, bytes: &[u8], steps: &mut u64) -> u32 {
        let (mut node, mut found) = (0, NO_TOKEN);
        for &byte in bytes {
            *steps += 1;
            let Some(&next) = self.edges.get(&edge(node, byte)) else {
                break;
            };
            node = next;
            let token = self.ends[node as usize];
            if token != NO_TOKEN {
                found = token;
            }
        }
        found
    }
}

fn edge(node: u32, byte: u8) -> u64 {
    u64::from(node) << 8 | u64::from(byte)
}

/// Memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Places that lead nowhere, one bit each.
    dead: Vec<u64>,
    /// Lookups so far: what the time of this encoder is proportional to.
    pub(super) steps: u64,
}

/// What the encoder works with.
#[derive(Clone, Copy)]
pub(super) struct Tables<'t> {
    pub(super) model: &'t Model,
    pub(super) merges: &'t Merges,
    pub(super) spines: &'t Spines,
    pub(super) trie: &'t Trie,
}

/// Appends to `out` the tokens of `bytes` by the merges of rank below `limit`. O(n) for n bytes:
/// each place tries each token of the vocabulary that starts there at most once.
pub(super) fn encode(bytes: &[u8], limit: u32, tables: Tables<'_>, scratch: &mut Scratch, out: &mut Vec<u32>) {
    let Tables {
        model,
        merges,
        spines,
        trie,
    } = tables;
    let Scratch { dead, steps } = scratch;
    let length = |token| model.vocab().get(token).map_or(0, <[u8]>::len);
    dead.clear();
    dead.resize(bytes.len() / 64 + 1, 0);
    let first = out.len();
    let mut at = 0;
    let mut choice = trie.longest(bytes, steps);
    while at < bytes.len() {
        // The first of the choices, from long to short, that may stand here.
        let before = out[first..].last().copied();
        let fits = |choice: u32, dead: &[u64], steps: &mut u64| {
            let end = at + length(choice);
            spines.made(choice) <= limit
                && dead[end / 64] >> (end % 64) & 1 == 0
                && before.is_none_or(|before| spines.apart(before, choice, limit, merges, steps))
        };
        while choice != NO_TOKEN && !fits(choice, dead, steps) {
            *steps += 1;
            choice = trie.shorter[choice as usize];
        }
        if choice == NO_TOKEN {
            dead[at / 64] |= 1 << (at % 64);
            // The tokens of the whole are among the choices, so one can be taken back.
            let Some(last) = out[first..].last().copied() else {
                unreachable!("every byte has a token, and every text an encoding")
            };
            out.pop();
            at -= length(last);
            choice = trie.shorter[last as usize];
        } else {
            out.push(choice);
            at += length(choice);
            choice = trie.longest(&bytes[at..], steps);
        }
    }
}
