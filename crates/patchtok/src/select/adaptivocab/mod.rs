//! AdaptiVocab (Nakash et al., arXiv 2503.19693), the method that swap-BPE is compared with.
//!
//! Its new tokens are n-grams of base tokens, chosen by frequency times length, where a choice
//! lowers the frequency of the n-grams that overlap with it. Its tokenizer is not one that Hugging
//! Face can express: the base encodes the text, removed tokens are taken apart, and n-grams are
//! matched from the left on what results. It lives beside the tokenizers of this crate so that the
//! gain over it can be measured, not to be used in their place.

mod ngrams;
mod removal;
mod tokenizer;

use std::borrow::Borrow;

use self::ngrams::{Counts, Stream};
pub use self::tokenizer::NgramTokenizer;
use self::tokenizer::{Matching, Ngram, Removed};
use crate::{Corpus, PatchTokenizer, Result};

/// Longest n-gram: the paper's and the code's default, 3 base tokens.
const LONGEST: usize = 3;

/// The released code leaves out documents of fewer words.
const MIN_WORDS: usize = 50;

/// The two forms in which AdaptiVocab exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdaptivocabForm {
    /// As the paper describes it: the least used tokens are removed; all n-grams compete; an n-gram
    /// is matched when it is the longest at its place.
    Paper,
    /// As the released code does it: unseen tokens are removed, the longest first, and those that
    /// no merge makes are kept but counted; documents of fewer than 50 words are left out; only the
    /// `5 V` most frequent n-grams compete, none of digits only; overlaps seen fewer than 3 times
    /// are forgotten; an n-gram is matched when it was chosen before the others at its place.
    Released,
}

/// Builds an AdaptiVocab tokenizer for a corpus.
///
/// Deterministic, on one thread but for the encoding of the corpus. Where the paper and the code
/// leave ties open, the more frequent n-gram goes first, then the smaller ids, and of tokens to
/// remove the larger id. Seven tokens that the released code keeps for its own test prompts have no
/// part here.
///
/// ```
/// use patchtok::{AdaptivocabBuilder, AdaptivocabForm, Corpus, PatchTokenizer};
/// # fn main() -> patchtok::Result<()> {
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/gpt2/tokenizer.json");
/// let base = PatchTokenizer::from_file(path)?;
/// let corpus = Corpus::from_texts(vec!["The quick brown fox jumps over the lazy dog."; 20]);
/// let tokenizer = AdaptivocabBuilder::new(base, AdaptivocabForm::Paper).swaps(8).build(&corpus)?;
/// assert_eq!(tokenizer.encode("The quick brown").len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct AdaptivocabBuilder {
    base: PatchTokenizer,
    form: AdaptivocabForm,
    swaps: usize,
}

impl AdaptivocabBuilder {
    /// A builder for 10,000 swaps.
    pub fn new(base: PatchTokenizer, form: AdaptivocabForm) -> Self {
        AdaptivocabBuilder {
            base,
            form,
            swaps: 10_000,
        }
    }

    /// Number of tokens to swap at most.
    pub fn swaps(mut self, swaps: usize) -> Self {
        self.swaps = swaps;
        self
    }

    /// Builds the tokenizer. O(tokens of the corpus); memory: about 40 bytes for each of them and
    /// 40 for each n-gram that occurs in it.
    ///
    /// # Errors
    /// Those of [`PatchTokenizer::check_patchable`] and of [`Corpus::documents`];
    /// [`Error::Build`](crate::Error::Build) when the corpus is too large, and
    /// [`Error::EmptyCorpus`](crate::Error::EmptyCorpus).
    pub fn build(self, corpus: impl Borrow<Corpus>) -> Result<NgramTokenizer> {
        self.base.check_patchable()?;
        let min_words = match self.form {
            AdaptivocabForm::Paper => 0,
            AdaptivocabForm::Released => MIN_WORDS,
        };
        let stream = Stream::read(&self.base, corpus.borrow(), min_words)?;
        let uses = stream.uses(self.base.vocab_size());
        let removed = match self.form {
            AdaptivocabForm::Paper => removal::least_used(self.base.model(), &uses, self.swaps),
            AdaptivocabForm::Released => removal::unseen_and_longest(self.base.model(), &uses, self.swaps),
        };
        let mut counts = Counts::of(&stream)?;
        let selected = match self.form {
            AdaptivocabForm::Paper => counts.select(removed.len(), 1),
            AdaptivocabForm::Released => {
                counts.drop_digits(&self.base);
                counts.keep_most_frequent(5 * self.base.vocab_size());
                counts.select(removed.len(), 3)
            }
        };
        let pieces = removal::pieces(self.base.model(), &removed[..selected.len()]);
        let ngrams = removed.iter().zip(selected).map(|(&id, ids)| Ngram { id, ids });
        let matching = match self.form {
            AdaptivocabForm::Paper => Matching::Longest,
            AdaptivocabForm::Released => Matching::FirstChosen,
        };
        let removed = removed.iter().zip(pieces).map(|(&id, pieces)| Removed { id, pieces });
        NgramTokenizer::new(self.base.clone(), removed.collect(), ngrams.collect(), matching)
    }
}

#[cfg(test)]
mod tests;
