//! The shape of a model of either family.

use std::path::Path;

use serde_json::{Map, Value};

use crate::attention::Heads;
use crate::config::Gpt2Config;
use crate::error::ModelError;
use crate::llama::LlamaConfig;
use crate::load::{Architecture, architecture};

/// What `config.json` says of a model, whichever family it is of.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// GPT-2.
    Gpt2(Gpt2Config),
    /// Llama and those built like it.
    Llama(LlamaConfig),
}

impl From<Gpt2Config> for ModelConfig {
    fn from(config: Gpt2Config) -> Self {
        Self::Gpt2(config)
    }
}

impl From<LlamaConfig> for ModelConfig {
    fn from(config: LlamaConfig) -> Self {
        Self::Llama(config)
    }
}

impl ModelConfig {
    /// Reads and checks `dir/config.json`.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be read, [`ModelError::Config`] when it asks for something this crate does
    /// not do, by name.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        Ok(match architecture(dir)? {
            Architecture::Gpt2 => Self::Gpt2(Gpt2Config::load(dir)?),
            Architecture::Llama => Self::Llama(LlamaConfig::load(dir)?),
        })
    }

    /// Name of the family: `GPT-2` or `Llama`.
    pub fn family(&self) -> &'static str {
        match self {
            Self::Gpt2(_) => "GPT-2",
            Self::Llama(_) => "Llama",
        }
    }

    /// Number of ids, V.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.vocab_size,
            Self::Llama(config) => config.vocab_size,
        }
    }

    /// Longest context in tokens, T.
    pub fn context(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.n_positions,
            Self::Llama(config) => config.max_position_embeddings,
        }
    }

    /// Width of the residual stream, C.
    pub fn width(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.n_embd,
            Self::Llama(config) => config.hidden_size,
        }
    }

    /// Number of blocks, L.
    pub fn layers(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.n_layer,
            Self::Llama(config) => config.num_hidden_layers,
        }
    }

    /// Whether the output head is the token embedding.
    pub fn is_tied(&self) -> bool {
        match self {
            Self::Gpt2(config) => config.tie_word_embeddings,
            Self::Llama(config) => config.tie_word_embeddings,
        }
    }

    /// The shape of a GPT-2.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] when the model is of another family.
    pub fn gpt2(&self) -> Result<&Gpt2Config, ModelError> {
        match self {
            Self::Gpt2(config) => Ok(config),
            Self::Llama(_) => Err(ModelError::Mismatch("the weights are a Llama's, not a GPT-2's".into())),
        }
    }

    /// The shape of a Llama.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] when the model is of another family.
    pub fn llama(&self) -> Result<&LlamaConfig, ModelError> {
        match self {
            Self::Llama(config) => Ok(config),
            Self::Gpt2(_) => Err(ModelError::Mismatch("the weights are a GPT-2's, not a Llama's".into())),
        }
    }

    /// Heads of queries in a layer.
    pub fn query_heads(&self) -> usize {
        self.heads().query
    }

    /// Heads of a layer.
    pub(crate) fn heads(&self) -> Heads {
        match self {
            Self::Gpt2(config) => config.heads(),
            Self::Llama(config) => config.heads(),
        }
    }

    /// Width inside the MLP, behind the activation.
    pub(crate) fn inner(&self) -> usize {
        match self {
            Self::Gpt2(config) => config.inner(),
            Self::Llama(config) => config.intermediate_size,
        }
    }

    /// What norms add to the variance or the mean square.
    pub(crate) fn epsilon(&self) -> f32 {
        match self {
            Self::Gpt2(config) => config.layer_norm_epsilon as f32,
            Self::Llama(config) => config.rms_norm_eps as f32,
        }
    }

    /// The same shape with an output head of its own.
    pub(crate) fn untied(&self) -> Self {
        let mut untied = self.clone();
        match &mut untied {
            Self::Gpt2(config) => config.tie_word_embeddings = false,
            Self::Llama(config) => config.tie_word_embeddings = false,
        }
        untied
    }

    /// What `config.json` says, with the keys that this crate does not know as they were read.
    pub fn to_json(&self) -> Map<String, Value> {
        match self {
            Self::Gpt2(config) => config.to_json(),
            Self::Llama(config) => config.to_json(),
        }
    }
}
