//! The second stage: merges that join whole words, applied to the tokens of the words.
//!
//! Few pairs of neighbours can ever be joined. One bit a pair tells which; where it says no, the
//! tokens on both sides have nothing to do with each other, and what is between two such places, an
//! island, is short. `docs/tokenizer.md` has the argument.

use super::cache::{self, INLINE, Key, Sequences, Table};
use super::merges::{NO_RANK, Pairs, pair_hash};
use super::scan;
use crate::model::{Merge, Model};

/// Added to a token with which nothing before it may be joined: a chunk starts there.
pub(super) const CUT: u32 = 1 << 31;

/// The bits of a token that are its id (`model::MAX_VOCAB` is 2^24).
const ID: u32 = 0x00FF_FFFF;

/// Tokens that are copied at once: a copy of fixed size takes a few instructions.
const AT_ONCE: usize = 8;

/// Bits of the filter for each merge, at least.
const BITS_PER_MERGE: usize = 8;

/// Number of sets of the table of islands; 1 MiB in all.
const ISLAND_SETS: u32 = 1 << 13;

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
    islands: Islands,
}

/// What became of islands.
#[derive(Debug)]
struct Islands {
    /// Of those whose tokens fit into a key.
    short: Table,
    /// Of longer ones.
    long: Sequences,
    /// An island without the mark of a chunk, and what became of it.
    tokens: Vec<u32>,
    made: Vec<u32>,
}

impl Default for Pending {
    fn default() -> Self {
        Pending {
            tokens: Vec::new(),
            linked: 0,
            islands: Islands {
                short: Table::new(ISLAND_SETS),
                long: Sequences::default(),
                tokens: Vec::new(),
                made: Vec::new(),
            },
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
            longest_key: ((KEY_BITS / id_bits) as usize).min(AT_ONCE),
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
        // Behind the tokens stands one that is apart from all, and room to look at many at once.
        let count = tokens.len();
        tokens.resize(count + AT_ONCE, CUT);
        // Of the last token and the one behind it nothing is known before the end.
        let pairs = if is_end { count } else { count.saturating_sub(1) };
        let mut output = Output::new(out, count);
        // The first token of the island at hand, and the first pair that was not looked at.
        let (mut start, mut at) = (0, *linked);
        while at < pairs {
            let width = (pairs - at).min(64);
            let mut links = 0u64;
            for (place, pair) in tokens[at..=at + width].windows(2).enumerate() {
                links |= u64::from(self.linked(pair[0], pair[1])) << place;
            }
            let mut apart = !links & (u64::MAX >> (64 - width));
            while apart != 0 {
                let place = apart.trailing_zeros();
                let end = at + place as usize + 1;
                if end - start > 1 {
                    self.island(&tokens[start..], end - start, islands, &mut output, &mut long);
                    start = end;
                    apart &= apart - 1;
                } else {
                    // Tokens that stand alone, side by side.
                    let alone = (!(apart >> place)).trailing_zeros();
                    output.copy(&tokens[start..], alone as usize);
                    start += alone as usize;
                    apart &= u64::MAX.checked_shl(place + alone).unwrap_or(0);
                }
            }
            at += width;
        }
        output.finish();
        tokens.truncate(count);
        tokens.drain(..start);
        *linked = at - start;
    }

    /// Puts out what the first `length` of `tokens`, an island of more than one, become.
    #[inline]
    fn island(
        &self,
        tokens: &[u32],
        length: usize,
        islands: &mut Islands,
        output: &mut Output<'_>,
        long: &mut impl FnMut(&[u32], &mut Vec<u32>),
    ) {
        if length == 2 {
            let (left, right) = (tokens[0] & !CUT, tokens[1]);
            let (rank, token) = self.pairs.get(left, right);
            let is_joined = rank != NO_RANK;
            output.put(
                [if is_joined { token } else { left }, right, 0, 0],
                2 - usize::from(is_joined),
            );
            return;
        }
        if length <= self.longest_key {
            let key = self.key(tokens, length);
            if let Some(found) = islands.short.get(key) {
                return output.put(found.ids(), found.count());
            }
            return self.new_island(&tokens[..length], key, islands, output);
        }
        self.long_island(&tokens[..length], islands, output, long);
    }

    /// An island that the table does not hold.
    #[cold]
    #[inline(never)]
    fn new_island(&self, tokens: &[u32], key: Key, islands: &mut Islands, output: &mut Output<'_>) {
        islands.made.clear();
        self.scan(tokens, &mut islands.made);
        if let Some(made) = cache::Tokens::new(&islands.made) {
            islands.short.insert(key, made);
        }
        output.extend(&islands.made);
    }

    /// An island whose tokens do not fit into a key.
    #[inline(never)]
    fn long_island(
        &self,
        tokens: &[u32],
        islands: &mut Islands,
        output: &mut Output<'_>,
        long: &mut impl FnMut(&[u32], &mut Vec<u32>),
    ) {
        let Islands {
            long: known,
            tokens: unmarked,
            made,
            ..
        } = islands;
        if tokens.len() <= scan::LIMIT {
            // Only the first may bear a mark.
            unmarked.clear();
            unmarked.extend_from_slice(tokens);
            unmarked[0] &= !CUT;
            output.extend(known.get(unmarked, |out| self.scan(unmarked, out)));
        } else {
            made.clear();
            long(tokens, made);
            output.extend(made);
        }
    }

    /// The key of the first `length` of `tokens`, behind which at least as many follow as a key can hold.
    #[inline]
    fn key(&self, tokens: &[u32], length: usize) -> Key {
        let mut key = 0;
        for &token in &tokens[..self.longest_key] {
            key = key << self.id_bits | Key::from(token & ID);
        }
        // The first ones stand above the others, which do not belong to it.
        let others = (self.longest_key - length) as u32 * self.id_bits;
        key >> others | (length as Key) << KEY_BITS
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

/// Tokens that are put out one after the other. There is room for all of them from the start.
struct Output<'o> {
    out: &'o mut Vec<u32>,
    end: usize,
}

impl<'o> Output<'o> {
    /// Appends at most `room` tokens to `out`.
    fn new(out: &'o mut Vec<u32>, room: usize) -> Self {
        let end = out.len();
        out.resize(end + room + AT_ONCE, 0);
        Output { out, end }
    }

    /// Appends the first `count` of `tokens`.
    #[inline]
    fn put(&mut self, tokens: [u32; INLINE], count: usize) {
        self.out[self.end..self.end + INLINE].copy_from_slice(&tokens);
        self.end += count;
    }

    /// Appends the first `count` of `tokens` without marks. Behind these stand at least as many more as
    /// are copied at once.
    #[inline]
    fn copy(&mut self, tokens: &[u32], count: usize) {
        let mut done = 0;
        while done < count {
            let from = &tokens[done..done + AT_ONCE];
            let to = &mut self.out[self.end + done..self.end + done + AT_ONCE];
            for (to, from) in to.iter_mut().zip(from) {
                *to = from & !CUT;
            }
            done += AT_ONCE;
        }
        self.end += count;
    }

    fn extend(&mut self, tokens: &[u32]) {
        self.out[self.end..self.end + tokens.len()].copy_from_slice(tokens);
        self.end += tokens.len();
    }

    /// Gives the room back that was not needed.
    fn finish(self) {
        self.out.truncate(self.end);
    }
}
