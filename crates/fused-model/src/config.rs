//! `config.json` of a Hugging Face GPT-2 directory.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::attention::Heads;
use crate::error::ModelError;
use crate::kv::{KvGeometry, KvType};

/// The activation inside a block's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// The tanh approximation (`gelu_new`, `gelu_pytorch_tanh`): what GPT-2 was trained with.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh", alias = "gelu_fast")]
    GeluTanh,
    /// The exact form through the error function (`gelu`).
    #[serde(rename = "gelu")]
    GeluErf,
}

fn default_activation() -> Activation {
    Activation::GeluTanh
}

fn default_epsilon() -> f64 {
    1e-5
}

fn default_true() -> bool {
    true
}

/// Refuses sizes of a model that are zero or above their limit, by name.
pub(crate) fn check_sizes<const N: usize>(sizes: [(&str, usize, usize); N]) -> Result<(), String> {
    match sizes.into_iter().find(|&(_, value, limit)| value == 0 || value > limit) {
        Some((name, value, limit)) => Err(format!("{name} is {value}; it must be between 1 and {limit}")),
        None => Ok(()),
    }
}

/// Shape and switches of a GPT-2 model, under the names `config.json` uses.
///
/// Keys this crate does not know (dropout rates, summary heads) are carried along unchanged in
/// [`other`](Self::other), so a directory that is loaded and saved keeps them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpt2Config {
    /// Number of ids, V.
    pub vocab_size: usize,
    /// Longest context in tokens, T.
    pub n_positions: usize,
    /// Width of the residual stream, C.
    pub n_embd: usize,
    /// Number of blocks, L.
    pub n_layer: usize,
    /// Attention heads, H; C must be a multiple.
    pub n_head: usize,
    /// Width inside the MLP; 4C where absent.
    #[serde(default)]
    pub n_inner: Option<usize>,
    /// Activation inside the MLP.
    #[serde(default = "default_activation")]
    pub activation_function: Activation,
    /// Added to the variance in layer norms.
    #[serde(default = "default_epsilon")]
    pub layer_norm_epsilon: f64,
    /// Whether the output head is the token embedding.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
    /// Id that starts a text, where the model has one.
    #[serde(default)]
    pub bos_token_id: Option<u32>,
    /// Id that ends a text, where the model has one.
    #[serde(default)]
    pub eos_token_id: Option<u32>,
    /// Whether attention scores are divided by the square root of the head width.
    #[serde(default = "default_true")]
    pub scale_attn_weights: bool,
    /// An attention variant this crate refuses.
    #[serde(default)]
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Everything else in the file.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Gpt2Config {
    /// A GPT-2 shape with tied embeddings and the tanh activation.
    pub fn new(vocab_size: usize, n_positions: usize, n_embd: usize, n_layer: usize, n_head: usize) -> Self {
        let mut other = serde_json::Map::new();
        other.insert("model_type".into(), "gpt2".into());
        other.insert("architectures".into(), serde_json::json!(["GPT2LMHeadModel"]));
        Self {
            vocab_size,
            n_positions,
            n_embd,
            n_layer,
            n_head,
            n_inner: None,
            activation_function: Activation::GeluTanh,
            layer_norm_epsilon: default_epsilon(),
            tie_word_embeddings: true,
            bos_token_id: None,
            eos_token_id: None,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            other,
        }
    }

    /// Reads and checks `dir/config.json`.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be read, [`ModelError::Config`] when it is not a
    /// GPT-2 configuration this crate can run.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let config: Self = crate::files::read_json(&path)?;
        config.check().map_err(|why| ModelError::Config { path, why })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(kind) = self.other.get("model_type").and_then(|kind| kind.as_str())
            && kind != "gpt2"
        {
            return Err(format!("model_type is {kind:?}; this crate runs \"gpt2\""));
        }
        check_sizes([
            ("vocab_size", self.vocab_size, 1 << 24),
            ("n_positions", self.n_positions, 1 << 20),
            ("n_embd", self.n_embd, 1 << 16),
            ("n_layer", self.n_layer, 1 << 10),
            ("n_head", self.n_head, 1 << 10),
            ("n_inner", self.inner(), 1 << 18),
        ])?;
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(format!(
                "n_embd {} is not a multiple of n_head {}",
                self.n_embd, self.n_head
            ));
        }
        if !self.scale_attn_weights || self.scale_attn_by_inverse_layer_idx {
            return Err("only attention scaled by 1/sqrt(head width) is supported".into());
        }
        Ok(())
    }

    /// Width inside the MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// Shape of a KV store for up to `max_sequences` sequences of the full context.
    pub fn kv_geometry(&self, max_sequences: usize) -> KvGeometry {
        KvGeometry {
            layers: self.n_layer,
            row_floats: self.n_embd,
            numbers: KvType::F32,
            max_tokens: self.n_positions,
            max_sequences,
        }
    }

    /// Heads of a layer.
    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.n_head,
            kv: self.n_head,
            dim: self.head_dim(),
        }
    }

    /// What `config.json` says.
    pub(crate) fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => map,
            // Its keys are strings and its values plain ones, which always can be written.
            _ => unreachable!("a configuration is an object"),
        }
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }
}
