//! Counting the chunks of a corpus on all threads.

use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::load::{Loader, check_memory};
use super::spill::Spill;
use super::{Basis, ChunkCounts, CountSummary, LISTED_DOCUMENTS, Table, Weight, write_merged, write_tables};
use crate::corpus::{Record, Records, Rejected};
use crate::model::Hasher;
use crate::special::Segment;
use crate::{Corpus, Error, PatchTokenizer, Result};

/// Tables, each with the chunks of some hashes, so that several threads, one a table, can add at a time.
const TABLES: usize = 16;

/// Memory that is left for what is beside the tables: the base, batches on their way, a file that is
/// written. `docs/counts.md` has what was measured.
const FIXED_MEMORY: u64 = 100 << 20;

/// Records and bytes that are counted at a time, while the next ones are read.
const BATCH_RECORDS: usize = 1 << 14;
const BATCH_BYTES: usize = 1 << 23;

/// Counts the chunks of a corpus.
///
/// The corpus is read once, as a stream. With a limit on [`memory`](ChunkCounter::memory), counts
/// that do not fit are written to files, which are added together.
#[derive(Clone, Debug)]
pub struct ChunkCounter<'b> {
    base: &'b PatchTokenizer,
    listed: usize,
    heldout: HeldOut,
    memory: Option<(u64, PathBuf)>,
}

/// Which documents are held out.
#[derive(Clone, Debug)]
enum HeldOut {
    None,
    Tenth,
    Corpus(Box<Corpus>),
}

/// How far the counting is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counting {
    /// Documents read, held-out ones included.
    pub documents: u64,
    /// Their length in bytes.
    pub bytes: u64,
    /// Bytes read from files.
    pub file_bytes: u64,
    /// Length of all files, when all sources are files.
    pub all_file_bytes: Option<u64>,
}

impl<'b> ChunkCounter<'b> {
    /// A counter of chunks as tokenizers patched from `base` cut them, around the special tokens of
    /// `base`. Nothing is held out.
    pub fn new(base: &'b PatchTokenizer) -> Self {
        ChunkCounter {
            base,
            listed: LISTED_DOCUMENTS,
            heldout: HeldOut::None,
            memory: None,
        }
    }

    /// Lists up to so many documents of each chunk, which is what
    /// [`VocabBuilder::min_documents`](crate::VocabBuilder::min_documents) may then ask for: 8, which is the default,
    /// or more. Files of counts say how many they list; of several files the smallest number holds.
    pub fn list_documents(mut self, documents: usize) -> Self {
        self.listed = documents.max(LISTED_DOCUMENTS);
        self
    }

    /// Holds out the tenth of the documents that [`Corpus::split`] would.
    pub fn hold_out_tenth(mut self) -> Self {
        self.heldout = HeldOut::Tenth;
        self
    }

    /// Counts another corpus as the held-out one.
    pub fn heldout(mut self, corpus: Corpus) -> Self {
        self.heldout = HeldOut::Corpus(Box::new(corpus));
        self
    }

    /// Plans with `bytes` of memory (`docs/counts.md` says what they bound, and what was measured);
    /// what does not fit is kept in files in `folder`, which the caller makes and removes. When the
    /// distinct chunks are too many to build a vocabulary from in this memory,
    /// [`count`](ChunkCounter::count) gives a sample of them.
    pub fn memory(mut self, bytes: u64, folder: impl Into<PathBuf>) -> Self {
        self.memory = Some((bytes, folder.into()));
        self
    }

    /// Counts `corpus`, telling `progress` how far it is.
    ///
    /// # Errors
    /// Those of [`PatchTokenizer::check_patchable`] and of [`Corpus::documents`];
    /// [`Error::EmptyCorpus`] when there is no document to learn from; [`Error::Io`] and
    /// [`Error::Parquet`] when counts cannot be kept in files; [`Error::Build`] when no vocabulary can
    /// be built in the memory given, with the number of bytes that would do.
    pub fn count(&self, corpus: &Corpus, mut progress: impl FnMut(Counting)) -> Result<ChunkCounts> {
        let budget = self.memory.as_ref().map(|(bytes, _)| *bytes);
        check_memory(budget)?;
        let basis = Basis::of(self.base)?;
        let mut run = self.run(&basis, corpus, &mut progress)?;
        let loader = Loader { basis: &basis, budget };
        let rejected = std::mem::take(&mut run.rejected);
        let mut counts = if run.is_in_memory() && loader.fits(&run.tables) {
            loader.tables(std::mem::take(&mut run.tables), run.documents, self.listed)?
        } else {
            loader.files(&run.files()?)?
        };
        counts.summary.rejected = rejected;
        if counts.summary.documents == 0 {
            let first = counts.summary.rejected.first.as_deref();
            return Err(Error::EmptyCorpus(match first {
                Some(first) => format!("no record is a document; the first one: {first}"),
                None => "it is empty, or its few documents were all held out".into(),
            }));
        }
        Ok(counts)
    }

