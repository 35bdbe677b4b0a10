//! One door for every architecture: a directory in, a model out.

use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;
use crate::gpt2::Gpt2;
use crate::llama::Llama;
use crate::model::{CausalLm, Options};
use crate::params::Params;
use crate::weights::Progress;

/// Loads the model of a Hugging Face directory, whatever its architecture: GPT-2 or the Llama family.
///
/// # Errors
/// [`ModelError::Config`] for an architecture that this crate does not run, by name; as [`Gpt2::load`] and
/// [`Llama::load`].
pub fn load(dir: &Path, options: Options) -> Result<Box<dyn CausalLm>, ModelError> {
    load_and_tell(dir, options, &mut |_| {})
}

/// As [`load`]; `progress` hears how far it has come, after each tensor.
///
/// # Errors
/// As [`load`].
pub fn load_and_tell(
    dir: &Path,
    options: Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn CausalLm>, ModelError> {
    Ok(match architecture(dir)? {
        Architecture::Gpt2 => Box::new(Gpt2::new(&Params::load_and_tell(dir, progress)?, options)?),
        Architecture::Llama => Box::new(Llama::load_and_tell(dir, options, progress)?),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Gpt2,
    Llama,
}

/// What `config.json` says the directory holds: `architectures` where it names one, else `model_type`.
fn architecture(dir: &Path) -> Result<Architecture, ModelError> {
    let (path, config) = config(dir)?;
    let class = config["architectures"][0].as_str();
    let kind = config["model_type"].as_str();
    match (class, kind) {
        (Some("GPT2LMHeadModel" | "GPT2Model"), _) | (None, Some("gpt2")) => Ok(Architecture::Gpt2),
        (Some("LlamaForCausalLM"), _) | (None, Some("llama")) => Ok(Architecture::Llama),
        _ => {
            let why = match class.or(kind) {
                Some(name) => format!("the architecture {name:?} is not supported"),
                None => "it names no architecture: neither \"architectures\" nor \"model_type\" is there".into(),
            };
            Err(ModelError::Config {
                path,
                why: format!("{why}; this crate runs \"GPT2LMHeadModel\" and \"LlamaForCausalLM\""),
            })
        }
    }
}

/// Ids that end a text: `eos_token_id` of `generation_config.json` where it is there, else of `config.json`; one or many,
/// or none.
///
/// # Errors
/// [`ModelError::Io`] or [`ModelError::Config`] when neither file can be read.
pub fn end_ids(dir: &Path) -> Result<Vec<u32>, ModelError> {
    let generation = read_json(&dir.join("generation_config.json"));
    let ids = generation
        .map(|value| value["eos_token_id"].clone())
        .unwrap_or_default();
    let ids = if ids.is_null() {
        config(dir)?.1["eos_token_id"].clone()
    } else {
        ids
    };
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(match &ids {
        Value::Array(ids) => ids.iter().filter_map(id).collect(),
        other => id(other).into_iter().collect(),
    })
}

fn config(dir: &Path) -> Result<(std::path::PathBuf, Value), ModelError> {
    let path = dir.join("config.json");
    read_json(&path).map(|value| (path, value))
}

fn read_json(path: &Path) -> Result<Value, ModelError> {
    let text = std::fs::read_to_string(path).map_err(|source| ModelError::Io {
        path: path.into(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|error| ModelError::Config {
        path: path.into(),
        why: error.to_string(),
    })
}
