//! The model in a `tokenizer.json`: its tokens and merges.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::unsupported;
use crate::export::TOKEN_SCORE;
use crate::model::{Merge, Segmentation, Special, Vocab};
use crate::{Error, Result, byte_level};

/// A token beside those of the model.
#[derive(serde::Deserialize)]
pub(super) struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// A model of type BPE, which older files do not name, or Unigram.
#[derive(serde::Deserialize)]
pub(super) struct ModelPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    vocab: Tokens,
    #[serde(default)]
    merges: Merges,
}

/// The tokens of a BPE model, an object of ids, or of a Unigram model, a list with scores.
struct Tokens {
    ids: BTreeMap<String, u32>,
    /// The scores by id; none in a BPE model.
    scores: Vec<f64>,
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Tokens;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of token ids or a list of tokens with scores")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tokens, A::Error> {
                let mut ids = BTreeMap::new();
                while let Some((token, id)) = map.next_entry()? {
                    ids.insert(token, id);
                }
                let scores = Vec::new();
                Ok(Tokens { ids, scores })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Tokens, A::Error> {
                let (mut ids, mut scores) = (BTreeMap::new(), Vec::new());
                while let Some((token, score)) = list.next_element::<(String, f64)>()? {
                    if let Some(first) = ids.insert(token, scores.len() as u32) {
                        let message = format!("tokens {first} and {} are the same", scores.len());
                        return Err(A::Error::custom(message));
                    }
                    scores.push(score);
                }
                Ok(Tokens { ids, scores })
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

/// Merges are written as pairs, or, in older files, as two tokens with a space between.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Merges {
    Pairs(Vec<(String, String)>),
    Lines(Vec<String>),
}

impl Default for Merges {
    fn default() -> Self {
        Merges::Pairs(Vec::new())
    }
}

impl ModelPart {
    /// Checks what kind of model it is.
    pub(super) fn segmentation(&self) -> Result<Segmentation> {
        let segmentation = match self.kind.as_deref() {
            None | Some("BPE") => Segmentation::Bpe,
            Some("Unigram") => Segmentation::MinTokens,
            Some(kind) => return unsupported(format!("a model of type {kind}")),
        };
        let scored = !self.vocab.scores.is_empty();
        if scored != (segmentation == Segmentation::MinTokens) {
            return unsupported("a BPE model with scores, or a Unigram model without,".into());
        }
        if self.vocab.scores.iter().any(|&score| score != TOKEN_SCORE) {
            return unsupported(format!("a Unigram model with other scores than {TOKEN_SCORE}"));
        }
        if self.byte_fallback {
            let what = "byte_fallback = true (the kind of Llama 2 and Mistral: its tokens are made of characters, not of \
                        bytes)";
            return unsupported(what.into());
        }
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return unsupported("BPE dropout".into());
        }
        for (name, affix) in [
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if affix.as_deref().is_some_and(|affix| !affix.is_empty()) {
                return unsupported(name.into());
            }
        }
        Ok(segmentation)
    }

    /// Whether a piece that is a token is not merged.
    pub(super) fn ignore_merges(&self) -> bool {
        self.ignore_merges
    }

    /// The bytes of every token; ids must be 0 … n-1.
    pub(super) fn vocab_by_id(&self, added: &[AddedToken]) -> Result<Vocab> {
        let vocab = &self.vocab.ids;
        let contents: BTreeSet<&str> = added.iter().map(|token| token.content.as_str()).collect();
        let mut by_id: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for (spelled, &id) in vocab {
            let bytes = if contents.contains(spelled.as_str()) {
                spelled.clone().into_bytes()
            } else {
                byte_level::unspell(spelled).ok_or_else(|| {
                    Error::Unsupported(format!("the token {spelled:?}, which is not a byte-level string,"))
                })?
            };
            if by_id.insert(id, bytes).is_some() {
                return Err(Error::Inconsistent(format!("two tokens have the id {id}")));
            }
        }
        // Hugging Face numbers the added tokens that the model lacks from the size of its
        // vocabulary on.
        let mut next = vocab.len() as u32;
        for AddedToken { id, content, .. } in added {
            let known = vocab.get(content).copied();
            let expected = known.unwrap_or(next);
            if *id != expected {
                return Err(Error::Inconsistent(format!(
                    "the added token {content:?} has the id {id}, where Hugging Face gives it \
                     {expected}"
                )));
            }
            if known.is_none() {
                if by_id.insert(next, content.clone().into_bytes()).is_some() {
                    return Err(Error::Inconsistent(format!("two tokens have the id {next}")));
                }
                next += 1;
            }
        }
        if let Some((hole, _)) = (0..).zip(by_id.keys()).find(|(at, id)| at != *id) {
            return Err(Error::Inconsistent(format!("no token has the id {hole}")));
        }
        Ok(by_id.into_values().collect())
    }

    /// The merges in rank order.
    pub(super) fn merges(&self) -> Result<Vec<Merge>> {
        let id = |token: &str| {
            self.vocab
                .ids
                .get(token)
                .copied()
                .ok_or_else(|| Error::Inconsistent(format!("a merge uses {token:?}, which is not a token")))
        };
        let merge = |left: &str, right: &str| {
            Ok(Merge {
                left: id(left)?,
                right: id(right)?,
                result: id(&format!("{left}{right}"))?,
            })
        };
        match &self.merges {
            Merges::Pairs(pairs) => pairs.iter().map(|(left, right)| merge(left, right)).collect(),
            Merges::Lines(lines) => lines
                .iter()
                .filter(|line| !line.starts_with("#version"))
                .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                    [left, right] => merge(left, right),
                    _ => Err(Error::Inconsistent(format!("{line:?} is not a merge"))),
                })
                .collect(),
        }
    }
}

impl AddedToken {
    /// The token, if all that is asked of it has an equal here.
    pub(super) fn check(self) -> Result<Special> {
        let AddedToken {
            id,
            content,
            normalized,
            special,
            ..
        } = self;
        for (name, set) in [
            ("single_word", self.single_word),
            ("lstrip", self.lstrip),
            ("rstrip", self.rstrip),
        ] {
            if set {
                return unsupported(format!("{name} on the added token {content:?}"));
            }
        }
        // Hugging Face decodes added tokens as if they were spelled bytes, if they can be read so.
        if byte_level::unspell(&content).is_some_and(|bytes| bytes != content.as_bytes()) {
            return unsupported(format!(
                "the added token {content:?}, which would be decoded as other text,"
            ));
        }
        Ok(Special {
            id,
            content,
            normalized,
            special,
        })
    }
}
