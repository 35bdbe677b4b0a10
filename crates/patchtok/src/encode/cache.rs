//! Tokens that were found before: of words, and of stretches of words.
//!
//! The cache of words has two levels: a table of short words, which is looked at for every word of a
//! text, and behind it a larger store of words of any length.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use crate::model::Hasher;
use crate::split::pieces::HEAD;

/// Longest word that the table takes: its bytes and its length fit into one key.
pub(super) const LONGEST: usize = HEAD - 1;

/// Longest word that the store takes.
pub(super) const LONGEST_STORED: usize = 255;

/// Most tokens that an entry of the table holds itself.
pub(super) const INLINE: usize = 4;

/// Entries of the table of words, of 32 bytes each.
pub(super) const WORDS: usize = 1 << 16;

/// Bounds of the store, in words and in bytes and tokens of words. It is emptied when it is full.
const MAX_WORDS: usize = 1 << 17;
const MAX_LENGTHS: usize = 1 << 21;

/// What a table is asked for: up to fifteen bytes and, in the byte behind them, how many. 0 stands for
/// nothing.
pub(super) type Key = u128;

/// Marks of the key of a word, in bits that the number of its bytes leaves: a chunk starts with it, or starts and
/// ends with it.
pub(super) const STARTS: Key = 1 << MARKS_SHIFT;
pub(super) const ALONE: Key = 2 << MARKS_SHIFT;
const MARKS_SHIFT: u32 = 126;

/// The key of what is too long for one.
pub(super) const LONG: Key = (HEAD as Key) << (8 * LONGEST);

/// The key of the first `length` bytes of `head`, [`LONG`] if these are more than [`LONGEST`].
#[inline(always)]
pub(super) fn key(head: [u8; HEAD], length: usize) -> Key {
    /// Ones where the bytes of a word are, in the lower and the upper half of its key.
    const MASKS: [[u64; HEAD + 1]; 2] = {
        let mut masks = [[0; HEAD + 1]; 2];
        let mut length = 1;
        while length < HEAD {
            let mask = Key::MAX >> (8 * (HEAD - length));
            (masks[0][length], masks[1][length]) = (mask as u64, (mask >> 64) as u64);
            length += 1;
        }
        masks
    };
    let length = length.min(HEAD);
    let [low, high] = MASKS;
    let word = u128::from_le_bytes(head);
    let (low, high) = (word as u64 & low[length], (word >> 64) as u64 & high[length]);
    // The length stands in the last byte.
    Key::from(high | (length as u64) << 56) << 64 | Key::from(low)
}

/// Tokens of a key: up to [`INLINE`], and how many in three bits of the last that no token has. If
/// there are more, the first is their place in a store and the second their number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tokens([u32; INLINE]);

/// Where the number of tokens stands in the last of them.
const COUNT_SHIFT: u32 = 24;
const COUNT: u32 = 7 << COUNT_SHIFT;

impl Tokens {
    /// The tokens `ids`, which are at `place` in a store if they are more than [`INLINE`].
    pub(super) fn new(ids: &[u32], place: u32) -> Self {
        let mut tokens = [0; INLINE];
        match tokens.get_mut(..ids.len()) {
            Some(room) => room.copy_from_slice(ids),
            None => tokens[..2].copy_from_slice(&[place, ids.len() as u32]),
        }
        tokens[INLINE - 1] |= (ids.len().min(INLINE + 1) as u32) << COUNT_SHIFT;
        Tokens(tokens)
    }

    /// How many there are; more than [`INLINE`] if they are not here.
    #[inline(always)]
    pub(super) fn count(self) -> usize {
        (self.0[INLINE - 1] >> COUNT_SHIFT & 7) as usize
    }

    /// The tokens, if there are not more than [`INLINE`]; what stands behind them means nothing.
    #[inline(always)]
    pub(super) fn ids(self) -> [u32; INLINE] {
        let [first, second, third, last] = self.0;
        [first, second, third, last & !COUNT]
    }

    /// Writes the [`ids`](Tokens::ids) to `room`, and returns how many of them are tokens.
    #[inline(always)]
    pub(super) fn put(self, room: &mut [u32]) -> usize {
        room.copy_from_slice(&self.ids());
        self.count()
    }
}

/// A key and its tokens, within a line of the cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) tokens: Tokens,
}

const EMPTY: Entry = Entry {
    key: 0,
    tokens: Tokens([0; INLINE]),
};

/// A table from keys to a few tokens, of `ENTRIES` entries, a power of two. A key has one place at which it is
/// looked for at once, and else it may be anywhere in the group of that place. What is not there must be found
/// otherwise.
#[derive(Debug)]
pub(super) struct Table<const ENTRIES: usize> {
    entries: Box<[Entry; ENTRIES]>,
    /// Which of a full group is the next to be lost.
    turn: usize,
}

/// Entries of a group.
const GROUP: usize = 8;

impl<const ENTRIES: usize> Default for Table<ENTRIES> {
    fn default() -> Self {
        let entries = vec![EMPTY; ENTRIES].into_boxed_slice();
        Table {
            entries: entries.try_into().expect("there are so many entries"),
            turn: 0,
        }
    }
}

impl<const ENTRIES: usize> Table<ENTRIES> {
    fn clear(&mut self) {
        self.entries.fill(EMPTY);
    }