    /// Counts `corpus` into a counts file, which `docs/counts.md` describes. A shard may be empty.
    ///
    /// # Errors
    /// Those of [`PatchTokenizer::check_patchable`] and of [`Corpus::documents`]; [`Error::Io`] and
    /// [`Error::Parquet`] when the file, or counts that do not fit into the memory given, cannot be written;
    /// [`Error::Build`] for more distinct chunks than can be numbered, and for counts that no corpus has. Any amount of
    /// memory will do.
    pub fn count_to_file(
        &self,
        corpus: &Corpus,
        path: impl AsRef<Path>,
        mut progress: impl FnMut(Counting),
    ) -> Result<CountSummary> {
        let path = path.as_ref();
        let basis = Basis::of(self.base)?;
        let mut run = self.run(&basis, corpus, &mut progress)?;
        let mut summary = if run.is_in_memory() {
            write_tables(&run.tables, run.documents, &basis, self.listed, path)?
        } else {
            write_merged(&basis, &run.files()?, path)?
        };
        summary.rejected = run.rejected;
        Ok(summary)
    }

    fn run<'r>(&'r self, basis: &'r Basis, corpus: &Corpus, progress: &mut dyn FnMut(Counting)) -> Result<Run<'r>> {
        let mut run = Run {
            counter: self,
            tables: (0..TABLES).map(|_| Table::default()).collect(),
            documents: Weight::default(),
            spill: self
                .memory
                .as_ref()
                .map(|(_, folder)| Spill::new(basis, folder.clone())),
            rejected: Rejected::default(),
            counting: Counting::default(),
        };
        let other = match &self.heldout {
            HeldOut::Corpus(other) => Some(other.as_ref()),
            _ => None,
        };
        run.counting.all_file_bytes = [Some(corpus), other]
            .into_iter()
            .flatten()
            .map(Corpus::file_bytes)
            .sum();
        run.read(corpus, self.heldout.part(), progress)?;
        if let Some(other) = other {
            run.read(other, Part::HeldOut, progress)?;
        }
        Ok(run)
    }
}

/// The part that a document belongs to.
#[derive(Clone, Copy)]
enum Part {
    Train,
    HeldOut,
    /// The checksum decides.
    Either,
}

impl HeldOut {
    /// The part that the documents of the corpus belong to.
    fn part(&self) -> Part {
        match self {
            HeldOut::Tenth => Part::Either,
            HeldOut::None | HeldOut::Corpus(_) => Part::Train,
        }
    }
}

/// Counts so far.
struct Run<'c> {
    counter: &'c ChunkCounter<'c>,
    tables: Vec<Table>,
    documents: Weight,
    /// Counts that did not fit into memory, if that has a limit.
    spill: Option<Spill<'c>>,
    rejected: Rejected,
    counting: Counting,
}

/// A document that is cut into chunks.
struct Cut {
    /// The chunks one after another: the text, normalized if the base does that.
    text: String,
    /// `None` when it is held out.
    document: Option<i64>,
    /// Hash, start and length of each.
    chunks: Vec<(u64, u32, u32)>,
}

impl Cut {
    /// Appends a chunk, or a special token.
    fn push(&mut self, chunk: &str) {
        let place = (hash(chunk.as_bytes()), self.text.len() as u32, chunk.len() as u32);
        self.chunks.push(place);
        self.text.push_str(chunk);
    }
}

