//! Counts into memory, as many as may be.

use std::path::Path;

use super::merge::Merge;
use super::{Basis, ChunkCounts, Row, Table, Weight, more_listed};
use crate::{Error, PatchTokenizer, Result};

/// Memory of a build without any chunk, of each distinct chunk with the documents that it lists if no more are asked
/// for, and of each of its bytes: measured, see docs/optimizations.md.
const BASE_MEMORY: u64 = 200 << 20;
const CHUNK_MEMORY: u64 = 100;
const BYTE_MEMORY: u64 = 8;

/// Memory of each document that is listed beyond these.
const DOCUMENT_MEMORY: u64 = 8;

/// The least memory that is planned with: room for some thousands of chunks.
const LEAST_MEMORY: u64 = BASE_MEMORY + (1 << 20);

/// The largest k is 2 to this power: a checksum of 32 bits decides no smaller probabilities.
const MAX_LOG_K: usize = 32;

/// How chunks were sampled.
///
/// A chunk that occurs c times is kept if c ≥ k, and otherwise with probability c / k, and then
/// counts as k times. So every count that is a sum over chunks is estimated without bias.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Sampling {
    /// The number k.
    pub k: u64,
    /// Distinct chunks that were kept.
    pub kept_chunks: u64,
    /// Relative standard error of the size of the corpus when it is estimated from the sample, in
    /// percent: the square root of the sum of length² · c · (k - c) over all chunks with c < k,
    /// over the size. The estimate of a phrase in n different chunks that occur once has a relative
    /// standard error of √((k - 1) / n).
    pub size_error_percent: f64,
}

impl ChunkCounts {
    /// Reads counts files, adding them together. With a limit on `memory` (bytes), a sample of the
    /// chunks from which a vocabulary can be built in it.
    ///
    /// # Errors
    /// Those of [`PatchTokenizer::check_patchable`]; [`Error::Io`]; [`Error::Parquet`] for a file that is
    /// damaged or was counted with a base that cuts text in another way; [`Error::EmptyCorpus`] when
    /// they have counted no document; [`Error::Build`] for counts that no corpus has, and when no
    /// vocabulary can be built in `memory`, with the number of bytes that would do.
    pub fn load<P: AsRef<Path>>(base: &PatchTokenizer, files: &[P], memory: Option<u64>) -> Result<Self> {
        check_memory(memory)?;
        let loader = Loader {
            basis: &Basis::of(base)?,
            budget: memory,
        };
        let counts = loader.files(files)?;
        if counts.summary.documents == 0 {
            return Err(Error::EmptyCorpus("the counts are of no document".into()));
        }
        Ok(counts)
    }
}

/// Fails when the memory is too little for any corpus.
pub(super) fn check_memory(budget: Option<u64>) -> Result<()> {
    match budget {
        Some(budget) if budget < LEAST_MEMORY => Err(too_little(budget, LEAST_MEMORY)),
        _ => Ok(()),
    }
}

fn too_little(budget: u64, least: u64) -> Error {
    Error::Build(format!(
        "{budget} bytes of memory are too few to build in; it takes {least} bytes or more"
    ))
}

/// Makes [`ChunkCounts`].
pub(super) struct Loader<'b> {
    pub(super) basis: &'b Basis,
    /// Memory in which a vocabulary is to be built, in bytes.
    pub(super) budget: Option<u64>,
}

