//! How the cost of a token grows with the context, the batch and the threads.

use anyhow::Result;
use fused_model::{Gpt2, Options, Precision};

use crate::figure::Figure;
use crate::machine::thread_counts;
use crate::peers::subject;
use crate::workload::{CONTEXT, STEPS, Sequences, median, weights};

/// Tokens before the one that is timed, at batch 1. The last one ends at the model's context.
const CONTEXTS: [usize; 7] = [1, 16, 64, 128, 256, 512, 1024 - STEPS];
const BATCHES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Runs of [`STEPS`] steps; a point is the median over them.
const RUNS: usize = 3;

/// One precision on some threads.
#[derive(Debug, Clone)]
pub(crate) struct Curves {
    pub(crate) precision: Precision,
    pub(crate) threads: usize,
    /// Context, and milliseconds of a token at batch 1.
    pub(crate) contexts: Vec<(usize, f64)>,
    /// Batch, and tokens per second at a context of [`CONTEXT`].
    pub(crate) batches: Vec<(usize, f64)>,
}

pub(crate) fn measure() -> Result<Vec<Curves>> {
    let weights = weights();
    let mut curves = Vec::new();
    for precision in [Precision::F32, Precision::F16, Precision::Int8] {
        for &threads in thread_counts() {
            let mut model = Gpt2::new(&weights, Options { precision, threads })?;
            let mut step = |batch, context| -> Result<f64> {
                let mut sequences = Sequences::new(&mut model, batch, context)?;
                let runs: Result<_> = (0..RUNS).map(|_| sequences.decode(&mut model)).collect();
                Ok(median(runs?))
            };
            let mut contexts = Vec::new();
            for context in CONTEXTS {
                contexts.push((context, step(1, context)? * 1e3));
            }
            let mut batches = Vec::new();
            for batch in BATCHES {
                batches.push((batch, batch as f64 / step(batch, CONTEXT)?));
            }
            curves.push(Curves {
                precision,
                threads,
                contexts,
                batches,
            });
        }
    }
    Ok(curves)
}

pub(crate) fn figures(curves: &[Curves]) -> Vec<Figure> {
    let points = curves.iter().flat_map(|curves| {
        let name = subject(curves.precision, curves.threads);
        let point = move |what: String, value, unit| Figure::new(format!("scaling/{name}/{what}"), value, unit);
        let (of_context, of_batch) = (point.clone(), point);
        let contexts = curves.contexts.iter();
        let contexts = contexts.map(move |(context, ms)| of_context(format!("context {context}"), *ms, "ms/token"));
        let batches = curves.batches.iter();
        contexts.chain(batches.map(move |(batch, speed)| of_batch(format!("batch {batch}"), *speed, "tokens/s")))
    });
    points.collect()
}
