//! A small set of invented measurements with known effects, for tests of everything that comes
//! after measuring.

use std::sync::OnceLock;

use fused_model::kv::KvMemory;

use crate::ablate;
use crate::ablate::assemble::{self as ablation, Guarded};
use crate::ablate::frontier::{FrontierData, Method, PointData};
use crate::ablate::guard::{Adopted, Said, Scored};
use crate::ablate::kv::{DepthData, FrameData};
use crate::ablate::report::{AblationInputs, AblationReport, StageInput};
use crate::ablate::stages::Stage;
use crate::arms::{ARMS, Arm, FUSED, KvChoice, NORMAL, TokenizerChoice};
use crate::environment::Environment;
use crate::measure::Measurements;
use crate::measure::quality::{DocumentScore, QualityData};
use crate::measure::serving::{ArmRuns, BatchMemory, BatchTexts, BatchTime, BatchTokens, KvPoint, ServingData};
use crate::measure::tokens::TokenizerData;
use crate::report::{
    CorpusInput, Figure, Inputs, KvInput, ModelShape, NotMeasured, Report, Unit, WorkloadInput, assemble,
};
use crate::serve;
use crate::serve::arrivals::{self, Schedule};
use crate::serve::assemble::{Judge, LoadRuns};
use crate::serve::drive::Run;
use crate::serve::record::{Measure, Objective, Outcome, Piece, Record};
use crate::serve::report::{LoadKind, MaxRate, Probe, ServeInputs, ServeReport, ServedArm, TraceInput};
use crate::serve::target::State;
use crate::stats::Rng;
use crate::workload::Text;

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

/// Seconds a request takes in each arm when it is alone.
pub(crate) const ALONE: [f64; 2] = [0.4, 0.3];

/// Runs of two arms under four loads: requests are served one after the other by each of `places` places, and a token comes
/// every hundredth of the time.
pub(crate) fn loads() -> Vec<LoadRuns> {
    let at_once = Schedule::At(vec![0.0; 40]);
    let open = |rate: f64| arrivals::open(rate, 1.0, 12.0, 5).expect("a schedule");
    let loads = [
        (LoadKind::AllAtOnce, None, at_once),
        (LoadKind::Open, Some(6.0), open(6.0)),
        (LoadKind::Open, Some(12.0), open(12.0)),
        (LoadKind::Open, Some(18.0), open(18.0)),
    ];
    let mut rng = Rng::new(11);
    let with_runs = |(kind, offered, schedule): (LoadKind, Option<f64>, Schedule)| LoadRuns {
        name: offered.map_or_else(|| "40 at once".to_owned(), |rate| format!("{rate} requests/s")),
        kind,
        offered,
        clients: None,
        runs: [(ALONE[0], 8), (ALONE[1], 16)]
            .map(|(alone, places)| (0..5).map(|_| served(&schedule, alone, places, &mut rng)).collect())
            .to_vec(),
    };
    loads.map(with_runs).into()
}

fn served(schedule: &Schedule, alone: f64, places: usize, rng: &mut Rng) -> Run {
    let Schedule::At(times) = schedule else {
        unreachable!("only open loads are invented")
    };
    let mut free = vec![0.0_f64; places];
    let mut run = Run::default();
    for &scheduled in times {
        free.sort_by(f64::total_cmp);
        let start = free[0].max(scheduled);
        let lasts = noisy(rng, alone, 0.1);
        free[0] = start + lasts;
        let pieces = (1..=100).map(|i| Piece {
            at: start + lasts * f64::from(i) / 100.0,
            bytes: 5,
        });
        let record = Record {
            scheduled,
            sent: scheduled,
            ended: start + lasts,
            outcome: Outcome::Complete,
            prompt_bytes: 500,
            reply_chars: 500,
            prompt_tokens: Some(120),
            reply_tokens: 100,
            pieces: pieces.collect(),
        };
        run.seconds = run.seconds.max(record.ended);
        run.records.push(record);
    }
    let points = (0..=50).map(|i| run.seconds * f64::from(i) / 50.0);
    run.states = points
        .map(|at| {
            let in_flight = run
                .records
                .iter()
                .filter(|record| record.scheduled <= at && at < record.ended)
                .count();
            let running = in_flight.min(places);
            let used = running * 250 * 12_288;
            let memory = KvMemory {
                reserved_bytes: places * 512 * 12_288,
                physical_bytes: if places == 8 {
                    places * 512 * 12_288
                } else {
                    used * 51 / 50
                },
                used_bytes: used,
            };
            (
                at,
                State {
                    memory,
                    running,
                    waiting: in_flight - running,
                    preemptions: 0,
                },
            )
        })
        .collect();
    run
}

