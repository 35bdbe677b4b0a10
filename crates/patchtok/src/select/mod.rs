//! Building a patched tokenizer: swap-BPE.
//!
//! 1. [`fold`]: cut the corpus into chunks and count equal ones.
//! 2. [`prune`]: order the tokens by what their removal costs, leaves of the merge tree only.
//! 3. [`grow`]: without the removed tokens, go on with byte pair encoding inside the chunks.
//! 4. Give the new tokens the ids of the removed ones and put the tokenizer together.
//! 5. [`report`]: say what came of it.

mod adaptivocab;
mod fold;
mod grow;
mod prune;
mod report;

use std::borrow::Borrow;
use std::collections::BTreeMap;

use hashbrown::HashSet;

pub use self::adaptivocab::{AdaptivocabBuilder, AdaptivocabForm, NgramTokenizer};
use self::fold::Tokens;
use self::grow::{Grown, NewMerge};
use self::prune::Removal;
use crate::count::{ChunkCounter, ChunkCounts, Counting, Weight};
use crate::model::{self, Hasher, Merge, Model, Segmentation};
use crate::patch_map::{NewToken, RemovedToken};
use crate::report::{BuildReport, Stop};
use crate::{Corpus, Error, PatchMap, PatchTokenizer, Result};

/// Builds a patched tokenizer for a corpus by swapping tokens.
///
/// The tokens of the base that the corpus uses least are removed, and their ids go to frequent
/// sequences of the corpus, found by byte pair encoding that is allowed to cross spaces. The
/// vocabulary size and all other ids stay as they are ([`Mode::Grow`] removes nothing and appends
/// ids instead). The result depends only on the base, the corpus and the settings, not on the
/// number of threads.
///
/// ```
/// use patchtok::{Corpus, PatchTokenizer, VocabBuilder};
/// # fn main() -> patchtok::Result<()> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
/// let base = PatchTokenizer::from_file(path)?;
/// let corpus = Corpus::from_texts(vec!["The quick brown fox jumps over the lazy dog."; 20]);
/// let built = VocabBuilder::new(base).swaps(8).build(&corpus)?;
/// assert_eq!(built.report.swaps, 8);
/// assert_eq!(built.tokenizer.encode("The quick brown fox").len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct VocabBuilder {
    base: PatchTokenizer,
    swaps: usize,
    mode: Mode,
    segmentation: Segmentation,
    guards: Guards,
    pinned: HashSet<u32, Hasher>,
    heldout: Option<Corpus>,
    stop_on_stall: bool,
    general: Option<Corpus>,
}

/// Which ids new tokens get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Those of tokens that are removed: the vocabulary keeps its size.
    #[default]
    Swap,
    /// New ones behind those of the base, of which nothing is removed: no text takes more tokens
    /// than with the base.
    Grow,
}

/// What a new token must satisfy.
#[derive(Clone, Copy, Debug)]
struct Guards {
    min_documents: usize,
    min_count: u64,
    max_token_bytes: usize,
}

/// A patched tokenizer and how it came to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The tokenizer, with its patch map.
    pub tokenizer: PatchTokenizer,
    /// Counts of the build.
    pub report: BuildReport,
}

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The corpus is being read.
    Reading(Counting),
    /// New tokens found so far, and how many are looked for. Starts again when the number is
    /// lowered.
    Merging(usize, usize),
    /// Tokens of the corpus are being counted with the base and the new tokenizer.
    Counting,
}

impl VocabBuilder {
    /// Default of [`min_documents`](VocabBuilder::min_documents).
    pub const MIN_DOCUMENTS: usize = 3;
    /// Default of [`min_count`](VocabBuilder::min_count).
    pub const MIN_COUNT: u64 = 10;
    /// Default of [`max_token_bytes`](VocabBuilder::max_token_bytes).
    pub const MAX_TOKEN_BYTES: usize = 48;

