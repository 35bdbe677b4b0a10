//! A small set of invented measurements with known effects, for tests of everything that comes
//! after measuring.

mod ablate;
mod serve;

pub(crate) use ablate::ablation_report;
pub(crate) use serve::{ALONE, loads, serve_report};

use crate::arms::{ARMS, KvChoice, TokenizerChoice};
use crate::environment::Environment;
use crate::measure::Measurements;
use crate::measure::quality::{DocumentScore, QualityData};
use crate::measure::serving::{ArmRuns, BatchMemory, BatchTexts, BatchTime, BatchTokens, KvPoint, ServingData};
use crate::measure::tokens::TokenizerData;
use crate::report::{
    CorpusInput, Figure, Inputs, KvInput, ModelShape, NotMeasured, Report, Unit, WorkloadInput, assemble,
};
use crate::stats::Rng;

const ROUNDS: usize = 5;
const BATCHES: usize = 4;
const BATCH: usize = 8;
/// The patched tokenizer needs this share of the base tokenizer's tokens.
pub(crate) const TOKEN_SHARE: f64 = 0.7;

/// Invented measurements.
pub(crate) fn measurements() -> Measurements {
    let mut rng = Rng::new(3);
    let page_bytes: Vec<usize> = (0..60).map(|_| 2_000 + rng.below(9_000)).collect();
    Measurements {
        tokenizers: tokenizers(&page_bytes, &mut rng),
        serving: serving(&mut rng),
        domain: quality(1.58, 1.60, &mut rng),
        out_of_domain: Some(quality(1.92, 2.01, &mut rng)),
        page_bytes,
    }
}

/// The report on them.
pub(crate) fn report() -> Report {
    assemble(&measurements(), inputs(), environment(), not_measured())
}

fn noisy(rng: &mut Rng, value: f64, noise: f64) -> f64 {
    value * (1.0 + noise * (rng.below(2_001) as f64 / 1_000.0 - 1.0))
}

fn tokenizers(page_bytes: &[usize], rng: &mut Rng) -> Vec<TokenizerData> {
    let bytes: usize = page_bytes.iter().sum();
    let mut make = |name, label, patched_from, swaps, vocab_size, per_token, speed| TokenizerData {
        name,
        label,
        patched_from,
        swaps,
        vocab_size,
        counts: page_bytes
            .iter()
            .map(|&b| noisy(rng, b as f64 / per_token, 0.1) as usize)
            .collect(),
        lossless: true,
        encode_seconds: (0..ROUNDS).map(|_| noisy(rng, bytes as f64 / speed, 0.1)).collect(),
        hugging_face_seconds: Some((0..ROUNDS).map(|_| noisy(rng, bytes as f64 / 4e6, 0.1)).collect()),
        same_ids_as_hugging_face: Some(true),
    };
    vec![
        make("base", "base", None, 0, 8_192, 3.2, 24e6),
        make(
            "patched",
            "patched",
            Some("base"),
            2_500,
            8_192,
            3.2 / TOKEN_SHARE,
            27e6,
        ),
        make("gpt2", "GPT-2", None, 0, 50_257, 3.6, 22e6),
        make(
            "gpt2_patched",
            "GPT-2, patched",
            Some("gpt2"),
            10_000,
            50_257,
            5.6,
            26e6,
        ),
    ]
}

