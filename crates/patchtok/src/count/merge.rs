//! Partial counts added together.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use super::file::Reader;
use super::{Basis, LISTED_DOCUMENTS, Row, Weight, note_document};
use crate::Result;

/// The rows of several files in one order, those of one chunk added together.
///
/// Adding is associative and commutative: counts are summed, and of the documents the smallest ids
/// are kept.
pub(super) struct Merge {
    readers: Vec<Reader>,
    /// Chunks that the readers stand at.
    heap: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    /// Longest list of documents.
    listed: usize,
    chunk: Vec<u8>,
    documents: Vec<i64>,
}

impl Merge {
    pub(super) fn open<P: AsRef<Path>>(paths: &[P], basis: &Basis) -> Result<Self> {
        let readers = paths
            .iter()
            .map(|path| Reader::open(path.as_ref(), basis))
            .collect::<Result<Vec<_>>>()?;
        let mut merge = Merge {
            heap: BinaryHeap::with_capacity(readers.len()),
            // A file that lists fewer may lack the documents that others list.
            listed: readers.iter().map(Reader::listed).min().unwrap_or(LISTED_DOCUMENTS),
            readers,
            chunk: Vec::new(),
            documents: Vec::new(),
        };
        for at in 0..merge.readers.len() {
            merge.advance(at)?;
        }
        Ok(merge)
    }

    /// Documents that a row lists at most.
    pub(super) fn listed(&self) -> usize {
        self.listed
    }

    /// Moves a reader on.
    fn advance(&mut self, at: usize) -> Result<()> {
        let reader = &mut self.readers[at];
        if reader.advance()?
            && let Some(row) = reader.row()
        {
            self.heap.push(Reverse((row.chunk.to_vec(), at)));
        }
        Ok(())
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Result<Option<Row<'_>>> {
        let Some(Reverse((chunk, mut at))) = self.heap.pop() else {
            return Ok(None);
        };
        self.chunk = chunk;
        self.documents.clear();
        let mut count = Weight::default();
        loop {
            if let Some(row) = self.readers[at].row() {
                count += row.count;
                for &document in row.documents {
                    note_document(&mut self.documents, document, self.listed);
                }
            }
            self.advance(at)?;
            match self.heap.peek() {
                Some(Reverse((chunk, next))) if *chunk == self.chunk => at = *next,
                _ => break,
            }
            self.heap.pop();
        }
        Ok(Some(Row {
            chunk: &self.chunk,
            count,
            documents: &self.documents,
        }))
    }
}