impl Run<'_> {
    fn read(&mut self, corpus: &Corpus, part: Part, progress: &mut dyn FnMut(Counting)) -> Result<()> {
        let taken = Arc::new(AtomicU64::new(0));
        let before = self.counting.file_bytes;
        let mut records = Records::new(corpus, taken.clone());
        let mut batch = next_batch(&mut records)?;
        while !batch.is_empty() {
            let (next, counted) = rayon::join(|| next_batch(&mut records), || self.add(corpus, part, batch));
            counted?;
            self.counting.file_bytes = before + taken.load(Ordering::Relaxed);
            progress(self.counting);
            batch = next?;
        }
        Ok(())
    }

    /// Counts a batch of records.
    fn add(&mut self, corpus: &Corpus, part: Part, batch: Vec<Record>) -> Result<()> {
        let counter = self.counter;
        let cut: Vec<Result<(Option<Cut>, Rejected)>> = batch
            .into_par_iter()
            .map(|record| counter.cut(corpus, part, record))
            .collect();
        // The first error in the order of the corpus, not the one that a thread met first.
        let cut = cut.into_iter().collect::<Result<Vec<_>>>()?;
        self.tables.iter().try_for_each(Table::check_room)?;
        self.tables.par_iter_mut().enumerate().for_each(|(number, table)| {
            for document in cut.iter().filter_map(|(cut, _)| cut.as_ref()) {
                for &(hash, start, length) in &document.chunks {
                    // The last bits find the place in a table.
                    if (hash >> 32) as usize % TABLES == number {
                        let chunk = &document.text.as_bytes()[start as usize..][..length as usize];
                        table.add(hash, chunk, document.document, counter.listed);
                    }
                }
            }
        });
        for (document, rejected) in &cut {
            self.rejected += rejected;
            let Some(document) = document else { continue };
            match document.document {
                Some(_) => self.documents.train += 1,
                None => self.documents.heldout += 1,
            }
            self.counting.documents += 1;
            self.counting.bytes += document.text.len() as u64;
        }
        if let Some((memory, _)) = &counter.memory {
            // Sorting and writing may take as much again.
            let taken: usize = self.tables.iter().map(Table::memory).sum();
            if taken as u64 > memory.saturating_sub(FIXED_MEMORY) / 2 {
                self.spill()?;
            }
        }
        Ok(())
    }

    /// Moves the tables to a file.
    fn spill(&mut self) -> Result<()> {
        let Some(spill) = &mut self.spill else {
            return Ok(());
        };
        spill.write(&self.tables, self.documents, self.counter.listed)?;
        // Adding files together takes memory, too.
        self.tables.fill_with(Table::default);
        self.documents = Weight::default();
        spill.settle()
    }

    /// Whether all counts are in the tables.
    fn is_in_memory(&self) -> bool {
        self.spill.as_ref().is_none_or(Spill::is_empty)
    }

    /// Moves what is in the tables to a file, too. Returns all files, which are few.
    fn files(&mut self) -> Result<Vec<&PathBuf>> {
        self.spill()?;
        self.spill.as_mut().map_or_else(|| Ok(Vec::new()), Spill::few)
    }
}

impl ChunkCounter<'_> {
    /// Cuts the document that a record is.
    fn cut(&self, corpus: &Corpus, part: Part, record: Record) -> Result<(Option<Cut>, Rejected)> {
        let place = record.place_checksum(corpus);
        let mut rejected = Rejected::default();
        let Some(document) = corpus.document(record, &mut rejected)? else {
            return Ok((None, rejected));
        };
        let held_out = match part {
            Part::Train => false,
            Part::HeldOut => true,
            Part::Either => corpus.would_hold_out(document.checksum),
        };
        let text = document.text;
        let id = (u64::from(place) << 32 | u64::from(document.checksum)) >> 1;
        let mut cut = Cut {
            text: String::with_capacity(text.len()),
            document: (!held_out).then_some(id as i64),
            chunks: Vec::with_capacity(text.len() / 32),
        };
        let base = self.base.model();
        let splitter = base.splitter().chunked().unwrap_or(base.splitter());
        self.base.specials().for_each(&text, |segment| match segment {
            Segment::Text(text) => splitter.for_each(text, |chunk| cut.push(chunk)),
            // The bytes of a special token are its text.
            Segment::Special(id) => {
                let content = base.vocab().get(id).and_then(|token| std::str::from_utf8(token).ok());
                content.into_iter().for_each(|content| cut.push(content));
            }
        });
        Ok((Some(cut), rejected))
    }
}

fn next_batch(records: &mut Records<'_>) -> Result<Vec<Record>> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
        let Some(record) = records.next()? else { break };
        bytes += record.len();
        batch.push(record);
    }
    Ok(batch)
}

pub(super) fn hash(chunk: &[u8]) -> u64 {
    Hasher::with_seed(0).hash_one(chunk)
}
