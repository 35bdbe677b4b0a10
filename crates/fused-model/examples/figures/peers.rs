//! Our speed over that of the best other engine, from what `peers/run.sh` measured in turns.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use fused_model::Precision;
use serde::Deserialize;

use crate::figure::Figure;

/// What the script calls this project's engine.
const OURS: &str = "fused-model";

/// Least ratio for a precision and a workload, on each number of threads.
const GOALS: [(Precision, &str, f64); 9] = [
    (Precision::F32, "decode 1", 1.5),
    (Precision::F32, "decode 8", 1.4),
    (Precision::F32, "decode 16", 1.4),
    (Precision::F32, "prompt 512", 1.05),
    (Precision::F16, "decode 1", 1.7),
    (Precision::Int8, "decode 1", 2.0),
    (Precision::Int8, "decode 8", 1.8),
    (Precision::Int8, "decode 16", 1.4),
    (Precision::Int8, "prompt 512", 1.0),
];

/// A line of the file: the median speed of one engine.
#[derive(Debug, Deserialize)]
struct Line {
    engine: String,
    /// The class that it is compared in; the engine's own name of it may differ.
    precision: String,
    threads: usize,
    workload: String,
    tokens_per_second: f64,
}

/// The precision that a name means.
pub(crate) fn precision(text: &str) -> Option<Precision> {
    [Precision::F32, Precision::F16, Precision::Int8]
        .into_iter()
        .find(|&precision| name(precision) == text)
}

pub(crate) fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "f32",
        Precision::F16 => "f16",
        Precision::Int8 => "int8",
    }
}

/// What a model is called in figures.
pub(crate) fn subject(precision: Precision, threads: usize) -> String {
    let plural = if threads == 1 { "" } else { "s" };
    format!("{}/{threads} thread{plural}", name(precision))
}

/// For each workload the speed of every engine, and the ratio of ours to the best other one.
pub(crate) fn figures(path: &Path) -> Result<Vec<Figure>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let lines = text.lines().enumerate().map(|(index, line)| {
        serde_json::from_str(line).with_context(|| format!("{} line {}", path.display(), index + 1))
    });
    let lines: Vec<Line> = lines.collect::<Result<_>>()?;
    let mut figures = Vec::new();
    for ours in lines.iter().filter(|line| line.engine == OURS) {
        let precision = precision(&ours.precision).with_context(|| format!("precision {:?}", ours.precision))?;
        let others = lines.iter().filter(|line| {
            line.engine != OURS
                && (&line.precision, line.threads, &line.workload) == (&ours.precision, ours.threads, &ours.workload)
        });
        let case = format!("peers/{}/{}", subject(precision, ours.threads), ours.workload);
        let mut best: f64 = 0.0;
        for line in others.chain([ours]) {
            ensure!(line.tokens_per_second > 0.0, "{case}: {} has no speed", line.engine);
            figures.push(Figure::new(
                format!("{case}/{}", line.engine),
                line.tokens_per_second,
                "tokens/s",
            ));
            if line.engine != OURS {
                best = best.max(line.tokens_per_second);
            }
        }
        if best > 0.0 {
            let ratio = Figure::new(format!("{case}/over the best"), ours.tokens_per_second / best, "times");
            let goal = GOALS
                .iter()
                .find(|goal| (goal.0, goal.1) == (precision, &ours.workload));
            figures.push(match goal {
                Some(goal) => ratio.at_least(goal.2),
                None => ratio,
            });
        }
    }
    ensure!(!figures.is_empty(), "{} has no results of {OURS}", path.display());
    Ok(figures)
}
