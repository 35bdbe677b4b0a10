//! The corpus as distinct chunks with counts.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use rayon::prelude::*;

use crate::encode::{Encoder, Scratch};
use crate::model::{Hasher, Model};
use crate::special::Segment;
use crate::{Corpus, Error, PatchTokenizer, Result};

/// A number of the corpus and the same of the held-out corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) train: u64,
    pub(super) heldout: u64,
}

impl std::ops::AddAssign for Weight {
    fn add_assign(&mut self, other: Self) {
        self.train += other.train;
        self.heldout += other.heldout;
    }
}

/// A distinct chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) text: String,
    /// How often it occurs.
    pub(super) count: Weight,
    /// The first documents that it occurs in, no more than the guard on new tokens asks for.
    pub(super) documents: Vec<u64>,
}

/// All chunks of the corpora in the order in which they first occur.
#[derive(Debug)]
pub(super) struct Chunks {
    pub(super) list: Vec<Chunk>,
    /// Number of documents of the corpus, without the held-out one.
    pub(super) documents: u64,
    /// Their length.
    pub(super) bytes: u64,
}

/// The tokens of every chunk, one chunk after another.
#[derive(Debug)]
pub(super) struct Tokens {
    pub(super) ids: Vec<u32>,
    /// Where each chunk ends in `ids`.
    pub(super) ends: Vec<usize>,
}

impl Chunk {
    fn new(text: &str) -> Self {
        Chunk {
            text: text.into(),
            count: Weight::default(),
            documents: Vec::new(),
        }
    }
}

impl Chunks {
    /// Reads the corpora, cut as tokenizers made from `base` do it. `min_documents` bounds the document lists; `progress` is told the number
    /// of documents.
    pub(super) fn read(
        base: &PatchTokenizer,
        corpus: &Corpus,
        heldout: Option<&Corpus>,
        min_documents: usize,
        mut progress: impl FnMut(u64),
    ) -> Result<Self> {
        let mut folder = Folder {
            base,
            index: HashTable::new(),
            list: Vec::new(),
        };
        let (mut documents, mut bytes) = (0, 0);
        for text in corpus.documents() {
            let text = text?;
            folder.add(&text, |chunk| {
                chunk.count.train += 1;
                if chunk.documents.len() < min_documents && chunk.documents.last() != Some(&documents) {
                    chunk.documents.push(documents);
                }
            });
            documents += 1;
            bytes += text.len() as u64;
            progress(documents);
        }
        if documents == 0 {
            return Err(Error::EmptyCorpus(
                "it is empty, or its few documents were all held out".into(),
            ));
        }
        for text in heldout.into_iter().flat_map(Corpus::documents) {
            folder.add(&text?, |chunk| chunk.count.heldout += 1);
        }
        Ok(Chunks {
            list: folder.list,
            documents,
            bytes,
        })
    }

    /// Encodes every chunk, on all threads.
    pub(super) fn encode(&self, model: &Model) -> Tokens {
        /// Chunks that one task encodes.
        const BATCH: usize = 256;
        let encoder = Encoder::new(model);
        let batches: Vec<(Vec<u32>, Vec<usize>)> = self
            .list
            .par_chunks(BATCH)
            .map(|batch| {
                let mut scratch = Scratch::default();
                let (mut ids, mut ends) = (Vec::new(), Vec::with_capacity(batch.len()));
                for chunk in batch {
                    model.splitter().for_each_in_chunk(&chunk.text, |piece| {
                        encoder.encode_piece(model, piece.as_bytes(), &mut scratch, &mut ids);
                    });
                    ends.push(ids.len());
                }
                (ids, ends)
            })
            .collect();
        let mut tokens = Tokens {
            ids: Vec::new(),
            ends: Vec::with_capacity(self.list.len()),
        };
        for (ids, ends) in batches {
            let start = tokens.ids.len();
            tokens.ids.extend(ids);
            tokens.ends.extend(ends.iter().map(|end| start + end));
        }
        tokens
    }

    /// How often each id occurs in `tokens`, which are the tokens of these chunks.
    pub(super) fn uses(&self, tokens: &Tokens, vocab_size: usize) -> Vec<Weight> {
        let mut uses = vec![Weight::default(); vocab_size];
        for (ids, chunk) in tokens.chunks().zip(&self.list) {
            for &id in ids {
                uses[id as usize] += chunk.count;
            }
        }
        uses
    }
}

impl Tokens {
    /// The ids of each chunk.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.ids[start..end])
    }
}

/// Chunks that are being collected.
struct Folder<'b> {
    base: &'b PatchTokenizer,
    /// Places in `list`, by text.
    index: HashTable<usize>,
    list: Vec<Chunk>,
}

impl Folder<'_> {
    /// Adds the chunks of a document; `count` notes one occurrence.
    fn add(&mut self, document: &str, mut count: impl FnMut(&mut Chunk)) {
        let Folder { base, index, list } = self;
        let splitter = base.model().splitter();
        let splitter = splitter.chunked().unwrap_or(splitter);
        base.specials().for_each(document, |segment| {
            let Segment::Text(text) = segment else { return };
            splitter.for_each(text, |text| {
                let hash = hash(text);
                let known = index.find(hash, |&at| list[at].text == text).copied();
                let at = known.unwrap_or_else(|| {
                    let at = list.len();
                    list.push(Chunk::new(text));
                    *index.insert_unique(hash, at, |&at| self::hash(&list[at].text)).get()
                });
                count(&mut list[at]);
            });
        });
    }
}

fn hash(text: &str) -> u64 {
    Hasher::with_seed(0).hash_one(text)
}