    /// A builder with the defaults and 10,000 swaps.
    pub fn new(base: PatchTokenizer) -> Self {
        VocabBuilder {
            base,
            swaps: 10_000,
            mode: Mode::default(),
            segmentation: Segmentation::default(),
            guards: Guards {
                min_documents: Self::MIN_DOCUMENTS,
                min_count: Self::MIN_COUNT,
                max_token_bytes: Self::MAX_TOKEN_BYTES,
            },
            pinned: HashSet::default(),
            heldout: None,
            stop_on_stall: false,
            general: None,
        }
    }

    /// Number of new tokens at most.
    pub fn swaps(mut self, swaps: usize) -> Self {
        self.swaps = swaps;
        self
    }

    /// Whether new tokens take the ids of removed ones or new ids.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How the patched tokenizer cuts a chunk into tokens. The tokens are the same either way.
    pub fn segmentation(mut self, segmentation: Segmentation) -> Self {
        self.segmentation = segmentation;
        self
    }

    /// Removes, of tokens that the corpus uses equally little, the ones first that `text` uses
    /// least: a sample of what the model should still read well beside its domain. Without it, the
    /// tokens learnt last go first.
    pub fn general(mut self, text: Corpus) -> Self {
        self.general = Some(text);
        self
    }

    /// Number of documents in which a new token must occur.
    pub fn min_documents(mut self, documents: usize) -> Self {
        self.guards.min_documents = documents;
        self
    }

    /// Number of times a new token must occur when it is made; rows of rarer tokens cannot be
    /// trained. 0 counts as 1.
    pub fn min_count(mut self, count: u64) -> Self {
        self.guards.min_count = count.max(1);
        self
    }

    /// Longest new token in bytes; no tokenizer here has tokens of more than 4096.
    pub fn max_token_bytes(mut self, bytes: usize) -> Self {
        self.guards.max_token_bytes = bytes.min(model::MAX_TOKEN_BYTES);
        self
    }

    /// Keeps these tokens of the base, whatever the corpus says.
    pub fn pin(mut self, ids: impl IntoIterator<Item = u32>) -> Self {
        self.pinned.extend(ids);
        self
    }

    /// Stops when 100 swaps in a row, together, save nothing on `heldout`.
    pub fn stop_when_stalled(mut self, heldout: Corpus) -> Self {
        self.heldout = Some(heldout);
        self
    }

    /// The same on the held-out part of the counts, for
    /// [`build_from_counts`](VocabBuilder::build_from_counts); there must be one.
    pub fn stop_on_stall(mut self, stop: bool) -> Self {
        self.stop_on_stall = stop;
        self
    }

    /// Builds the tokenizer.
    ///
    /// Memory: the distinct chunks of the corpus and about 20 bytes for each of their tokens.
    ///
    /// # Errors
    /// Those of [`PatchTokenizer::check_patchable`]; [`Error::Build`] when it is to stop at a stall and
    /// nothing is held out; [`Error::EmptyCorpus`] and the errors of [`Corpus::documents`].
    pub fn build(self, corpus: impl Borrow<Corpus>) -> Result<Built> {
        self.build_with_progress(corpus, |_| {})
    }

    /// [`build`](VocabBuilder::build), telling `progress` how far it is.
    ///
    /// # Errors
    /// As [`build`](VocabBuilder::build).
    pub fn build_with_progress(self, corpus: impl Borrow<Corpus>, mut progress: impl FnMut(Progress)) -> Result<Built> {
        let mut counter = ChunkCounter::new(&self.base).list_documents(self.guards.min_documents);
        if let Some(heldout) = &self.heldout {
            counter = counter.heldout(heldout.clone());
        }
        let counts = counter.count(corpus.borrow(), |counting| progress(Progress::Reading(counting)))?;
        let stop_on_stall = self.heldout.is_some();
        self.stop_on_stall(stop_on_stall).build_from_counts(&counts, progress)
    }

