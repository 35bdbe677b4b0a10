//! What came of a build, from counts alone.

use std::cmp::Reverse;

use super::fold::Tokens;
use super::grow::Grown;
use crate::count::{ChunkCounts, Weight};
use crate::report::{BuildReport, CurvePoint, TokenCount, TokenLoss, TokenSaving};
use crate::{PatchMap, PatchTokenizer};

/// Steps between the points of a curve, at most.
const STEPS: usize = 100;

/// A build that is done.
pub(super) struct Counted<'b> {
    pub(super) chunks: &'b ChunkCounts,
    pub(super) base: &'b PatchTokenizer,
    /// Uses of each token of the base.
    pub(super) base_uses: &'b [Weight],
    pub(super) base_total: Weight,
    pub(super) patched: &'b PatchTokenizer,
    pub(super) grown: &'b Grown,
}

impl Counted<'_> {
    /// The report of a build that was asked for so many swaps.
    pub(super) fn report(&self, requested: usize) -> BuildReport {
        let summary = self.chunks.summary();
        let tokens = Tokens::of(self.chunks, self.patched.model());
        let uses = tokens.uses(self.chunks, self.patched.vocab_size());
        let total = tokens.total(self.chunks);
        let words = self.words();
        let corpus = |tokens: Weight| TokenCount {
            documents: summary.documents,
            bytes: summary.bytes,
            tokens: tokens.train,
        };
        let heldout = |tokens: Weight| TokenCount {
            documents: summary.heldout_documents,
            bytes: summary.heldout_bytes,
            tokens: tokens.heldout,
        };
        let swaps = self.patched.patch_map().map_or(0, |map| map.new_tokens().len());
        BuildReport {
            words: words.train,
            heldout_words: words.heldout,
            distinct_chunks: summary.distinct_chunks,
            base: corpus(self.base_total),
            patched: corpus(total),
            heldout_base: heldout(self.base_total),
            heldout_patched: heldout(total),
            requested,
            swaps,
            restored: self.grown.merges.len() - swaps,
            stop: self.grown.stop,
            curve: self.curve(),
            tokens: self.savings(&uses),
            removed: self.losses(),
            base_unused: unused(self.base, self.base_uses),
            patched_unused: unused(self.patched, &uses),
        }
    }

    fn words(&self) -> Weight {
        let mut words = Weight::default();
        for chunk in self.chunks.iter() {
            words += chunk.count.times(runs_of_letters(chunk.text));
        }
        words
    }

    /// Each merge makes the corpora shorter by its gain.
    fn curve(&self) -> Vec<CurvePoint> {
        let merges = &self.grown.merges;
        let step = merges.len().div_ceil(STEPS).max(1);
        let mut tokens = self.grown.before;
        let mut curve = Vec::new();
        for (new_tokens, gain) in merges.iter().map(|merge| Some(merge.gain)).chain([None]).enumerate() {
            if new_tokens % step == 0 || gain.is_none() {
                curve.push(CurvePoint {
                    new_tokens,
                    tokens: tokens.train,
                    heldout_tokens: tokens.heldout,
                });
            }
            if let Some(gain) = gain {
                tokens.train -= gain.train;
                tokens.heldout -= gain.heldout;
            }
        }
        curve
    }

    /// What each new token saves.
    fn savings(&self, uses: &[Weight]) -> Vec<TokenSaving> {
        let new = self.patched.patch_map().into_iter().flat_map(PatchMap::new_tokens);
        let mut savings: Vec<_> = new
            .map(|new| {
                let uses = uses[new.id as usize];
                let saved = uses.times(new.base_ids.len() - 1);
                TokenSaving {
                    id: new.id,
                    text: String::from_utf8_lossy(&new.token).into_owned(),
                    uses: uses.train,
                    saved: saved.train,
                    heldout_saved: saved.heldout,
                }
            })
            .collect();
        savings.sort_by_key(|saving| (Reverse(saving.saved), saving.id));
        savings
    }

    /// What each removed token was used for.
    fn losses(&self) -> Vec<TokenLoss> {
        let removed = self.patched.patch_map().into_iter().flat_map(PatchMap::removed_tokens);
        let mut losses: Vec<_> = removed
            .map(|removed| {
                let uses = self.base_uses[removed.id as usize];
                TokenLoss {
                    id: removed.id,
                    text: String::from_utf8_lossy(&removed.token).into_owned(),
                    uses: uses.train,
                    heldout_uses: uses.heldout,
                }
            })
            .collect();
        losses.sort_by_key(|loss| (Reverse((loss.uses, loss.heldout_uses)), loss.id));
        losses
    }
}

fn unused(tokenizer: &PatchTokenizer, uses: &[Weight]) -> u64 {
    let specials: Vec<u32> = tokenizer.special_ids().collect();
    let unused = (0u32..)
        .zip(uses)
        .filter(|(id, uses)| **uses == Weight::default() && !specials.contains(id));
    unused.count() as u64
}

fn runs_of_letters(text: &str) -> usize {
    let mut in_word = false;
    text.chars()
        .filter(|c| {
            let starts = c.is_alphabetic() && !in_word;
            in_word = c.is_alphabetic();
            starts
        })
        .count()
}
