//! The first stage: the words of a text and their tokens, out of the cache.
//!
//! Words are collected with their keys and then looked up one after the other in a loop that does
//! nothing else, so that the processor waits for several entries of the table at a time.

use wide::u8x16;

use super::cache::{self, INLINE, Key};
use super::phrases::{Pending, Phrases};
use super::prefetch::prefetch;
use super::{Encoder, Memory, Scratch};
use crate::model::Model;
use crate::split::pieces::{self, Piece, Start};

type Table = cache::Table<{ cache::WORDS }>;
const _: () = assert!(cache::WORDS == 1 << u16::BITS, "places have 16 bits");

/// Words that are looked up together.
const BATCH: usize = 64;

/// Tokens of words that are collected before they are joined to phrases.
const ENOUGH: usize = 1024;

/// Words that are looked up together, and their tokens.
#[derive(Debug)]
pub(super) struct Batch {
    keys: [Key; BATCH],
    /// Where they are looked for in the table.
    places: [u16; BATCH],
    /// Where the first one starts and where each ends.
    borders: [usize; BATCH + 1],
    /// Whether a chunk ends before it.
    cuts: [u8; BATCH],
    tokens: Room,
}

/// Room for the tokens of a batch. All that an entry can hold is copied, whatever it holds.
type Room = [u32; BATCH * INLINE + MORE];

/// Room for a word of more tokens.
const MORE: usize = cache::LONGEST_STORED;

impl Default for Batch {
    fn default() -> Self {
        Batch {
            keys: [0; BATCH],
            places: [0; BATCH],
            borders: [0; BATCH + 1],
            cuts: [0; BATCH],
            tokens: [0; BATCH * INLINE + MORE],
        }
    }
}

impl Batch {
    /// Marks the keys of the first `count` words with which chunks start and end, as far as it is known.
    fn mark(&mut self, count: usize, table: &Table) {
        let mut cuts = 0;
        for (bytes, shift) in self.cuts.as_chunks::<16>().0.iter().zip((0..).step_by(16)) {
            let is_cut = u8x16::new(*bytes).simd_eq(u8x16::splat(1));
            cuts |= u64::from(is_cut.to_bitmask()) << shift;
        }
        cuts &= u64::MAX.checked_shr((BATCH - count) as u32).unwrap_or(0);
        let alone = cuts & cuts >> 1;
        while cuts != 0 {
            let place = cuts.trailing_zeros() as usize;
            cuts &= cuts - 1;
            let key = &mut self.keys[place];
            *key |= cache::STARTS | Key::from(alone >> place & 1) << cache::ALONE.trailing_zeros();
            let entry = Table::first_place(*key);
            self.places[place] = entry as u16;
            prefetch(table.at(entry));
        }
    }
}

/// One text on its way. `CHUNKS` says whether there is a second stage.
pub(super) struct Words<'e, const CHUNKS: bool> {
    encoder: &'e Encoder,
    model: &'e Model,
    phrases: Option<&'e Phrases>,
    text: &'e str,
    cache: &'e mut cache::Words,
    batch: &'e mut Batch,
    pending: &'e mut Pending,
    scratch: &'e mut Scratch,
    out: &'e mut Vec<u32>,
}

impl<'e, const CHUNKS: bool> Words<'e, CHUNKS> {
    /// Appends the tokens of `text` to `out`.
    pub(super) fn encode(
        encoder: &'e Encoder,
        model: &'e Model,
        text: &'e str,
        memory: &'e mut Memory,
        out: &'e mut Vec<u32>,
    ) {
        let mut words = Words::<CHUNKS>::new(encoder, model, text, memory, out);
        words.batch.borders[0] = 0;
        let mut count = 0;
        pieces::for_each::<CHUNKS>(model.splitter(), text, Start::OF_TEXT, |piece| {
            words.collect(piece, &mut count);
        });
        words.look_up(count);
        words.join(true);
    }

    /// Appends to `out` what the words of `text` from `start` to `limit` become, as far as what follows
    /// cannot change it, and returns where the next word starts. The memory keeps the rest.
    #[cold]
    pub(super) fn encode_part(
        encoder: &'e Encoder,
        model: &'e Model,
        text: &'e str,
        start: Start,
        limit: usize,
        memory: &'e mut Memory,
        out: &'e mut Vec<u32>,
    ) -> Start {
        let mut words = Words::<CHUNKS>::new(encoder, model, text, memory, out);
        words.batch.borders[0] = start.at;
        let mut next = start;
        let mut count = 0;
        pieces::for_each::<CHUNKS>(model.splitter(), text, start, |piece| {
            if piece.end <= limit {
                words.collect(piece, &mut count);
                next = Start::behind(model.splitter(), text, piece);
            }
        });
        words.look_up(count);
        words.join(false);
        next
    }

    fn new(
        encoder: &'e Encoder,
        model: &'e Model,
        text: &'e str,
        memory: &'e mut Memory,
        out: &'e mut Vec<u32>,
    ) -> Self {
        let Memory {
            cache,
            batch,
            pending,
            scratch,
        } = memory;
        Words {
            encoder,
            model,
            phrases: encoder.phrases.as_ref(),
            text,
            cache,
            batch,
            pending,
            scratch,
            out,
        }
    }

