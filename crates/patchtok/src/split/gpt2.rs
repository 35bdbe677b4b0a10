//! GPT-2's pre-tokenizer pattern.

use super::class::{Class, class_of, run};

/// GPT-2's pattern (Radford et al., 2019): its matches cover a text, and tokens are merged inside
/// them. This crate cuts texts by a hand-written equal of it.
pub const GPT2_PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Calls `piece` for every match of the pattern; the matches cover the text.
pub(super) fn for_each<'t>(text: &'t str, mut piece: impl FnMut(&'t str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(first_piece(rest));
        piece(head);
        rest = tail;
    }
}

/// Length in bytes of the match at the start of `text`, which is not empty.
pub(super) fn first_piece(text: &str) -> usize {
    if let Some(len) = contraction(text.as_bytes()) {
        return len;
    }
    // An optional space, then a run of one class.
    let space = usize::from(text.starts_with(' '));
    if let Some(c) = text[space..].chars().next() {
        let class = class_of(c);
        if class != Class::Space {
            return space + run(&text[space..], class);
        }
    }
    // White space, of which the last character is left to the word behind it.
    let spaces = run(text, Class::Space);
    match text[..spaces].char_indices().next_back() {
        Some((last, _)) if last > 0 && spaces < text.len() => last,
        _ => spaces,
    }
}

/// Length of the English contraction (`'s`, `'t`, `'re`, `'ve`, `'m`, `'ll`, `'d`) at the start of
/// `text`.
fn contraction(text: &[u8]) -> Option<usize> {
    contraction_letters(text.strip_prefix(b"'")?).map(|letters| 1 + letters)
}

/// Number of letters of a contraction at the start of `text`, which stands behind an apostrophe.
pub(super) fn contraction_letters(text: &[u8]) -> Option<usize> {
    match text {
        [b's' | b't' | b'm' | b'd', ..] => Some(1),
        [b'r' | b'v', b'e', ..] | [b'l', b'l', ..] => Some(2),
        _ => None,
    }
}
