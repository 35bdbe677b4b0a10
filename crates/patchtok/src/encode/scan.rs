//! Merging of short pieces: ranks stand in an array and the lowest is looked for by scanning.

use super::{Merges, NO_RANK};

#[derive(Debug, Default)]
pub(super) struct Scratch {
    symbols: Vec<u32>,
    /// Rank of the pair that starts at each symbol; the last has none.
    ranks: Vec<u32>,
}

/// Appends the tokens of the piece `symbols` to `out`. O(n²) steps, O(n) lookups.
pub(super) fn merge(
    piece: impl Iterator<Item = u32>,
    merges: &Merges,
    Scratch { symbols, ranks }: &mut Scratch,
    out: &mut Vec<u32>,
) {
    symbols.clear();
    symbols.extend(piece);
    ranks.clear();
    ranks.extend(symbols.windows(2).map(|pair| merges.rank(pair[0], pair[1])));
    ranks.push(NO_RANK);
    loop {
        let mut best = (NO_RANK, 0);
        for (at, &rank) in ranks.iter().enumerate() {
            if rank < best.0 {
                best = (rank, at);
            }
        }
        let (rank, at) = best;
        if rank == NO_RANK {
            break;
        }
        symbols[at] = merges.result(rank);
        symbols.remove(at + 1);
        ranks.remove(at + 1);
        ranks[at] = symbols
            .get(at + 1)
            .map_or(NO_RANK, |&right| merges.rank(symbols[at], right));
        if at > 0 {
            ranks[at - 1] = merges.rank(symbols[at - 1], symbols[at]);
        }
    }
    out.extend_from_slice(symbols);
}
