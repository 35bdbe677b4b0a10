//! The arms, or servers, under load: requests that arrive by themselves, clients that wait, recorded traces.
//!
//! A run goes one way: a [`Schedule`] says when each request is sent, [`drive()`](drive::drive) sends it to a [`Target`](target::Target) and keeps a
//! [`Record`](record::Record) of what came, [`assemble`] makes a [`ServeReport`] of all records. Every arm gets the same texts, and at
//! the same times unless clients wait for their answers.

pub mod arrivals;
pub mod assemble;
pub mod drive;
pub mod engine;
mod fleet;
pub mod http;
pub mod record;
pub mod report;
pub mod search;
pub mod table;
pub mod target;
pub mod trace;

use fused_model::CausalLm;
use std::path::PathBuf;

use crate::cli::ServeArgs;
use crate::environment::Start;
use crate::error::BenchError;
use crate::html;
use crate::inputs::{Loaded, Subject};
use crate::output::{self, Output};
use crate::plots::single;
use crate::report::{Figure, NotMeasured, Unit};
use crate::stats::mean;
use crate::workload::{Text, Workload};
use arrivals::Schedule;
use assemble::{Judge, LoadRuns};
use drive::Run;
use engine::{EngineTarget, Limits};
use fleet::Fleet;
use http::HttpTarget;
use record::{Outcome, RequestLine};
use report::{Detail, LoadKind, SCHEMA, ServeInputs, ServeReport, ServedArm, TraceInput};
use trace::{Replay, Scaling};

/// Name of the report's file.
pub const REPORT_FILE: &str = "serve_results.json";
/// Name of the file of requests.
pub const REQUESTS_FILE: &str = "serve_requests.jsonl";

/// Different texts of a run without a trace.
const TEXTS: usize = 256;
/// Clients that measure how fast a server is when it is busy.
const BUSY_CLIENTS: usize = 16;
/// Longest sequences of the static store that the default budget holds.
const BUDGET_SEQUENCES: usize = 8;

/// How long and how often.
#[derive(Debug, Clone, Copy)]
struct Plan {
    seconds: f64,
    rounds: usize,
    /// Requests that come at once.
    at_once: usize,
    /// Rates to offer, as multiples of what the first arm serves when it is full.
    multiples: &'static [f64],
    /// Seconds for what is in flight after the last request was sent.
    grace: f64,
}

impl Plan {
    fn of(args: &ServeArgs) -> Self {
        let plan = if args.quick {
            Self {
                seconds: 1.3,
                rounds: 5,
                at_once: (4 * args.max_batch).min(32),
                multiples: &[0.5, 0.9, 1.3],
                grace: 5.0,
            }
        } else {
            Self {
                seconds: 12.0,
                rounds: 5,
                at_once: 4 * args.max_batch,
                multiples: &[0.4, 0.6, 0.8, 1.0, 1.2, 1.5],
                grace: 30.0,
            }
        };
        Self {
            seconds: args.seconds.unwrap_or(plan.seconds),
            rounds: args.rounds.unwrap_or(plan.rounds),
            ..plan
        }
    }
}

/// A load to run.
struct Load {
    name: String,
    kind: LoadKind,
    offered: Option<f64>,
    clients: Option<usize>,
    schedule: Schedule,
}

