//! Digits cut off one by one, before another pattern cuts what is between them.

use super::class::{Class, class_of};

/// Calls `part` for every digit of `text`, with `true`, and for every run of other characters between
/// them, in order; together they are `text`. O(length of `text`).
///
/// What is between two digits is a text of its own for the pattern behind: nothing in it looks past
/// its ends.
pub(super) fn for_each<'t>(text: &'t str, mut part: impl FnMut(&'t str, bool)) {
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_digit = class_of(first) == Class::Number;
        let len = if is_digit {
            first.len_utf8()
        } else {
            rest.find(|c| class_of(c) == Class::Number).unwrap_or(rest.len())
        };
        let (head, tail) = rest.split_at(len);
        part(head, is_digit);
        rest = tail;
    }
}

/// Bytes of the last character of `text` that belong to a run between digits: none, if it is a digit.
pub(super) fn run_before(text: &str) -> usize {
    let last = text.chars().next_back().filter(|&c| class_of(c) != Class::Number);
    last.map_or(0, char::len_utf8)
}

/// Whether a chunk ends behind `piece`: beside a digit, or where `inside` says so of what follows up to the next digit.
/// That is told what it may look at only, the next three characters.
pub(super) fn cuts(piece: &str, after: &str, inside: impl FnOnce(&str) -> bool) -> bool {
    let is_number = |c| class_of(c) == Class::Number;
    let digit = after.char_indices().take(3).find(|&(_, c)| is_number(c));
    match digit {
        Some((0, _)) => true,
        _ if piece.ends_with(is_number) => true,
        Some((at, _)) => inside(&after[..at]),
        None => inside(after),
    }
}