    /// Builds the tokenizer from counts, telling `progress` how far it is.
    ///
    /// # Errors
    /// Those of [`PatchTokenizer::check_patchable`]; [`Error::Build`] when the counts list fewer
    /// documents than the guard asks for, or have no held-out documents and it is to stop at a stall.
    pub fn build_from_counts(self, chunks: &ChunkCounts, mut progress: impl FnMut(Progress)) -> Result<Built> {
        self.base.check_patchable()?;
        if self.guards.min_documents > chunks.listed() {
            return Err(Error::Build(format!(
                "the counts list at most {} documents of a chunk, and a new token is to occur in {}; count again and \
                 list as many",
                chunks.listed(),
                self.guards.min_documents
            )));
        }
        if self.stop_on_stall && chunks.summary().heldout_documents == 0 {
            return Err(Error::Build(
                "it is to stop when swaps save nothing on held-out text, and no document is held out; hold some out, \
                 or do not ask for it"
                    .into(),
            ));
        }
        let base = self.base.model();
        let base_tokens = Tokens::of(chunks, base);
        let base_uses = base_tokens.uses(chunks, base.vocab().len());
        let base_total = base_tokens.total(chunks);
        drop(base_tokens);
        let (kept, removed, grown) = match self.mode {
            Mode::Grow => {
                let kept = without(base, &[])?;
                let grown = self.grow(&kept, &[], chunks, self.swaps, &mut progress)?;
                (kept, Vec::new(), grown)
            }
            Mode::Swap => self.swap(chunks, &base_uses, &mut progress)?,
        };
        progress(Progress::Counting);
        let patch = Patch::new(&kept, &removed, &grown.merges)?;
        let tokenizer = patch.tokenizer(&self.base, self.segmentation)?;
        let counted = report::Counted {
            chunks,
            base: &self.base,
            base_uses: &base_uses,
            base_total,
            patched: &tokenizer,
            grown: &grown,
        };
        let report = counted.report(self.swaps);
        Ok(Built { tokenizer, report })
    }

    /// Removes as many tokens as new ones are found for: the base without them, what was removed,
    /// and the new merges.
    fn swap(
        &self,
        chunks: &ChunkCounts,
        uses: &[Weight],
        progress: &mut impl FnMut(Progress),
    ) -> Result<(Model, Vec<Removal>, Grown)> {
        let base = self.base.model();
        let general = match &self.general {
            None => Vec::new(),
            Some(text) => general_uses(&self.base, text)?,
        };
        let mut removed = prune::removal_order(base, uses, &general, &self.pinned, self.swaps);
        let mut stop = (removed.len() < self.swaps).then_some(Stop::NothingToRemove);
        // A removal is worth it only for a token that is added: when fewer are found, fewer are
        // removed.
        loop {
            let kept = without(base, &removed)?;
            let mut grown = self.grow(&kept, &removed, chunks, removed.len(), progress)?;
            if grown.merges.len() == removed.len() {
                grown.stop = stop.unwrap_or(grown.stop);
                return Ok((kept, removed, grown));
            }
            stop = Some(grown.stop);
            removed.truncate(grown.merges.len());
        }
    }

    fn grow(
        &self,
        kept: &Model,
        removed: &[Removal],
        chunks: &ChunkCounts,
        limit: usize,
        progress: &mut impl FnMut(Progress),
    ) -> Result<Grown> {
        let mut losses: Vec<Weight> = removed.iter().map(|removal| removal.loss).collect();
        losses.resize(limit, Weight::default());
        grow::grow(
            kept,
            removed,
            &losses,
            chunks,
            self.guards,
            self.stop_on_stall,
            |found| {
                progress(Progress::Merging(found, limit));
            },
        )
    }
}

/// How often the base uses each token in a text.
fn general_uses(base: &PatchTokenizer, text: &Corpus) -> Result<Vec<u64>> {
    let mut uses = vec![0; base.vocab_size()];
    let mut ids = Vec::new();
    for document in text.documents() {
        ids.clear();
        base.encode_into(&document?, &mut ids);
        for &id in &ids {
            uses[id as usize] += 1;
        }
    }
    Ok(uses)
}

