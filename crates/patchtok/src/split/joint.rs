//! Whether a merge can reach across a border of the pieces of a base.

use super::class::{Class, class_of};
use super::{Splitter, gpt2};

/// Whether, wherever `left` and `right` stand side by side in a text, the pattern of the base cuts
/// between them only where a chunk of `splitter` ends. If it says no, it may be so nevertheless.
///
/// The argument, by the characters on both sides, stands in `docs/tokenizer.md`.
pub(crate) fn never_parts(splitter: Splitter, left: &[u8], right: &[u8]) -> bool {
    let (Some(&last), Some(&first)) = (left.last(), right.first()) else {
        return true;
    };
    if is_continuation(first) {
        // Inside a character.
        return true;
    }
    if splitter.digits().is_some() {
        return never_parts_cl100k(left, right);
    }
    let (before, after) = (classes_at_end(left), classes_at_start(right));
    let is_digits = |classes: Classes| {
        Class::ALL
            .into_iter()
            .all(|class| classes.has(class) == (class == Class::Number))
    };
    if splitter == Splitter::DigitsChunk && (is_digits(before) || is_digits(after)) {
        // Every digit is a chunk.
        return true;
    }
    if last == b' ' {
        // A blank goes with what follows, or is white space before white space.
        return true;
    }
    if matches!(splitter, Splitter::Chunk | Splitter::DigitsChunk) && (last, first) == (b'\n', b'\n') {
        // They may be a blank line, unless there is more white space around them.
        let is_space = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
        return is_space(left.iter().rev().nth(1)) || is_space(right.get(1));
    }
    if last == b'\'' && gpt2::contraction_letters(right).is_some() {
        return true;
    }
    let both_foreign = !last.is_ascii() && !first.is_ascii();
    Class::ALL.into_iter().filter(|&class| before.has(class)).all(|before| {
        let fine = |after| {
            before == after
                || both_foreign && (after == Class::Letter || before == Class::Letter && after == Class::Other)
        };
        Class::ALL.into_iter().filter(|&class| after.has(class)).all(fine)
    })
}

/// [`never_parts`] for the chunks of Llama 3 and Qwen.
fn never_parts_cl100k(left: &[u8], right: &[u8]) -> bool {
    let (last, first) = (left[left.len() - 1], right[0]);
    if !last.is_ascii() && !first.is_ascii() {
        return true;
    }
    let (before, after) = (classes_at_end(left), classes_at_start(right));
    let is_line_end = |byte| matches!(byte, b'\r' | b'\n');
    Class::ALL.into_iter().filter(|&class| before.has(class)).all(|before| {
        // The first three are ends of chunks or no borders, the others no borders.
        let fine = |after| {
            before == after
                || (before, after) == (Class::Other, Class::Letter)
                || (before, after) == (Class::Space, Class::Letter) && !is_line_end(last)
                || (before, after) == (Class::Other, Class::Space) && is_line_end(first)
                || after == Class::Other && last == b' '
        };
        Class::ALL.into_iter().filter(|&class| after.has(class)).all(fine)
    })
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xC0 == 0x80
}

/// A set of classes.
#[derive(Clone, Copy, Default)]
struct Classes(u8);

impl Classes {
    const ALL: Classes = Classes(0b1111);

    fn has(self, class: Class) -> bool {
        self.0 >> class as u8 & 1 != 0
    }

    fn add(&mut self, c: char) {
        self.0 |= 1 << class_of(c) as u8;
    }
}

/// The classes that the last character of `bytes` can have, which may begin before them but does
/// not go on behind them.
fn classes_at_end(bytes: &[u8]) -> Classes {
    let mut classes = Classes::default();
    let start = bytes.iter().rposition(|&byte| !is_continuation(byte));
    match start.and_then(|start| std::str::from_utf8(&bytes[start..]).ok()) {
        Some(last) => last.chars().for_each(|c| classes.add(c)),
        None => classes = Classes::ALL,
    }
    classes
}

/// The classes that the first character of `bytes` can have, which may go on behind them but does
/// not begin before them.
fn classes_at_start(bytes: &[u8]) -> Classes {
    let lead = bytes[0];
    let length = match lead {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
    };
    let known = bytes[1..]
        .iter()
        .take(length - 1)
        .take_while(|&&byte| is_continuation(byte))
        .count();
    let lead_bits = u32::from(lead) & (0x7F >> (length - usize::from(length == 1)));
    let prefix = bytes[1..=known]
        .iter()
        .fold(lead_bits, |code, &byte| code << 6 | u32::from(byte & 0x3F));
    let open = 6 * (length - 1 - known);
    if open > 12 {
        return Classes::ALL;
    }
    let mut classes = Classes::default();
    let codes = (prefix << open)..=(prefix << open | ((1 << open) - 1));
    codes.filter_map(char::from_u32).for_each(|c| classes.add(c));
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples() {
        for (left, right, never) in [
            (&b"th"[..], &b"e"[..], true),
            (b"1", b"2", true),
            (b" ", b"the", true),
            (b" ", b"  ", true),
            (b"\n", b" ", true),
            (b"\n", b"\n", false),
            (b"\n\n", b"\n", true),
            (b"'", b"s", true),
            (b"'", b"re", true),
            (b"'", b"r", false),
            (b"'", b"x", false),
            (b"of", b" the", false),
            (b"a", b"1", false),
            (b"\n", b"a", false),
            (b"\xe3\x83", b"\xbc", true),
            ("ー".as_bytes(), b"\xe3\x83", true),
            ("a".as_bytes(), "é".as_bytes(), true),
            ("a".as_bytes(), "—".as_bytes(), false),
            ("ー".as_bytes(), "２".as_bytes(), false),
            ("２".as_bytes(), "年".as_bytes(), true),
        ] {
            assert_eq!(never_parts(Splitter::Chunk, left, right), never, "{left:?} {right:?}");
        }
    }
}
