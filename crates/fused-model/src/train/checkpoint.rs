//! A run written to one file and taken up again.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{Best, TrainConfig, Trainer};
use crate::error::ModelError;

const PARTS: [&str; 3] = ["weights", "first_moment", "second_moment"];
/// The best weights so far, in a run that scores held-out text.
const BEST: &str = "best_weights";

impl Trainer {
    /// Writes weights, optimiser, step and the best weights so far to `path` (safetensors, F32), aside first and then renamed.
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
        let best = self.best.iter().map(|best| (BEST, &best.params.data));
        let views = PARTS
            .into_iter()
            .zip(parts)
            .chain(best)
            .map(|(name, values)| {
                Ok((
                    name,
                    TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values))?,
                ))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| weights(error.to_string()))?;
        let mut metadata = HashMap::from([
            ("config".to_owned(), config),
            ("step".to_owned(), self.step.to_string()),
        ]);
        if let Some(best) = &self.best {
            metadata.insert("best_step".to_owned(), best.step.to_string());
            metadata.insert("best_bits_per_byte".to_owned(), best.bits_per_byte.to_string());
            metadata.insert("scores_since_best".to_owned(), self.scores_since_best.to_string());
        }
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
        let bytes = crate::files::read(path)?;
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
        for (name, target) in PARTS.into_iter().zip(targets) {
            read_part(&file, name, target).map_err(weights)?;
        }
        if file.tensor(BEST).is_ok() {
            let number = |name: &str| metadata.get(name).map(String::as_str).unwrap_or_default();
            let (step, bits) = (number("best_step").parse(), number("best_bits_per_byte").parse());
            let (Ok(step), Ok(bits_per_byte)) = (step, bits) else {
                return Err(weights(
                    "the checkpoint does not say how good its best weights are".into(),
                ));
            };
            let mut params = trainer.params.clone();
            read_part(&file, BEST, &mut params.data).map_err(weights)?;
            trainer.scores_since_best = number("scores_since_best").parse().unwrap_or(0);
            trainer.best = Some(Best {
                step,
                bits_per_byte,
                params,
            });
        }
        Ok(trainer)
    }
}

fn read_part(file: &SafeTensors<'_>, name: &str, target: &mut [f32]) -> Result<(), String> {
    let view = file.tensor(name).map_err(|error| error.to_string())?;
    if view.dtype() != Dtype::F32 || view.shape() != [target.len()] {
        let (have, want) = (view.shape(), target.len());
        return Err(format!("{name} has shape {have:?}; this model has {want} weights"));
    }
    for (value, bytes) in target.iter_mut().zip(view.data().as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
    Ok(())
}