/// The base that cuts text into chunks and lacks the merges of the removed tokens. In GPT-2's chunks the
/// merge of two line ends, the only one that can reach across a border inside a chunk, and what is made
/// with it come after the others.
fn without(base: &Model, removed: &[Removal]) -> Result<Model> {
    let gone: HashSet<u32, Hasher> = removed.iter().map(|removal| removal.id).collect();
    let mut blank_lines: HashSet<u32, Hasher> = HashSet::default();
    let kept = base.merges().iter().filter(|merge| !gone.contains(&merge.result));
    let has_blank_lines = base.splitter().parts_blank_lines();
    let (last, mut merges): (Vec<Merge>, Vec<Merge>) = kept.partition(|merge| {
        let parts = [merge.left, merge.right];
        let is = parts.iter().all(|&part| base.vocab().get(part) == Some(b"\n"))
            || parts.iter().any(|part| blank_lines.contains(part));
        has_blank_lines && is && blank_lines.insert(merge.result)
    });
    merges.extend(last);
    base.patched(base.vocab().clone(), merges)
}

/// New tokens with their public ids.
struct Patch {
    model: Model,
    /// Ids that the base lacks or has for other bytes, ascending.
    new: Vec<u32>,
}

impl Patch {
    /// Gives the tokens of `merges` the ids of `removed`: a token whose string was removed gets its
    /// own back, the others get the rest in ascending order. Without removals they get the ids
    /// behind the last.
    fn new(kept: &Model, removed: &[Removal], merges: &[NewMerge]) -> Result<Self> {
        let vocab_size = kept.vocab().len();
        let mut tokens: Vec<Vec<u8>> = kept.vocab().iter().map(|(_, token)| token.to_vec()).collect();
        let mut free: BTreeMap<Vec<u8>, u32> = removed.iter().map(|r| (tokens[r.id as usize].clone(), r.id)).collect();
        // Strings of the new tokens, in rank order, before any id is given away.
        let mut strings: Vec<Vec<u8>> = Vec::with_capacity(merges.len());
        for merge in merges {
            let part = |id: u32| match (id as usize).checked_sub(vocab_size) {
                None => &tokens[id as usize],
                Some(index) => &strings[index],
            };
            let string = [part(merge.left).as_slice(), part(merge.right)].concat();
            strings.push(string);
        }
        let own: Vec<Option<u32>> = strings.iter().map(|string| free.remove(string)).collect();
        let mut new: Vec<u32> = match removed {
            [] => (vocab_size..).take(merges.len()).map(|id| id as u32).collect(),
            _ => free.into_values().collect(),
        };
        new.sort_unstable();
        let mut unused = new.iter().copied();
        let ids: Vec<u32> = own
            .into_iter()
            .map(|own| own.or_else(|| unused.next()))
            .collect::<Option<_>>()
            .ok_or_else(|| Error::Build("there are more new tokens than ids for them".into()))?;
        tokens.resize(
            vocab_size.max(new.last().map_or(0, |&last| last as usize + 1)),
            Vec::new(),
        );
        for (&id, string) in ids.iter().zip(strings) {
            tokens[id as usize] = string;
        }
        let public = |id: u32| (id as usize).checked_sub(vocab_size).map_or(id, |index| ids[index]);
        let grown = merges.iter().zip(&ids).map(|(merge, &result)| Merge {
            left: public(merge.left),
            right: public(merge.right),
            result,
        });
        let merges = kept.merges().iter().copied().chain(grown).collect();
        let model = kept.patched(tokens.iter().collect(), merges)?;
        Ok(Patch { model, new })
    }

    /// The tokenizer with its patch map.
    fn tokenizer(&self, base: &PatchTokenizer, segmentation: Segmentation) -> Result<PatchTokenizer> {
        let model = self.model.clone().with_segmentation(segmentation);
        let patched = PatchTokenizer::new(model, None)?;
        let new = self.new.iter().map(|&id| {
            let token = patched.checked_bytes(id)?.to_vec();
            Ok(NewToken {
                id,
                base_ids: base.encode_bytes(&token),
                token,
            })
        });
        let removed = self.new.iter().filter(|&&id| (id as usize) < base.vocab_size());
        let removed = removed.map(|&id| {
            let token = base.checked_bytes(id)?.to_vec();
            Ok(RemovedToken {
                id,
                pieces: patched.encode_piece(&token),
                token,
            })
        });
        let map = PatchMap::new(
            base.vocab_size() as u32,
            new.collect::<Result<_>>()?,
            removed.collect::<Result<_>>()?,
        );
        patched.with_patch_map(map)
    }
}

#[cfg(test)]
mod tests;