    /// The place at which `key` is looked for at once.
    #[inline(always)]
    pub(super) fn first_place(key: Key) -> usize {
        let folded = key as u64 ^ ((key >> 64) as u64).rotate_left(32);
        let hash = folded.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash >> (u64::BITS - ENTRIES.trailing_zeros())) as usize
    }

    /// The entry at a place.
    #[inline(always)]
    pub(super) fn at(&self, place: usize) -> &Entry {
        &self.entries[place % ENTRIES]
    }

    /// The tokens of `key`, if the table has it. They are at its first place from now on.
    pub(super) fn get(&mut self, key: Key) -> Option<Tokens> {
        let (group, first) = self.group(key);
        let place = group.iter().position(|entry| entry.key == key)?;
        group.swap(place, first);
        Some(group[first].tokens)
    }

    /// Remembers the tokens of `key`, which it does not have, at its first place. What was there goes to another of
    /// its group.
    pub(super) fn insert(&mut self, key: Key, tokens: Tokens) {
        self.turn = (self.turn + 1) % GROUP;
        let turn = self.turn;
        let (group, first) = self.group(key);
        let place = group.iter().position(|entry| entry.key == 0).unwrap_or(turn);
        group[place] = group[first];
        group[first] = Entry { key, tokens };
    }

    /// The group of `key`, and its first place in it.
    fn group(&mut self, key: Key) -> (&mut [Entry], usize) {
        let place = Self::first_place(key);
        let first = place % GROUP;
        (&mut self.entries[place - first..][..GROUP], first)
    }
}

/// A word in the store: where its bytes and its tokens are.
#[derive(Clone, Copy, Debug)]
struct Stored {
    bytes: u32,
    tokens: u32,
    length: u8,
    /// Those of its key.
    marks: u8,
    count: u8,
}

/// Words and their tokens, of bounded size.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) table: Table<WORDS>,
    stored: HashTable<Stored>,
    bytes: Vec<u8>,
    tokens: Vec<u32>,
}

impl Words {
    /// Forgets all words. Keeps the memory.
    fn clear(&mut self) {
        self.table.clear();
        self.stored.clear();
        self.bytes.clear();
        self.tokens.clear();
    }

    /// The tokens that an entry of the table has no room for.
    pub(super) fn behind(&self, entry: Tokens) -> &[u32] {
        let [place, count, ..] = entry.0;
        &self.tokens[place as usize..][..count as usize]
    }

    /// The tokens of `word`, which the table does not have: out of the store, or from `encode`, which appends them to
    /// what it is given. If it is short enough, the table has its `key` from now on.
    pub(super) fn get(&mut self, word: &[u8], key: Key, encode: impl FnOnce(&mut Vec<u32>)) -> &[u32] {
        fn bytes_of<'w>(bytes: &'w [u8], stored: &Stored) -> &'w [u8] {
            &bytes[stored.bytes as usize..][..usize::from(stored.length)]
        }
        let marks = (key >> MARKS_SHIFT) as u8;
        let hash = hash(word, marks);
        let found = self.stored.find(hash, |stored| {
            bytes_of(&self.bytes, stored) == word && stored.marks == marks
        });
        let stored = match found {
            Some(stored) => *stored,
            None => {
                if self.stored.len() == MAX_WORDS || self.bytes.len() + self.tokens.len() > MAX_LENGTHS {
                    self.clear();
                }
                let start = self.tokens.len();
                encode(&mut self.tokens);
                let stored = Stored {
                    bytes: self.bytes.len() as u32,
                    tokens: start as u32,
                    length: word.len() as u8,
                    marks,
                    count: (self.tokens.len() - start) as u8,
                };
                self.bytes.extend_from_slice(word);
                let bytes = &self.bytes;
                let hash_of = |stored: &Stored| self::hash(bytes_of(bytes, stored), stored.marks);
                self.stored.insert_unique(hash, stored, hash_of);
                stored
            }
        };
        let tokens = &self.tokens[stored.tokens as usize..][..usize::from(stored.count)];
        if word.len() <= LONGEST {
            self.table.insert(key, Tokens::new(tokens, stored.tokens));
        }
        tokens
    }
}

fn hash(word: &[u8], marks: u8) -> u64 {
    Hasher::with_seed(u64::from(marks)).hash_one(word)
}

/// Sequences of tokens and what became of them, of bounded size.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    /// Where each sequence is in `tokens`, and how many tokens it and what became of it have.
    stored: HashTable<(u32, u8, u8)>,
    /// What became of a sequence stands behind it.
    tokens: Vec<u32>,
}

impl Sequences {
    /// What becomes of `sequence`, which has fewer than 256 tokens, as remembered or from `encode`, which
    /// appends it to what it is given.
    pub(super) fn get(&mut self, sequence: &[u32], encode: impl FnOnce(&mut Vec<u32>)) -> &[u32] {
        let hash = hash_tokens(sequence);
        let known = self.stored.find(hash, |&(start, length, _)| {
            self.tokens[start as usize..][..usize::from(length)] == *sequence
        });
        let (start, length, count) = match known {
            Some(known) => *known,
            None => {
                if self.tokens.len() > MAX_LENGTHS {
                    self.stored.clear();
                    self.tokens.clear();
                }
                let start = self.tokens.len();
                self.tokens.extend_from_slice(sequence);
                encode(&mut self.tokens);
                let count = self.tokens.len() - start - sequence.len();
                let stored = (start as u32, sequence.len() as u8, count as u8);
                let tokens = &self.tokens;
                self.stored.insert_unique(hash, stored, |&(start, length, _)| {
                    hash_tokens(&tokens[start as usize..][..usize::from(length)])
                });
                stored
            }
        };
        &self.tokens[start as usize + usize::from(length)..][..usize::from(count)]
    }
}

fn hash_tokens(tokens: &[u32]) -> u64 {
    Hasher::with_seed(0).hash_one(tokens)
}
