//! Byte pair encoding of one piece of text.
//!
//! The meaning is fixed by [`reference`](mod@reference): while two adjacent tokens have a merge,
//! apply the merge of lowest rank, the leftmost first. [`Encoder`] gives the same tokens faster:
//! pieces that are one token are looked up whole, short pieces are scanned, long ones go through a
//! heap.

mod heap;
pub(crate) mod min_tokens;
pub(crate) mod reference;
mod scan;

use std::hash::BuildHasher;

use hashbrown::{HashMap, HashTable};

use self::min_tokens::MinTokens;
use crate::model::{Hasher, Merge, Model, Segmentation};

/// Longest piece in bytes for which scanning all pairs beats the heap.
const SCAN_LIMIT: usize = 32;

/// Rank of a pair that has no merge.
const NO_RANK: u32 = u32::MAX;

/// The merges, by pair and by rank.
#[derive(Clone, Debug)]
pub(crate) struct Merges {
    ranks: HashMap<u64, u32, Hasher>,
    results: Vec<u32>,
}

impl Merges {
    pub(crate) fn new(merges: &[Merge]) -> Self {
        let ranks = merges
            .iter()
            .zip(0..)
            .map(|(merge, rank)| (pair_key(merge.left, merge.right), rank))
            .collect();
        Merges {
            ranks,
            results: merges.iter().map(|merge| merge.result).collect(),
        }
    }

    /// Rank of the merge of `left` and `right`, [`NO_RANK`] when there is none.
    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.ranks.get(&pair_key(left, right)).copied().unwrap_or(NO_RANK)
    }

    #[inline]
    fn result(&self, rank: u32) -> u32 {
        self.results[rank as usize]
    }
}

/// Two token ids in one word.
#[inline]
pub(crate) fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Memory that one call reuses from piece to piece.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    scan: scan::Scratch,
    heap: heap::Scratch,
    min_tokens: min_tokens::Scratch,
}

/// The encoder of one model.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    byte_ids: [u32; 256],
    merges: Merges,
    /// Tokens that their own bytes are encoded as.
    whole: HashTable<u32>,
    longest: usize,
    /// Takes the place of all that, if the segmentation is by fewest tokens.
    min_tokens: Option<MinTokens>,
}

impl Encoder {
    /// Compiles the tables of `model`. O(bytes of the vocabulary) up to the length of a token.
    pub(crate) fn new(model: &Model) -> Self {
        let mut encoder = Encoder {
            byte_ids: *model.byte_ids(),
            merges: Merges::new(model.merges()),
            whole: HashTable::new(),
            longest: 0,
            min_tokens: (model.segmentation() == Segmentation::MinTokens).then(|| MinTokens::new(model)),
        };
        let mut scratch = Scratch::default();
        let mut out = Vec::new();
        let mut whole = HashTable::with_capacity(model.vocab().len());
        for merge in model.merges() {
            let Some(token) = model.vocab().get(merge.result) else {
                continue;
            };
            out.clear();
            encoder.merge_bytes(token, &mut scratch, &mut out);
            if out == [merge.result] {
                whole.insert_unique(hash(token), merge.result, |&id| {
                    hash(model.vocab().get(id).unwrap_or(&[]))
                });
                encoder.longest = encoder.longest.max(token.len());
            }
        }
        encoder.whole = whole;
        encoder
    }

    /// Appends the tokens of `piece` to `out`. O(n log n) in its length.
    #[inline]
    pub(crate) fn encode_piece(&self, model: &Model, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if let Some(min_tokens) = &self.min_tokens {
            return min_tokens.encode_piece(model.vocab(), piece, &mut scratch.min_tokens, out);
        }
        if piece.len() <= self.longest {
            let token = self.whole.find(hash(piece), |&id| model.vocab().get(id) == Some(piece));
            if let Some(&id) = token {
                out.push(id);
                return;
            }
        }
        self.merge_bytes(piece, scratch, out);
    }

    /// The merges, for the reference.
    pub(crate) fn merges(&self) -> &Merges {
        &self.merges
    }

    fn merge_bytes(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let symbols = piece.iter().map(|&byte| self.byte_ids[usize::from(byte)]);
        if piece.len() <= SCAN_LIMIT {
            scan::merge(symbols, &self.merges, &mut scratch.scan, out);
        } else {
            heap::merge(symbols, &self.merges, &mut scratch.heap, out);
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    Hasher::with_seed(0).hash_one(bytes)
}

#[cfg(test)]
mod tests;
