//! Encoding with n-grams over the tokens of a base.

use std::path::Path;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use crate::model::Hasher;
use crate::{Error, PatchTokenizer, Result, files};

/// Names of the files in the folder of an n-gram tokenizer.
const NGRAMS_JSON: &str = "ngrams.json";
const BASE: &str = "base";

/// A base tokenizer, of which some tokens are taken apart and some n-grams are one token.
///
/// Lossless like the others here, but not a tokenizer that Hugging Face knows.
#[derive(Clone, Debug)]
pub struct NgramTokenizer {
    base: PatchTokenizer,
    file: File,
    /// Pieces of the removed tokens.
    pieces: HashMap<u32, Vec<u32>, Hasher>,
    /// Places of the n-grams in the order of choice, by their tokens.
    by_tokens: HashMap<Vec<u32>, usize, Hasher>,
    /// The base tokens of each new token.
    by_id: HashMap<u32, usize, Hasher>,
    longest: usize,
}

/// `ngrams.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: Format,
    matching: Matching,
    removed: Vec<Removed>,
    ngrams: Vec<Ngram>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "patchtok.ngrams.v1")]
    V1,
}

/// Which of the n-grams that start at a place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Matching {
    Longest,
    FirstChosen,
}

/// A base token that is taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removed {
    pub(super) id: u32,
    pub(super) pieces: Vec<u32>,
}

/// A new token, with the id of a removed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ngram {
    pub(super) id: u32,
    pub(super) ids: Vec<u32>,
}

impl NgramTokenizer {
    /// Puts the parts together; `ngrams` are in the order of choice.
    pub(super) fn new(
        base: PatchTokenizer,
        removed: Vec<Removed>,
        ngrams: Vec<Ngram>,
        matching: Matching,
    ) -> Result<Self> {
        let format = Format::V1;
        NgramTokenizer::of(
            base,
            File {
                format,
                matching,
                removed,
                ngrams,
            },
        )
    }

    fn of(base: PatchTokenizer, file: File) -> Result<Self> {
        let wrong = |what: String| Err(Error::Inconsistent(format!("{NGRAMS_JSON}: {what}")));
        let specials: Vec<u32> = base.special_ids().collect();
        let mut pieces: HashMap<u32, Vec<u32>, Hasher> = HashMap::default();
        for removed in &file.removed {
            let token = base.checked_bytes(removed.id)?;
            if base.decode_bytes(&removed.pieces)? != token {
                return wrong(format!("the pieces of token {} do not spell it", removed.id));
            }
            if specials.contains(&removed.id) || pieces.insert(removed.id, removed.pieces.clone()).is_some() {
                return wrong(format!("token {} is special or removed twice", removed.id));
            }
        }
        let mut by_tokens = HashMap::default();
        let mut by_id = HashMap::default();
        let mut longest = 0;
        for (at, ngram) in file.ngrams.iter().enumerate() {
            base.decode_bytes(&ngram.ids)?;
            if ngram.ids.len() < 2 || ngram.ids.iter().any(|id| specials.contains(id)) {
                return wrong(format!("n-gram {} is short or has a special token", ngram.id));
            }
            if !pieces.contains_key(&ngram.id) || by_id.insert(ngram.id, at).is_some() {
                return wrong(format!("n-gram {} has not the id of one removed token", ngram.id));
            }
            if by_tokens.insert(ngram.ids.clone(), at).is_some() {
                return wrong(format!("n-gram {} is listed twice", ngram.id));
            }
            longest = longest.max(ngram.ids.len());
        }
        if let Some(removed) = file.removed.iter().find(|removed| !by_id.contains_key(&removed.id)) {
            return wrong(format!("the id {} of a removed token is not used", removed.id));
        }
        if let Some(id) = pieces.values().flatten().find(|&id| pieces.contains_key(id)) {
            return wrong(format!("the removed token {id} is a piece of another"));
        }
        Ok(NgramTokenizer {
            base,
            file,
            pieces,
            by_tokens,
            by_id,
            longest,
        })
    }

    /// The ids of `text`. O(n log n) in its length at worst.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        for id in self.base.encode(text) {
            match self.pieces.get(&id) {
                Some(pieces) => tokens.extend_from_slice(pieces),
                None => tokens.push(id),
            }
        }
        let mut ids = Vec::new();
        let mut rest = tokens.as_slice();
        while let Some(&first) = rest.first() {
            let (id, length) = self.ngram_at(rest).unwrap_or((first, 1));
            ids.push(id);
            rest = &rest[length..];
        }
        ids
    }

    /// The id and the length of the n-gram that is taken at the start of `tokens`.
    fn ngram_at(&self, tokens: &[u32]) -> Option<(u32, usize)> {
        let lengths = (2..=self.longest.min(tokens.len())).rev();
        let mut found = lengths.filter_map(|length| self.by_tokens.get(&tokens[..length]).map(|&at| (at, length)));
        let (at, length) = match self.file.matching {
            Matching::Longest => found.next(),
            Matching::FirstChosen => found.min(),
        }?;
        Some((self.file.ngrams[at].id, length))
    }

    /// The bytes of `ids`: the inverse of [`encode`](NgramTokenizer::encode).
    ///
    /// # Errors
    /// [`Error::UnknownId`].
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        let mut tokens = Vec::new();
        for id in ids {
            match self.by_id.get(id) {
                Some(&at) => tokens.extend_from_slice(&self.file.ngrams[at].ids),
                None => tokens.push(*id),
            }
        }
        self.base.decode_bytes(&tokens)
    }

    /// Number of ids, the same as of the base.
    pub fn vocab_size(&self) -> usize {
        self.base.vocab_size()
    }

    /// The new tokens: ids, and the base tokens that each stands for, in the order of choice.
    pub fn ngrams(&self) -> impl ExactSizeIterator<Item = (u32, &[u32])> {
        self.file.ngrams.iter().map(|ngram| (ngram.id, ngram.ids.as_slice()))
    }

    /// The removed tokens: ids, and the base tokens that stand in their place.
    pub fn removed(&self) -> impl ExactSizeIterator<Item = (u32, &[u32])> {
        self.file
            .removed
            .iter()
            .map(|removed| (removed.id, removed.pieces.as_slice()))
    }

    /// Writes `ngrams.json` and the folder `base` into `folder`, which is made if it is missing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        self.base.save(folder.join(BASE))?;
        let path = folder.join(NGRAMS_JSON);
        let json = serde_json::to_vec(&self.file).map_err(Error::json(&path))?;
        files::write(&path, &json)
    }

    /// Reads a folder that [`save`](NgramTokenizer::save) wrote.
    ///
    /// # Errors
    /// As [`PatchTokenizer::load`], and [`Error::Inconsistent`] for n-grams that do not fit the
    /// base.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let base = PatchTokenizer::load(folder.join(BASE))?;
        let path = folder.join(NGRAMS_JSON);
        let file = serde_json::from_slice(&files::read(&path)?).map_err(Error::json(&path))?;
        NgramTokenizer::of(base, file)
    }
}
