//! Which tokens to remove, and what it costs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashSet;

use crate::count::Weight;
use crate::model::{Hasher, Merge, Model};

/// A token to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) id: u32,
    /// How many more tokens the corpora take without it, about: exact when 0, and otherwise as if
    /// its two parts stood in its place.
    pub(super) loss: Weight,
}

/// The `limit` cheapest removals in order.
///
/// Only leaves are removed: tokens that no remaining merge uses, so that what remains is a
/// vocabulary that byte pair encoding can reach. Never removed are the 256 bytes, special tokens
/// and `pinned` tokens. Of leaves that the corpus uses equally often the one goes first that the
/// sample of general text uses least (`general`, by token); then tokens of ASCII go before others,
/// of which a script has few and needs each; then the one that was learnt last; tokens that no merge
/// makes go before them. O(V log V).
pub(super) fn removal_order(
    model: &Model,
    uses: &[Weight],
    general: &[u64],
    pinned: &HashSet<u32, Hasher>,
    limit: usize,
) -> Vec<Removal> {
    let vocab_size = model.vocab().len();
    let mut uses = uses.to_vec();
    let mut general = general.to_vec();
    general.resize(vocab_size, 0);
    let mut rank_of = vec![None; vocab_size];
    let mut users = vec![0u32; vocab_size];
    for (rank, &Merge { left, right, result }) in model.merges().iter().enumerate() {
        rank_of[result as usize] = Some(rank);
        users[left as usize] += 1;
        users[right as usize] += 1;
    }
    let mut removable = vec![true; vocab_size];
    let specials = model.specials().iter().map(|special| special.id);
    for id in specials.chain(*model.byte_ids()).chain(pinned.iter().copied()) {
        if let Some(removable) = removable.get_mut(id as usize) {
            *removable = false;
        }
    }
    // Largest first: fewest uses, then ASCII, then no merge at all, then the highest rank.
    let entry = |id: u32, uses: &[Weight], general: &[u64]| {
        let rank = rank_of[id as usize].map_or(usize::MAX, |rank| rank);
        let foreign = model.vocab().get(id).is_some_and(|token| !token.is_ascii());
        let uses = (uses[id as usize].train, general[id as usize], foreign);
        (Reverse(uses), rank, id)
    };
    let mut leaves: BinaryHeap<_> = (0..vocab_size as u32)
        .filter(|&id| removable[id as usize] && users[id as usize] == 0)
        .map(|id| entry(id, &uses, &general))
        .collect();
    let mut order = Vec::new();
    while order.len() < limit
        && let Some((_, _, id)) = leaves.pop()
    {
        let loss = uses[id as usize];
        order.push(Removal { id, loss });
        let Some(rank) = rank_of[id as usize] else {
            continue;
        };
        let Merge { left, right, .. } = model.merges()[rank];
        for part in [left, right] {
            uses[part as usize] += loss;
            general[part as usize] += general[id as usize];
            users[part as usize] -= 1;
        }
        // A token doubled is its own neighbour: it becomes a leaf once.
        let parts = if left == right { &[left][..] } else { &[left, right] };
        for &part in parts {
            if removable[part as usize] && users[part as usize] == 0 {
                leaves.push(entry(part, &uses, &general));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Vocab;
    use crate::split::Splitter;

    /// The 256 bytes, then `ab`, `abc`, `cc`, `cccc`.
    fn model() -> Model {
        let bytes = (0..=255u8).map(|byte| vec![byte]);
        let words = [&b"ab"[..], b"abc", b"cc", b"cccc"].map(<[u8]>::to_vec);
        let vocab: Vocab = bytes.chain(words).collect();
        let (a, b, c) = (u32::from(b'a'), u32::from(b'b'), u32::from(b'c'));
        let merges = [(a, b), (256, c), (c, c), (258, 258)]
            .iter()
            .zip(256..)
            .map(|(&(left, right), result)| Merge { left, right, result })
            .collect();
        Model::new(vocab, merges, Vec::new(), Splitter::Gpt2).unwrap()
    }

    fn uses(of_words: [u64; 4]) -> Vec<Weight> {
        let words = of_words.map(|train| Weight {
            train,
            heldout: 2 * train,
        });
        [vec![Weight::default(); 256], words.to_vec()].concat()
    }

    fn ids_and_losses(order: &[Removal]) -> Vec<(u32, u64)> {
        order.iter().map(|removal| (removal.id, removal.loss.train)).collect()
    }

    #[test]
    fn leaves_go_first_and_their_uses_go_to_their_parts() {
        let order = removal_order(&model(), &uses([1, 5, 3, 4]), &[], &HashSet::default(), 10);
        // `cccc` (4) goes before `abc` (5); then `cc` has 3 + 2 * 4 uses and `ab` 1 + 5.
        assert_eq!(ids_and_losses(&order), [(259, 4), (257, 5), (256, 6), (258, 11)]);
        assert_eq!(order[3].loss.heldout, 22);
    }

    #[test]
    fn the_latest_of_equals_goes_first_and_pinned_tokens_stay() {
        let order = removal_order(&model(), &uses([0; 4]), &[], &HashSet::default(), 3);
        assert_eq!(ids_and_losses(&order), [(259, 0), (258, 0), (257, 0)]);
        let order = removal_order(&model(), &uses([0; 4]), &[], &HashSet::from_iter([257, 9999]), 10);
        assert_eq!(ids_and_losses(&order), [(259, 0), (258, 0)]);
    }
    #[test]
    fn general_text_decides_between_equals() {
        let mut general = vec![0; 260];
        (general[257], general[259]) = (3, 7);
        let order = removal_order(&model(), &uses([0; 4]), &general, &HashSet::default(), 10);
        // `ab` inherits the 3 uses of `abc`, and `cc` twice the 7 of `cccc`.
        assert_eq!(ids_and_losses(&order), [(257, 0), (256, 0), (259, 0), (258, 0)]);
        let order = removal_order(&model(), &uses([0, 1, 0, 0]), &general, &HashSet::default(), 10);
        assert_eq!(ids_and_losses(&order), [(259, 0), (258, 0), (257, 1), (256, 1)]);
    }
}
