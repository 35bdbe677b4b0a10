//! The parts of a `tokenizer.json` around its model.

use serde_json::{Value, json};

use super::unsupported;
use crate::Result;
use crate::normalizer::Normalizer;
use crate::split::{
    CHUNK_PATTERN, CHUNK_PATTERN_V1, GPT2_PATTERN, LLAMA3_CHUNK_ENDS, LLAMA3_PATTERN, QWEN_CHUNK_ENDS, QWEN_PATTERN,
    Splitter,
};

/// The splitters that a file gives with a `Split` before `ByteLevel`.
const BY_SPLIT: [Splitter; 7] = [
    Splitter::Gpt2,
    Splitter::ChunkV1,
    Splitter::Chunk,
    Splitter::Llama3,
    Splitter::Llama3Chunk,
    Splitter::Qwen,
    Splitter::QwenChunk,
];

/// The splitter of a pre-tokenizer.
pub(super) fn splitter(pre_tokenizer: &Value) -> Result<Splitter> {
    let byte_level = |value: &Value, use_regex: bool| {
        value["type"] == "ByteLevel"
            && value["add_prefix_space"] == false
            && value["use_regex"].as_bool().unwrap_or(true) == use_regex
    };
    if byte_level(pre_tokenizer, true) {
        return Ok(Splitter::Gpt2);
    }
    if let Some([split, last]) = pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice)
        && kind(pre_tokenizer) == "Sequence"
        && byte_level(last, false)
        && let Some(splitter) = BY_SPLIT.into_iter().find(|&splitter| *split == split_of(splitter))
    {
        return Ok(splitter);
    }
    if let Some([digits, last]) = pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice)
        && kind(pre_tokenizer) == "Sequence"
        && *digits == every_digit()
        && byte_level(last, true)
    {
        return Ok(Splitter::DigitsGpt2);
    }
    if let Some([digits, split, last]) = pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice)
        && kind(pre_tokenizer) == "Sequence"
        && *digits == every_digit()
        && *split == split_of(Splitter::Chunk)
        && byte_level(last, false)
    {
        return Ok(Splitter::DigitsChunk);
    }
    unsupported(format!(
        "the pre-tokenizer {} (wanted: ByteLevel with add_prefix_space = false and use_regex = true, the \
         same behind Digits, the Split of GPT-2, Llama 3, Qwen or a patched tokenizer before ByteLevel with \
         use_regex = false, or what a patched one has of the two)",
        kind(pre_tokenizer)
    ))
}

/// What cuts off every digit by itself.
pub(crate) fn every_digit() -> Value {
    json!({ "type": "Digits", "individual_digits": true })
}

/// The `Split` that gives the pieces of a splitter, between digits where these are cut off before.
pub(crate) fn split_of(splitter: Splitter) -> Value {
    let (pattern, behavior) = match splitter {
        Splitter::Gpt2 | Splitter::DigitsGpt2 => (GPT2_PATTERN, "Isolated"),
        Splitter::ChunkV1 => (CHUNK_PATTERN_V1, "Isolated"),
        Splitter::Chunk | Splitter::DigitsChunk => (CHUNK_PATTERN, "Isolated"),
        Splitter::Llama3 => (LLAMA3_PATTERN, "Isolated"),
        Splitter::Qwen => (QWEN_PATTERN, "Isolated"),
        Splitter::Llama3Chunk => (LLAMA3_CHUNK_ENDS, "MergedWithPrevious"),
        Splitter::QwenChunk => (QWEN_CHUNK_ENDS, "MergedWithPrevious"),
    };
    json!({
        "type": "Split",
        "pattern": { "Regex": pattern },
        "behavior": behavior,
        "invert": false,
    })
}

pub(super) fn normalizer(normalizer: &Value) -> Result<Normalizer> {
    match kind(normalizer).as_str() {
        "none" => Ok(Normalizer::None),
        "NFC" => Ok(Normalizer::Nfc),
        kind => unsupported(format!("the normalizer {kind} (wanted: none or NFC)")),
    }
}

/// A post-processor that is kept for others: one that adds special tokens where it is asked to.
/// `ByteLevel` is not kept, since it changes no ids.
pub(super) fn post_processor(post_processor: &Value) -> Result<Option<String>> {
    let parts = match post_processor["processors"].as_array() {
        Some(parts) if kind(post_processor) == "Sequence" => parts.as_slice(),
        _ => std::slice::from_ref(post_processor),
    };
    let mut adds_tokens = false;
    for part in parts {
        match kind(part).as_str() {
            "none" | "ByteLevel" => {}
            "TemplateProcessing" => adds_tokens = true,
            kind => {
                return unsupported(format!(
                    "the post-processor {kind} (wanted: ByteLevel or TemplateProcessing)"
                ));
            }
        }
    }
    Ok(adds_tokens.then(|| post_processor.to_string()))
}

pub(super) fn check_decoder(decoder: &Value) -> Result<()> {
    match kind(decoder).as_str() {
        "ByteLevel" => Ok(()),
        kind => unsupported(format!("the decoder {kind} (wanted: ByteLevel)")),
    }
}

/// The `type` of a part, for messages.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Object(_) => value["type"].as_str().unwrap_or("without a type").into(),
        other => other.to_string(),
    }
}
