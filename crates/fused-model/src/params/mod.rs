//! A model's weights as one flat vector with named parts, read from and written to Hugging Face directories.

mod layout;
mod shape;

use std::ops::Range;
use std::path::Path;

use half::f16;
use safetensors::tensor::{Dtype, TensorView};

pub(crate) use layout::Tensor;
pub(crate) use layout::{Affine, Block, Layout};
pub use shape::ModelConfig;

use crate::error::ModelError;
use crate::llama;
use crate::rng::Rng;
use crate::weights::Progress;

/// Precision of a saved weight file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveAs {
    /// 4 bytes a weight, exact.
    F32,
    /// 2 bytes a weight, rounded to nearest.
    F16,
}

/// All weights of a model of either family in `f32`.
#[derive(Debug, Clone)]
pub struct Params {
    config: ModelConfig,
    pub(crate) layout: Layout,
    pub(crate) data: Vec<f32>,
}

impl Params {
    /// Fresh weights. Of a GPT-2: normal with deviation 0.02, residual projections scaled by 1/sqrt(2L), biases zero,
    /// layer norms one (Radford et al. 2019, section 2.3). Of a Llama: those of [`Llama::random`](crate::Llama::random).
    pub fn random(config: impl Into<ModelConfig>, seed: u64) -> Self {
        let config = config.into();
        let layout = Layout::new(&config);
        let mut data = vec![0.0; layout.len()];
        let mut rng = Rng::new(seed);
        for tensor in &layout.tensors {
            let values = &mut data[tensor.range.clone()];
            match &config {
                ModelConfig::Gpt2(_) => draw(values, &tensor.name, config.layers(), &mut rng),
                ModelConfig::Llama(_) => llama::draw(values, &tensor.name, seed),
            }
        }
        Self { config, layout, data }
    }

    /// Reads `config.json` and the weights of a Hugging Face directory: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` names.
    ///
    /// Names are accepted with and without the prefix of their family (`transformer.`, `model.`); mask buffers are
    /// skipped; F32, F16 and BF16 weights are widened to `f32`.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Config`] also for an architecture that this crate does not run, or
    /// [`ModelError::Weights`] naming the tensors that are missing, misshapen, of another type, or not finite.
    pub fn load(dir: &Path) -> Result<Self, ModelError> {
        Self::load_and_tell(dir, &mut |_| {})
    }

    /// The same; `progress` hears how far it has come, after each tensor.
    pub(crate) fn load_and_tell(dir: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Self, ModelError> {
        let config = ModelConfig::load(dir)?;
        let layout = Layout::new(&config);
        let files = layout.open(dir)?;
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
        let mut config = self.config.to_json();
        let dtype = match precision {
            SaveAs::F32 => "float32",
            SaveAs::F16 => "float16",
        };
        config.insert("dtype".into(), dtype.into());
        let text = format!("{:#}\n", serde_json::Value::Object(config));
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
    pub fn config(&self) -> &ModelConfig {
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
        if !self.config.is_tied() {
            return self.clone();
        }
        let config = self.config.untied();
        let layout = Layout::new(&config);
        let mut data = self.data.clone();
        data.extend_from_slice(self.part(&self.layout.embedding));
        Self { config, layout, data }
    }
}

/// Draws one tensor of a GPT-2.
fn draw(values: &mut [f32], name: &str, layers: usize, rng: &mut Rng) {
    if name.ends_with(".bias") {
        return;
    }
    if name.contains(".ln_") {
        values.fill(1.0);
        return;
    }
    let residual = name.ends_with("c_proj.weight");
    let deviation = if residual {
        0.02 / (2.0 * layers as f32).sqrt()
    } else {
        0.02
    };
    values.iter_mut().for_each(|value| *value = deviation * rng.normal());
}
