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
