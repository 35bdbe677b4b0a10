//! The model on a CUDA device that is emulated: `.ci/cuda` links these tests with the emulated driver and its stand-in for
//! cuBLAS. For a real device there is the example `cuda_gpt2`.

#![allow(unsafe_code, reason = "the emulator is reached through its C functions")]
#![allow(clippy::print_stdout, reason = "tests say which mutants they caught")]

#[path = "../../../vattn/cuda-emu/tests/cuda/emulator.rs"]
mod emulator;
mod faults;
mod logits;
mod rows;
mod threads;

use std::path::Path;

use candle_core::Device;
use fused_model::kv::{CudaKv, KvId, KvStore};
use fused_model::{CausalLm, Chunk, CudaGpt2, Gpt2Config, Logits, Params, ReferenceGpt2};

const BUDGET: usize = 8 << 20;

/// The tiny model of the fixtures, which transformers made.
fn tiny() -> Params {
    Params::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2-tiny")).unwrap()
}

/// A model whose numbers are no powers of two: heads of 5 columns, an MLP of 23.
fn odd(seed: u64) -> Params {
    let mut config = Gpt2Config::new(37, 48, 15, 2, 3);
    config.n_inner = Some(23);
    Params::random(config, seed)
}

/// The model and a store on device 0, on candle's per-thread default stream.
fn on_device(params: &Params, sequences: usize) -> (CudaGpt2, CudaKv) {
    let model = CudaGpt2::new(params, &Device::new_cuda(0).unwrap()).unwrap();
    let store = model.store(sequences, BUDGET).unwrap();
    (model, store)
}

fn on_cpu(params: &Params, sequences: usize) -> (ReferenceGpt2, fused_model::kv::StaticKv) {
    let model = ReferenceGpt2::new(params).unwrap();
    let store = fused_model::kv::StaticKv::new(&model.kv_geometry(sequences)).unwrap();
    (model, store)
}

/// Ids that a model of `vocab` ids knows.
fn ids(count: usize, seed: u32, vocab: usize) -> Vec<u32> {
    let id = |index: usize| {
        (index as u32 + 1)
            .wrapping_mul(2_654_435_761)
            .wrapping_add(seed.wrapping_mul(97_531))
            >> 8
    };
    (0..count).map(|index| id(index) % vocab as u32).collect()
}

/// Runs passes, each with chunks of tokens for some of the sequences, and returns the logits of all of them. Sequence `i` of a
/// pass is `sequences[i]`; an empty chunk is none.
fn run(
    model: &mut dyn CausalLm,
    kv: &mut dyn KvStore,
    sequences: &[KvId],
    passes: &[Vec<Vec<u32>>],
    wanted: Logits,
) -> Vec<f32> {
    let mut all = Vec::new();
    for pass in passes {
        let chunks = sequences.iter().zip(pass).filter(|(_, ids)| !ids.is_empty());
        let chunks: Vec<_> = chunks.map(|(&sequence, ids)| Chunk { sequence, ids }).collect();
        all.extend_from_slice(model.forward(kv, &chunks, wanted).unwrap());
    }
    all
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() < 2e-5, "{what}[{i}]: {got} wants {want}");
    }
}
