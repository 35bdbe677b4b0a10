//! What a build did, in numbers.

use rayon::prelude::*;
use serde::Serialize;

use crate::{Corpus, PatchTokenizer, Result};

/// Counts of a build. Tokens are counted on the corpus that the vocabulary was built from, so the
/// saving is the one to be expected elsewhere only as far as the text elsewhere is like it: measure
/// it with [`TokenCount::of`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct BuildReport {
    /// Words of the corpus: runs of letters.
    pub words: u64,
    /// Words of the held-out documents.
    pub heldout_words: u64,
    /// Distinct chunks of the corpus (and of the held-out one, if it was given).
    pub distinct_chunks: u64,
    /// The corpus with the base tokenizer. (Where two line ends are a whole chunk they count as one
    /// token, as they are before white space; the base has two before some apostrophes.)
    pub base: TokenCount,
    /// The corpus with the patched tokenizer.
    pub patched: TokenCount,
    /// The held-out documents with the base tokenizer.
    pub heldout_base: TokenCount,
    /// The held-out documents with the patched tokenizer.
    pub heldout_patched: TokenCount,
    /// Swaps asked for.
    pub requested: usize,
    /// Swaps made: new tokens.
    pub swaps: usize,
    /// Tokens of the base that were removed and then made again by another merge; they kept their
    /// ids.
    pub restored: usize,
    /// Why there are not more swaps.
    pub stop: Stop,
    /// How the tokens become fewer with each new one, by merges alone, at most 101 points in order.
    /// At the first point nothing is new, but all that is to be removed is gone, and blank lines are one
    /// token.
    pub curve: Vec<CurvePoint>,
    /// The new tokens, the one that saves most first.
    pub tokens: Vec<TokenSaving>,
    /// The removed tokens, the one that was used most first.
    pub removed: Vec<TokenLoss>,
    /// Tokens of the base, but for special ones, that neither the corpus nor the held-out documents
    /// use.
    pub base_unused: u64,
    /// The same of the patched tokenizer.
    pub patched_unused: u64,
}

/// Tokens of the corpora with the first new tokens only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CurvePoint {
    /// New tokens, and removed ones that were made again.
    pub new_tokens: usize,
    /// Tokens of the corpus.
    pub tokens: u64,
    /// Tokens of the held-out documents.
    pub heldout_tokens: u64,
}

/// Why a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stop {
    /// As many swaps as asked for.
    Requested,
    /// No token was left that may be removed.
    NothingToRemove,
    /// No pair was left that satisfies the guards.
    NoMoreCandidates,
    /// The next new token would not save more than the next removed one costs.
    GainBelowLoss,
    /// The last swaps saved nothing on the held-out corpus.
    HeldOutStalled,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stop::Requested => "as asked for",
            Stop::NothingToRemove => "no other token may be removed",
            Stop::NoMoreCandidates => "no other phrase is frequent enough",
            Stop::GainBelowLoss => "another swap would save no more than it costs",
            Stop::HeldOutStalled => "further swaps save nothing on the held-out text",
        })
    }
}

/// What a new token saves on the corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TokenSaving {
    /// Its id.
    pub id: u32,
    /// Its text, with U+FFFD for parts of characters.
    pub text: String,
    /// How often the encoded corpus holds it.
    pub uses: u64,
    /// Tokens saved: uses times one less than the number of base tokens that it stands for.
    pub saved: u64,
    /// Tokens saved on the held-out documents.
    pub heldout_saved: u64,
}

/// What a removed token was to the corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TokenLoss {
    /// Its id in the base.
    pub id: u32,
    /// Its text, with U+FFFD for parts of characters.
    pub text: String,
    /// How often the base used it for the corpus.
    pub uses: u64,
    /// How often the base used it for the held-out documents.
    pub heldout_uses: u64,
}

/// The size of a corpus in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TokenCount {
    /// Documents.
    pub documents: u64,
    /// Bytes.
    pub bytes: u64,
    /// Tokens.
    pub tokens: u64,
}

impl TokenCount {
    /// Encodes every document of `corpus`, on all threads.
    ///
    /// # Errors
    /// Those of [`Corpus::documents`].
    pub fn of(tokenizer: &PatchTokenizer, corpus: &Corpus) -> Result<Self> {
        TokenCount::by(|text| tokenizer.encode(text).len() as u64, corpus)
    }

    /// Counts with any tokenizer: `tokens` gives the number of tokens of a document.
    ///
    /// # Errors
    /// Those of [`Corpus::documents`].
    pub fn by(tokens: impl Fn(&str) -> u64 + Sync, corpus: &Corpus) -> Result<Self> {
        /// Documents in memory at a time.
        const BATCH: usize = 256;
        let mut count = TokenCount::default();
        let mut documents = corpus.documents();
        loop {
            let batch: Vec<String> = documents.by_ref().take(BATCH).collect::<Result<_>>()?;
            if batch.is_empty() {
                return Ok(count);
            }
            count.documents += batch.len() as u64;
            count.bytes += batch.iter().map(|text| text.len() as u64).sum::<u64>();
            count.tokens += batch.par_iter().map(|text| tokens(text)).sum::<u64>();
        }
    }

    /// Bytes per token; 0 for an empty corpus.
    pub fn bytes_per_token(&self) -> f64 {
        if self.tokens == 0 {
            0.0
        } else {
            self.bytes as f64 / self.tokens as f64
        }
    }

    /// How many percent fewer tokens this is than `base`; 0 for an empty corpus.
    pub fn saving_percent(&self, base: &TokenCount) -> f64 {
        if base.tokens == 0 {
            0.0
        } else {
            100.0 * (1.0 - self.tokens as f64 / base.tokens as f64)
        }
    }
}
