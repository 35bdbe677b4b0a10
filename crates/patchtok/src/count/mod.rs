//! A corpus as distinct chunks with counts, from corpora of any size.
//!
//! [`table`] counts in memory; [`file`](self::file) keeps sorted counts in Parquet files, whether
//! they are parts that were counted on several machines or what did not fit into memory;
//! [`merge`] adds such files, and [`spill`] keeps few of them; [`load`] makes of them what a vocabulary
//! is built from. [`basis`] is what all of it depends on in the base.

mod basis;
mod counter;
mod file;
mod load;
mod merge;
mod spill;
mod table;

use std::path::Path;

pub use counter::{ChunkCounter, Counting};
pub use load::Sampling;

use crate::corpus::Rejected;
use crate::{Error, PatchTokenizer, Result};
use basis::Basis;
use merge::Merge;
use table::Table;

/// Documents that a row lists at most, unless more are asked for.
const LISTED_DOCUMENTS: usize = 8;

/// No corpus has so many bytes or documents: sums of counts that are larger come from a damaged file.
/// Those that are not overflow nowhere.
const MAX_SUM: u64 = 1 << 60;

/// A number of the corpus and the same of the held-out corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) train: u64,
    pub(crate) heldout: u64,
}

impl std::ops::AddAssign for Weight {
    fn add_assign(&mut self, other: Self) {
        self.train = self.train.saturating_add(other.train);
        self.heldout = self.heldout.saturating_add(other.heldout);
    }
}

impl Weight {
    /// Both numbers so many times.
    pub(crate) fn times(self, factor: usize) -> Self {
        Weight {
            train: self.train.saturating_mul(factor as u64),
            heldout: self.heldout.saturating_mul(factor as u64),
        }
    }
}

/// A distinct chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'c> {
    pub(crate) text: &'c str,
    /// How often it occurs.
    pub(crate) count: Weight,
    /// The documents of the corpus that it occurs in, or as many of them as are listed.
    pub(crate) documents: &'c [i64],
}

/// A row of a counts file. Besides chunks, such rows count special tokens, whose text is no part of
/// any chunk, and, as the empty chunk, the documents.
#[derive(Clone, Copy, Debug)]
struct Row<'r> {
    chunk: &'r [u8],
    count: Weight,
    documents: &'r [i64],
}

/// The distinct chunks of a corpus with counts: all that a vocabulary is built from.
///
/// Memory: the text of the chunks, 32 bytes for each, and 8 for each document that it lists.
#[derive(Clone, Debug, Default)]
pub struct ChunkCounts {
    text: String,
    ends: Vec<usize>,
    counts: Vec<Weight>,
    documents: Vec<i64>,
    document_ends: Vec<usize>,
    /// Longest list of documents.
    listed: usize,
    summary: CountSummary,
    sampling: Option<Sampling>,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct CountSummary {
    /// Documents of the corpus, without the held-out ones.
    pub documents: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Documents that are held out.
    pub heldout_documents: u64,
    /// Their length in bytes.
    pub heldout_bytes: u64,
    /// Special tokens in the corpus.
    pub specials: u64,
    /// Special tokens in the held-out documents.
    pub heldout_specials: u64,
    /// Distinct chunks of both.
    pub distinct_chunks: u64,
    /// Length of the distinct chunks in bytes.
    pub distinct_bytes: u64,
    /// Records that were skipped because they are no documents.
    pub rejected: Rejected,
}

impl CountSummary {
    /// Adds a row.
    fn add(&mut self, row: Row<'_>, is_special: bool) -> Result<()> {
        let add = |what: &str, sum: &mut u64, number: u64| {
            *sum = sum.saturating_add(number);
            if *sum <= MAX_SUM {
                return Ok(());
            }
            Err(Error::Build(format!(
                "the counts add up to {sum} {what} or more, the limit is {MAX_SUM}; a counts file is damaged"
            )))
        };
        if row.chunk.is_empty() {
            add("documents", &mut self.documents, row.count.train)?;
            return add("held-out documents", &mut self.heldout_documents, row.count.heldout);
        }
        let bytes = row.count.times(row.chunk.len());
        add("bytes of text", &mut self.bytes, bytes.train)?;
        add("bytes of held-out text", &mut self.heldout_bytes, bytes.heldout)?;
        // What follows is not above the bytes.
        if is_special {
            self.specials += row.count.train;
            self.heldout_specials += row.count.heldout;
        } else {
            self.distinct_chunks += 1;
            self.distinct_bytes += row.chunk.len() as u64;
        }
        Ok(())
    }
}

impl ChunkCounts {
    /// What was counted, before any sampling.
    pub fn summary(&self) -> &CountSummary {
        &self.summary
    }

    /// How the chunks were sampled, when they did not fit into the memory given.
    pub fn sampling(&self) -> Option<&Sampling> {
        self.sampling.as_ref()
    }

