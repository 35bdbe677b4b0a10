//! Which n-grams become tokens.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::LONGEST;
use crate::model::Hasher;
use crate::{Corpus, Error, PatchTokenizer, Result};

/// In a stream: no n-gram reaches across it. Among n-grams: none.
const NONE: u32 = u32::MAX;

/// The base tokens of a corpus, with [`NONE`] between documents and in the place of special tokens.
#[derive(Debug)]
pub(super) struct Stream(Vec<u32>);

impl Stream {
    /// Encodes the documents that have at least `min_words` words.
    pub(super) fn read(base: &PatchTokenizer, corpus: &Corpus, min_words: usize) -> Result<Self> {
        /// Documents in memory at a time.
        const BATCH: usize = 256;
        let mut specials: Vec<u32> = base.special_ids().collect();
        specials.sort_unstable();
        let mut ids = Vec::new();
        let mut documents = corpus.documents();
        loop {
            let batch: Vec<String> = documents.by_ref().take(BATCH).collect::<Result<_>>()?;
            if batch.is_empty() {
                break;
            }
            let long: Vec<&String> = batch
                .iter()
                .filter(|text| text.split_whitespace().take(min_words).count() == min_words)
                .collect();
            for document in base.encode_batch(&long) {
                let plain = |id: u32| if specials.binary_search(&id).is_ok() { NONE } else { id };
                ids.extend(document.into_iter().map(plain));
                ids.push(NONE);
            }
        }
        if ids.is_empty() {
            return Err(Error::EmptyCorpus(format!("none has {min_words} words or more")));
        }
        Ok(Stream(ids))
    }

    /// How often each base token occurs.
    pub(super) fn uses(&self, vocab_size: usize) -> Vec<u64> {
        let mut uses = vec![0; vocab_size];
        for &id in self.0.iter().filter(|&&id| id != NONE) {
            uses[id as usize] += 1;
        }
        uses
    }
}

/// The n-grams of a stream: their counts and where they stand.
#[derive(Debug)]
pub(super) struct Counts {
    /// By n-gram.
    ngrams: Vec<Counted>,
    /// For each length from 2 on, the n-gram that starts at each place of the stream.
    starting: [Vec<u32>; LONGEST - 1],
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    /// Its tokens, [`NONE`] behind the last.
    ids: [u32; LONGEST],
    count: u64,
}

impl Counted {
    fn tokens(&self) -> &[u32] {
        let length = self.ids.iter().position(|&id| id == NONE).unwrap_or(LONGEST);
        &self.ids[..length]
    }
}

impl Counts {
    /// Counts the n-grams that occur at least twice; one that occurs once repeats nothing.
    pub(super) fn of(stream: &Stream) -> Result<Self> {
        let ids = &stream.0;
        if ids.len() >= NONE as usize {
            let length = ids.len();
            return Err(Error::Build(format!(
                "the corpus has {length} tokens, the limit is {NONE}; use a sample of it"
            )));
        }
        let mut counts = Counts {
            ngrams: Vec::new(),
            starting: [const { Vec::new() }; LONGEST - 1],
        };
        // An n-gram is the one of its first tokens and a last token.
        let mut heads = ids.clone();
        for length in 2..=LONGEST {
            let mut known: HashMap<u64, u32, Hasher> = HashMap::default();
            let mut starting = vec![NONE; ids.len()];
            for (at, &head) in heads.iter().enumerate() {
                let last = ids.get(at + length - 1).copied().unwrap_or(NONE);
                if head == NONE || last == NONE {
                    continue;
                }
                let fresh = counts.ngrams.len() as u32;
                let ngram = *known.entry(crate::encode::pair_key(head, last)).or_insert(fresh);
                if ngram == fresh {
                    let mut tokens = [NONE; LONGEST];
                    tokens[..length].copy_from_slice(&ids[at..at + length]);
                    counts.ngrams.push(Counted { ids: tokens, count: 0 });
                }
                counts.ngrams[ngram as usize].count += 1;
                starting[at] = ngram;
            }
            heads.clone_from(&starting);
            counts.starting[length - 2] = starting;
        }
        counts.retain(|ngram| ngram.count >= 2);
        Ok(counts)
    }

    /// Drops n-grams whose tokens are all of digits.
    pub(super) fn drop_digits(&mut self, base: &PatchTokenizer) {
        let digits = |&id: &u32| {
            base.token_bytes(id)
                .is_some_and(|bytes| bytes.iter().all(u8::is_ascii_digit))
        };
        self.retain(|ngram| !ngram.tokens().iter().all(digits));
    }

