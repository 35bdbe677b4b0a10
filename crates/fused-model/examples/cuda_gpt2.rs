//! Runs a GPT-2 model on a CUDA device and on the processor and says whether they agree.
//!
//! ```text
//! cargo run --release -p fused-model --features cuda --example cuda_gpt2 -- [DIR] [--tokens N]
//! ```
//!
//! DIR is a Hugging Face directory; without it the tiny model of the tests runs. It needs the CUDA toolkit to build and the
//! driver to start. Exit code 0 when logits and greedy tokens agree, 1 when they do not, 2 when there is no device or the
//! arguments are wrong.

#![allow(clippy::print_stdout, reason = "the lines are what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::Device;
use fused_model::kv::{KvStore, VirtualKv};
use fused_model::{CausalLm, Chunk, CudaGpt2, Gpt2, Logits, ModelError, Options, Params, argmax};

const USAGE: &str = "usage: cuda_gpt2 [DIR] [--tokens N]";

/// Difference of two logits, relative to the largest one, that sums in another order explain.
const TOLERANCE: f32 = 1e-4;

fn arguments() -> Result<(PathBuf, usize), String> {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpt2-tiny");
    let (mut dir, mut tokens) = (PathBuf::from(tiny), 32);
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--tokens" => {
                let value = rest.next().ok_or_else(|| format!("--tokens has no value\n{USAGE}"))?;
                tokens = value
                    .parse()
                    .map_err(|error| format!("--tokens {value}: {error}\n{USAGE}"))?;
                if tokens == 0 {
                    return Err(format!("--tokens 0: at least one is compared\n{USAGE}"));
                }
            }
            _ if argument.starts_with('-') => return Err(format!("unknown argument {argument}\n{USAGE}")),
            _ => dir = argument.into(),
        }
    }
    Ok((dir, tokens))
}

/// What a model said: the logits of the whole prompt, those of every step after it, and the seconds of the steps.
struct Said {
    prompt: Vec<f32>,
    steps: Vec<Vec<f32>>,
    seconds: f64,
}

/// Reads the prompt in one pass, then one token at a time: those of `follow`, or its own choice where there is none.
fn run(
    model: &mut dyn CausalLm,
    kv: &mut dyn KvStore,
    prompt: &[u32],
    tokens: usize,
    follow: Option<&[Vec<f32>]>,
) -> Result<Said, ModelError> {
    let vocab = model.vocab_size();
    let sequence = kv.open()?;
    let chunk = Chunk { sequence, ids: prompt };
    let prompt = model.forward(kv, &[chunk], Logits::All)?.to_vec();
    let mut next = argmax(&prompt[prompt.len() - vocab..]);
    let mut steps: Vec<Vec<f32>> = Vec::with_capacity(tokens);
    let start = Instant::now();
    for step in 0..tokens {
        let chunk = Chunk { sequence, ids: &[next] };
        let logits = model.forward(kv, &[chunk], Logits::Last)?;
        next = argmax(follow.map_or(logits, |follow| &follow[step]));
        steps.push(logits.to_vec());
    }
    let seconds = start.elapsed().as_secs_f64();
    kv.free(sequence)?;
    Ok(Said { prompt, steps, seconds })
}

/// Largest difference, and largest value. What is no number counts as infinite.
fn difference(a: &[f32], b: &[f32]) -> (f32, f32) {
    let size = |value: f32| if value.is_nan() { f32::INFINITY } else { value.abs() };
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |most: f32, value| most.max(size(value)));
    let mut between = a.iter().zip(b).map(|(a, b)| a - b);
    (largest(&mut between), largest(&mut b.iter().copied()))
}

fn compare(dir: &std::path::Path, tokens: usize, device: &Device) -> Result<bool, ModelError> {
    let params = Params::load(dir)?;
    let config = params.config().gpt2()?.clone();
    let length = (config.n_positions / 2).min(128);
    let tokens = tokens.min(config.n_positions - length);
    let id = |index: usize| (index as u32 + 1).wrapping_mul(2_654_435_761) >> 8;
    let prompt: Vec<u32> = (0..length).map(|index| id(index) % config.vocab_size as u32).collect();

    let mut cuda = CudaGpt2::new(&params, device)?;
    let mut rows = cuda.store(1, 1 << 30)?;
    println!("device: {}", cuda.backend().driver().info()?.name);
    let mut cpu = Gpt2::new(&params, Options::default())?;
    let mut host = VirtualKv::new(&cpu.kv_geometry(1), 64 << 10, 1 << 30)?;

    let want = run(&mut cpu, &mut host, &prompt, tokens, None)?;
    // The first steps make buffers, which is not to be timed.
    run(&mut cuda, &mut rows, &prompt, 2, None)?;
    let got = run(&mut cuda, &mut rows, &prompt, tokens, Some(&want.steps))?;

    let (apart, largest) = difference(&got.prompt, &want.prompt);
    println!("prompt of {length} tokens: logits differ by {apart:.1e} at most, the largest is {largest:.3}");
    let mut good = apart <= TOLERANCE * largest;
    let steps = got.steps.iter().zip(&want.steps);
    let (apart, largest) = steps
        .clone()
        .map(|(got, want)| difference(got, want))
        .fold((0.0f32, 0.0f32), |most, step| (most.0.max(step.0), most.1.max(step.1)));
    println!("{tokens} tokens after it: logits differ by {apart:.1e} at most, the largest is {largest:.3}");
    good &= apart <= TOLERANCE * largest;
    let same = steps.filter(|(got, want)| argmax(got) == argmax(want)).count();
    println!("greedy choice: {same} of {tokens} are the same");
    good &= same == tokens;
    println!(
        "decoding, one sequence: {:.1} tokens/s on the device, {:.1} on the processor",
        tokens as f64 / got.seconds,
        tokens as f64 / want.seconds
    );
    Ok(good)
}

fn main() -> ExitCode {
    let (dir, tokens) = match arguments() {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let device = match Device::new_cuda(0) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("no CUDA device can be used: {error}");
            return ExitCode::from(2);
        }
    };
    match compare(&dir, tokens, &device) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("the device and the processor do not agree");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