/// The report on [`loads`].
pub(crate) fn serve_report() -> ServeReport {
    static MADE: OnceLock<ServeReport> = OnceLock::new();
    MADE.get_or_init(make_serve_report).clone()
}

fn make_serve_report() -> ServeReport {
    let names = ["normal", "fused"].map(str::to_owned);
    let objectives = [Objective {
        on: Measure::Ttfb,
        limit_ms: 250.0,
    }];
    let judge = Judge {
        arms: &names,
        objectives: &objectives,
        stall_ms: 100.0,
        seed: 1,
    };
    let loads = loads();
    let arm = |(arm, max_batch): (Arm, usize)| ServedArm {
        name: arm.name().to_owned(),
        tokenizer: Some(arm.tokenizer),
        kv_store: Some(arm.kv_store),
        max_batch: Some(max_batch),
        url: None,
        model: None,
    };
    let bytes = |value| Figure::measured(value, Unit::Bytes);
    ServeReport {
        schema: serve::report::SCHEMA,
        environment: environment(),
        inputs: ServeInputs {
            mode: "demo",
            corpus: inputs().corpus,
            model_shape: Some(inputs().model_shape),
            fused_model_origin: Some("shipped"),
            texts: 256,
            prompt_bytes: bytes(500.0),
            reply_bytes: bytes(500.0),
            kv_budget: Some(Figure::computed(48.0 * 1_048_576.0, Unit::Bytes)),
            burstiness: 1.0,
            trace: Some(TraceInput {
                path: "trace.csv".to_owned(),
                requests: 9,
                speed: 1.0,
                bytes_per_token: 3.2,
                shortened: 1,
            }),
            seconds: 12.0,
            rounds: 5,
            stall: Figure::computed(100.0, Unit::Milliseconds),
            abandon_every: 0,
            order: "interleaved",
        },
        objectives: objectives.to_vec(),
        arms: [(NORMAL, 8), (FUSED, 16)].map(arm).to_vec(),
        loads: loads.iter().map(|load| load.report(&judge)).collect(),
        max_rates: vec![MaxRate {
            arm: "normal".to_owned(),
            rate: Figure::measured(17.0, Unit::RequestsPerSecond),
            abandoned_searches: 1,
            change: None,
            probes: vec![Probe {
                round: 0,
                rate: 17.0,
                good_percent: 95.0,
                saturated: false,
                passed: true,
            }],
        }],
        detail: loads[3].detail(&judge),
        not_measured: not_measured(),
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

/// Invented scores of three of the four stages: nothing is known of the base after tuning.
fn scored(rng: &mut Rng) -> Scored {
    let bytes: Vec<f64> = (0..24).map(|_| 3_000.0 + rng.below(1_000) as f64).collect();
    let stages = [
        (Stage::Base, 1.58),
        (Stage::AdaptedUntuned, 2.10),
        (Stage::Adapted, 1.56),
    ];
    let bits = stages.map(|(stage, per_byte)| {
        let bits = bytes.iter().map(|bytes| noisy(rng, per_byte, 0.02) * bytes).collect();
        (stage, bits)
    });
    Scored {
        bits: bits.to_vec(),
        bytes,
    }
}

fn said(rng: &mut Rng) -> Vec<Said> {
    let mut parts = |share: f64| {
        (0..6)
            .map(|_| [noisy(rng, 64.0 * share, 0.2), 64.0])
            .collect::<Vec<_>>()
    };
    [Stage::Base, Stage::AdaptedUntuned, Stage::Adapted]
        .map(|stage| Said {
            stage,
            texts: vec!["goes on <b> like that".to_owned(); 6],
            adoption: (stage != Stage::Base).then(|| Adopted {
                tokens: parts(0.2),
                bytes: parts(0.35),
                in_page: parts(0.3),
            }),
        })
        .to_vec()
}

fn frontier(rng: &mut Rng) -> FrontierData {
    let page_bytes: Vec<f64> = (0..30).map(|_| 2_000.0 + rng.below(9_000) as f64).collect();
    let document_bytes: Vec<f64> = page_bytes.iter().map(|bytes| bytes.min(4_096.0)).collect();
    let mut point = |method, swaps, per_byte: f64, bits: f64| PointData {
        method,
        swaps,
        tokens: page_bytes
            .iter()
            .map(|bytes| noisy(rng, bytes * per_byte, 0.05))
            .collect(),
        bits: document_bytes
            .iter()
            .map(|bytes| noisy(rng, bytes * bits, 0.05))
            .collect(),
        seconds: (0..ROUNDS).map(|_| noisy(rng, 3.0 * per_byte, 0.03)).collect(),
    };
    let points = vec![
        point(Method::Base, 0, 0.31, 1.24),
        point(Method::SwapBpe, 500, 0.26, 1.33),
        point(Method::SwapBpe, 2_000, 0.22, 1.48),
        point(Method::Adaptivocab, 2_000, 0.24, 1.60),
        point(Method::Tuned, 2_000, 0.22, 1.23),
    ];
    FrontierData {
        page_bytes,
        document_bytes,
        reply_bytes: 8_000.0,
        points,
    }
}

/// An ablation report on invented measurements.
pub(crate) fn ablation_report() -> AblationReport {
    let mut rng = Rng::new(17);
    let origin = |stage| StageInput {
        stage,
        origin: (stage != Stage::BaseTuned).then(|| "demo/somewhere".to_owned()),
    };
    let text = Text {
        prompt: "A prompt that ends".to_owned(),
        reply: " here".to_owned(),
    };
    let guarded = Guarded {
        stages: Stage::ALL.map(origin).into(),
        domain: scored(&mut rng),
        outside: Some(scored(&mut rng)),
        said: said(&mut rng),
        texts: vec![text; 6],
    };
    AblationReport {
        schema: ablate::report::SCHEMA,
        environment: environment(),
        inputs: AblationInputs {
            mode: "demo",
            domain: inputs().corpus,
            outside: inputs().out_of_domain,
            train: Some("demo/corpus/manual-train.jsonl.gz".to_owned()),
            model_shape: inputs().model_shape,
            texts: 16,
            prompt_bytes: 8_000,
            reply_bytes: 8_000,
            batch: BATCH,
            rounds: ROUNDS,
            order: "interleaved",
        },
        quality: ablation::guard(guarded, 1),
        frontier: ablation::frontier(&frontier(&mut rng), 1),
        factorial: Some(ablation::factorial(&serving(&mut rng), 1)),
        frames: ablation::frames(
            &[12_u32, 14, 18].map(|shift| FrameData {
                frame: 1 << shift,
                physical: (9 << 20) + (24 << shift),
                used: 9 << 20,
                calls: (0..ROUNDS)
                    .map(|_| {
                        let mapped = 50e-6 * f64::from(shift) / 12.0;
                        let call = |i: usize| if i.is_multiple_of(10) { mapped } else { 2e-6 };
                        (0..500).map(|i| noisy(&mut rng, call(i), 0.1)).collect()
                    })
                    .collect(),
            }),
            1,
        ),
        depths: ablation::depths(
            &[KvChoice::Static, KvChoice::Virtual].map(|kv_store| DepthData {
                kv_store,
                rounds: (0..ROUNDS)
                    .map(|_| {
                        (1..=15)
                            .map(|bin| noisy(&mut rng, 2e-3 + 1e-4 * f64::from(bin), 0.02))
                            .collect()
                    })
                    .collect(),
            }),
            512,
            1,
        ),
        not_measured: not_measured(),
    }
}
