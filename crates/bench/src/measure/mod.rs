//! What is read from clocks, counters and the operating system, before any statistics.

pub mod quality;
pub(crate) mod replay;
pub mod serving;
pub mod store;
pub mod tokens;

use quality::QualityData;
use serving::ServingData;
use tokens::TokenizerData;

/// The order of a turn in which each of `count` goes once: forwards and backwards by turns (ABBA), so that a machine that slows down
/// slows all of them.
pub(crate) fn turns(turn: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| match turn % 2 {
        0 => place,
        _ => count - 1 - place,
    })
}

/// Everything that was measured in a run.
#[derive(Debug, Clone)]
pub struct Measurements {
    /// Bytes of each held-out page.
    pub page_bytes: Vec<usize>,
    /// Tokenizers on those pages.
    pub tokenizers: Vec<TokenizerData>,
    /// All arms on the workload.
    pub serving: ServingData,
    /// Both models on held-out pages of the domain.
    pub domain: QualityData,
    /// Both models on another domain.
    pub out_of_domain: Option<QualityData>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_turn_goes_backwards() {
        let order = |turn| turns(turn, 3).collect::<Vec<_>>();
        assert_eq!([order(0), order(1), order(2)], [[0, 1, 2], [2, 1, 0], [0, 1, 2]]);
        assert_eq!(turns(1, 0).count(), 0);
    }
}
