//! The second stage: merges that join whole words, applied to the tokens of the words.
//!
//! Few pairs of neighbours can ever be joined. A filter tells which; where it says no, the tokens on
//! both sides have nothing to do with each other, and what is between two such places, an island, is
//! short. What became of an island is remembered. `docs/tokenizer.md` has the argument.

use wide::{bytemuck, i16x8, i32x8, u32x4};

use super::cache::{self, INLINE, Key, Sequences};
use super::merges::Pairs;
use super::prefetch::prefetch;
use super::scan;
use crate::model::{Merge, Model};
use crate::split::pieces::HEAD;

/// Marks of a token of the first stage, beside its id: whether anything behind it may be joined to it,
/// and whether it may be joined to anything before it. It may not where a chunk starts.
const FOLLOWED: u32 = 1 << 31;
const FOLLOWS: u32 = 1 << 30;

/// The bits of a token that are its id (`model::MAX_VOCAB` is 2^24).
const ID_BITS: u32 = 24;
const ID: u32 = (1 << ID_BITS) - 1;

/// Tokens that are looked at or copied at once: a copy of fixed size takes a few instructions.
const AT_ONCE: usize = 8;

/// Bits of the filter, which has 32 KiB, and of one of its words.
const FILTER_BITS: usize = 1 << 18;
const WORD_BITS: usize = u32::BITS as usize;

/// Most neighbours that are looked at together.
const WIDTH: usize = 64;

/// Most rows of neighbours whose islands are looked up together, and most islands in these.
const ROWS: usize = 4;
const FOUND: usize = ROWS * (WIDTH / 2 + 1);

/// Room for the tokens that these become, with what is copied beyond their end.
const NEEDED: usize = ROWS * WIDTH + 4 * AT_ONCE;

/// Tokens that are collected before they are put out.
const COLLECTED: usize = 2 * NEEDED;

type Table = cache::Table<{ 1 << 17 }>;

/// The merges of the second stage.
#[derive(Clone, Debug)]
pub(super) struct Phrases {
    /// By the hash of two tokens, whether some merge joins something that ends with the one to something that
    /// begins with the other.
    links: Box<[u32; FILTER_BITS / WORD_BITS]>,
    /// The marks of each token, in the upper eight bits that an id leaves.
    marks: Box<[u8]>,
    pairs: Pairs,
}

/// Memory of the second stage.
#[derive(Debug)]
pub(super) struct Pending {
    /// Tokens of the first stage that wait for what follows them.
    pub(super) tokens: Vec<u32>,
    /// So many of their first pairs are known to be linked.
    linked: usize,
    /// What became of islands whose tokens fit into a key. Made when it is used.
    short: Option<Table>,
    others: Islands,
    found: [Island; FOUND],
    collected: [u32; COLLECTED],
    /// Tokens that were looked at, moved or put out so far: what the time of this stage is proportional to.
    pub(super) steps: u64,
}

/// An island of several tokens, its first one and the one behind its last, and its key.
#[derive(Clone, Copy, Debug, Default)]
struct Island {
    key: Key,
    start: usize,
    end: usize,
}

/// What became of islands.
#[derive(Debug, Default)]
struct Islands {
    /// Of those that the table has no room for.
    known: Sequences,
    /// An island without marks, and what became of it.
    tokens: Vec<u32>,
    made: Vec<u32>,
}

