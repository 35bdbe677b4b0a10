//! One door for every architecture: a directory in, a model out.

use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;
use crate::files::read_json;
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
    let path = dir.join("config.json");
    let config: Value = read_json(&path)?;
    let class = config["architectures"][0].as_str();
    let kind = config["model_type"].as_str();
    match (class, kind) {
        (Some("GPT2LMHeadModel"), _) | (None, Some("gpt2")) => Ok(Architecture::Gpt2),
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
/// [`ModelError::Io`] or [`ModelError::Config`] when a file that is there cannot be read, when there is neither, or for ids
/// that are none.
pub fn end_ids(dir: &Path) -> Result<Vec<u32>, ModelError> {
    for name in ["generation_config.json", "config.json"] {
        let path = dir.join(name);
        let config: Value = match read_json(&path) {
            Err(ModelError::Io { source, .. })
                if name != "config.json" && source.kind() == std::io::ErrorKind::NotFound =>
            {
                continue;
            }
            other => other?,
        };
        let ids = match &config["eos_token_id"] {
            Value::Null => continue,
            Value::Array(ids) => ids.as_slice(),
            one => std::slice::from_ref(one),
        };
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = ids.iter().map(|value| {
            id(value).ok_or_else(|| ModelError::Config {
                path: path.clone(),
                why: format!("eos_token_id holds {value}, which is no id"),
            })
        });
        return ids.collect();
    }
    Ok(Vec::new())
}