fn serving(rng: &mut Rng) -> ServingData {
    let batches = vec![
        BatchTexts {
            texts: BATCH,
            prompt_bytes: 500 * BATCH,
            reply_bytes: 500 * BATCH
        };
        BATCHES
    ];
    let arms = ARMS
        .into_iter()
        .map(|arm| {
            let share = if arm.tokenizer == TokenizerChoice::Base {
                1.0
            } else {
                TOKEN_SHARE
            };
            let tokens = BatchTokens {
                prompt: (156.0 * share) as usize * BATCH,
                reply: (156.0 * share) as usize * BATCH,
            };
            let rows = (tokens.prompt + tokens.reply) as f64 * 12_288.0;
            let full = (512 * BATCH) as f64 * 12_288.0;
            let physical = match arm.kv_store {
                KvChoice::Static => full,
                KvChoice::Paged => rows * 1.06,
                KvChoice::Virtual => rows * 1.02,
            };
            let slow = if arm.kv_store == KvChoice::Paged { 1.04 } else { 1.0 };
            let wall = 0.9 * share * slow;
            let timeline = (0..=60).map(|step| {
                let part = 0.5 + f64::from(step) / 120.0;
                let physical = if arm.kv_store == KvChoice::Static {
                    full
                } else {
                    physical * part
                };
                let point = KvPoint {
                    physical: physical as usize,
                    used: (rows * part) as usize,
                };
                (wall * f64::from(step) / 60.0, point)
            });
            let memory = BatchMemory {
                peak: KvPoint {
                    physical: physical as usize,
                    used: rows as usize,
                },
                timeline: timeline.collect(),
            };
            let time = |rng: &mut Rng| {
                let wall = noisy(rng, wall, 0.04);
                BatchTime {
                    wall,
                    latency: (0..BATCH).map(|_| noisy(rng, 0.9 * wall, 0.1)).collect(),
                    first_byte: (0..BATCH).map(|_| noisy(rng, 0.12 * wall, 0.2)).collect(),
                }
            };
            ArmRuns {
                reserved: full as usize,
                batch_tokens: vec![tokens; BATCHES],
                estimated_peak: vec![physical as usize; BATCHES],
                memory: vec![memory; BATCHES],
                rounds: (0..ROUNDS).map(|_| (0..BATCHES).map(|_| time(rng)).collect()).collect(),
            }
        })
        .collect();
    ServingData { batches, arms }
}

fn quality(normal: f64, fused: f64, rng: &mut Rng) -> QualityData {
    let document_bytes: Vec<usize> = (0..24).map(|_| 3_000 + rng.below(1_000)).collect();
    let hard: Vec<f64> = (0..24).map(|_| noisy(rng, 1.0, 0.25)).collect();
    let mut score = |bits_per_byte: f64, per_token: f64| {
        let documents = document_bytes.iter().zip(&hard);
        documents
            .map(|(&bytes, &hard)| {
                let tokens = (bytes as f64 / per_token) as usize;
                let bits = noisy(rng, bits_per_byte * hard, 0.01) * bytes as f64;
                DocumentScore {
                    bits,
                    tokens,
                    seconds: noisy(rng, tokens as f64 / 9_000.0, 0.03),
                }
            })
            .collect()
    };
    QualityData {
        normal: score(normal, 3.2),
        fused: score(fused, 4.5),
        document_bytes,
    }
}

fn inputs() -> Inputs {
    let corpus = |path: &str| CorpusInput {
        path: path.to_owned(),
        pages: 60,
        bytes: 390_000,
        truncated: false,
    };
    Inputs {
        mode: "demo",
        base_model: "demo/base".to_owned(),
        fused_model: "demo/adapted".to_owned(),
        fused_model_origin: "shipped",
        corpus: corpus("demo/corpus/manual-heldout.jsonl.gz"),
        out_of_domain: Some(corpus("demo/corpus/rust-heldout.jsonl.gz")),
        model_shape: ModelShape {
            architecture: "GPT-2",
            vocab_size: 8_192,
            n_positions: 512,
            n_embd: 256,
            n_layer: 6,
            n_head: 8,
        },
        workload: WorkloadInput {
            texts: BATCH * BATCHES,
            prompt_bytes: 500 * BATCH * BATCHES,
            reply_bytes: 500 * BATCH * BATCHES,
            batch: BATCH,
            rounds: ROUNDS,
            pages_too_short: 3,
            order: "interleaved",
        },
        kv_stores: KvInput {
            budget: Figure::computed((512 * BATCH) as f64 * 12_288.0, Unit::Bytes),
            frame: Figure::computed(4_096.0, Unit::Bytes),
            paged_block_tokens: 16,
        },
    }
}

fn environment() -> Environment {
    Environment {
        cpu: "Invented CPU @ 2.10GHz".to_owned(),
        cores: 2,
        memory_bytes: Some(8 << 30),
        os: "Invented Linux 1".to_owned(),
        kernel: "1.2.3".to_owned(),
        rustc: "rustc 1.90.0",
        profile: "release",
        version: "0.1.0",
        git_commit: Some("0123456789abcdef".to_owned()),
        command_line: vec!["bench".to_owned()],
        seed: 1,
        load_average_start: Some(0.1),
        load_average_end: Some(1.9),
        started: "2026-01-01T00:00:00Z".to_owned(),
        ended: "2026-01-01T00:02:00Z".to_owned(),
        duration_seconds: 120.0,
    }
}

fn not_measured() -> Vec<NotMeasured> {
    vec![NotMeasured {
        what: "energy",
        why: "no counter on this machine".to_owned(),
    }]
}
