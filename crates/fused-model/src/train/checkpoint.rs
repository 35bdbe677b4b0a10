//! A run written to one file and taken up again.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{TrainConfig, Trainer};
use crate::error::ModelError;

const PARTS: [&str; 3] = ["weights", "first_moment", "second_moment"];

impl Trainer {
    /// Writes weights, optimiser and step to `path` (safetensors, F32), aside first and then renamed.
    ///
    /// # Errors
    /// [`ModelError::Io`] when the file cannot be written.
    pub fn save_checkpoint(&self, path: &Path) -> Result<(), ModelError> {
        let weights = |why: String| ModelError::Weights {
            path: path.to_path_buf(),
            why,
        };
        let config = serde_json::to_string(&self.config).map_err(|error| weights(error.to_string()))?;
        let parts = [&self.params.data, &self.optimiser.first, &self.optimiser.second];
        let views = PARTS
            .iter()
            .zip(parts)
            .map(|(name, values)| {
                Ok((
                    *name,
                    TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values))?,
                ))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| weights(error.to_string()))?;
        let metadata = [
            ("config".to_owned(), config),
            ("step".to_owned(), self.step.to_string()),
        ]
        .into();
        let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| weights(error.to_string()))?;
        crate::files::write(path, &bytes)
    }

    /// Continues the run in `path`; `params` gives the model's shape, its weights are replaced.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::Weights`] when the file cannot be read or belongs to another shape or to
    /// other settings.
    pub fn resume(params: crate::Params, config: TrainConfig, path: &Path) -> Result<Self, ModelError> {
        let weights = |why: String| ModelError::Weights {
            path: path.to_path_buf(),
            why,
        };
        let bytes = std::fs::read(path).map_err(|source| ModelError::Io {
            path: path.to_path_buf(),
            source,
        })?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| weights(error.to_string()))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let mut trainer = Self::new(params, config)?;
        let ours = serde_json::to_string(&trainer.config).map_err(|error| weights(error.to_string()))?;
        if metadata.get("config") != Some(&ours) {
            return Err(weights(
                "the checkpoint was made with other settings; use the same ones or start afresh".into(),
            ));
        }
        trainer.step = metadata
            .get("step")
            .and_then(|step| step.parse().ok())
            .filter(|&step| step <= trainer.config.steps)
            .ok_or_else(|| weights("the checkpoint does not say its step".into()))?;
        trainer.optimiser.steps = i32::try_from(trainer.step).map_err(|error| weights(error.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| weights(error.to_string()))?;
        let targets = [
            &mut trainer.params.data,
            &mut trainer.optimiser.first,
            &mut trainer.optimiser.second,
        ];
        for (name, target) in PARTS.iter().zip(targets) {
            let view = file.tensor(name).map_err(|error| weights(error.to_string()))?;
            if view.dtype() != Dtype::F32 || view.shape() != [target.len()] {
                let (have, want) = (view.shape().to_vec(), target.len());
                return Err(weights(format!(
                    "{name} has shape {have:?}; this model has {want} weights"
                )));
            }
            for (value, bytes) in target.iter_mut().zip(view.data().as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Ok(trainer)
    }
}
