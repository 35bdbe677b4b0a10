//! One door for every architecture: a directory or weights in, a model out.

use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;
use crate::files::read_json;
use crate::gpt2::Gpt2;
use crate::kv::{KvGeometry, KvStore};
use crate::llama::Llama;
use crate::model::{CausalLm, Chunk, Logits, Options};
use crate::params::{ModelConfig, Params};
use crate::weights::Progress;

/// A model of either family, made from weights in memory. A clone shares the weights.
#[derive(Debug, Clone)]
pub enum Model {
    /// GPT-2.
    Gpt2(Gpt2),
    /// Llama and those built like it.
    Llama(Llama),
}

impl Model {
    /// Packs the weights.
    ///
    /// # Errors
    /// As [`Gpt2::new`] for the options.
    pub fn new(params: &Params, options: Options) -> Result<Self, ModelError> {
        Ok(match params.config() {
            ModelConfig::Gpt2(_) => Self::Gpt2(Gpt2::new(params, options)?),
            ModelConfig::Llama(_) => Self::Llama(Llama::new(params, options)?),
        })
    }

    fn inner(&self) -> &dyn CausalLm {
        match self {
            Self::Gpt2(model) => model,
            Self::Llama(model) => model,
        }
    }
}

impl CausalLm for Model {
    fn vocab_size(&self) -> usize {
        self.inner().vocab_size()
    }

    fn context(&self) -> usize {
        self.inner().context()
    }

    fn kv_geometry(&self, max_sequences: usize) -> KvGeometry {
        self.inner().kv_geometry(max_sequences)
    }

    fn forward(&mut self, kv: &mut dyn KvStore, chunks: &[Chunk<'_>], wanted: Logits) -> Result<&[f32], ModelError> {
        match self {
            Self::Gpt2(model) => model.forward(kv, chunks, wanted),
            Self::Llama(model) => model.forward(kv, chunks, wanted),
        }
    }
}

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
pub(crate) enum Architecture {
    Gpt2,
    Llama,
}

/// What `config.json` says the directory holds: `architectures` where it names one, else `model_type`.
pub(crate) fn architecture(dir: &Path) -> Result<Architecture, ModelError> {
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
