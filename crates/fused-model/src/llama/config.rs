//! `config.json` of a Hugging Face `LlamaForCausalLM` directory.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::rope::frequencies;
use crate::attention::Heads;
use crate::config::check_sizes;
use crate::error::ModelError;
use crate::kv::{KvGeometry, KvType};

/// Shape and switches of a Llama-family model, with `config.json`'s names and every default filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Number of ids, V.
    pub vocab_size: usize,
    /// Longest context in tokens, T.
    pub max_position_embeddings: usize,
    /// Width of the residual stream, C.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks, L.
    pub num_hidden_layers: usize,
    /// Heads of queries, a multiple of `num_key_value_heads`.
    pub num_attention_heads: usize,
    /// Heads of keys and values.
    pub num_key_value_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How they are stretched beyond the context of the first training.
    pub rope_scaling: RopeScaling,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// Whether the projections of the MLP have biases.
    pub mlp_bias: bool,
    /// The whole file that was read, for the keys that this crate does not know; empty of a shape made in memory.
    pub other: Map<String, Value>,
}

/// A stretch of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Turns within the first context below which a frequency is low.
        low_freq_factor: f64,
        /// Turns within the first context above which a frequency is high.
        high_freq_factor: f64,
        /// Context of the first training in tokens.
        original_max_position_embeddings: f64,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
struct File {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default = "default_context")]
    max_position_embeddings: usize,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    /// What transformers 5 writes in place of the two above.
    rope_parameters: Option<Map<String, Value>>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    partial_rotary_factor: Value,
    #[serde(default)]
    sliding_window: Value,
    #[serde(default)]
    quantization_config: Value,
}

fn silu() -> String {
    "silu".into()
}

fn default_context() -> usize {
    2048
}

fn default_epsilon() -> f64 {
    1e-6
}

impl LlamaConfig {
    /// Reads and checks `dir/config.json`.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be read, [`ModelError::Config`] when it asks for something this crate does
    /// not do, by name.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let map: Map<String, Value> = crate::files::read_json(&path)?;
        Self::of(map).map_err(|why| ModelError::Config { path, why })
    }

    fn of(map: Map<String, Value>) -> Result<Self, String> {
        let file = File::deserialize(&map).map_err(|error| error.to_string())?;
        if file.hidden_act != "silu" {
            return Err(format!("hidden_act is {:?}; this crate runs \"silu\"", file.hidden_act));
        }
        for (name, value) in [
            ("sliding_window", &file.sliding_window),
            ("quantization_config", &file.quantization_config),
        ] {
            if !value.is_null() {
                return Err(format!("{name} is set, which this crate does not support"));
            }
        }
        let heads = file.num_attention_heads;
        let (rope_theta, rope_scaling) = rope(&file)?;
        let config = Self {
            vocab_size: file.vocab_size,
            max_position_embeddings: file.max_position_embeddings,
            hidden_size: file.hidden_size,
            intermediate_size: file.intermediate_size,
            num_hidden_layers: file.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: file.num_key_value_heads.unwrap_or(heads),
            head_dim: file.head_dim.unwrap_or(file.hidden_size / heads.max(1)),
            rms_norm_eps: file.rms_norm_eps,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: file.tie_word_embeddings,
            attention_bias: file.attention_bias,
            mlp_bias: file.mlp_bias,
            other: map,
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses what this crate does not run, by name.
    pub(super) fn check(&self) -> Result<(), String> {
        check_sizes([
            ("vocab_size", self.vocab_size, 1 << 24),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 18),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 10),
        ])?;
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "num_attention_heads {} is not a multiple of num_key_value_heads {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!(
                "head_dim is {}; rotary positions need an even one",
                self.head_dim
            ));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return Err(format!(
                "rms_norm_eps is {}; it must be between 0 and 1",
                self.rms_norm_eps
            ));
        }
        let last = self.max_position_embeddings as f32;
        if let Some(bad) = frequencies(self)
            .into_iter()
            .find(|frequency| !(frequency * last).is_finite())
        {
            return Err(format!(
                "rope_theta {} and {:?} make a rotary frequency of {bad}; its angles must be finite numbers",
                self.rope_theta, self.rope_scaling
            ));
        }
        Ok(())
    }

    /// Heads of a layer.
    pub(crate) fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            kv: self.num_key_value_heads,
            dim: self.head_dim,
        }
    }

    /// Shape of a KV store for up to `max_sequences` sequences of the full context.
    pub fn kv_geometry(&self, max_sequences: usize) -> KvGeometry {
        KvGeometry {
            layers: self.num_hidden_layers,
            row_floats: self.heads().kv_row(),
            numbers: KvType::F32,
            max_tokens: self.max_position_embeddings,
            max_sequences,
        }
    }

    /// What `config.json` says: the keys of the file that was read, brought up to these values.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        let Value::Object(ours) = json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            // The older spelling, which every generation of transformers reads.
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling.to_json(),
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
        }) else {
            unreachable!("the literal is an object")
        };
        let mut map = self.other.clone();
        map.remove("rope_parameters");
        map.extend(ours);
        map
    }
}