/// Runs what the command line says and returns the report and the files that hold it.
///
/// # Errors
///
/// Whatever ends the run; no file is written then.
pub fn run(args: &ServeArgs) -> Result<(ServeReport, Vec<PathBuf>), BenchError> {
    let start = Start::now();
    let output = Output::prepare(&args.out, &file_names())?;
    let plan = Plan::of(args);
    let loaded = Loaded::new(&args.files)?;
    let subjects = [&loaded.base, &loaded.patched];
    let fits = |text: &Text| {
        let tokens = |subject: &Subject| {
            subject.tokenizer.encode(&text.prompt).len() + subject.tokenizer.encode(&text.reply).len()
        };
        subjects.iter().all(|subject| tokens(subject) <= loaded.context())
    };
    let (texts, replay) = texts(args, &loaded, fits)?;
    let budget = budget(args, &loaded);
    let mut fleet = Fleet {
        targets: Vec::new(),
        texts: &texts,
        abandon_every: args.abandon_every,
        turn: 0,
    };
    let mut served = Vec::new();
    if args.url.is_empty() {
        for &arm in &args.arms.0 {
            let limits = Limits {
                kv_budget: budget,
                max_batch: args.max_batch,
                kept_prefixes: args.kept_prefixes,
            };
            let target = EngineTarget::new(arm, subjects[arm.tokenizer as usize], limits)?;
            served.push(ServedArm {
                name: arm.name().to_owned(),
                tokenizer: Some(arm.tokenizer),
                kv_store: Some(arm.kv_store),
                max_batch: Some(target.max_batch()),
                url: None,
                model: None,
            });
            fleet.targets.push(Box::new(target));
        }
    }
    for server in &args.url {
        let target = HttpTarget::connect(server)?;
        served.push(ServedArm {
            name: server.name.clone(),
            tokenizer: None,
            kv_store: None,
            max_batch: None,
            url: Some(server.url.clone()),
            model: Some(target.model().to_owned()),
        });
        fleet.targets.push(Box::new(target));
    }
    let names: Vec<String> = served.iter().map(|arm| arm.name.clone()).collect();
    let judge = Judge {
        arms: &names,
        objectives: &args.objectives,
        stall_ms: args.stall,
        seed: args.seed,
    };

    fleet.warm_up()?;
    let mut loads = vec![fleet.run_all(vec![full(args, &plan)], &plan)?.remove(0)];
    let speed = mean(&loads[0].runs[0].iter().map(completed_per_second).collect::<Vec<_>>());
    let more = planned(args, &plan, replay.as_ref(), speed)?;
    loads.extend(fleet.run_all(more, &plan)?);
    let max_rates = if args.find_rate {
        fleet.find_rates(args, &plan, &judge, speed)?
    } else {
        Vec::new()
    };

    let report = ServeReport {
        schema: SCHEMA,
        inputs: inputs(args, &plan, &loaded, &texts, replay.as_ref(), budget),
        objectives: args.objectives.clone(),
        loads: loads.iter().map(|load| load.report(&judge)).collect(),
        detail: close_look(&loads, &judge),
        environment: start.finish(args.seed),
        arms: served,
        max_rates,
        not_measured: not_measured(args),
    };
    let mut lines = Vec::new();
    for load in &loads {
        for (arm, rounds) in names.iter().zip(&load.runs) {
            for (round, run) in rounds.iter().enumerate() {
                for (request, record) in run.records.iter().enumerate() {
                    RequestLine::write(
                        &mut lines,
                        [arm, &load.name],
                        [round, request],
                        record,
                        &args.objectives,
                    )?;
                }
            }
        }
    }
    let figures = single::served(&report)?;
    let mut files = vec![
        (REPORT_FILE.to_owned(), output::json(&report)?),
        (REQUESTS_FILE.to_owned(), lines),
        (html::FILE.to_owned(), html::served(&report, &figures)?),
    ];
    for figure in &figures {
        files.extend(figure.files()?);
    }
    let files = output.write(&files)?;
    Ok((report, files))
}

/// The names this run may write.
fn file_names() -> Vec<String> {
    let names = [REPORT_FILE, REQUESTS_FILE, html::FILE].map(str::to_owned).into_iter();
    names
        .chain(single::SERVED.into_iter().flat_map(single::file_names))
        .collect()
}

