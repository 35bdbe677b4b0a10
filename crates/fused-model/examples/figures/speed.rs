//! Decoding and prompts in each precision, beside what the machine can do.

use anyhow::Result;
use fused_model::{Gpt2, Options, Precision};

use crate::figure::Figure;
use crate::machine::{Limits, Machine, thread_counts};
use crate::peers::subject as subject_name;
use crate::workload::{CONTEXT, PROMPT, Prompt, Sequences, median, weights};

const BATCHES: [usize; 3] = [1, 8, 16];
/// Turns of everything; a figure is the median over them.
const TURNS: usize = 5;
/// Least part of the bandwidth that weights in `f32` must reach at batch 1.
const BANDWIDTH_GOAL: f64 = 0.85;
/// Least gain of a second thread where arithmetic bounds.
const THREADS_GOAL: f64 = 1.7;

/// One model on some threads, and its seconds in each turn.
struct Subject {
    threads: usize,
    model: Gpt2,
    sequences: Vec<Sequences>,
    prompt: Prompt,
    steps: [Vec<f64>; BATCHES.len()],
    prompts: Vec<f64>,
    limits: Vec<Limits>,
}

pub(crate) fn figures() -> Result<Vec<Figure>> {
    let (weights, machine) = (weights(), Machine::new());
    let mut figures = Vec::new();
    for precision in [Precision::F32, Precision::F16, Precision::Int8] {
        let mut subjects = Vec::new();
        for &threads in thread_counts() {
            let mut model = Gpt2::new(&weights, Options { precision, threads })?;
            subjects.push(Subject {
                threads,
                sequences: BATCHES
                    .iter()
                    .map(|&batch| Sequences::new(&mut model, batch, CONTEXT))
                    .collect::<Result<_>>()?,
                prompt: Prompt::new(&model, PROMPT)?,
                model,
                steps: Default::default(),
                prompts: Vec::new(),
                limits: Vec::new(),
            });
        }
        // In turns, so that what else runs on the machine meets all of them.
        for _ in 0..TURNS {
            for subject in &mut subjects {
                subject.limits.push(machine.measure(subject.threads));
                for (sequences, steps) in subject.sequences.iter_mut().zip(&mut subject.steps) {
                    steps.push(sequences.decode(&mut subject.model)?);
                }
                subject.prompts.push(subject.prompt.read(&mut subject.model)?);
            }
        }
        figures.extend(subjects.iter().flat_map(|subject| speeds(precision, subject)));
        if let [one, two] = &subjects[..] {
            figures.extend(gains(precision, one, two));
        }
    }
    Ok(figures)
}

fn speeds(precision: Precision, subject: &Subject) -> Vec<Figure> {
    let name = |what: &str| format!("{}/{what}", subject_name(precision, subject.threads));
    let mut figures = Vec::new();
    for (batch, steps) in BATCHES.iter().zip(&subject.steps) {
        let speed = *batch as f64 / median(steps.clone());
        figures.push(Figure::new(name(&format!("decode, batch {batch}")), speed, "tokens/s"));
    }
    let seconds = median(subject.prompts.clone());
    let what = format!("prompt of {PROMPT}");
    figures.push(Figure::new(name(&what), PROMPT as f64 / seconds, "tokens/s"));

    let bytes = subject.model.step_bytes() as f64;
    let read = bytes / median(subject.steps[0].clone()) / 1e9;
    let part = read / median(subject.limits.iter().map(|limits| limits.read).collect());
    let part = Figure::new(name("decode, batch 1, of the bandwidth"), part, "");
    figures.push(match precision {
        Precision::F32 => part.at_least(BANDWIDTH_GOAL),
        Precision::F16 | Precision::Int8 => part,
    });
    if precision != Precision::Int8 {
        let operations = prompt_operations(subject.model.config()) / seconds / 1e9;
        let limit = median(subject.limits.iter().map(|limits| limits.arithmetic).collect());
        figures.push(Figure::new(
            name(&format!("{what}, of the arithmetic")),
            operations / limit,
            "",
        ));
    }
    figures
}

/// What a second thread gives where arithmetic bounds.
fn gains(precision: Precision, one: &Subject, two: &Subject) -> Vec<Figure> {
    let gain = |what: &str, one: &[f64], two: &[f64]| {
        let gain = median(one.to_vec()) / median(two.to_vec());
        let name = format!("{}/2 threads over 1/{what}", crate::peers::name(precision));
        Figure::new(name, gain, "times").at_least(THREADS_GOAL)
    };
    vec![
        gain("decode, batch 16", &one.steps[2], &two.steps[2]),
        gain(&format!("prompt of {PROMPT}"), &one.prompts, &two.prompts),
    ]
}

/// Additions and products of a prompt's matrices and attention; logits are wanted of the last token only.
fn prompt_operations(config: &fused_model::Gpt2Config) -> f64 {
    let (width, inner) = (config.n_embd as f64, 4.0 * config.n_embd as f64);
    let (tokens, layers) = (PROMPT as f64, config.n_layer as f64);
    let matrices = 4.0 * width * width + 2.0 * width * inner;
    let attention = 2.0 * width * (tokens + 1.0) / 2.0;
    2.0 * (tokens * layers * (matrices + attention) + width * config.vocab_size as f64)
}