impl RopeScaling {
    fn to_json(self) -> Value {
        match self {
            Self::Default => Value::Null,
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        }
    }
}

/// Base and stretch of the rotary frequencies, from the keys of either generation of transformers.
fn rope(file: &File) -> Result<(f64, RopeScaling), String> {
    let empty = Map::new();
    let part = file
        .rope_parameters
        .as_ref()
        .or(file.rope_scaling.as_ref())
        .unwrap_or(&empty);
    let number = |name: &str| {
        let value = part.get(name).and_then(Value::as_f64);
        value
            .filter(|&value| value > 0.0)
            .ok_or_else(|| format!("{name} of the rotary positions is not a number above 0"))
    };
    let theta = match (part.get("rope_theta"), file.rope_theta) {
        (Some(_), _) => number("rope_theta")?,
        (None, theta) => theta.unwrap_or(10_000.0),
    };
    if !(theta > 0.0 && theta.is_finite()) {
        return Err(format!("rope_theta is {theta}; it must be above 0"));
    }
    for factor in [Some(&file.partial_rotary_factor), part.get("partial_rotary_factor")] {
        if factor.is_some_and(|factor| !factor.is_null() && factor.as_f64() != Some(1.0)) {
            return Err("partial_rotary_factor is set, which this crate does not support".into());
        }
    }
    let kind = match part.get("rope_type").or(part.get("type")) {
        None => "default",
        Some(Value::String(kind)) => kind,
        Some(other) => return Err(format!("rope_type is {other}; it must be a name")),
    };
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear {
            factor: number("factor")?,
        },
        "llama3" => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if low >= high {
                return Err(format!("low_freq_factor {low} is not below high_freq_factor {high}"));
            }
            RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: number("original_max_position_embeddings")?,
            }
        }
        kind => {
            return Err(format!(
                "rotary positions of type {kind:?} are not supported; this crate runs \"default\", \"linear\" and \"llama3\""
            ));
        }
    };
    Ok((theta, scaling))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> Result<LlamaConfig, String> {
        let text = format!(
            "{{\"vocab_size\": 32, \"hidden_size\": 24, \"intermediate_size\": 40, \"num_hidden_layers\": 2, \
             \"num_attention_heads\": 4{extra}}}"
        );
        LlamaConfig::of(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn absent_keys_have_the_defaults_of_transformers() {
        let config = parse("").unwrap();
        assert_eq!((config.num_key_value_heads, config.head_dim), (4, 6));
        assert_eq!((config.max_position_embeddings, config.rms_norm_eps), (2048, 1e-6));
        assert_eq!(
            (config.rope_theta, config.rope_scaling),
            (10_000.0, RopeScaling::Default)
        );
        assert!(!config.tie_word_embeddings && !config.attention_bias && !config.mlp_bias);
    }

    #[test]
    fn rotary_positions_are_read_in_both_spellings() {
        let old = parse(
            ", \"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \
             \"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}",
        )
        .unwrap();
        let new = parse(
            ", \"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 5e5, \"factor\": 8, \"low_freq_factor\": 1, \
             \"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}",
        )
        .unwrap();
        assert_eq!((old.rope_theta, old.rope_scaling), (new.rope_theta, new.rope_scaling));
        // Written again, both are read alike.
        let again = |config: &LlamaConfig| LlamaConfig {
            other: Map::new(),
            ..LlamaConfig::of(config.to_json()).unwrap()
        };
        assert_eq!(again(&old), again(&new));
        assert_eq!(
            again(&old),
            LlamaConfig {
                other: Map::new(),
                ..old.clone()
            }
        );
        assert_eq!(old.rope_theta, 5e5);
        let linear = parse(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}").unwrap();
        assert_eq!(linear.rope_scaling, RopeScaling::Linear { factor: 2.5 });
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (extra, named) in [
            (", \"hidden_act\": \"gelu\"", "hidden_act"),
            (
                ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2}",
                "\"yarn\"",
            ),
            (
                ", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 0}",
                "factor",
            ),
            (
                ", \"rope_parameters\": {\"partial_rotary_factor\": 0.5}",
                "partial_rotary_factor",
            ),
            (", \"partial_rotary_factor\": 0.5", "partial_rotary_factor"),
            (", \"rope_scaling\": {\"rope_type\": 3}", "rope_type is 3"),
            (", \"rope_theta\": -1", "rope_theta is -1"),
            (", \"rope_theta\": 1e-300", "rotary frequency"),
            (
                ", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 1e-300}",
                "rotary frequency",
            ),
            (", \"sliding_window\": 512", "sliding_window"),
            (", \"quantization_config\": {\"bits\": 4}", "quantization_config"),
            (", \"num_key_value_heads\": 3", "num_key_value_heads 3"),
            (", \"num_key_value_heads\": 0", "num_key_value_heads is 0"),
            (", \"head_dim\": 5", "head_dim is 5"),
            (", \"rms_norm_eps\": 0", "rms_norm_eps is 0"),
            (", \"max_position_embeddings\": 0", "max_position_embeddings is 0"),
        ] {
            let error = parse(extra).expect_err(extra);
            assert!(error.contains(named), "{extra}: {error}");
        }
    }
}