    /// Appends to `out` what the memory keeps of the parts of a text.
    pub(super) fn finish(encoder: &'e Encoder, model: &'e Model, memory: &'e mut Memory, out: &'e mut Vec<u32>) {
        Words::<CHUNKS>::new(encoder, model, "", memory, out).join(true);
    }

    /// Adds a word to the batch, in which there are `count`.
    #[inline(always)]
    fn collect(&mut self, piece: Piece, count: &mut usize) {
        let batch = &mut *self.batch;
        let key = cache::key(piece.head, piece.end - piece.start);
        let place = Table::first_place(key);
        prefetch(self.cache.table.at(place));
        batch.keys[*count] = key;
        batch.places[*count] = place as u16;
        batch.borders[*count + 1] = piece.end;
        if CHUNKS {
            batch.cuts[*count] = u8::from(piece.cut);
        }
        *count += 1;
        if *count == BATCH {
            self.look_up(BATCH);
            self.batch.borders[0] = piece.end;
            *count = 0;
        }
    }

    /// Moves the tokens of the `count` words of the batch on.
    #[inline(never)]
    fn look_up(&mut self, count: usize) {
        if CHUNKS {
            self.batch.mark(count, &self.cache.table);
        }
        let (mut done, mut filled) = (0, 0);
        loop {
            let Batch {
                keys, places, tokens, ..
            } = &mut *self.batch;
            let (keys, places) = (&keys[done..count], &places[done..count]);
            let passed;
            (passed, filled) = copy_known(keys, places, &self.cache.table, tokens, filled);
            done += passed;
            if done == count {
                break;
            }
            filled = self.miss(done, filled);
            done += 1;
        }
        self.flush(filled);
    }

    /// Puts the tokens of the word at `place`, which is not where it is looked for at once, behind the first
    /// `filled` ones of the room. Returns how many are there, if not all are moved on.
    #[cold]
    #[inline(never)]
    fn miss(&mut self, place: usize, mut filled: usize) -> usize {
        let Batch {
            keys, borders, tokens, ..
        } = &mut *self.batch;
        let key = keys[place];
        let entry = self.cache.table.get(key);
        if let Some(entry) = entry
            && entry.count() <= INLINE
        {
            return filled + entry.put(&mut tokens[filled..filled + INLINE]);
        }
        let word = &self.text.as_bytes()[borders[place]..borders[place + 1]];
        let is_stored = word.len() <= cache::LONGEST_STORED;
        // It has at most as many tokens as bytes, and the words behind it need their room.
        if !is_stored || filled + word.len() + (BATCH - place) * INLINE > tokens.len() {
            self.flush(filled);
            filled = 0;
        }
        let mut encode = |out: &mut Vec<u32>| {
            let start = out.len();
            // What is a chunk by itself is not joined to anything.
            let (limit, phrases) = match key & cache::ALONE {
                0 => (self.encoder.inside_words, self.phrases),
                _ => (self.encoder.all, None),
            };
            self.encoder.merge(self.model, word, limit, self.scratch, out);
            if let Some(phrases) = phrases {
                phrases.mark(&mut out[start..], key & cache::STARTS != 0);
            }
        };
        if !is_stored {
            encode(if CHUNKS {
                &mut self.pending.tokens
            } else {
                &mut *self.out
            });
            return 0;
        }
        let found = match entry {
            Some(entry) => self.cache.behind(entry),
            None => self.cache.get(word, key, encode),
        };
        self.batch.tokens[filled..filled + found.len()].copy_from_slice(found);
        filled + found.len()
    }

    /// Moves the first `filled` tokens of the room on.
    #[inline]
    fn flush(&mut self, filled: usize) {
        let tokens = &self.batch.tokens[..filled];
        if CHUNKS {
            self.pending.tokens.extend_from_slice(tokens);
            if self.pending.tokens.len() >= ENOUGH {
                self.join(false);
            }
        } else {
            self.out.extend_from_slice(tokens);
        }
    }

    /// Moves the words that wait on to the second stage.
    fn join(&mut self, is_end: bool) {
        if let Some(phrases) = self.phrases {
            let Words {
                encoder,
                model,
                scratch,
                ..
            } = self;
            phrases.join(self.pending, is_end, self.out, |tokens, out| {
                encoder.merge_tokens(model, tokens, scratch, out);
            });
        }
    }
}

/// Puts the tokens of the words with these keys and places in the table behind the first `filled` ones of `room`, up
/// to one that is not there. Returns how many words it passed, and how many tokens there are.
#[inline(never)]
fn copy_known(keys: &[Key], places: &[u16], table: &Table, room: &mut Room, mut filled: usize) -> (usize, usize) {
    let mut passed = 0;
    for (&key, &place) in keys.iter().zip(places) {
        let entry = table.at(usize::from(place));
        let count = entry.tokens.put(&mut room[filled..filled + INLINE]);
        if entry.key != key || count > INLINE {
            break;
        }
        filled += count;
        passed += 1;
    }
    (passed, filled)
}
