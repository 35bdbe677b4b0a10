//! How fast a model of GPT-2's shape decodes and reads prompts on this machine, in each precision:
//! `cargo run --release -p fused-model --example speed -- [THREADS]`.
//!
//! The weights are random: speed does not depend on their values. Times are medians of wall time; the last line is the
//! speed at which one thread reads memory by four streams at once, which bounds decoding at batch 1.
#![allow(clippy::print_stdout)] // the table is this program's output

use std::error::Error;
use std::time::Instant;

use fused_model::kv::{KvStore, StaticKv};
use fused_model::{CausalLm, Chunk, Gpt2, Gpt2Config, Logits, Options, Params, Precision};

/// Tokens in each sequence before decoding is timed.
const PROMPT: usize = 128;
/// Tokens of the prompt that is timed.
const LONG_PROMPT: usize = 512;

fn main() -> Result<(), Box<dyn Error>> {
    let threads = match std::env::args().nth(1) {
        None => 1,
        Some(text) => text
            .parse()
            .map_err(|_| format!("{text:?} is not a number of threads"))?,
    };
    let params = Params::random(Gpt2Config::new(50_257, 1024, 768, 12, 12), 1);
    println!(
        "GPT-2's shape, 124 million weights, {threads} thread(s); tokens per second, and GB/s of weights at batch 1"
    );
    println!("precision   batch 1 (GB/s)   batch 8   batch 16   prompt of {LONG_PROMPT}");
    for precision in [Precision::F32, Precision::F16, Precision::Int8] {
        let mut model = Gpt2::new(&params, Options { precision, threads })?;
        let [one, eight, sixteen] = [1, 8, 16].map(|batch| decode(&mut model, batch));
        let (one, eight, sixteen) = (one?, eight?, sixteen?);
        let bytes = one * model.step_bytes() as f64 / 1e9;
        let name = format!("{precision:?}");
        println!(
            "{name:<9} {one:>8.1} ({bytes:>5.1}) {eight:>9.1} {sixteen:>10.1} {:>15.0}",
            prompt(&mut model)?
        );
    }
    println!("memory is read at {:.1} GB/s", read_speed());
    Ok(())
}

fn ids(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i * 37 % 50_000).collect()
}

/// Tokens per second of one-token steps of `batch` sequences.
fn decode(model: &mut Gpt2, batch: usize) -> Result<f64, Box<dyn Error>> {
    let mut kv = StaticKv::new(&model.kv_geometry(batch))?;
    let prompt = ids(PROMPT);
    let mut sequences = Vec::new();
    for _ in 0..batch {
        let sequence = kv.open()?;
        model.forward(&mut kv, &[Chunk { sequence, ids: &prompt }], Logits::Last)?;
        sequences.push(sequence);
    }
    let id = [7];
    let chunks: Vec<_> = sequences.iter().map(|&sequence| Chunk { sequence, ids: &id }).collect();
    let step = median(48, || {
        model.forward(&mut kv, &chunks, Logits::Last)?;
        Ok(())
    })?;
    Ok(batch as f64 / step)
}

/// Tokens per second of reading a long prompt.
fn prompt(model: &mut Gpt2) -> Result<f64, Box<dyn Error>> {
    let mut kv = StaticKv::new(&model.kv_geometry(1))?;
    let ids = ids(LONG_PROMPT);
    let pass = median(5, || {
        let sequence = kv.open()?;
        model.forward(&mut kv, &[Chunk { sequence, ids: &ids }], Logits::Last)?;
        Ok(kv.free(sequence)?)
    })?;
    Ok(LONG_PROMPT as f64 / pass)
}

/// Median seconds of `count` runs.
fn median(count: usize, mut run: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut seconds = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[count / 2])
}

/// GB/s of one thread over 512 MB, the best of five passes.
fn read_speed() -> f64 {
    let data: Vec<u64> = (0..64_000_000).collect();
    let (first, second) = data.split_at(data.len() / 2);
    let streams = [first.split_at(first.len() / 2), second.split_at(second.len() / 2)];
    let [(a, b), (c, d)] = streams;
    let mut best: f64 = 0.0;
    for _ in 0..5 {
        let start = Instant::now();
        let mut sums = [[0u64; 8]; 4];
        let [a, b, c, d] = [a, b, c, d].map(|part| part.as_chunks::<8>().0);
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            for (sums, values) in sums.iter_mut().zip([a, b, c, d]) {
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum ^= value);
            }
        }
        std::hint::black_box(sums);
        best = best.max(size_of_val(data.as_slice()) as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}
