//! A GPT-2 model's weights as one flat vector with named parts, read from and written to Hugging Face
//! directories.

use std::ops::Range;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, TensorView};

use crate::config::Gpt2Config;
use crate::error::ModelError;
use crate::weights::{Progress, WeightFiles};

/// One tensor inside the flat vector.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Hugging Face name, for example `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// Shape; matrices are stored as Hugging Face stores GPT-2's: `Conv1D` weights are (in, out).
    pub shape: Vec<usize>,
    /// Elements in the flat vector.
    pub range: Range<usize>,
}

/// The parts of one block, as ranges of the flat vector.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) ln1: [Range<usize>; 2],
    pub(crate) qkv: [Range<usize>; 2],
    pub(crate) proj: [Range<usize>; 2],
    pub(crate) ln2: [Range<usize>; 2],
    pub(crate) fc: [Range<usize>; 2],
    pub(crate) fc_proj: [Range<usize>; 2],
}

/// Where each part of a model lies in the flat vector.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) wte: Range<usize>,
    pub(crate) wpe: Range<usize>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_f: [Range<usize>; 2],
    /// The output head; equal to `wte` when tied.
    pub(crate) head: Range<usize>,
    pub(crate) tensors: Vec<Tensor>,
}

impl Layout {
    pub(crate) fn new(config: &Gpt2Config) -> Self {
        let (v, t, c, inner) = (config.vocab_size, config.n_positions, config.n_embd, config.inner());
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            let start = tensors.last().map_or(0, |last| last.range.end);
            let range = start..start + shape.iter().product::<usize>();
            tensors.push(Tensor {
                name,
                shape: shape.to_vec(),
                range: range.clone(),
            });
            range
        };
        let wte = add("transformer.wte.weight".into(), &[v, c]);
        let wpe = add("transformer.wpe.weight".into(), &[t, c]);
        let blocks = (0..config.n_layer)
            .map(|layer| {
                let mut pair = |part: &str, weight: &[usize]| {
                    let bias = [weight[weight.len() - 1]];
                    [("weight", weight), ("bias", &bias[..])]
                        .map(|(kind, shape)| add(format!("transformer.h.{layer}.{part}.{kind}"), shape))
                };
                Block {
                    ln1: pair("ln_1", &[c]),
                    qkv: pair("attn.c_attn", &[c, 3 * c]),
                    proj: pair("attn.c_proj", &[c, c]),
                    ln2: pair("ln_2", &[c]),
                    fc: pair("mlp.c_fc", &[c, inner]),
                    fc_proj: pair("mlp.c_proj", &[inner, c]),
                }
            })
            .collect();
        let ln_f = ["weight", "bias"].map(|kind| add(format!("transformer.ln_f.{kind}"), &[c]));
        let head = if config.tie_word_embeddings {
            wte.clone()
        } else {
            add("lm_head.weight".into(), &[v, c])
        };
        Self {
            wte,
            wpe,
            blocks,
            ln_f,
            head,
            tensors,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.tensors.last().map_or(0, |last| last.range.end)
    }
}

/// Precision of a saved weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveAs {
    /// 4 bytes a weight, exact.
    F32,
    /// 2 bytes a weight, rounded to nearest.
    F16,
}

/// All weights of a model in `f32`.
#[derive(Debug, Clone)]
pub struct Params {
    config: Gpt2Config,
    pub(crate) layout: Layout,
    pub(crate) data: Vec<f32>,
}

impl Params {
    /// Fresh weights: normal with deviation 0.02, residual projections scaled by 1/sqrt(2L), biases zero,
    /// layer norms one (GPT-2, Radford et al. 2019, section 2.3).
    pub fn random(config: Gpt2Config, seed: u64) -> Self {
        let layout = Layout::new(&config);
        let mut data = vec![0.0; layout.len()];
        let mut rng = crate::rng::Rng::new(seed);
        for tensor in &layout.tensors {
            let values = &mut data[tensor.range.clone()];
            if tensor.name.ends_with(".bias") {
                continue;
            }
            if tensor.name.contains(".ln_") {
                values.fill(1.0);
                continue;
            }
            let residual = tensor.name.ends_with("c_proj.weight");
            let deviation = if residual {
                0.02 / (2.0 * config.n_layer as f32).sqrt()
            } else {
                0.02
            };
            values.iter_mut().for_each(|value| *value = deviation * rng.normal());
        }
        Self { config, layout, data }
    }

