//! Cutting a text into the pieces inside which tokens are merged.
//!
//! Both splitters are written by hand and give exactly the pieces of their pattern in
//! [`GPT2_PATTERN`] and [`CHUNK_PATTERN`]; neither uses a regular expression engine.

mod chunk;
mod class;
mod gpt2;

pub use chunk::CHUNK_PATTERN;
pub use gpt2::GPT2_PATTERN;

/// How a tokenizer cuts text into pieces before merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Splitter {
    /// Words, numbers, punctuation and white space: GPT-2's pattern.
    Gpt2,
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
            Splitter::Chunk => chunk::for_each(text, piece),
        }
    }
}

#[cfg(test)]
mod tests;
