//! A complete Hugging Face directory.

use std::path::Path;

use patchtok::PatchTokenizer;

use crate::error::ModelError;
use crate::files;
use crate::params::{Params, SaveAs};

/// The class under which transformers takes `tokenizer.json` as it is. Under the name of a model's own class it builds that
/// model's splitting of text around the vocabulary, and new tokens that cross words are never found.
const TOKENIZER_CLASS: &str = "PreTrainedTokenizerFast";
/// Files of a base directory that stay right for an adapted model: they name special tokens, whose ids no patch moves.
const CARRIED: [&str; 3] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
];

/// Writes model and tokenizer to `out` as a directory that transformers loads: `config.json`, `model.safetensors`,
/// `generation_config.json`, `tokenizer.json` and what else belongs to the tokenizer, each file complete or not at all.
/// `base` is the directory the model was made from; what it says of special tokens and of generation is carried over.
///
/// # Errors
/// [`ModelError::Io`] and [`ModelError::Text`] when a file cannot be read or written.
pub fn write_directory(
    out: &Path,
    params: &Params,
    precision: SaveAs,
    tokenizer: &PatchTokenizer,
    base: &Path,
) -> Result<(), ModelError> {
    tokenizer.save(out)?;
    let config = params.config().to_json();
    let generation = serde_json::json!({
        "_from_model_config": true,
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": config.get("eos_token_id"),
    });
    for name in CARRIED {
        let (from, to) = (base.join(name), out.join(name));
        if from.exists() {
            let mut bytes = files::read(&from)?;
            if name == "tokenizer_config.json" && tokenizer.patch_map().is_some() {
                bytes = with_class(&bytes).map_err(|why| ModelError::Config {
                    path: from.clone(),
                    why,
                })?;
            }
            files::write(&to, &bytes)?;
        } else if name == "generation_config.json" {
            files::write(&to, format!("{generation:#}\n").as_bytes())?;
        }
    }
    params.save(out, precision)
}

/// `tokenizer_config.json` with [`TOKENIZER_CLASS`] in the place of its class.
fn with_class(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    config.insert("tokenizer_class".into(), TOKENIZER_CLASS.into());
    let mut bytes = serde_json::to_vec_pretty(&config).map_err(|error| error.to_string())?;
    bytes.push(b'\n');
    Ok(bytes)
}
