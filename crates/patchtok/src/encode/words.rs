//! The first stage: the words of a text and their tokens, out of the cache.

use super::cache::{self, INLINE};
use super::phrases::{CUT, Pending, Phrases};
use super::{Encoder, Memory, Scratch};
use crate::model::Model;
use crate::split::pieces::{self, Piece, Start};

/// Tokens that are collected before they are moved on.
const BUFFER: usize = 128;

/// Tokens of words that are collected before they are joined to phrases.
const BATCH: usize = 2048;

/// One text on its way. `CHUNKS` says whether there is a second stage.
pub(super) struct Words<'e, const CHUNKS: bool> {
    encoder: &'e Encoder,
    model: &'e Model,
    phrases: Option<&'e Phrases>,
    cache: &'e mut cache::Words,
    pending: &'e mut Pending,
    scratch: &'e mut Scratch,
    out: &'e mut Vec<u32>,
    buffer: [u32; BUFFER],
    filled: usize,
}

impl<'e, const CHUNKS: bool> Words<'e, CHUNKS> {
    /// Appends the tokens of `text` to `out`.
    pub(super) fn encode(
        encoder: &'e Encoder,
        model: &'e Model,
        text: &str,
        memory: &'e mut Memory,
        out: &'e mut Vec<u32>,
    ) {
        let mut words = Words::<CHUNKS>::new(encoder, model, memory, out);
        pieces::for_each::<CHUNKS>(model.splitter(), text, Start::OF_TEXT, |piece| words.piece(text, piece));
        words.flush();
        words.join(true);
    }

    /// Appends to `out` what the words of `text` from `start` to `limit` become, as far as what follows
    /// cannot change it, and returns where the next word starts. The memory keeps the rest.
    #[cold]
    pub(super) fn encode_part(
        encoder: &'e Encoder,
        model: &'e Model,
        text: &str,
        start: Start,
        limit: usize,
        memory: &'e mut Memory,
        out: &'e mut Vec<u32>,
    ) -> Start {
        let mut words = Words::<CHUNKS>::new(encoder, model, memory, out);
        let mut next = start;
        pieces::for_each::<CHUNKS>(model.splitter(), text, start, |piece| {
            if piece.end <= limit {
                words.piece(text, piece);
                next = Start::behind(model.splitter(), text, piece);
            }
        });
        words.flush();
        words.join(false);
        next
    }

    fn new(encoder: &'e Encoder, model: &'e Model, memory: &'e mut Memory, out: &'e mut Vec<u32>) -> Self {
        let Memory {
            cache,
            pending,
            scratch,
        } = memory;
        Words {
            encoder,
            model,
            phrases: encoder.phrases.as_ref(),
            cache,
            pending,
            scratch,
            out,
            buffer: [0; BUFFER],
            filled: 0,
        }
    }

    /// Appends to `out` what the memory keeps of the parts of a text.
    pub(super) fn finish(encoder: &'e Encoder, model: &'e Model, memory: &'e mut Memory, out: &'e mut Vec<u32>) {
        Words::<CHUNKS>::new(encoder, model, memory, out).join(true);
    }

    #[inline(always)]
    fn piece(&mut self, text: &str, piece: Piece) {
        let length = piece.end - piece.start;
        if length <= cache::LONGEST
            && let Some(tokens) = self.cache.get(cache::key(piece.head, length))
            && tokens.count() <= INLINE
        {
            // All that an entry can hold is copied, and then so many count as it holds.
            let room = &mut self.buffer[self.filled..self.filled + INLINE];
            room.copy_from_slice(&tokens.ids());
            if CHUNKS {
                room[0] |= u32::from(piece.cut) << 31;
            }
            self.filled += tokens.count();
            if self.filled > BUFFER - INLINE {
                self.flush();
            }
        } else {
            self.miss(text, piece);
        }
    }

    /// A word that the table does not hold, or not in its entry.
    #[cold]
    #[inline(never)]
    fn miss(&mut self, text: &str, piece: Piece) {
        self.flush();
        let word = &text.as_bytes()[piece.start..piece.end];
        let sink = if CHUNKS {
            &mut self.pending.tokens
        } else {
            &mut *self.out
        };
        let start = sink.len();
        let mut encode = |out: &mut Vec<u32>| {
            let limit = self.encoder.inside_words;
            self.encoder.merge(self.model, word, limit, self.scratch, out);
        };
        if word.len() > cache::LONGEST_STORED {
            encode(sink);
        } else {
            let key = (word.len() <= cache::LONGEST).then(|| cache::key(piece.head, word.len()));
            match key.and_then(|key| self.cache.get(key)) {
                Some(tokens) => sink.extend_from_slice(self.cache.overflowing(tokens)),
                None => sink.extend_from_slice(self.cache.fill(word, key, encode)),
            }
        }
        if CHUNKS && piece.cut {
            sink[start] |= CUT;
        }
    }

    /// Empties the buffer.
    #[inline]
    fn flush(&mut self) {
        let tokens = &self.buffer[..self.filled];
        self.filled = 0;
        if CHUNKS {
            self.pending.tokens.extend_from_slice(tokens);
            if self.pending.tokens.len() >= BATCH {
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
