//! Rows of keys and values in each type: their bytes, and what decoding and prompts over them cost on one thread.

use anyhow::{Context, Result};
use fused_model::kv::{KvGeometry, KvStore, KvType, VirtualKv};
use fused_model::{CausalLm, Chunk, Gpt2, Logits, Options, Precision};

use crate::figure::Figure;
use crate::workload::{ids, median, weights};

/// Tokens before the first that is timed.
const CONTEXT: usize = 1000;
/// Tokens timed together; the last one ends at the model's context.
const STEPS: usize = 24;
/// Turns of everything; a figure is the median over them.
const TURNS: usize = 7;
const TYPES: [KvType; 2] = [KvType::F32, KvType::F16];

pub(crate) fn figures() -> Result<Vec<Figure>> {
    let weights = weights();
    let mut figures = Vec::new();
    for precision in [Precision::F32, Precision::Int8] {
        let mut model = Gpt2::new(&weights, Options { precision, threads: 1 })?;
        let mut times: [[Vec<f64>; 2]; TYPES.len()] = Default::default();
        let mut stores = Vec::new();
        for numbers in TYPES {
            let geometry = KvGeometry {
                numbers,
                ..model.kv_geometry(1)
            };
            stores.push(VirtualKv::new(&geometry, 64 << 10, 1 << 30)?);
        }
        let mut bytes = [0; TYPES.len()];
        for _ in 0..TURNS {
            for ((kv, times), bytes) in stores.iter_mut().zip(&mut times).zip(&mut bytes) {
                let [prompt, step] = turn(&mut model, kv, bytes)?;
                times[0].push(prompt);
                times[1].push(step);
            }
        }
        for (kind, [prompts, steps]) in times.into_iter().enumerate() {
            let rows = format!("{:?}", TYPES[kind]).to_lowercase();
            let name = |what: &str| format!("kv/{} weights/{rows} rows/{what}", crate::peers::name(precision));
            figures.push(Figure::new(
                name(&format!("prompt of {CONTEXT}")),
                median(prompts) * 1e3,
                "CPU ms",
            ));
            figures.push(Figure::new(
                name(&format!("step at {CONTEXT} tokens")),
                median(steps) * 1e3,
                "CPU ms",
            ));
            figures.push(Figure::new(
                name(&format!("physical memory of {CONTEXT} tokens")),
                bytes[kind] as f64 / 1e6,
                "MB",
            ));
        }
    }
    Ok(figures)
}

/// CPU seconds of a prompt and of a step after it, and the memory of the prompt's rows.
fn turn(model: &mut Gpt2, kv: &mut VirtualKv, bytes: &mut usize) -> Result<[f64; 2]> {
    let (sequence, ids) = (kv.open()?, ids(CONTEXT));
    let start = cpu_seconds()?;
    model.forward(kv, &[Chunk { sequence, ids: &ids }], Logits::Last)?;
    let read = cpu_seconds()?;
    *bytes = kv.memory().physical_bytes;
    let begin = cpu_seconds()?;
    for _ in 0..STEPS {
        model.forward(kv, &[Chunk { sequence, ids: &[7] }], Logits::Last)?;
    }
    let end = cpu_seconds()?;
    kv.free(sequence)?;
    Ok([read - start, (end - begin) / STEPS as f64])
}

/// Time that this thread has run, as the scheduler counts it.
fn cpu_seconds() -> Result<f64> {
    let path = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(path).context(path)?;
    let nanoseconds = text.split(' ').next().and_then(|number| number.parse::<f64>().ok());
    Ok(nanoseconds.context(path)? / 1e9)
}
