//! Invented runs under load.

use std::sync::OnceLock;

use fused_model::kv::KvMemory;

use super::{environment, inputs, noisy, not_measured};
use crate::arms::{Arm, FUSED, NORMAL};
use crate::report::{Figure, Unit};
use crate::serve::arrivals::{self, Schedule};
use crate::serve::assemble::{Judge, LoadRuns};
use crate::serve::drive::Run;
use crate::serve::record::{Measure, Objective, Outcome, Piece, Record};
use crate::serve::report::{self, LoadKind, MaxRate, Probe, ServeInputs, ServeReport, ServedArm, TraceInput};
use crate::serve::target::State;
use crate::stats::Rng;

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
        schema: report::SCHEMA,
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