impl Loader<'_> {
    /// Memory for chunks.
    fn room(&self) -> u64 {
        self.budget
            .map_or(u64::MAX, |budget| budget.saturating_sub(BASE_MEMORY))
    }

    /// Whether a vocabulary can be built from all chunks of `tables`.
    pub(super) fn fits(&self, tables: &[Table]) -> bool {
        let memory = |table: &Table| memory_of(table.len(), table.text_bytes(), table.more_listed());
        tables.iter().map(memory).sum::<u64>() <= self.room()
    }

    /// The counts of `tables`, each of which is dropped when it was read.
    pub(super) fn tables(&self, tables: Vec<Table>, documents: Weight, listed: usize) -> Result<ChunkCounts> {
        let mut counts = ChunkCounts {
            listed,
            ..ChunkCounts::default()
        };
        counts.summary.documents = documents.train;
        counts.summary.heldout_documents = documents.heldout;
        for table in tables {
            for at in 0..table.len() as u32 {
                self.add(&mut counts, table.row(at), 1)?;
            }
        }
        Ok(counts)
    }

    /// The counts in `files`, or a sample of them.
    pub(super) fn files<P: AsRef<Path>>(&self, files: &[P]) -> Result<ChunkCounts> {
        let k = match self.budget {
            Some(budget) => self.choose_k(files, budget)?,
            None => 1,
        };
        let mut variance = 0.0;
        let mut merge = Merge::open(files, self.basis)?;
        let mut counts = ChunkCounts {
            listed: merge.listed(),
            ..ChunkCounts::default()
        };
        while let Some(row) = merge.next()? {
            variance += self.add(&mut counts, row, k)?;
        }
        if k > 1 {
            counts.sampling = Some(Sampling {
                k,
                kept_chunks: counts.len() as u64,
                size_error_percent: 100.0 * variance.sqrt() / (counts.summary.bytes as f64).max(1.0),
            });
        }
        Ok(counts)
    }

    /// Adds a row, sampled with `k`, to the counts, and to the summary. Returns what it adds to the
    /// variance of the size.
    fn add(&self, counts: &mut ChunkCounts, row: Row<'_>, k: u64) -> Result<f64> {
        let special = self.basis.is_special(row.chunk);
        counts.summary.add(row, special)?;
        if row.chunk.is_empty() || special {
            return Ok(0.0);
        }
        let count = sampled(row, k);
        if count != Weight::default() {
            let text = std::str::from_utf8(row.chunk).map_err(|_| Error::Build("a chunk is not UTF-8".into()))?;
            counts.push(text, Row { count, ..row });
        }
        let (length, count) = (row.chunk.len() as f64, row.count.train);
        Ok(length * length * count as f64 * k.saturating_sub(count) as f64)
    }

    /// The smallest power of two with which the sample fits.
    fn choose_k<P: AsRef<Path>>(&self, files: &[P], budget: u64) -> Result<u64> {
        // Memory of the chunks that are kept up to k = 2^i and no further.
        let mut memory = [0u64; MAX_LOG_K + 1];
        let mut merge = Merge::open(files, self.basis)?;
        while let Some(row) = merge.next()? {
            if row.chunk.is_empty() || self.basis.is_special(row.chunk) {
                continue;
            }
            let count = row.count.train.max(row.count.heldout).max(1);
            let k = greatest_k(count, crc32fast::hash(row.chunk));
            memory[(k.ilog2() as usize).min(MAX_LOG_K)] += memory_of(1, row.chunk.len(), more_listed(row.documents));
        }
        // By k: memory of the sample.
        let mut samples = memory;
        for k in (0..MAX_LOG_K).rev() {
            samples[k] += samples[k + 1];
        }
        if samples[0] == 0 {
            return Ok(1);
        }
        // A sample without any chunk is none.
        let fits = |&sample: &u64| 0 < sample && sample <= self.room();
        match samples.iter().position(fits) {
            Some(k) => Ok(1 << k),
            None => {
                let smallest = samples.iter().rev().find(|&&sample| sample > 0);
                Err(too_little(budget, BASE_MEMORY + smallest.copied().unwrap_or_default()))
            }
        }
    }
}

/// The counts of a row in the sample, 0 when it is not kept. Its checksum takes the place of chance,
/// so that the sample depends on nothing else.
fn sampled(row: Row<'_>, k: u64) -> Weight {
    let checksum = crc32fast::hash(row.chunk);
    let sampled = |count: u64| {
        let kept = greatest_k(count, checksum) >= k;
        if kept { count.max(k) } else { 0 }
    };
    if k == 1 {
        return row.count;
    }
    Weight {
        train: sampled(row.count.train),
        heldout: sampled(row.count.heldout),
    }
}

/// The greatest k with which a chunk is kept that occurs `count` times: checksum / 2³² < count / k.
fn greatest_k(count: u64, checksum: u32) -> u64 {
    let bound = (u128::from(count) << 32).div_ceil(u128::from(checksum).max(1)) - u128::from(count > 0);
    count.max(bound.min(1 << 62) as u64)
}

fn memory_of(chunks: usize, bytes: usize, more_listed: usize) -> u64 {
    chunks as u64 * CHUNK_MEMORY + bytes as u64 * BYTE_MEMORY + more_listed as u64 * DOCUMENT_MEMORY
}
