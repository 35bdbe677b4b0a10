//! The chunk pattern: pieces of many words, so that tokens can grow across spaces.
//!
//! A chunk is a run of GPT-2's pieces; some of these pieces stand alone. They are the places where
//! a merge of the base tokenizer could reach across the border of two of its own pieces: white
//! space before white space, an apostrophe that is not a contraction before the letters of one, a
//! contraction before a letter, and borders between two non-ASCII characters, whose bytes may be
//! parts of one token. A blank line is the exception: it ends no chunk, and the one merge that
//! reaches across it, of two line ends, comes after all others of the base. So merging inside chunks
//! finds the tokens of the base tokenizer first and joins them only then. `docs/tokenizer.md` has
//! the argument.

use super::class::{Class, class_of};
use super::{Splitter, gpt2};

/// The common part of the patterns.
macro_rules! white_space_and_others {
    () => {
        concat!(
            // White space, without its last character before a word.
            r"\s+(?!\S)",
            // Punctuation that ends with an apostrophe, before the letters of a contraction.
            r"| ?(?<![^\s\p{L}\p{N}])(?>[^\s\p{L}\p{N}]+)(?<=(?: |[^\s\p{L}\p{N}])')(?=s|t|re|ve|m|ll|d)",
            // A contraction before a letter.
            r"|'(?:s|t|re|ve|m|ll|d)(?=\p{L})",
            // Punctuation, a number or a white space, between a non-ASCII character of its own and a
            // non-ASCII letter.
            r"|(?: ?(?<![^\s\p{L}\p{N}])(?>[^\s\p{L}\p{N}]+)| ?(?<!\p{N})(?>\p{N}+)|\s)",
            r"(?<=[^\x00-\x7F])(?=[^\x00-\x7F])(?=\p{L})",
            r"|(?<=[^\x00-\x7F])(?<=\p{L})(?=[^\x00-\x7F])(?>[^\s\p{L}\p{N}]+)",
        )
    };
}

/// The pattern of patched tokenizers: its matches are chunks, and so is what lies between two of
/// them. This crate cuts texts by a hand-written equal of it.
///
/// Valid for Oniguruma and for `fancy-regex`, the two engines of Hugging Face `tokenizers`. Its
/// runs are atomic, so that no text makes an engine go back by more than a character.
pub const CHUNK_PATTERN: &str = concat!(
    // White space, without its last character before a word; but not a single blank line.
    r"(?!(?<!\s)\n\n\S)",
    white_space_and_others!(),
);

/// The pattern of the first version, by which blank lines end a chunk.
pub(crate) const CHUNK_PATTERN_V1: &str = white_space_and_others!();

/// Calls `chunk` for every chunk of `text` in order, by either version of the pattern; together they
/// are `text`.
pub(super) fn for_each<'t>(splitter: Splitter, text: &'t str, mut chunk: impl FnMut(&'t str)) {
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let end = at + gpt2::first_piece(&text[at..]);
        if is_chunk(splitter, &text[..at], &text[at..end], &text[end..]) {
            if start < at {
                chunk(&text[start..at]);
            }
            chunk(&text[at..end]);
            start = end;
        }
        at = end;
    }
    if start < at {
        chunk(&text[start..at]);
    }
}

/// Whether `piece`, one of GPT-2's pieces, is a chunk of its own for `splitter`.
pub(super) fn is_chunk(splitter: Splitter, before: &str, piece: &str, after: &str) -> bool {
    stands_alone(before, piece, after) || splitter == Splitter::ChunkV1 && is_blank_line(before, piece, after)
}

/// Whether `piece`, one of GPT-2's pieces, is a match of the pattern.
fn stands_alone(before: &str, piece: &str, after: &str) -> bool {
    let mut chars = piece.chars();
    let Some(first) = chars.next() else {
        return false;
    };
    let last = chars.next_back().unwrap_or(first);
    let next = after.chars().next();
    let meets_letter = !last.is_ascii() && next.is_some_and(is_non_ascii_letter);
    match class_of(last) {
        Class::Space if is_blank_line(before, piece, after) => false,
        Class::Space => meets_letter || next.is_none_or(|next| class_of(next) == Class::Space),
        Class::Letter if first == '\'' => next.is_some_and(|next| class_of(next) == Class::Letter),
        Class::Letter => false,
        Class::Number => meets_letter,
        Class::Other => {
            let splits_contraction =
                || last == '\'' && piece.len() > 1 && gpt2::contraction_letters(after.as_bytes()).is_some();
            let follows_letter = || !first.is_ascii() && before.chars().next_back().is_some_and(is_non_ascii_letter);
            meets_letter || splits_contraction() || follows_letter()
        }
    }
}

/// Whether `piece` is the first of two line ends between words.
fn is_blank_line(before: &str, piece: &str, after: &str) -> bool {
    let is_space = |c| class_of(c) == Class::Space;
    piece == "\n"
        && after
            .strip_prefix('\n')
            .is_some_and(|after| after.starts_with(|c| !is_space(c)))
        && !before.ends_with(is_space)
}

fn is_non_ascii_letter(c: char) -> bool {
    !c.is_ascii() && class_of(c) == Class::Letter
}