/// The texts of the requests, and the trace they follow.
fn texts(
    args: &ServeArgs,
    loaded: &Loaded,
    fits: impl Fn(&Text) -> bool,
) -> Result<(Vec<Text>, Option<Replay>), BenchError> {
    let pages = &loaded.domain.pages;
    let Some(path) = &args.trace else {
        return Ok((Workload::draw(pages, TEXTS, args.seed, fits)?.texts, None));
    };
    let entries = trace::read(path)?;
    let last = args.seconds.map_or(f64::INFINITY, |seconds| seconds * args.trace_speed);
    let entries: Vec<_> = entries.into_iter().take_while(|entry| entry.at <= last).collect();
    // What a token of the base tokenizer stands for on these pages.
    let sample: String = pages.texts.iter().take(50).map(String::as_str).collect();
    let bytes_per_token = sample.len() as f64 / loaded.base.tokenizer.encode(&sample).len() as f64;
    let most = loaded.context() as f64 * bytes_per_token;
    let scaling = Scaling {
        bytes_per_token,
        scale: args.trace_scale,
        most_bytes: most,
        speed: args.trace_speed,
    };
    let replay = trace::replay(&entries, pages, scaling, args.seed, fits)?;
    Ok((replay.texts.clone(), Some(replay)))
}

/// KV memory of each arm in bytes: as asked for, or what some of the longest sequences take.
fn budget(args: &ServeArgs, loaded: &Loaded) -> usize {
    let longest = [&loaded.base, &loaded.patched]
        .map(|subject| subject.model.context() * subject.model.kv_geometry(1).token_bytes());
    args.kv_budget
        .map_or(BUDGET_SEQUENCES * longest[0].max(longest[1]), |mebibytes| {
            mebibytes << 20
        })
}

fn completed_per_second(run: &Run) -> f64 {
    let complete = run
        .records
        .iter()
        .filter(|record| record.outcome == Outcome::Complete)
        .count();
    complete as f64 / run.seconds.max(f64::MIN_POSITIVE)
}

/// The load that fills an arm.
fn full(args: &ServeArgs, plan: &Plan) -> Load {
    match args.url.is_empty() {
        true => Load {
            name: format!("{} at once", plan.at_once),
            kind: LoadKind::AllAtOnce,
            offered: None,
            clients: None,
            schedule: Schedule::At(vec![0.0; plan.at_once]),
        },
        // Not the name of the load with as many of --clients.
        false => Load {
            name: format!("{BUSY_CLIENTS} clients to begin with"),
            ..closed(BUSY_CLIENTS, plan.seconds)
        },
    }
}

fn closed(clients: usize, seconds: f64) -> Load {
    Load {
        name: format!("{clients} clients"),
        kind: LoadKind::Closed,
        offered: None,
        clients: Some(clients),
        schedule: Schedule::Closed { clients, seconds },
    }
}

fn open(args: &ServeArgs, rate: f64, seconds: f64, seed: u64) -> Result<Load, BenchError> {
    Ok(Load {
        name: format!("{rate} requests/s"),
        kind: LoadKind::Open,
        offered: Some(rate),
        clients: None,
        schedule: arrivals::open(rate, args.burstiness, seconds, seed)?,
    })
}

/// The loads after the full one.
fn planned(args: &ServeArgs, plan: &Plan, replay: Option<&Replay>, speed: f64) -> Result<Vec<Load>, BenchError> {
    if let Some(replay) = replay {
        let last = replay.at.last().copied().unwrap_or(0.0);
        return Ok(vec![Load {
            name: "trace".to_owned(),
            kind: LoadKind::Trace,
            offered: (last > 0.0).then(|| replay.at.len() as f64 / last),
            clients: None,
            schedule: Schedule::At(replay.at.clone()),
        }]);
    }
    if !args.clients.is_empty() {
        return Ok(args
            .clients
            .iter()
            .map(|&clients| closed(clients, plan.seconds))
            .collect());
    }
    let mut rates = args.rates.clone();
    if rates.is_empty() {
        rates.extend(plan.multiples.iter().map(|multiple| two_digits(multiple * speed)));
    }
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    let load = |(i, &rate): (usize, &f64)| open(args, rate, plan.seconds, args.seed.wrapping_add(i as u64));
    rates.iter().enumerate().map(load).collect()
}

