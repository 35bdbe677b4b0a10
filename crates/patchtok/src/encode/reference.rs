//! The definition of byte pair encoding, word for word. O(n²) lookups for n symbols.

use super::merges::{Merges, NO_RANK};

/// Merges `symbols` in place until no two neighbours have a merge.
pub(crate) fn merge(symbols: &mut Vec<u32>, merges: &Merges) {
    loop {
        let best = symbols
            .windows(2)
            .enumerate()
            .map(|(at, pair)| (merges.get(pair[0], pair[1]), at))
            .min()
            .filter(|&((rank, _), _)| rank != NO_RANK);
        let Some(((_, result), at)) = best else { return };
        symbols[at] = result;
        symbols.remove(at + 1);
    }
}
