//! A hash table of chunks with counts, in few allocations.

use hashbrown::{HashMap, HashTable};

use super::{LISTED_DOCUMENTS, Row, Weight, more_listed, note_document};
use crate::model::Hasher;
use crate::{Error, Result};

/// Distinct chunks whose hashes share some bits.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The chunks one after another.
    text: Vec<u8>,
    entries: Vec<Entry>,
    /// Places in `entries`, by hash.
    index: HashTable<u32>,
    /// Documents of the chunks that occur in more than one.
    documents: HashMap<u32, Vec<i64>, Hasher>,
    /// Documents that are listed beyond the first few of their chunks.
    more_listed: usize,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    end: usize,
    count: Weight,
    /// The only document, when there is one.
    document: Option<i64>,
}

impl Table {
    /// Adds one occurrence of a chunk. `document` is the one that it lies in, if that is not held
    /// out; no more than `listed` are remembered.
    pub(super) fn add(&mut self, hash: u64, chunk: &[u8], document: Option<i64>, listed: usize) {
        let Table {
            text,
            entries,
            index,
            documents,
            more_listed: more,
        } = self;
        let known = index
            .find(hash, |&at| {
                entries[at as usize].hash == hash && slice(text, entries, at) == chunk
            })
            .copied();
        let at = known.unwrap_or_else(|| {
            let at = entries.len() as u32;
            text.extend_from_slice(chunk);
            entries.push(Entry {
                hash,
                end: text.len(),
                count: Weight::default(),
                document: None,
            });
            index.insert_unique(hash, at, |&at| entries[at as usize].hash);
            at
        });
        let entry = &mut entries[at as usize];
        let Some(document) = document else {
            entry.count.heldout += 1;
            return;
        };
        entry.count.train += 1;
        match entry.document {
            None if listed == 0 => {}
            None if entry.count.train == 1 => entry.document = Some(document),
            Some(first) if first == document => {}
            first => {
                entry.document = None;
                let list = documents.entry(at).or_insert_with(|| first.into_iter().collect());
                let before = more_listed(list);
                note_document(list, document, listed);
                *more += more_listed(list) - before;
            }
        }
    }

    /// Fails when so many chunks are in the table that those of another batch may not be numbered.
    pub(super) fn check_room(&self) -> Result<()> {
        check_room(self.len())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    pub(super) fn more_listed(&self) -> usize {
        self.more_listed
    }

    /// Bytes of memory that the table takes, about.
    pub(super) fn memory(&self) -> usize {
        // A list with its place in the map.
        const LIST: usize = 32 + LISTED_DOCUMENTS * size_of::<i64>();
        self.text.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.index.capacity() * 2 * size_of::<u32>()
            + self.documents.capacity() * LIST
            + self.more_listed * size_of::<i64>()
    }

    /// The chunk at a place.
    pub(super) fn chunk(&self, at: u32) -> &[u8] {
        slice(&self.text, &self.entries, at)
    }

    /// Calls `row` with the chunk at a place and its counts.
    pub(super) fn row(&self, at: u32) -> Row<'_> {
        let entry = &self.entries[at as usize];
        let documents = match self.documents.get(&at) {
            Some(documents) => documents.as_slice(),
            None => entry.document.as_slice(),
        };
        Row {
            chunk: self.chunk(at),
            count: entry.count,
            documents,
        }
    }
}

/// Chunks that a table holds when a batch is added: places are 32-bit numbers, and no batch, with records
/// of at most 256 MiB, has as many chunks again.
const MAX_CHUNKS: usize = 1 << 31;

fn check_room(chunks: usize) -> Result<()> {
    if chunks <= MAX_CHUNKS {
        return Ok(());
    }
    Err(Error::Build(format!(
        "one of the tables of counts has {chunks} distinct chunks, the limit is {MAX_CHUNKS}; with a limit on memory \
         they go to files"
    )))
}

/// The chunk of entry `at`.
fn slice<'t>(text: &'t [u8], entries: &[Entry], at: u32) -> &'t [u8] {
    let at = at as usize;
    let start = if at == 0 { 0 } else { entries[at - 1].end };
    &text[start..entries[at].end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_a_limit() {
        check_room(MAX_CHUNKS).unwrap();
        let message = check_room(MAX_CHUNKS + 1).unwrap_err().to_string();
        assert!(
            message.contains("2147483649 distinct chunks, the limit is 2147483648"),
            "{message}"
        );
    }
}