impl Default for Pending {
    fn default() -> Self {
        Pending {
            tokens: Vec::new(),
            linked: 0,
            short: None,
            others: Islands::default(),
            found: [Island::default(); FOUND],
            collected: [0; COLLECTED],
            steps: 0,
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
        let id_bits = model.vocab().len().next_power_of_two().trailing_zeros().max(1);
        let mut phrases = Phrases {
            links: Box::new([0; FILTER_BITS / WORD_BITS]),
            marks: vec![0; model.vocab().len()].into_boxed_slice(),
            pairs: Pairs::new(merges, id_bits)?,
        };
        // The first and the last token of the first stage in each token.
        let mut ends: Vec<[u32; 2]> = (0..model.vocab().len() as u32).map(|id| [id, id]).collect();
        for &Merge { left, right, result } in merges {
            let (first, second) = (ends[left as usize], ends[right as usize]);
            ends[result as usize] = [first[0], second[1]];
            let (last, next) = (first[1], second[0]);
            phrases.marks[last as usize] |= (FOLLOWED >> ID_BITS) as u8;
            phrases.marks[next as usize] |= (FOLLOWS >> ID_BITS) as u8;
            let bit = filter_bit(last, next);
            phrases.links[bit / WORD_BITS] |= 1 << (bit % WORD_BITS);
        }
        Some(phrases)
    }

    /// Adds their marks to the tokens of a word, with which a chunk may start.
    pub(super) fn mark(&self, tokens: &mut [u32], starts_chunk: bool) {
        for token in &mut *tokens {
            *token |= u32::from(self.marks[*token as usize]) << ID_BITS;
        }
        if starts_chunk && let Some(first) = tokens.first_mut() {
            *first &= !FOLLOWS;
        }
    }

    /// Appends to `out` what the pending tokens become as far as what follows cannot change it, or,
    /// if nothing follows, all of it. `merge` does it for long islands.
    pub(super) fn join(
        &self,
        pending: &mut Pending,
        is_end: bool,
        out: &mut Vec<u32>,
        mut merge: impl FnMut(&[u32], &mut Vec<u32>),
    ) {
        let Pending {
            tokens,
            linked,
            short,
            others,
            found,
            collected,
            steps,
        } = pending;
        let table = short.get_or_insert_default();
        // Behind the tokens stands one that is apart from all, and room to look at many at once.
        let count = tokens.len();
        tokens.resize(count + AT_ONCE, 0);
        // Of the last token and the one behind it nothing is known before the end.
        let pairs = if is_end { count } else { count.saturating_sub(1) };
        let mut output = Output {
            collected,
            filled: 0,
            out,
        };
        // Where the island at hand starts, the first pair that was not looked at, and the first token that was not
        // put out.
        let (mut start, mut at, mut done) = (0, *linked, 0);
        while at < pairs {
            let count = self.find(tokens, pairs, table, (&mut start, &mut at), found);
            let mut islands = &found[..count];
            while !islands.is_empty() {
                let place = put_known(
                    tokens,
                    islands,
                    table,
                    (&mut done, &mut output.filled),
                    output.collected,
                );
                let Some(&Island { key, start, end }) = islands.get(place) else {
                    break;
                };
                self.miss(&tokens[start..end], key, table, others, &mut output, &mut merge);
                done = end;
                islands = &islands[place + 1..];
            }
            output.filled = copy_alone(&tokens[done..], start - done, output.collected, output.filled);
            done = start;
            output.flush();
        }
        tokens.truncate(count);
        // The island at hand alone moves, which starts among the tokens that are new; or nothing does.
        tokens.drain(..start);
        let moved = if start > 0 { tokens.len() } else { 0 };
        *steps += (at - *linked + start + moved) as u64;
        *linked = at - start;
    }

    /// Finds the islands of several tokens among `tokens`, of which `pairs` pairs of neighbours are to be looked at,
    /// in a few rows of these, and asks for their entries. `start` is where the island at hand starts, `at` the
    /// first pair that was not looked at. Returns how many islands it found.
    #[inline(never)]
    fn find(
        &self,
        tokens: &[u32],
        pairs: usize,
        table: &Table,
        (start, at): (&mut usize, &mut usize),
        found: &mut [Island; FOUND],
    ) -> usize {
        let mut count = 0;
        for _ in 0..ROWS {
            let width = pairs.saturating_sub(*at).min(WIDTH);
            if width == 0 {
                break;
            }
            let linked = self.links(&tokens[*at..], width);
            let apart = !linked & (u64::MAX >> (WIDTH - width));
            let is_open = *start < *at;
            // The first pairs of islands of several tokens, and the places where these end.
            let mut firsts = linked & !(linked << 1 | u64::from(is_open));
            let mut ends = apart & (linked << 1 | u64::from(is_open));
            let mut next_first = || {
                let first = *at + firsts.trailing_zeros() as usize;
                firsts &= firsts.wrapping_sub(1);
                first
            };
            let mut first = if is_open { *start } else { next_first() };
            while ends != 0 {
                let end = *at + ends.trailing_zeros() as usize + 1;
                ends &= ends - 1;
                let key = self.key(tokens[first..].first_chunk().unwrap_or(&[0; AT_ONCE]), end - first);
                prefetch(table.at(Table::first_place(key)));
                found[count] = Island { key, start: first, end };
                count += 1;
                first = next_first();
            }
            *start = behind_last(apart).map_or(*start, |place| *at + place);
            *at += width;
        }
        count
    }

    /// Puts out what an island becomes that is not where it is looked for at once.
    #[cold]
    #[inline(never)]
    fn miss(
        &self,
        tokens: &[u32],
        key: Key,
        table: &mut Table,
        Islands {
            known,
            tokens: unmarked,
            made,
        }: &mut Islands,
        output: &mut Output<'_>,
        merge: &mut impl FnMut(&[u32], &mut Vec<u32>),
    ) {
        let found = table.get(key);
        if let Some(found) = found
            && found.count() <= INLINE
        {
            output.filled += found.put(&mut output.collected[output.filled..output.filled + INLINE]);
            return;
        }
        made.clear();
        unmarked.clear();
        unmarked.extend(tokens.iter().map(|token| token & ID));
        let pair = |left, right| self.pairs.get(left, right);
        if tokens.len() > scan::LIMIT {
            merge(unmarked, made);
        } else if key == cache::LONG || found.is_some() {
            return output.extend(known.get(unmarked, |out| scan::merge(unmarked.iter().copied(), pair, out)));
        } else {
            scan::merge(unmarked.iter().copied(), pair, made);
            table.insert(key, cache::Tokens::new(made, 0));
        }
        output.extend(made);
    }

    /// Whether all ids have at most 16 bits.
    #[inline(always)]
    fn is_narrow(&self) -> bool {
        self.marks.len() <= 1 << u16::BITS
    }

    /// The key of the first `length` of `tokens`, if there are so many.
    #[inline(always)]
    fn key(&self, tokens: &[u32; AT_ONCE], length: usize) -> Key {
        let narrow = i16x8::from_i32x8_truncate(i32x8::new(tokens.map(|token| token as i32)));
        let fits = || {
            tokens
                .iter()
                .take(length)
                .all(|token| token & ID <= u32::from(u16::MAX))
        };
        let length = if self.is_narrow() || fits() { 2 * length } else { HEAD };
        cache::key(bytemuck::cast(narrow), length)
    }

    /// Which of the first `width` of `tokens` are linked to the next, the first one in the lowest bit. Behind these,
    /// more stand that are not.
    #[inline(never)]
    fn links(&self, tokens: &[u32], width: usize) -> u64 {
        let mut linked = 0;
        for first in (0..width).step_by(AT_ONCE) {
            let group: &[u32; AT_ONCE + 1] = tokens[first..].first_chunk().unwrap_or(&[0; AT_ONCE + 1]);
            let mut bits = 0;
            for place in 0..AT_ONCE {
                let bit = filter_bit(group[place], group[place + 1]);
                bits |= (self.links[bit / WORD_BITS] >> (bit % WORD_BITS) & 1) << place;
            }
            linked |= u64::from(bits & marked(group)) << first;
        }
        linked
    }
}

/// Which of the tokens of `group` may be joined to the next, by their marks.
#[inline(always)]
fn marked(group: &[u32; AT_ONCE + 1]) -> u32 {
    let four = |at: usize| u32x4::new([group[at], group[at + 1], group[at + 2], group[at + 3]]);
    const { assert!(FOLLOWS << 1 == FOLLOWED && FOLLOWED == 1 << 31) };
    let both = |at| (four(at) & (four(at + 1) << 1_u32)).to_bitmask();
    both(0) | both(4) << 4
}

/// The bit of the filter for two tokens.
#[inline(always)]
fn filter_bit(left: u32, right: u32) -> usize {
    // Odd numbers whose product with an id has its good bits at the upper end, and loses the marks there.
    const LEFT: u32 = 0x9E_3779 << (u32::BITS - ID_BITS);
    const RIGHT: u32 = 0x85_EBCB << (u32::BITS - ID_BITS);
    let hash = left.wrapping_mul(LEFT).wrapping_add(right.wrapping_mul(RIGHT));
    (hash >> (u32::BITS - FILTER_BITS.trailing_zeros())) as usize
}

/// The place behind the last one of a set.
#[inline(always)]
fn behind_last(set: u64) -> Option<usize> {
    (set != 0).then(|| (u64::BITS - set.leading_zeros()) as usize)
}

/// Puts what `islands` become, and the tokens between, behind the first `filled` ones of `room`, up to an island
/// that is not where it is looked for at once. `done` tokens were put out before. Returns which island it is.
#[inline(never)]
fn put_known(
    tokens: &[u32],
    islands: &[Island],
    table: &Table,
    (done, filled): (&mut usize, &mut usize),
    room: &mut [u32; COLLECTED],
) -> usize {
    let (mut from, mut to) = (*done, *filled);
    let mut passed = 0;
    for island in islands {
        to = copy_alone(&tokens[from..], island.start - from, room, to);
        from = island.start;
        let known = table.at(Table::first_place(island.key));
        let count = known.tokens.put(&mut room[to..to + INLINE]);
        if known.key != island.key || count > INLINE {
            break;
        }
        to += count;
        from = island.end;
        passed += 1;
    }
    (*done, *filled) = (from, to);
    passed
}

/// Puts the first `count` of `tokens`, which stand for themselves, behind the first `end` ones of `room`, and
/// returns how many are there. Behind them stand at least as many more as are copied at once.
#[inline(always)]
fn copy_alone(tokens: &[u32], count: usize, room: &mut [u32; COLLECTED], end: usize) -> usize {
    let mut done = 0;
    loop {
        let mut ids = [0; AT_ONCE];
        ids.copy_from_slice(&tokens[done..done + AT_ONCE]);
        room[end + done..end + done + AT_ONCE].copy_from_slice(&ids.map(|token| token & ID));
        done += AT_ONCE;
        if done >= count {
            return end + count;
        }
    }
}

/// Tokens that are put out one after the other, first into a room of fixed size.
struct Output<'o> {
    collected: &'o mut [u32; COLLECTED],
    filled: usize,
    out: &'o mut Vec<u32>,
}

impl Output<'_> {
    fn extend(&mut self, tokens: &[u32]) {
        if self.filled + tokens.len() + NEEDED <= COLLECTED {
            self.collected[self.filled..self.filled + tokens.len()].copy_from_slice(tokens);
            self.filled += tokens.len();
        } else {
            self.flush();
            self.out.extend_from_slice(tokens);
        }
    }

    fn flush(&mut self) {
        self.out.extend_from_slice(&self.collected[..self.filled]);
        self.filled = 0;
    }
}
