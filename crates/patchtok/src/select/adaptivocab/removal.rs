//! Which base tokens are removed, and what they are taken apart into.

use std::cmp::Reverse;

use hashbrown::{HashMap, HashSet};

use crate::model::{Hasher, Merge, Model};

/// The `limit` least used tokens that a merge makes, the least used first.
pub(super) fn least_used(model: &Model, uses: &[u64], limit: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = model.merges().iter().map(|merge| merge.result).collect();
    ids.sort_unstable_by_key(|&id| (uses[id as usize], Reverse(id)));
    ids.truncate(limit);
    ids
}

/// Unseen tokens of more than one byte, the longest first, and when these are fewer than `limit` the
/// least used ones after them; of these `limit` the ones that a merge makes.
pub(super) fn unseen_and_longest(model: &Model, uses: &[u64], limit: usize) -> Vec<u32> {
    let made: HashSet<u32, Hasher> = model.merges().iter().map(|merge| merge.result).collect();
    let mut long: Vec<(u32, usize)> = model
        .vocab()
        .iter()
        .map(|(id, token)| (id, token.len()))
        .filter(|&(_, length)| length > 1)
        .collect();
    long.sort_unstable_by_key(|&(id, length)| {
        let uses = uses[id as usize];
        let length = if uses == 0 { length } else { 0 };
        (uses, Reverse(length), Reverse(id))
    });
    long.iter()
        .take(limit)
        .map(|&(id, _)| id)
        .filter(|id| made.contains(id))
        .collect()
}

/// What each of `removed` becomes: the parts of its merge, taken apart as long as they are removed.
pub(super) fn pieces(model: &Model, removed: &[u32]) -> Vec<Vec<u32>> {
    let removed_ids: HashSet<u32, Hasher> = removed.iter().copied().collect();
    let parts: HashMap<u32, [u32; 2], Hasher> = model
        .merges()
        .iter()
        .filter(|merge| removed_ids.contains(&merge.result))
        .map(|&Merge { left, right, result }| (result, [left, right]))
        .collect();
    let take_apart = |&id: &u32| {
        let mut pieces = Vec::new();
        let mut rest = vec![id];
        while let Some(id) = rest.pop() {
            match parts.get(&id) {
                Some(&[left, right]) => rest.extend([right, left]),
                None => pieces.push(id),
            }
        }
        pieces
    };
    removed.iter().map(take_apart).collect()
}
