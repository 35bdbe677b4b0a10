//! Writing a Hugging Face `tokenizer.json`.

use std::borrow::Cow;
use std::path::Path;

use hashbrown::HashMap;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Value, json};

use crate::base::{every_digit, split_of};
use crate::model::{Hasher, Model, Segmentation, Special};
use crate::normalizer::Normalizer;
use crate::split::Splitter;
use crate::tokenizer::TOKENIZER_JSON;
use crate::{Error, Result, byte_level};

/// The score of every token where the fewest are wanted; sums of it are exact.
pub(crate) const TOKEN_SCORE: f64 = -1.0;

/// The file as bytes. The `tokenizers` library reads it into a tokenizer with the ids of `model`.
pub(crate) fn tokenizer_json(model: &Model) -> Result<Vec<u8>> {
    let spelling = &Spelling::of(model);
    let file = File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: model.specials().iter().map(added_token).collect(),
        normalizer: match model.normalizer() {
            Normalizer::None => Value::Null,
            Normalizer::Nfc => json!({ "type": "NFC" }),
        },
        pre_tokenizer: pre_tokenizer(model.splitter()),
        post_processor: match model.post_processor() {
            None => byte_level_part(true),
            Some(json) => serde_json::from_str(json).map_err(Error::json(Path::new(TOKENIZER_JSON)))?,
        },
        decoder: byte_level_part(true),
        model: match model.segmentation() {
            Segmentation::Bpe => ModelPart::Bpe {
                dropout: (),
                unk_token: (),
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: model.ignores_merges(),
                vocab: VocabById(spelling),
                merges: MergePairs(spelling),
            },
            Segmentation::MinTokens => ModelPart::Unigram {
                unk_id: (),
                vocab: EqualScores(spelling),
                byte_fallback: false,
            },
        },
    };
    let mut json = serde_json::to_vec_pretty(&file).map_err(Error::json(Path::new(TOKENIZER_JSON)))?;
    json.push(b'\n');
    Ok(json)
}

/// The parts in the order in which Hugging Face writes them.
#[derive(serde::Serialize)]
struct File<'m> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: ModelPart<'m>,
}

#[derive(serde::Serialize)]
#[serde(tag = "type")]
enum ModelPart<'m> {
    #[serde(rename = "BPE")]
    Bpe {
        dropout: (),
        unk_token: (),
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: bool,
        byte_fallback: bool,
        ignore_merges: bool,
        vocab: VocabById<'m>,
        merges: MergePairs<'m>,
    },
    Unigram {
        unk_id: (),
        vocab: EqualScores<'m>,
        byte_fallback: bool,
    },
}

fn pre_tokenizer(splitter: Splitter) -> Value {
    let parts = match splitter {
        Splitter::Gpt2 => return byte_level_part(true),
        Splitter::DigitsGpt2 => vec![every_digit(), byte_level_part(true)],
        Splitter::DigitsChunk => vec![every_digit(), split_of(splitter), byte_level_part(false)],
        _ => vec![split_of(splitter), byte_level_part(false)],
    };
    json!({ "type": "Sequence", "pretokenizers": parts })
}

fn byte_level_part(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": false,
        "use_regex": use_regex,
    })
}

fn added_token(special: &Special) -> Value {
    json!({
        "id": special.id,
        "content": special.content,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": special.normalized,
        "special": special.special,
    })
}

/// How the file names tokens: special tokens as they are, others in the byte-level spelling.
struct Spelling<'m> {
    model: &'m Model,
    specials: HashMap<u32, &'m str, Hasher>,
}

impl<'m> Spelling<'m> {
    fn of(model: &'m Model) -> Self {
        let specials = model.specials().iter();
        Spelling {
            model,
            specials: specials.map(|special| (special.id, special.content.as_str())).collect(),
        }
    }

    fn of_token(&self, id: u32) -> Cow<'m, str> {
        match self.specials.get(&id) {
            Some(content) => Cow::Borrowed(content),
            None => Cow::Owned(byte_level::spell(self.model.vocab().get(id).unwrap_or_default())),
        }
    }
}

/// The vocabulary as an object in the order of ids.
struct VocabById<'m>(&'m Spelling<'m>);

impl Serialize for VocabById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let vocab_size = self.0.model.vocab().len();
        let mut map = serializer.serialize_map(Some(vocab_size))?;
        for id in 0..vocab_size as u32 {
            map.serialize_entry(&self.0.of_token(id), &id)?;
        }
        map.end()
    }
}

/// The tokens with their scores in the order of ids. The best sum of equal scores below zero is that
/// of the fewest tokens.
struct EqualScores<'m>(&'m Spelling<'m>);

impl Serialize for EqualScores<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let vocab_size = self.0.model.vocab().len() as u32;
        let tokens = (0..vocab_size).map(|id| (self.0.of_token(id), TOKEN_SCORE));
        serializer.collect_seq(tokens)
    }
}

/// The merges as pairs of tokens in rank order.
struct MergePairs<'m>(&'m Spelling<'m>);

impl Serialize for MergePairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let merges = self.0.model.merges();
        let mut list = serializer.serialize_seq(Some(merges.len()))?;
        for merge in merges {
            list.serialize_element(&(self.0.of_token(merge.left), self.0.of_token(merge.right)))?;
        }
        list.end()
    }
}
