//! The second stage: merges that join whole words, applied to the tokens of the words.
//!
//! Few pairs of neighbours can ever be joined. One bit a pair tells which; where it says no, the
//! tokens on both sides have nothing to do with each other, and what is between two such places, an
//! island, is short. `docs/tokenizer.md` has the argument.

use super::cache::{self, INLINE, Key, Table};
use super::merges::{NO_RANK, Pairs, pair_hash};
use super::scan;
use crate::model::{Merge, Model};

/// Added to a token with which nothing before it may be joined: a chunk starts there.
pub(super) const CUT: u32 = 1 << 31;

/// Bits of the filter for each merge, at least.
const BITS_PER_MERGE: usize = 8;

/// Number of sets of the table of islands; 1 MiB in all.
const ISLAND_SETS: u32 = 1 << 14;

/// Bits of a key that hold the tokens of an island; those above them hold their number.
const KEY_BITS: u32 = 120;

/// The merges of the second stage.
#[derive(Clone, Debug)]
pub(super) struct Phrases {
    /// Whether some merge joins something that ends with the one token to something that begins
    /// with the other, by the hash of the two.
    links: Box<[u64]>,
    shift: u32,
    pairs: Pairs,
    /// Bits of an id, and the longest island whose tokens fit into a key.
    id_bits: u32,
    longest_key: usize,
}

/// Memory of the second stage.
#[derive(Debug)]
pub(super) struct Pending {
    /// Tokens of the first stage that wait for what follows them.
    pub(super) tokens: Vec<u32>,
    /// So many of their first pairs are known to be linked.
    linked: usize,
    /// Short islands and what became of them.
    islands: Table,
}

impl Default for Pending {
    fn default() -> Self {
        Pending {
            tokens: Vec::new(),
            linked: 0,
            islands: Table::new(ISLAND_SETS),
        }
    }
}

impl Pending {
    /// Forgets the tokens that wait.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.linked = 0;
    }
}

impl Phrases {
    /// The stage of the merges of `model` from rank `first` on. None if there are none, or more than
    /// this stage has room for.
    pub(super) fn new(model: &Model, first: u32) -> Option<Self> {
        let merges = &model.merges()[first as usize..];
        let bits = (BITS_PER_MERGE * merges.len()).next_power_of_two().max(64);
        let id_bits = model.vocab().len().next_power_of_two().trailing_zeros().max(1);
        let mut phrases = Phrases {
            links: vec![0; bits / 64].into_boxed_slice(),
            shift: 64 - bits.trailing_zeros(),
            pairs: Pairs::new(merges, id_bits)?,
            id_bits,
            longest_key: (KEY_BITS / id_bits) as usize,
        };
        // The first and the last token of the first stage in each token.
        let mut ends: Vec<[u32; 2]> = (0..model.vocab().len() as u32).map(|id| [id, id]).collect();
        for &Merge { left, right, result } in merges {
            let (left, right) = (ends[left as usize], ends[right as usize]);
            ends[result as usize] = [left[0], right[1]];
            let bit = phrases.bit(left[1], right[0]);
            phrases.links[bit / 64] |= 1 << (bit % 64);
        }
        Some(phrases)
    }

    /// Appends to `out` what the pending tokens become as far as what follows cannot change it, or,
    /// if nothing follows, all of it. `long` does it for long islands.
    pub(super) fn join(
        &self,
        pending: &mut Pending,
        is_end: bool,
        out: &mut Vec<u32>,
        mut long: impl FnMut(&[u32], &mut Vec<u32>),
    ) {
        let Pending {
            tokens,
            linked,
            islands,
        } = pending;
        out.reserve(tokens.len());
        let mut island = |tokens: &[u32], out: &mut Vec<u32>| match *tokens {
            [token] => out.push(token & !CUT),
            [left, right] => match self.pairs.get(left & !CUT, right) {
                (NO_RANK, _) => out.extend_from_slice(&[left & !CUT, right]),
                (_, token) => out.push(token),
            },
            _ if tokens.len() <= self.longest_key => self.short(tokens, islands, out),
            _ if tokens.len() <= scan::LIMIT => self.scan(tokens, out),
            _ => long(tokens, out),
        };
        let mut start = 0;
        let mut at = *linked;
        while at + 1 < tokens.len() {
            let pairs = tokens[at..].windows(2).take(64);
            let count = pairs.len();
            let mut apart = 0u64;
            for (place, pair) in pairs.enumerate() {
                apart |= u64::from(!self.linked(pair[0], pair[1])) << place;
            }
            while apart != 0 {
                let end = at + apart.trailing_zeros() as usize + 1;
                apart &= apart - 1;
                island(&tokens[start..end], out);
                start = end;
            }
            at += count;
        }
        if is_end {
            if start < tokens.len() {
                island(&tokens[start..], out);
            }
            pending.clear();
        } else {
            *linked = at.saturating_sub(start);
            tokens.drain(..start);
        }
    }

    /// Appends what an island whose tokens fit into a key becomes.
    #[inline]
    fn short(&self, tokens: &[u32], islands: &mut Table, out: &mut Vec<u32>) {
        let mut key = 0;
        for &token in tokens {
            key = key << self.id_bits | Key::from(token & !CUT);
        }
        key |= (tokens.len() as Key) << KEY_BITS;
        if let Some(found) = islands.get(key) {
            let start = out.len();
            out.extend_from_slice(&found.ids());
            out.truncate(start + found.count());
        } else {
            let start = out.len();
            self.scan(tokens, out);
            if out.len() - start <= INLINE
                && let Some(tokens) = cache::Tokens::new(&out[start..])
            {
                islands.insert(key, tokens);
            }
        }
    }

    #[inline(never)]
    fn scan(&self, tokens: &[u32], out: &mut Vec<u32>) {
        let pair = |left, right| self.pairs.get(left, right);
        scan::merge(tokens.iter().map(|token| token & !CUT), pair, out);
    }

    /// Whether `left` and `right` may come to be joined. If it says yes, they may be apart
    /// nevertheless.
    #[inline]
    pub(super) fn linked(&self, left: u32, right: u32) -> bool {
        let bit = self.bit(left & !CUT, right);
        self.links[bit / 64] >> (bit % 64) & 1 != 0 && right < CUT
    }

    #[inline]
    fn bit(&self, left: u32, right: u32) -> usize {
        (pair_hash(left, right) >> self.shift) as usize
    }
}
