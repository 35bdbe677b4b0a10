//! Cutting a text into the pieces inside which tokens are merged.
//!
//! All splitters are written by hand and give exactly the pieces of their patterns; none uses a
//! regular expression engine.

mod block;
mod chunk;
mod cl100k;
mod class;
mod digits;
mod gpt2;
mod joint;
pub(crate) mod pieces;

pub use chunk::CHUNK_PATTERN;
pub(crate) use chunk::CHUNK_PATTERN_V1;
pub(crate) use cl100k::{LLAMA3_CHUNK_ENDS, QWEN_CHUNK_ENDS};
pub use cl100k::{LLAMA3_PATTERN, QWEN_PATTERN};
pub use gpt2::GPT2_PATTERN;
pub(crate) use joint::never_parts;

/// How a tokenizer cuts text into pieces before merging. Files hold the number of the variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Splitter {
    /// Words, numbers, punctuation and white space: GPT-2's pattern.
    Gpt2,
    /// Chunks that end at blank lines: patched tokenizers of the first version.
    ChunkV1,
    /// Chunks of many words: the pattern of patched tokenizers of GPT-2's kind.
    Chunk,
    /// Llama 3's pattern: words with one character before them, numbers of up to three digits.
    Llama3,
    /// Qwen's pattern: the same with every digit by itself.
    Qwen,
    /// Chunks of pieces of Llama 3's pattern.
    Llama3Chunk,
    /// Chunks of pieces of Qwen's pattern.
    QwenChunk,
    /// Every digit by itself, and GPT-2's pattern between them: SmolLM's pieces.
    DigitsGpt2,
    /// Every digit by itself, and the chunks of patched tokenizers of GPT-2's kind between them.
    DigitsChunk,
}

impl Splitter {
    /// The splitter of tokenizers that are made from one with this splitter; none if this is such
    /// a splitter.
    pub(crate) fn chunked(self) -> Option<Splitter> {
        match self {
            Splitter::Gpt2 => Some(Splitter::Chunk),
            Splitter::Llama3 => Some(Splitter::Llama3Chunk),
            Splitter::Qwen => Some(Splitter::QwenChunk),
            Splitter::DigitsGpt2 => Some(Splitter::DigitsChunk),
            Splitter::ChunkV1
            | Splitter::Chunk
            | Splitter::Llama3Chunk
            | Splitter::QwenChunk
            | Splitter::DigitsChunk => None,
        }
    }

    /// The splitter of what is between digits, if they are cut off before.
    fn between_digits(self) -> Option<Splitter> {
        match self {
            Splitter::DigitsGpt2 => Some(Splitter::Gpt2),
            Splitter::DigitsChunk => Some(Splitter::Chunk),
            _ => None,
        }
    }

    /// Whether this cuts a single blank line in two, and the chunks of tokenizers made from it do not.
    pub(crate) fn parts_blank_lines(self) -> bool {
        matches!(self, Splitter::Gpt2 | Splitter::DigitsGpt2)
    }

    /// Whether its pieces are chunks of many words.
    pub(crate) fn is_chunked(self) -> bool {
        matches!(
            self,
            Splitter::ChunkV1 | Splitter::Chunk | Splitter::Llama3Chunk | Splitter::QwenChunk | Splitter::DigitsChunk
        )
    }

    /// The most digits in a word of this splitter, if it is one of those that limit them.
    fn digits(self) -> Option<usize> {
        match self {
            Splitter::Gpt2 | Splitter::ChunkV1 | Splitter::Chunk => None,
            Splitter::DigitsGpt2 | Splitter::DigitsChunk => None,
            Splitter::Llama3 | Splitter::Llama3Chunk => Some(3),
            Splitter::Qwen | Splitter::QwenChunk => Some(1),
        }
    }

    /// Calls `piece` for every piece of `text` in order; together they are `text`. O(length of
    /// `text`).
    #[inline]
    pub(crate) fn for_each<'t>(self, text: &'t str, mut piece: impl FnMut(&'t str)) {
        if let Some(between) = self.between_digits() {
            return digits::for_each(text, |part, is_digit| match (is_digit, between) {
                (true, _) => piece(part),
                (_, Splitter::Gpt2) => gpt2::for_each(part, &mut piece),
                _ => chunk::for_each(between, part, &mut piece),
            });
        }
        match (self, self.digits()) {
            (Splitter::Gpt2, _) => gpt2::for_each(text, piece),
            (_, None) => chunk::for_each(self, text, piece),
            (_, Some(digits)) if self.is_chunked() => cl100k::for_each_chunk(text, digits, piece),
            (_, Some(digits)) => cl100k::for_each(text, digits, piece),
        }
    }

    /// Calls `piece` for the pieces of `chunk` as they are in a text in which it is a chunk. (Two
    /// line ends that are all of a chunk count as one piece, which they are before white space.)
    pub(crate) fn for_each_in_chunk<'t>(self, chunk: &'t str, mut piece: impl FnMut(&'t str)) {
        if self.is_chunked() {
            return piece(chunk);
        }
        match chunk.strip_suffix("\n\n") {
            // What follows is not white space: the blank line would be a chunk of its own.
            Some(rest) if self.parts_blank_lines() && rest.ends_with(|c| class::class_of(c) != class::Class::Space) => {
                gpt2::for_each(&chunk[..rest.len() + 1], &mut piece);
                piece(&chunk[rest.len() + 1..]);
            }
            _ => self.for_each(chunk, piece),
        }
    }
}

#[cfg(test)]
mod tests;
