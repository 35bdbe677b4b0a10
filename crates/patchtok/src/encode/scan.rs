//! Merging of short sequences: ranks stand in an array and the lowest is looked for by scanning.

use super::merges::NO_RANK;

/// Longest sequence that is scanned.
pub(super) const LIMIT: usize = 32;

/// A token and what may become of it and the next.
#[derive(Clone, Copy)]
struct Item {
    token: u32,
    /// Rank of the pair; the last token has none.
    rank: u32,
    result: u32,
}

/// Many sequences are not longer than this.
const SHORT: usize = 8;

/// Appends to `out` what `tokens`, at most [`LIMIT`] of them, become. `pair` gives the rank of the
/// merge of two tokens and its result. O(n²) steps, O(n) lookups.
#[inline]
pub(super) fn merge(
    tokens: impl ExactSizeIterator<Item = u32>,
    pair: impl Fn(u32, u32) -> (u32, u32),
    out: &mut Vec<u32>,
) {
    match tokens.len() {
        ..=SHORT => merge_in::<SHORT>(tokens, pair, out),
        _ => merge_in::<LIMIT>(tokens, pair, out),
    }
}

/// [`merge`] for at most `MOST` tokens.
#[inline]
fn merge_in<const MOST: usize>(
    tokens: impl ExactSizeIterator<Item = u32>,
    pair: impl Fn(u32, u32) -> (u32, u32),
    out: &mut Vec<u32>,
) {
    let none = Item {
        token: 0,
        rank: NO_RANK,
        result: 0,
    };
    let mut items = [none; MOST];
    let items = &mut items[..tokens.len()];
    for (item, token) in items.iter_mut().zip(tokens) {
        item.token = token;
    }
    let rate = |left: &mut Item, right: u32| {
        (left.rank, left.result) = pair(left.token, right);
    };
    for at in 1..items.len() {
        let right = items[at].token;
        rate(&mut items[at - 1], right);
    }
    let mut count = items.len();
    loop {
        let (mut best, mut at) = (NO_RANK, 0);
        for (place, item) in items[..count].iter().enumerate() {
            if item.rank < best {
                (best, at) = (item.rank, place);
            }
        }
        if best == NO_RANK {
            break;
        }
        let token = items[at].result;
        items[at] = Item { token, ..none };
        count -= 1;
        if at + 1 < count {
            for place in at + 1..count {
                items[place] = items[place + 1];
            }
            let right = items[at + 1].token;
            rate(&mut items[at], right);
        }
        if at > 0 {
            rate(&mut items[at - 1], token);
        }
    }
    out.extend(items[..count].iter().map(|item| item.token));
}