    /// Reads `config.json` and the weights of a Hugging Face GPT-2 directory: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// Names are accepted with and without the `transformer.` prefix; mask buffers are skipped; F32, F16 and
    /// BF16 weights are widened to `f32`.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Config`], or [`ModelError::Weights`] naming the tensors that are missing,
    /// misshapen, of another type, or not finite.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        Self::load_and_tell(dir, &mut |_| {})
    }

    /// The same; `progress` hears how far it has come, after each tensor.
    pub(crate) fn load_and_tell(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Self, ModelError> {
        let config = Gpt2Config::load(dir)?;
        let files = WeightFiles::open(dir, "transformer.")?;
        let layout = Layout::new(&config);
        files.check(layout.tensors.iter().map(|tensor| (&*tensor.name, &*tensor.shape)))?;
        let total = layout.len();
        let mut data = vec![0.0f32; total];
        for tensor in &layout.tensors {
            data[tensor.range.clone()].copy_from_slice(&files.read(&tensor.name, &tensor.shape)?);
            progress(Progress {
                done: tensor.range.end,
                total,
            });
        }
        Ok(Self { config, layout, data })
    }

    /// Writes `config.json` and `model.safetensors` into `dir`, each aside first and then renamed.
    ///
    /// # Errors
    /// [`ModelError::Io`] when a file cannot be written.
    pub fn save(&self, dir: &Path, precision: SaveAs) -> Result<(), ModelError> {
        let mut config = self.config.clone();
        let dtype = match precision {
            SaveAs::F32 => "float32",
            SaveAs::F16 => "float16",
        };
        config.other.insert("dtype".into(), dtype.into());
        let mut text = serde_json::to_string_pretty(&config).map_err(|error| ModelError::Config {
            path: dir.join("config.json"),
            why: error.to_string(),
        })?;
        text.push('\n');
        crate::files::write(&dir.join("config.json"), text.as_bytes())?;
        crate::files::write(&dir.join("model.safetensors"), &self.to_safetensors(precision)?)
    }

    fn to_safetensors(&self, precision: SaveAs) -> Result<Vec<u8>, ModelError> {
        let encoded: Vec<Vec<u8>> = self
            .layout
            .tensors
            .iter()
            .map(|tensor| {
                let values = &self.data[tensor.range.clone()];
                match precision {
                    SaveAs::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                    SaveAs::F16 => values
                        .iter()
                        .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                        .collect(),
                }
            })
            .collect();
        let dtype = match precision {
            SaveAs::F32 => Dtype::F32,
            SaveAs::F16 => Dtype::F16,
        };
        let weights = |error: safetensors::SafeTensorError| ModelError::Weights {
            path: "model.safetensors".into(),
            why: error.to_string(),
        };
        let views = self
            .layout
            .tensors
            .iter()
            .zip(&encoded)
            .map(|(tensor, bytes)| Ok((&tensor.name, TensorView::new(dtype, tensor.shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(weights)?;
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize(views, Some(metadata)).map_err(weights)
    }

    /// The model's shape.
    pub fn config(&self) -> &Gpt2Config {
        &self.config
    }

    /// All tensors, in the order of the flat vector.
    pub fn tensors(&self) -> &[Tensor] {
        &self.layout.tensors
    }

    /// The values of one tensor, or of any range of [`tensors`](Self::tensors).
    pub(crate) fn part(&self, range: &Range<usize>) -> &[f32] {
        &self.data[range.clone()]
    }

    /// Values of the tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.layout
            .tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .map(|tensor| self.part(&tensor.range))
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are no weights; never so for a model that was loaded.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The same model with an output head of its own, equal to the token embedding; unchanged when it has one.
    pub fn untied(&self) -> Self {
        if !self.config.tie_word_embeddings {
            return self.clone();
        }
        let mut config = self.config.clone();
        config.tie_word_embeddings = false;
        let layout = Layout::new(&config);
        let mut data = self.data.clone();
        data.extend_from_slice(self.part(&self.layout.wte));
        Self { config, layout, data }
    }
}