    /// Special tokens in the corpora, which are no part of any chunk.
    pub(crate) fn specials(&self) -> Weight {
        Weight {
            train: self.summary.specials,
            heldout: self.summary.heldout_specials,
        }
    }

    /// Number of documents that a chunk lists at most.
    pub(crate) fn listed(&self) -> usize {
        self.listed
    }

    /// Number of distinct chunks.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The chunk at a place.
    pub(crate) fn get(&self, at: usize) -> Chunk<'_> {
        Chunk {
            text: &self.text[start(&self.ends, at)..self.ends[at]],
            count: self.counts[at],
            documents: self.documents(at),
        }
    }

    /// How often the chunk at a place occurs.
    pub(crate) fn count(&self, at: usize) -> Weight {
        self.counts[at]
    }

    /// The documents of the chunk at a place.
    pub(crate) fn documents(&self, at: usize) -> &[i64] {
        &self.documents[start(&self.document_ends, at)..self.document_ends[at]]
    }

    /// All chunks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Chunk<'_>> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Appends a chunk.
    fn push(&mut self, text: &str, row: Row<'_>) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
        self.counts.push(row.count);
        self.documents.extend_from_slice(row.documents);
        self.document_ends.push(self.documents.len());
    }
}

fn start(ends: &[usize], at: usize) -> usize {
    if at == 0 { 0 } else { ends[at - 1] }
}

/// Adds counts files together. Any tree of merges over the same files gives the same rows.
///
/// Memory: an open file and about 6 MB for each file; for hundreds of files, merge in a tree.
///
/// # Errors
/// Those of [`PatchTokenizer::check_patchable`]; [`Error::Io`]; [`Error::Parquet`] for a file that is
/// damaged or was counted with a base that cuts text in another way; [`Error::Build`] for counts that
/// no corpus has.
pub fn merge_counts<P: AsRef<Path>>(base: &PatchTokenizer, files: &[P], out: impl AsRef<Path>) -> Result<CountSummary> {
    write_merged(&Basis::of(base)?, files, out.as_ref())
}

/// Checks that counts files can be added together for `base`: their format, the base that they were counted with, and
/// their columns, but no row. Returns how many documents a row of the sum lists at most. It is for engines that add the
/// rows themselves, as `docs/counts.md` says.
///
/// # Errors
/// Those of [`merge_counts`] that come before rows are read.
pub fn check_counts<P: AsRef<Path>>(base: &PatchTokenizer, files: &[P]) -> Result<usize> {
    let basis = Basis::of(base)?;
    let listed = files
        .iter()
        .map(|path| Ok(file::Reader::open(path.as_ref(), &basis)?.listed()))
        .collect::<Result<Vec<_>>>()?;
    Ok(listed.into_iter().min().unwrap_or(LISTED_DOCUMENTS))
}

fn write_merged<P: AsRef<Path>>(basis: &Basis, files: &[P], out: &Path) -> Result<CountSummary> {
    let mut merge = Merge::open(files, basis)?;
    let mut summary = CountSummary::default();
    file::write(out, basis, merge.listed(), |writer| {
        while let Some(row) = merge.next()? {
            summary.add(row, basis.is_special(row.chunk))?;
            writer.push(row)?;
        }
        Ok(())
    })?;
    Ok(summary)
}

/// Writes tables as a file, with the number of `documents`; of each chunk, `listed` are remembered.
fn write_tables(tables: &[Table], documents: Weight, basis: &Basis, listed: usize, out: &Path) -> Result<CountSummary> {
    use rayon::prelude::*;
    let mut places: Vec<(u32, u32)> = (0u32..)
        .zip(tables)
        .flat_map(|(table, entries)| (0..entries.len() as u32).map(move |at| (table, at)))
        .collect();
    places.par_sort_unstable_by_key(|&(table, at)| tables[table as usize].chunk(at));
    let mut summary = CountSummary::default();
    file::write(out, basis, listed, |writer| {
        let totals = Row {
            chunk: b"",
            count: documents,
            documents: &[],
        };
        let rows = places.iter().map(|&(table, at)| tables[table as usize].row(at));
        for row in std::iter::once(totals).chain(rows) {
            summary.add(row, basis.is_special(row.chunk))?;
            writer.push(row)?;
        }
        Ok(())
    })?;
    Ok(summary)
}

/// Documents of a list beyond those that are listed if no more are asked for. The memory of these is part of what a
/// chunk takes.
fn more_listed(documents: &[i64]) -> usize {
    documents.len().saturating_sub(LISTED_DOCUMENTS)
}

/// Adds a document to a sorted list of the smallest ids.
fn note_document(list: &mut Vec<i64>, document: i64, listed: usize) {
    if let Err(at) = list.binary_search(&document)
        && at < listed
    {
        list.truncate(listed - 1);
        list.insert(at, document);
    }
}