    /// Drops all but the `limit` most frequent n-grams, of equals the ones with larger ids.
    pub(super) fn keep_most_frequent(&mut self, limit: usize) {
        if self.ngrams.len() <= limit {
            return;
        }
        let key = |ngram: &Counted| (Reverse(ngram.count), ngram.ids);
        let mut keys: Vec<_> = self.ngrams.iter().map(key).collect();
        let (_, &mut first_out, _) = keys.select_nth_unstable(limit);
        self.retain(|ngram| key(ngram) < first_out);
    }

    fn retain(&mut self, mut keep: impl FnMut(&Counted) -> bool) {
        let mut kept = 0;
        let new: Vec<u32> = self
            .ngrams
            .iter()
            .map(|ngram| {
                let keep = keep(ngram);
                kept += u32::from(keep);
                if keep { kept - 1 } else { NONE }
            })
            .collect();
        let mut places = new.iter();
        self.ngrams
            .retain(|_| places.next().is_some_and(|&place| place != NONE));
        for ngram in self.starting.iter_mut().flatten().filter(|ngram| **ngram != NONE) {
            *ngram = new[*ngram as usize];
        }
    }

    /// The `limit` n-grams of the greedy choice, the best first: highest count times length, where
    /// the counts of the n-grams that overlap with one that was chosen fall by the number of
    /// overlaps, if that is at least `min_overlaps`. Ends early when no count is left above 0.
    ///
    /// Scores only fall, so each n-gram stands in a heap under an upper bound of its own.
    pub(super) fn select(&self, limit: usize, min_overlaps: i64) -> Vec<Vec<u32>> {
        let places = self.places();
        let mut counts: Vec<i64> = self.ngrams.iter().map(|ngram| ngram.count as i64).collect();
        let entry = |ngram: u32, counts: &[i64]| {
            let Counted { ids, count } = self.ngrams[ngram as usize];
            let length = self.ngrams[ngram as usize].tokens().len() as i64;
            (counts[ngram as usize] * length, count, Reverse(ids), ngram)
        };
        let mut heap: BinaryHeap<_> = (0..counts.len() as u32).map(|ngram| entry(ngram, &counts)).collect();
        let mut selected = Vec::new();
        let mut overlaps: HashMap<u32, i64, Hasher> = HashMap::default();
        while selected.len() < limit
            && let Some(top) = heap.pop()
        {
            let (bound, .., ngram) = top;
            let now = entry(ngram, &counts);
            if now.0 <= 0 {
                continue;
            }
            if now.0 < bound {
                heap.push(now);
                continue;
            }
            let tokens = self.ngrams[ngram as usize].tokens();
            overlaps.clear();
            for &at in places.of(ngram) {
                self.for_each_overlap(at as usize, tokens.len(), |other| {
                    *overlaps.entry(other).or_default() += 1
                });
            }
            for (&other, &number) in overlaps.iter().filter(|(_, number)| **number >= min_overlaps) {
                counts[other as usize] -= number;
            }
            selected.push(tokens.to_vec());
        }
        selected
    }

    /// Calls `overlap` for every other n-gram that shares a token with the one of `length` tokens
    /// at `at`.
    fn for_each_overlap(&self, at: usize, length: usize, mut overlap: impl FnMut(u32)) {
        for (starting, other) in self.starting.iter().zip(2..) {
            let first = (at + 1).saturating_sub(other);
            for (&ngram, start) in starting[first..].iter().take(at + length - first).zip(first..) {
                if ngram != NONE && (start, other) != (at, length) {
                    overlap(ngram);
                }
            }
        }
    }

    /// The places of every n-gram.
    fn places(&self) -> Places {
        let mut ends = vec![0u32; self.ngrams.len() + 1];
        let standing = || self.starting.iter().flatten().filter(|ngram| **ngram != NONE);
        for &ngram in standing() {
            ends[ngram as usize + 1] += 1;
        }
        for ngram in 1..ends.len() {
            ends[ngram] += ends[ngram - 1];
        }
        let mut places = vec![0; standing().count()];
        let mut next = ends.clone();
        for starting in &self.starting {
            for (at, &ngram) in starting.iter().enumerate().filter(|(_, ngram)| **ngram != NONE) {
                let slot = &mut next[ngram as usize];
                places[*slot as usize] = at as u32;
                *slot += 1;
            }
        }
        Places { places, ends }
    }
}

/// Places in the stream, sorted by n-gram.
struct Places {
    places: Vec<u32>,
    /// Where the places of each n-gram begin, and the end of the last.
    ends: Vec<u32>,
}

impl Places {
    fn of(&self, ngram: u32) -> &[u32] {
        let ngram = ngram as usize;
        &self.places[self.ends[ngram] as usize..self.ends[ngram + 1] as usize]
    }
}
