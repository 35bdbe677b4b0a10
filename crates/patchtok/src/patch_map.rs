//! What a patched tokenizer changed, as an embedding transfer needs it.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, byte_level};

/// The difference between a patched tokenizer and its base.
///
/// Every id that is in neither list means the same bytes as in the base tokenizer, so its rows are
/// copied. The ids of new tokens are ids of removed tokens, and the vocabulary size does not change;
/// or nothing was removed, and they follow the ids of the base.
///
/// Written as `patch_map.json`; `docs/tokenizer.md` describes the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchMap {
    format: Format,
    base_vocab_size: u32,
    new: Vec<NewToken>,
    removed: Vec<RemovedToken>,
}

/// Names the file format and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Format {
    #[serde(rename = "patchtok.patch_map.v1")]
    V1,
}

/// A token that the base tokenizer does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its id, which belonged to a removed token or lies behind those of the base.
    pub id: u32,
    /// Its bytes, spelled as in `tokenizer.json`.
    #[serde(with = "spelled")]
    pub token: Vec<u8>,
    /// What the base tokenizer encodes its bytes as.
    pub base_ids: Vec<u32>,
}

/// A token of the base tokenizer that the patched one does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovedToken {
    /// Its id in the base tokenizer.
    pub id: u32,
    /// Its bytes, spelled as in `tokenizer.json`.
    #[serde(with = "spelled")]
    pub token: Vec<u8>,
    /// What the patched tokenizer encodes its bytes as.
    pub pieces: Vec<u32>,
}

impl PatchMap {
    /// Puts the lists together, each sorted by id.
    pub(crate) fn new(base_vocab_size: u32, mut new: Vec<NewToken>, mut removed: Vec<RemovedToken>) -> Self {
        new.sort_by_key(|token| token.id);
        removed.sort_by_key(|token| token.id);
        PatchMap {
            format: Format::V1,
            base_vocab_size,
            new,
            removed,
        }
    }

    /// Number of ids of the base tokenizer; the patched one has as many, unless it was grown.
    pub fn base_vocab_size(&self) -> u32 {
        self.base_vocab_size
    }

    /// The new tokens in the order of their ids.
    pub fn new_tokens(&self) -> impl ExactSizeIterator<Item = &NewToken> {
        self.new.iter()
    }

    /// The removed tokens in the order of their ids.
    pub fn removed_tokens(&self) -> impl ExactSizeIterator<Item = &RemovedToken> {
        self.removed.iter()
    }

    /// The base ids of a new token, `None` when `id` means what it meant before. O(log n).
    pub fn base_ids(&self, id: u32) -> Option<&[u32]> {
        let at = self.new.binary_search_by_key(&id, |token| token.id).ok()?;
        Some(&self.new[at].base_ids)
    }

    /// The file: one token a line, so that two maps can be compared line by line.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        fn list<T: Serialize>(tokens: &[T]) -> Result<String, serde_json::Error> {
            let lines: Vec<_> = tokens.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
            Ok(if lines.is_empty() {
                "[]".into()
            } else {
                format!("[\n{}\n]", lines.join(",\n"))
            })
        }
        let format = serde_json::to_string(&self.format)?;
        let base_vocab_size = self.base_vocab_size;
        let (new, removed) = (list(&self.new)?, list(&self.removed)?);
        let json = format!(
            "{{\n\"format\": {format},\n\"base_vocab_size\": {base_vocab_size},\n\"new\": {new},\n\
             \"removed\": {removed}\n}}\n"
        );
        Ok(json.into_bytes())
    }

    /// Checks the map against the patched tokenizer, whose tokens `bytes_of` gives: ids are sorted,
    /// new ids are the removed ones and those behind the base, and every list of ids spells its token.
    pub(crate) fn check<'b>(&'b self, vocab_size: usize, bytes_of: impl Fn(u32) -> Option<&'b [u8]>) -> Result<()> {
        let wrong = |what: String| Err(Error::PatchMap(what));
        let base_vocab_size = self.base_vocab_size as usize;
        if base_vocab_size > vocab_size {
            return wrong(format!("it is for {base_vocab_size} tokens or more, not {vocab_size}"));
        }
        if !self.new.is_sorted_by(|a, b| a.id < b.id) {
            return wrong("its ids are not in order".into());
        }
        let removed_ids = self.removed.iter().map(|removed| removed.id);
        let grown_ids = self.base_vocab_size..vocab_size as u32;
        if !self.new.iter().map(|new| new.id).eq(removed_ids.chain(grown_ids)) {
            return wrong("the ids of new tokens are not those removed and those behind the base".into());
        }
        let base_bytes_of = |id: u32| {
            let removed = self.removed.binary_search_by_key(&id, |removed| removed.id);
            let kept = || bytes_of(id).filter(|_| id < self.base_vocab_size);
            removed.map_or_else(|_| kept(), |at| Some(self.removed[at].token.as_slice()))
        };
        for NewToken { id, token, base_ids } in &self.new {
            if bytes_of(*id) != Some(token) {
                return wrong(format!("new token {id} has other bytes"));
            }
            if !spells(base_ids, base_bytes_of, token) {
                return wrong(format!("the base ids of new token {id} do not spell it"));
            }
        }
        for removed in &self.removed {
            let id = removed.id;
            if !spells(&removed.pieces, &bytes_of, &removed.token) {
                return wrong(format!("the pieces of removed token {id} do not spell it"));
            }
        }
        Ok(())
    }
}

/// Whether the bytes of `ids`, one after another, are `token`, which is not empty.
fn spells<'b>(ids: &[u32], bytes_of: impl Fn(u32) -> Option<&'b [u8]>, token: &[u8]) -> bool {
    let mut rest = token;
    for &id in ids {
        let Some(tail) = bytes_of(id).and_then(|bytes| rest.strip_prefix(bytes)) else {
            return false;
        };
        rest = tail;
    }
    rest.is_empty() && !token.is_empty()
}

/// Bytes in the byte-level spelling.
mod spelled {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::byte_level;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&byte_level::spell(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        byte_level::unspell(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a byte-level string")))
    }
}
