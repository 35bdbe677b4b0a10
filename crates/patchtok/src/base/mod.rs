//! Reading a Hugging Face `tokenizer.json`.
//!
//! Only what this crate can reproduce token for token is accepted; everything else is an error that
//! names it.

mod canonical;
mod parts;
mod tokens;

use std::path::Path;

use serde_json::Value;

pub(crate) use self::parts::{every_digit, split_of};
use self::tokens::{AddedToken, ModelPart};
use crate::model::{Frame, Model};
use crate::{Error, Result, files};

#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: ModelPart,
}

/// Reads and checks the model in the `tokenizer.json` at `path`.
pub(crate) fn read(path: &Path) -> Result<Model> {
    let bytes = files::read(path)?;
    let file: File = serde_json::from_slice(&bytes).map_err(Error::json(path))?;
    let segmentation = file.model.segmentation()?;
    for (name, value) in [("truncation", &file.truncation), ("padding", &file.padding)] {
        if !value.is_null() {
            return unsupported(format!("{name} ({})", parts::kind(value)));
        }
    }
    parts::check_decoder(&file.decoder)?;
    let splitter = parts::splitter(&file.pre_tokenizer)?;
    let frame = Frame {
        normalizer: parts::normalizer(&file.normalizer)?,
        post_processor: parts::post_processor(&file.post_processor)?,
        ignore_merges: file.model.ignore_merges(),
    };
    let vocab = file.model.vocab_by_id(&file.added_tokens)?;
    let merges = canonical::merges(file.model.merges()?, &vocab);
    let specials = file
        .added_tokens
        .into_iter()
        .map(AddedToken::check)
        .collect::<Result<_>>()?;
    let model = Model::new(vocab, merges, specials, splitter)?;
    Ok(model.with_frame(frame)?.with_segmentation(segmentation))
}

fn unsupported<T>(what: String) -> Result<T> {
    Err(Error::Unsupported(what))
}
