//! The tokens of distinct chunks.

use rayon::prelude::*;

use crate::count::{ChunkCounts, Weight};
use crate::encode::{Encoder, Scratch};
use crate::model::Model;

/// The tokens of every chunk, one chunk after another.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    /// Where each chunk ends in `ids`.
    pub(super) ends: Vec<usize>,
}

impl Tokens {
    /// Encodes every chunk, on all threads.
    pub(super) fn of(chunks: &ChunkCounts, model: &Model) -> Self {
        /// Chunks that one task encodes.
        const BATCH: usize = 256;
        let encoder = Encoder::new(model);
        let batches: Vec<(Vec<u32>, Vec<usize>)> = (0..chunks.len().div_ceil(BATCH))
            .into_par_iter()
            .map(|batch| {
                let mut scratch = Scratch::default();
                let (mut ids, mut ends) = (Vec::new(), Vec::with_capacity(BATCH));
                for at in batch * BATCH..chunks.len().min((batch + 1) * BATCH) {
                    model.splitter().for_each_in_chunk(chunks.get(at).text, |piece| {
                        encoder.encode_piece(model, piece.as_bytes(), &mut scratch, &mut ids);
                    });
                    ends.push(ids.len());
                }
                (ids, ends)
            })
            .collect();
        let mut tokens = Tokens {
            ids: Vec::new(),
            ends: Vec::with_capacity(chunks.len()),
        };
        for (ids, ends) in batches {
            let start = tokens.ids.len();
            tokens.ids.extend(ids);
            tokens.ends.extend(ends.iter().map(|end| start + end));
        }
        tokens
    }

    /// The ids of each chunk.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.ids[start..end])
    }

    /// How often each id occurs in the corpora.
    pub(super) fn uses(&self, chunks: &ChunkCounts, vocab_size: usize) -> Vec<Weight> {
        let mut uses = vec![Weight::default(); vocab_size];
        for (ids, chunk) in self.chunks().zip(chunks.iter()) {
            for &id in ids {
                uses[id as usize] += chunk.count;
            }
        }
        uses
    }

    /// How many there are in the corpora.
    pub(super) fn total(&self, chunks: &ChunkCounts) -> Weight {
        let mut total = chunks.specials();
        for (ids, chunk) in self.chunks().zip(chunks.iter()) {
            total += chunk.count.times(ids.len());
        }
        total
    }
}
