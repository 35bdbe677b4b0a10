//! The pre-tokenizer patterns of Llama 3 and Qwen, which go back to OpenAI's cl100k, and their chunks.

use super::class::{Class, class_of, run};

/// Llama 3's pattern: its matches cover a text, and tokens are merged inside them. This crate cuts
/// texts by a hand-written equal of it.
pub const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen's pattern: Llama 3's with every digit by itself.
pub const QWEN_PATTERN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What ends a chunk, but for numbers: a place that the pattern cuts, between two characters that
/// may also stand in one piece.
macro_rules! ends_of_chunks {
    ($number:literal) => {
        concat!(
            // Punctuation of more than one character, before a letter.
            r"(?<= |[^\s\p{L}\p{N}])[^\s\p{L}\p{N}](?=\p{L})",
            // A contraction before a letter.
            r"|(?<! |[^\s\p{L}\p{N}])'(?i:s|t|re|ve|m|ll|d)(?=\p{L})",
            // White space: line ends of punctuation; the last line end; all but the last character
            // before a word.
            r"|[^\s\p{L}\p{N}][\r\n]+(?=[^\S\r\n])",
            r"|[\r\n](?=[^\S\r\n])(?![^\S\r\n]+[\r\n])",
            r"|[^\S\r\n](?=[^\S\r\n]\S)",
            // A number that goes on.
            "|",
            $number,
            r"(?=\p{N})",
            // Two characters that are not ASCII.
            r"|(?=[^\x00-\x7F])(?:\p{L}(?=[^\x00-\x7F])(?!\p{L})|\p{N}(?=[^\x00-\x7F])(?!\p{N})",
            r"|\s(?=[^\x00-\x7F])(?=[^\s\p{L}])|[^\s\p{L}\p{N}](?=[^\x00-\x7F])(?=[\s\p{N}]))",
        )
    };
}

/// The ends of the chunks of tokenizers made from Llama 3's, for `MergedWithPrevious`.
pub(crate) const LLAMA3_CHUNK_ENDS: &str = ends_of_chunks!(r"\p{N}{3}");

/// The ends of the chunks of tokenizers made from Qwen's.
pub(crate) const QWEN_CHUNK_ENDS: &str = ends_of_chunks!(r"\p{N}");

/// Length in bytes of the match at the start of `text`, which is not empty, with at most `digits`
/// digits in a piece. O(its length and that of the white space at the start).
#[inline]
pub(super) fn first_piece(text: &str, digits: usize) -> usize {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let rest = chars.as_str();
    match class_of(first) {
        Class::Letter => return run(text, Class::Letter),
        Class::Number => {
            let numbers = text.chars().take(digits).take_while(|&c| class_of(c) == Class::Number);
            return numbers.map(char::len_utf8).sum();
        }
        Class::Space | Class::Other => {}
    }
    if first == '\''
        && let Some(letters) = contraction_letters(rest)
    {
        return 1 + letters;
    }
    let next = rest.chars().next().map(class_of);
    let is_line_end = matches!(first, '\r' | '\n');
    if next == Some(Class::Letter) && !is_line_end {
        return first.len_utf8() + run(rest, Class::Letter);
    }
    let blank = usize::from(first == ' ');
    let marks = run(&text[blank..], Class::Other);
    if marks > 0 {
        let end = blank + marks;
        let is_line_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        return end + text.as_bytes()[end..].iter().take_while(is_line_end).count();
    }
    let spaces = run(text, Class::Space);
    if let Some(last) = text[..spaces].rfind(['\r', '\n']) {
        return last + 1;
    }
    // The last character is left to what is behind it.
    match text[..spaces].char_indices().next_back() {
        Some((last, _)) if last > 0 && spaces < text.len() => last,
        _ => spaces,
    }
}

/// Number of bytes of the letters of an English contraction, small or capital, at the start of `text`,
/// which stands behind an apostrophe.
fn contraction_letters(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [b's' | b't' | b'm' | b'd' | b'S' | b'T' | b'M' | b'D', ..] => Some(1),
        [b'r' | b'v' | b'R' | b'V', b'e' | b'E', ..] | [b'l' | b'L', b'l' | b'L', ..] => Some(2),
        // The long s is a small form of S.
        _ => text.starts_with('ſ').then_some('ſ'.len_utf8()),
    }
}

/// Whether a chunk ends between two pieces of which the first ends with `before` and the second starts
/// with `after`.
#[inline]
fn ends_chunk(before: char, after: char) -> bool {
    let classes = (class_of(before), class_of(after));
    classes.0 == classes.1 || classes == (Class::Other, Class::Letter) || !before.is_ascii() && !after.is_ascii()
}

/// Calls `piece` for every match of the pattern; the matches cover the text.
pub(super) fn for_each<'t>(text: &'t str, digits: usize, mut piece: impl FnMut(&'t str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(first_piece(rest, digits));
        piece(head);
        rest = tail;
    }
}

/// Calls `chunk` for every chunk of `text` in order; together they are `text`.
pub(super) fn for_each_chunk<'t>(text: &'t str, digits: usize, mut chunk: impl FnMut(&'t str)) {
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        at += first_piece(&text[at..], digits);
        if is_border(text, at) {
            chunk(&text[start..at]);
            start = at;
        }
    }
}

/// Whether a chunk ends at `at`, the end of a piece of `text`.
#[inline]
pub(super) fn is_border(text: &str, at: usize) -> bool {
    match (text[..at].chars().next_back(), text[at..].chars().next()) {
        (Some(before), Some(after)) => ends_chunk(before, after),
        _ => true,
    }
}