/// Rounded to two digits, so that a rate can be named.
fn two_digits(value: f64) -> f64 {
    let digit = 10_f64.powf(value.max(1e-9).log10().floor() - 1.0);
    // Divided by a power of ten that is exact, so that no noise is printed.
    match digit < 1.0 {
        true => (value / digit).round() / (1.0 / digit).round(),
        false => (value / digit).round() * digit,
    }
}

/// The heaviest load that no arm was drowned in, or the first.
fn close_look(loads: &[LoadRuns], judge: &Judge<'_>) -> Detail {
    let calm = |load: &&LoadRuns| load.runs.iter().flatten().all(|run| !run.saturated);
    let chosen = loads[1..].iter().rev().find(calm).unwrap_or(&loads[0]);
    chosen.detail(judge)
}

fn inputs(
    args: &ServeArgs,
    plan: &Plan,
    loaded: &Loaded,
    texts: &[Text],
    replay: Option<&Replay>,
    budget: usize,
) -> ServeInputs {
    let average = |part: fn(&Text) -> &str| {
        let bytes = texts.iter().map(|text| part(text).len() as f64).collect::<Vec<_>>();
        Figure::measured(mean(&bytes), Unit::Bytes)
    };
    let here = args.url.is_empty();
    ServeInputs {
        mode: loaded.mode,
        corpus: loaded.domain.describe(),
        model_shape: here.then(|| loaded.model_shape()),
        fused_model_origin: here.then_some(loaded.fused_model_origin),
        texts: texts.len(),
        prompt_bytes: average(|text| &text.prompt),
        reply_bytes: average(|text| &text.reply),
        kv_budget: here.then(|| Figure::computed(budget as f64, Unit::Bytes)),
        burstiness: args.burstiness,
        trace: args.trace.as_ref().zip(replay).map(|(path, replay)| TraceInput {
            path: path.display().to_string(),
            requests: replay.texts.len(),
            speed: args.trace_speed,
            bytes_per_token: replay.bytes_per_token,
            shortened: replay.shortened,
        }),
        seconds: plan.seconds,
        rounds: plan.rounds,
        stall: Figure::computed(args.stall, Unit::Milliseconds),
        abandon_every: args.abandon_every,
        order: "one warm-up; then, load by load, arms take turns in an order that is reversed every other turn; every run \
                begins with an empty store",
    }
}

fn not_measured(args: &ServeArgs) -> Vec<NotMeasured> {
    let mut list = vec![
        NotMeasured {
            what: "energy",
            why: "no energy counter is read".to_owned(),
        },
        NotMeasured {
            what: "quality",
            why: "the comparison without `serve` measures bits per byte of the same models".to_owned(),
        },
    ];
    if args.url.is_empty() {
        list.push(NotMeasured {
            what: "network and HTTP",
            why: "the engine is in this process; `--url` measures servers from outside".to_owned(),
        });
        list.push(NotMeasured {
            what: "graphics processors",
            why: "every figure is of this machine's processor and main memory".to_owned(),
        });
    } else {
        list.push(NotMeasured {
            what: "KV memory, queues and preemptions",
            why: "a server does not show them in this interface".to_owned(),
        });
        list.push(NotMeasured {
            what: "the same replies from every server",
            why: "each gives its own text, cut off after the same number of bytes; tokens are counted as events of the stream"
                .to_owned(),
        });
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_two_digits() {
        for (value, wanted) in [
            (13.46, "13"),
            (1.349, "1.3"),
            (0.1271, "0.13"),
            (1_846.0, "1800"),
            (9.96, "10"),
        ] {
            assert_eq!(two_digits(value).to_string(), wanted);
        }
    }
}
