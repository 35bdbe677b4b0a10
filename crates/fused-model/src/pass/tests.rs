use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A batch and what transformers on PyTorch says of it.
struct Golden {
    params: Params,
    inputs: Vec<u32>,
    targets: Vec<u32>,
    tokens: usize,
    file: Vec<u8>,
}

impl Golden {
    /// Rows of `tokens + 1` ids in tensor `ids` of a file beside the model.
    fn read(dir: &Path, file: &str, ids: &str) -> Self {
        let file = std::fs::read(dir.join(file)).unwrap();
        let golden = SafeTensors::deserialize(&file).unwrap();
        let ids = golden.tensor(ids).unwrap();
        let row = ids.shape()[1];
        let ids: Vec<u32> = ids
            .data()
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes) as u32)
            .collect();
        let pairs = ids
            .chunks(row)
            .flat_map(|row| row.windows(2).map(|pair| (pair[0], pair[1])));
        let (inputs, targets) = pairs.unzip();
        Self {
            params: Params::load(dir).unwrap(),
            inputs,
            targets,
            tokens: row - 1,
            file,
        }
    }

    fn values(&self, name: &str) -> Option<Vec<f32>> {
        let golden = SafeTensors::deserialize(&self.file).unwrap();
        let values = golden.tensor(name).ok()?;
        Some(
            values
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
        )
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            ids: &self.inputs,
            targets: &self.targets,
            tokens: self.tokens,
        }
    }

    /// The gradients of the mean loss, which must be `want`; scoring must say the same loss.
    fn gradients(&self, want: f64) -> Vec<f32> {
        let params = &self.params;
        let trainable = Trainable {
            blocks: vec![true; params.config().layers()],
        };
        let mut grads = vec![0.0; params.len()];
        let mut pass = Pass::default();
        let count = self.inputs.len() as f64;
        let scale = 1.0 / count as f32;
        let sum = pass.gradients(params, self.batch(), Dropout::default(), &trainable, &mut grads, scale);
        assert!((sum / count - want).abs() < 1e-4, "loss {} wants {want}", sum / count);
        let losses: f64 = pass
            .losses(params, self.batch())
            .iter()
            .map(|&loss| f64::from(loss))
            .sum();
        assert!(
            (losses - sum).abs() < 1e-3,
            "scoring and training disagree: {losses} and {sum}"
        );
        grads
    }
}

fn assert_close(name: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 2e-4, "{name}[{i}]: {got} wants {want}");
    }
}

#[test]
fn loss_and_gradients_of_gpt2_agree_with_transformers() {
    let dir = fixture("gpt2-tiny");
    let golden = Golden::read(&dir, "golden.safetensors", "train.ids");
    let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    let grads = golden.gradients(text["train"]["loss"].as_f64().unwrap());
    for tensor in golden.params.tensors() {
        let got = &grads[tensor.range.clone()];
        let norm = elementwise::sum_of_squares(got).sqrt();
        let want = text["train"]["grad_l2"][&tensor.name].as_f64().unwrap();
        assert!(
            (norm - want).abs() < 1e-3 * want + 1e-6,
            "{}: norm {norm} wants {want}",
            tensor.name
        );
        if let Some(want) = golden.values(&format!("train.grad.{}", tensor.name)) {
            assert_close(&tensor.name, got, &want);
        }
    }
}

/// Shared key heads and a tied head; biases, a stretched rotation and a head of its own.
#[test]
fn loss_and_gradients_of_llama_agree_with_transformers() {
    for name in ["llama-tiny/grouped", "llama-tiny/stretched"] {
        let golden = Golden::read(&fixture(name), "train.safetensors", "ids");
        let grads = golden.gradients(f64::from(golden.values("loss").unwrap()[0]));
        for tensor in golden.params.tensors() {
            let want = golden.values(&format!("grad.{}", tensor.name)).unwrap();
            assert_close(&tensor.name, &grads[tensor.range.clone()], &want);
        }
    }
}
