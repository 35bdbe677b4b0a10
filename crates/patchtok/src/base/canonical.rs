//! The merges of a file that ever apply.
//!
//! Files that were made from a list of tokens (Llama 3's, for one) hold every way to cut each token in
//! two. Byte pair encoding makes a token in one way only, that of its own bytes; `docs/tokenizer.md`
//! has the argument. The others are left out.

use hashbrown::HashMap;

use crate::encode::{Merges, NO_RANK, heap};
use crate::model::{Hasher, Merge, Vocab};

/// Of `merges`, in rank order, those that make a token in the way of its own bytes, where there are
/// several.
pub(super) fn merges(merges: Vec<Merge>, vocab: &Vocab) -> Vec<Merge> {
    let mut ways: HashMap<u32, u32, Hasher> = HashMap::default();
    for merge in &merges {
        *ways.entry(merge.result).or_default() += 1;
    }
    if ways.values().all(|&ways| ways == 1) {
        return merges;
    }
    let mut byte_ids = [None; 256];
    for (id, token) in vocab.iter() {
        if let &[byte] = token {
            byte_ids[usize::from(byte)] = Some(id);
        }
    }
    let table = Merges::new(&merges, 0);
    let mut scratch = heap::Scratch::default();
    // Without the merges that make the token, its bytes become the two parts that it is made of.
    let mut parts_of = |token: u32| {
        let bytes = vocab.get(token)?.iter();
        let symbols: Vec<u32> = bytes.map(|&byte| byte_ids[usize::from(byte)]).collect::<Option<_>>()?;
        let pair = |left, right| match table.get(left, right) {
            (_, result) if result == token => (NO_RANK, 0),
            pair => pair,
        };
        let mut parts = Vec::new();
        heap::merge(symbols.into_iter(), pair, &mut scratch, &mut parts);
        <[u32; 2]>::try_from(parts).ok()
    };
    let chosen: HashMap<u32, Option<[u32; 2]>, Hasher> = ways
        .into_iter()
        .filter(|&(_, ways)| ways > 1)
        .map(|(token, _)| (token, parts_of(token)))
        .collect();
    let applies = |merge: &Merge| match chosen.get(&merge.result) {
        None => true,
        Some(parts) => *parts == Some([merge.left, merge.right]),
    };
    merges.into_iter().filter(applies).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::reference;

    /// All ways to cut each token in two, in the order of the tokens, give what one way for each token
    /// gives.
    #[test]
    fn one_way_is_enough() {
        let mut state = 1u64;
        let mut below = |limit: usize| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as usize % limit
        };
        let mut left_out = 0;
        for _ in 0..200 {
            let mut tokens: Vec<Vec<u8>> = (b'a'..=b'c').map(|byte| vec![byte]).collect();
            for _ in 0..60 {
                let token = [&tokens[below(tokens.len())][..], &tokens[below(tokens.len())]].concat();
                if !tokens.contains(&token) && token.len() < 9 {
                    tokens.push(token);
                }
            }
            let id = |bytes: &[u8]| tokens.iter().position(|token| token == bytes).map(|id| id as u32);
            let ways = |result: u32, token: &[u8]| {
                let cuts = (1..token.len()).map(|end| token.split_at(end));
                let both = cuts.filter_map(|(left, right)| Some((id(left)?, id(right)?)));
                both.map(|(left, right)| Merge { left, right, result })
                    .collect::<Vec<_>>()
            };
            let all: Vec<Merge> = tokens.iter().zip(0..).flat_map(|(token, id)| ways(id, token)).collect();
            let one = merges(all.clone(), &tokens.iter().collect());
            left_out += all.len() - one.len();
            for (at, merge) in one.iter().enumerate() {
                assert!(one[..at].iter().all(|other| other.result != merge.result));
            }
            let (all, one) = (Merges::new(&all, 0), Merges::new(&one, 0));
            for _ in 0..50 {
                let mut by_all: Vec<u32> = (0..below(40)).map(|_| below(3) as u32).collect();
                let mut by_one = by_all.clone();
                reference::merge(&mut by_all, &all);
                reference::merge(&mut by_one, &one);
                assert_eq!(by_all, by_one);
            }
        }
        assert!(left_out > 1000, "{left_out}");
    }
}
