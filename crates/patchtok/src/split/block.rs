//! Pieces of ASCII text, 64 bytes at a time.
//!
//! A block of text becomes five sets of positions, one bit a byte (letters, numbers, white space,
//! the blank, and the rest), and the places where [`GPT2_PATTERN`](super::GPT2_PATTERN) cuts follow
//! from them by shifts and logical operations. What depends on bytes behind the block, or on
//! characters that are not ASCII, is left to the caller.

use wide::u8x16;

use super::gpt2;

/// Bytes that are looked at together, one bit of a `u64` each.
pub(crate) const WIDTH: usize = 64;

/// Where pieces start in a block of text whose first byte starts a piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Starts {
    /// The places where pieces start. Only places are in it of which it is certain, whatever stands
    /// behind the block; the first is 0. All starts before its last one are in it.
    pub(crate) pieces: u64,
    /// The places, among the first ones of these pieces and the last end, where a piece stands
    /// alone before or behind: the borders of chunks.
    pub(crate) cuts: u64,
}

/// The sets of positions.
#[derive(Clone, Copy, Default)]
struct Classes {
    letters: u64,
    numbers: u64,
    spaces: u64,
    blanks: u64,
    apostrophes: u64,
    newlines: u64,
    not_ascii: u64,
}

/// Finds the pieces of `block`. `CHUNKS` says whether `cuts` is wanted, `blank_lines` whether a blank
/// line is a place to cut.
#[inline]
pub(crate) fn starts<const CHUNKS: bool>(block: &[u8; WIDTH], blank_lines: bool) -> Starts {
    let Classes {
        letters,
        numbers,
        spaces,
        blanks,
        apostrophes,
        newlines,
        not_ascii,
    } = classify(block);
    // What stands behind the first character that is not ASCII is not looked at.
    let apostrophes = apostrophes & (not_ascii.wrapping_sub(1) & !not_ascii);
    let others = !(letters | numbers | spaces);
    // Bit i of the shifted set belongs to byte i - 1, the one before.
    let same = letters & letters << 1 | numbers & numbers << 1 | others & others << 1;
    let mut pieces = 1 | !spaces & !same & !(blanks << 1);
    // A run of white space starts a piece, and so does its last character if a word follows.
    pieces |= spaces & !(spaces << 1 & spaces >> 1);
    // The first piece of a longer run of white space stands alone, unless it is a blank line. That
    // is told only when two more bytes are known; the next block begins there if they are not.
    let known = not_ascii.trailing_zeros();
    let mut cuts = 0;
    if CHUNKS {
        let first = spaces & !(spaces << 1) & spaces >> 1 & below(known.saturating_sub(2));
        let last = spaces & spaces << 1 & !(spaces >> 1);
        cuts = first | last;
        if !blank_lines {
            let blank = newlines & first & newlines >> 1 & !(spaces >> 2);
            cuts &= !(blank | blank << 1);
        }
    }

    let mut contractions = apostrophes & pieces & letters >> 1;
    while contractions != 0 {
        let at = contractions.trailing_zeros() as usize;
        contractions &= contractions - 1;
        if let Some(count) = gpt2::contraction_letters(&block[at + 1..]) {
            let end = at + 1 + count;
            pieces = pieces & !(1 << (at + 1)) | bit(end);
            if CHUNKS && letters & bit(end) != 0 {
                cuts |= 1 << at | bit(end);
            }
        }
    }
    if CHUNKS {
        // An apostrophe behind other punctuation, before the letters of a contraction.
        let mut ends = apostrophes & !pieces & letters >> 1;
        while ends != 0 {
            let at = ends.trailing_zeros() as usize;
            ends &= ends - 1;
            if gpt2::contraction_letters(&block[at + 1..]).is_some() {
                let start = 63 - (pieces & ((1 << at) - 1)).leading_zeros();
                cuts |= 1 << start | bit(at + 1);
            }
        }
    }
    // A start is certain when it and the next byte are known ASCII.
    let certain = below(known.saturating_sub(1)) | 1;
    Starts {
        pieces: pieces & certain | 1,
        cuts: cuts & certain,
    }
}

/// The set of `at`, empty beyond the block.
#[inline]
fn bit(at: usize) -> u64 {
    if at < WIDTH { 1 << at } else { 0 }
}

/// The places before `end`.
#[inline]
fn below(end: u32) -> u64 {
    if end < 64 { (1 << end) - 1 } else { u64::MAX }
}

/// The sets of `block`, sixteen bytes at a time.
#[inline]
fn classify(block: &[u8; WIDTH]) -> Classes {
    let mut classes = Classes::default();
    let (vectors, _) = block.as_chunks::<16>();
    for (&bytes, shift) in vectors.iter().zip((0..).step_by(16)) {
        let bytes = u8x16::new(bytes);
        let is = |byte: u8| bytes.simd_eq(u8x16::splat(byte));
        // What is not ASCII is in none of the sets.
        let within = |bytes: u8x16, from: u8, to: u8| {
            let above = bytes - u8x16::splat(from);
            above.simd_lt(u8x16::splat(to - from + 1))
        };
        let set = |mask: u8x16| u64::from(mask.to_bitmask()) << shift;
        let blanks = is(b' ');
        classes.letters |= set(within(bytes | u8x16::splat(0x20), b'a', b'z'));
        classes.numbers |= set(within(bytes, b'0', b'9'));
        classes.spaces |= set(within(bytes, b'\t', b'\r') | blanks);
        classes.blanks |= set(blanks);
        classes.apostrophes |= set(is(b'\''));
        classes.newlines |= set(is(b'\n'));
        classes.not_ascii |= set(bytes);
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::super::class::{Class, class_of};
    use super::*;

    #[test]
    fn every_byte_is_in_its_sets() {
        for byte in 0..=255u8 {
            let mut block = [byte; WIDTH];
            block[usize::from(byte) % WIDTH] = b'x';
            let classes = classify(&block);
            let bytes = |set: u64, is: &dyn Fn(u8) -> bool| (0..WIDTH).all(|at| (set >> at & 1 != 0) == is(block[at]));
            let class = |class| move |byte: u8| byte.is_ascii() && class_of(char::from(byte)) == class;
            assert!(bytes(classes.letters, &class(Class::Letter)), "{byte}");
            assert!(bytes(classes.numbers, &class(Class::Number)), "{byte}");
            assert!(bytes(classes.spaces, &class(Class::Space)), "{byte}");
            assert!(bytes(classes.blanks, &|byte| byte == b' '), "{byte}");
            assert!(bytes(classes.apostrophes, &|byte| byte == b'\''), "{byte}");
            assert!(bytes(classes.newlines, &|byte| byte == b'\n'), "{byte}");
            assert!(bytes(classes.not_ascii, &|byte| !byte.is_ascii()), "{byte}");
        }
    }
}
