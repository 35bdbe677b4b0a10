//! Cutting a text into the pieces inside which tokens are merged.
//!
//! Both splitters are written by hand and give exactly the pieces of their pattern in
//! [`GPT2_PATTERN`] and [`CHUNK_PATTERN`]; neither uses a regular expression engine.

mod block;
mod chunk;
mod class;
mod gpt2;
mod joint;
pub(crate) mod pieces;

pub use chunk::CHUNK_PATTERN;
pub(crate) use chunk::CHUNK_PATTERN_V1;
pub use gpt2::GPT2_PATTERN;
pub(crate) use joint::never_parts;

/// How a tokenizer cuts text into pieces before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Splitter {
    /// Words, numbers, punctuation and white space: GPT-2's pattern.
    Gpt2,
    /// Chunks that end at blank lines: patched tokenizers of the first version.
    ChunkV1,
    /// Chunks of many words: the pattern of patched tokenizers.
    Chunk,
}

impl Splitter {
    /// Calls `piece` for every piece of `text` in order; together they are `text`. O(length of
    /// `text`).
    #[inline]
    pub(crate) fn for_each<'t>(self, text: &'t str, piece: impl FnMut(&'t str)) {
        match self {
            Splitter::Gpt2 => gpt2::for_each(text, piece),
            Splitter::ChunkV1 | Splitter::Chunk => chunk::for_each(self, text, piece),
        }
    }

    /// Calls `piece` for the pieces of `chunk` as they are in a text in which it is a chunk. (Two
    /// line ends that are all of a chunk count as one piece, which they are before white space.)
    pub(crate) fn for_each_in_chunk<'t>(self, chunk: &'t str, mut piece: impl FnMut(&'t str)) {
        match self {
            Splitter::ChunkV1 | Splitter::Chunk => piece(chunk),
            Splitter::Gpt2 => match chunk.strip_suffix("\n\n") {
                // What follows is not white space: the blank line would be a chunk of its own.
                Some(rest) if rest.ends_with(|c| class::class_of(c) != class::Class::Space) => {
                    gpt2::for_each(&chunk[..rest.len() + 1], &mut piece);
                    piece(&chunk[rest.len() + 1..]);
                }
                _ => gpt2::for_each(chunk, piece),
            },
        }
    }
}

#[cfg(test)]
mod tests;
