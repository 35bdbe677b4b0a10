//! The words of a text, one after the other, with the borders of chunks marked.

use super::block::{self, WIDTH};
use super::{Splitter, chunk, cl100k, digits, gpt2};

/// Bytes of a piece that are at hand without looking at the text again.
pub(crate) const HEAD: usize = 16;

/// A piece of a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// The first bytes of the piece; if it is shorter, others follow.
    pub(crate) head: [u8; HEAD],
    /// Where it starts and ends in the text.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Whether a chunk ends where it starts. Only told when asked for.
    pub(crate) cut: bool,
}

/// Where the words of a text are to be found from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Where a word starts. Before it in the text stands the last character of the word before, if
    /// there is one.
    pub(crate) at: usize,
    /// Whether a chunk ends there because of the word before.
    pub(crate) cut: bool,
}

impl Start {
    /// The start of a text.
    pub(crate) const OF_TEXT: Start = Start { at: 0, cut: true };

    /// The place behind a word of `text`.
    pub(crate) fn behind(splitter: Splitter, text: &str, Piece { start, end, .. }: Piece) -> Self {
        let (before, piece, after) = (&text[..start], &text[start..end], &text[end..]);
        let cut = match (splitter.between_digits(), splitter.digits()) {
            (Some(between), _) => digits::cuts(piece, after, |after| chunk::is_chunk(between, before, piece, after)),
            (None, None) => chunk::is_chunk(splitter, before, piece, after),
            (None, Some(_)) => cl100k::is_border(text, end),
        };
        Start { at: end, cut }
    }
}

/// Calls `visit` for every word of `text` from `start` on, in order. Words are the pieces of `splitter`
/// or, with `CHUNKS`, if it cuts by chunks, the pieces that these are made of, with the borders of
/// chunks. O(length of `text`).
#[inline]
pub(crate) fn for_each<const CHUNKS: bool>(splitter: Splitter, text: &str, start: Start, visit: impl FnMut(Piece)) {
    match (splitter.between_digits(), splitter.digits()) {
        (Some(between), _) => for_each_of_digits::<CHUNKS>(between, text, start, visit),
        (None, None) => for_each_of_gpt2::<CHUNKS>(splitter, text, start, visit),
        (None, Some(digits)) => for_each_of_cl100k::<CHUNKS>(digits, text, start, visit),
    }
}

/// Where the words of `text` end that are the same whatever follows it: those up to this place. Patterns
/// look at most two characters beyond a word, or at white space to its end.
pub(crate) fn settled(text: &str) -> usize {
    let but_two = text.char_indices().rev().nth(1).map_or(0, |(at, _)| at);
    but_two.min(text.trim_end().len())
}

/// [`for_each`] for digits by themselves and the words of `between`, one of GPT-2's kind, between them.
fn for_each_of_digits<const CHUNKS: bool>(between: Splitter, text: &str, start: Start, mut visit: impl FnMut(Piece)) {
    // Words depend on the character before the place to start from, if that is no digit.
    let before = digits::run_before(&text[..start.at]);
    let mut at = start.at - before;
    let mut begin = Start {
        at: before,
        cut: start.cut,
    };
    digits::for_each(&text[at..], |part, is_digit| {
        if is_digit {
            let mut head = [0; HEAD];
            head[..part.len()].copy_from_slice(part.as_bytes());
            visit(Piece {
                head,
                start: at,
                end: at + part.len(),
                cut: true,
            });
        } else {
            for_each_of_gpt2::<CHUNKS>(between, part, begin, |piece| {
                visit(Piece {
                    start: at + piece.start,
                    end: at + piece.end,
                    ..piece
                });
            });
        }
        at += part.len();
        begin = Start::OF_TEXT;
    });
}

/// [`for_each`] for the patterns of Llama 3 and Qwen, character by character.
fn for_each_of_cl100k<const CHUNKS: bool>(digits: usize, text: &str, start: Start, mut visit: impl FnMut(Piece)) {
    let Start { at: mut start, mut cut } = start;
    while start < text.len() {
        let rest = &text[start..];
        let end = start + cl100k::first_piece(rest, digits);
        let mut head = [0; HEAD];
        match rest.as_bytes().first_chunk() {
            Some(first) => head = *first,
            None => head[..rest.len()].copy_from_slice(rest.as_bytes()),
        }
        visit(Piece { head, start, end, cut });
        (start, cut) = (end, CHUNKS && cl100k::is_border(text, end));
    }
}

/// [`for_each`] for GPT-2's pattern, a block at a time.
#[inline]
fn for_each_of_gpt2<const CHUNKS: bool>(splitter: Splitter, text: &str, start: Start, mut visit: impl FnMut(Piece)) {
    let bytes = text.as_bytes();
    let blank_lines = splitter == Splitter::ChunkV1;
    let mut tail = Tail::default();
    let Start { mut at, mut cut } = start;
    while at < bytes.len() {
        let window: &[u8; WIDTH + HEAD] = match bytes[at..].first_chunk() {
            Some(window) => window,
            None => tail.window(bytes, at),
        };
        let (block, _) = window.split_first_chunk::<WIDTH>().unwrap_or((&[0; WIDTH], &[]));
        let found = block::starts::<CHUNKS>(block, blank_lines);
        let mut pieces = found.pieces;
        let mut cuts = found.cuts;
        let left = bytes.len() - at;
        if left < WIDTH {
            // Behind the text stands white space, so that a piece ends with the text or is white
            // space itself.
            let inside = (1 << left) - 1;
            pieces = pieces & inside | u64::from(pieces & !inside != 0) << left;
        }
        pieces &= !1;
        // Where a set of places starts whose only one is behind the block.
        let mut origin = at;
        if pieces == 0 {
            let length = gpt2::first_piece(&text[at..]);
            let end = at + length;
            let alone = CHUNKS && chunk::is_chunk(splitter, &text[..at], &text[at..end], &text[end..]);
            let place = length.min(WIDTH - 1);
            origin = end - place;
            pieces = 1 << place;
            cuts = if alone { 1 | pieces } else { 0 };
        }
        let mut begin = at;
        let mut place = 0;
        cuts |= u64::from(cut);
        while pieces != 0 {
            let mut head = [0; HEAD];
            head.copy_from_slice(&window[place..place + HEAD]);
            let is_cut = cuts >> place & 1 != 0;
            place = pieces.trailing_zeros() as usize;
            pieces &= pieces - 1;
            let end = origin + place;
            visit(Piece {
                head,
                start: begin,
                end,
                cut: is_cut,
            });
            begin = end;
        }
        at = begin;
        cut = cuts >> place & 1 != 0;
    }
}

/// The end of a text with white space behind it, so that there is always a window to look at.
struct Tail {
    bytes: [u8; 2 * (WIDTH + HEAD)],
    /// Where it starts in the text, once it is made.
    start: Option<usize>,
}

impl Default for Tail {
    fn default() -> Self {
        Tail {
            bytes: [b'\n'; 2 * (WIDTH + HEAD)],
            start: None,
        }
    }
}

impl Tail {
    /// The window at `at`, of which less than all is in `text`.
    #[inline]
    fn window(&mut self, text: &[u8], at: usize) -> &[u8; WIDTH + HEAD] {
        let start = *self.start.get_or_insert_with(|| {
            self.bytes[..text.len() - at].copy_from_slice(&text[at..]);
            at
        });
        let window = self.bytes[at - start..].first_chunk();
        window.expect("a text goes on less than one window behind the start of its tail")
    }
}
