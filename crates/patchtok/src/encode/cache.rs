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

/// Number of sets of the table of words; 1 MiB in all.
const WORD_SETS: u32 = 1 << 13;

/// Bounds of the store, in words and in bytes and tokens of words. It is emptied when it is full.
const MAX_WORDS: usize = 1 << 17;
const MAX_LENGTHS: usize = 1 << 21;

/// What a table is asked for: up to fifteen bytes and, in the byte behind them, how many.
pub(super) type Key = u128;

/// The key of the first `length` bytes of `head`, of which there are at most [`LONGEST`].
#[inline]
pub(super) fn key(head: [u8; HEAD], length: usize) -> Key {
    /// Ones where the bytes of a word are.
    const MASKS: [Key; HEAD] = {
        let mut masks = [0; HEAD];
        let mut length = 1;
        while length < HEAD {
            masks[length] = Key::MAX >> (8 * (HEAD - length));
            length += 1;
        }
        masks
    };
    u128::from_le_bytes(head) & MASKS[length] | (length as Key) << (8 * LONGEST)
}

/// Tokens of a key: up to [`INLINE`] ids, and how many in the upper eight bits of the first (an
/// id has 24, see `model::MAX_VOCAB`). If there are more, the second is their place in the store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tokens([u32; INLINE]);

impl Tokens {
    /// None if there are too many.
    #[inline]
    pub(super) fn new(ids: &[u32]) -> Option<Self> {
        let mut tokens = [0; INLINE];
        tokens.get_mut(..ids.len())?.copy_from_slice(ids);
        tokens[0] |= (ids.len() as u32) << 24;
        Some(Tokens(tokens))
    }

    #[inline]
    pub(super) fn count(self) -> usize {
        (self.0[0] >> 24) as usize
    }

    /// The ids, if there are not more than [`INLINE`]; what stands behind them means nothing.
    #[inline]
    pub(super) fn ids(self) -> [u32; INLINE] {
        let [first, second, third, fourth] = self.0;
        [first & 0x00FF_FFFF, second, third, fourth]
    }
}

/// Two entries that share a cache line and a hash.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Set {
    keys: [Key; 2],
    tokens: [Tokens; 2],
}

impl Set {
    const EMPTY: Set = Set {
        keys: [0; 2],
        tokens: [Tokens([0; INLINE]); 2],
    };
}

/// A table from keys to a few tokens. What is not in it must be found otherwise.
#[derive(Debug)]
pub(super) struct Table {
    sets: Box<[Set]>,
    shift: u32,
}

impl Table {
    /// A table of `sets` times two entries, a power of two.
    pub(super) fn new(sets: u32) -> Self {
        Table {
            sets: vec![Set::EMPTY; sets as usize].into_boxed_slice(),
            shift: 64 - sets.trailing_zeros(),
        }
    }

    /// The tokens of `key`, which is not 0, if the table has it.
    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<Tokens> {
        let set = &self.sets[self.home(key)];
        // Without a branch on which of the two it is.
        let entry = usize::from(set.keys[1] == key);
        (set.keys[entry] == key).then_some(set.tokens[entry])
    }

    /// Remembers the tokens of `key`; of its set the entry that came first is lost.
    pub(super) fn insert(&mut self, key: Key, tokens: Tokens) {
        let home = self.home(key);
        let set = &mut self.sets[home];
        set.keys = [key, set.keys[0]];
        set.tokens = [tokens, set.tokens[0]];
    }

    #[inline]
    fn home(&self, key: Key) -> usize {
        let low = (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let high = ((key >> 64) as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((low ^ high) >> self.shift) as usize
    }
}

/// A word in the store: where its bytes and its tokens are.
#[derive(Clone, Copy, Debug)]
struct Stored {
    bytes: u32,
    tokens: u32,
    length: u8,
    count: u8,
}

/// Words and their tokens, of bounded size.
#[derive(Debug)]
pub(super) struct Words {
    table: Table,
    stored: HashTable<Stored>,
    bytes: Vec<u8>,
    tokens: Vec<u32>,
}

impl Default for Words {
    fn default() -> Self {
        Words {
            table: Table::new(WORD_SETS),
            stored: HashTable::new(),
            bytes: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

impl Words {
    /// Forgets all words. Keeps the memory.
    fn clear(&mut self) {
        self.table.sets.fill(Set::EMPTY);
        self.stored.clear();
        self.bytes.clear();
        self.tokens.clear();
    }

    /// The tokens of a word, if the table has it.
    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<Tokens> {
        self.table.get(key)
    }

    /// The tokens of a word in the table that has more than its entry holds.
    pub(super) fn overflowing(&self, tokens: Tokens) -> &[u32] {
        let start = tokens.0[1] as usize;
        &self.tokens[start..start + tokens.count()]
    }

    /// The tokens of `word`, which the table does not have, out of the store or from `encode`, which
    /// appends them to what it is given. The table has it from now on if `key` is given.
    pub(super) fn fill(&mut self, word: &[u8], key: Option<Key>, encode: impl FnOnce(&mut Vec<u32>)) -> &[u32] {
        fn bytes_of<'w>(bytes: &'w [u8], stored: &Stored) -> &'w [u8] {
            &bytes[stored.bytes as usize..][..usize::from(stored.length)]
        }
        let hash = hash(word);
        let found = self.stored.find(hash, |stored| bytes_of(&self.bytes, stored) == word);
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
                    count: (self.tokens.len() - start) as u8,
                };
                self.bytes.extend_from_slice(word);
                let bytes = &self.bytes;
                self.stored
                    .insert_unique(hash, stored, |stored| self::hash(bytes_of(bytes, stored)));
                stored
            }
        };
        let tokens = &self.tokens[stored.tokens as usize..][..usize::from(stored.count)];
        if let Some(key) = key {
            let tokens = Tokens::new(tokens).unwrap_or(Tokens([u32::from(stored.count) << 24, stored.tokens, 0, 0]));
            self.table.insert(key, tokens);
        }
        tokens
    }
}

fn hash(word: &[u8]) -> u64 {
    Hasher::with_seed(0).hash_one(word)
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
