//! The allocator and its peers over the same requests, under one accounting.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use vattn::Config;
use vattn::backend::Backend;
use vattn::host::HostBackend;
use vattn::sim::SimBackend;
use vattn_policies::{Engine, KvCached, Layout, Outcome, Paged, Policy, Shape, Static, Trace, VAttention, replay};

use crate::figure::{Figure, Goal};
use crate::ours::{FRAME, Ours};

const MIB: f64 = (1 << 20) as f64;

/// Seconds of a trace that are replayed.
const SECONDS: f64 = 300.0;

/// Requests of the synthetic trace: about as many seconds.
const SYNTHETIC_REQUESTS: usize = 1650;

/// Replays every trace under every policy.
pub(crate) fn figures(traces: &[impl AsRef<Path>], series: Option<&Path>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut rows = Vec::new();
    for trace in load(traces)? {
        let shape = shape(&trace);
        let group = format!(
            "peers: {}, {} requests, budget {:.0} MiB",
            trace.name,
            trace.requests.len(),
            shape.budget_bytes as f64 / MIB
        );
        for mut policy in policies(&shape)? {
            let outcome = replay(policy.as_mut(), &shape, &trace, &Engine::default())?;
            figures.extend(measures(&group, &outcome));
            rows.push((trace.name.clone(), outcome));
        }
        figures.push(agreement(&trace)?);
    }
    if let Some(path) = series {
        write_series(path, &rows).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(figures)
}

fn load(paths: &[impl AsRef<Path>]) -> Result<Vec<Trace>> {
    if paths.is_empty() {
        return Ok(vec![Trace::synthetic(1, SYNTHETIC_REQUESTS)]);
    }
    let read = |path: &_| Ok(Trace::read_azure(AsRef::as_ref(path))?.first(SECONDS));
    paths.iter().map(read).collect()
}

/// GPT-2 small in f32, as far as memory goes, with slots as long as the trace needs.
fn shape(trace: &Trace) -> Shape {
    Shape {
        tensors: 24,
        row_bytes: 3072,
        max_tokens: trace.longest().next_multiple_of(1024),
        max_sequences: 64,
        budget_bytes: 8 << 30,
    }
}

/// The peers, and this allocator in its exact configuration and with freed sequences leaving up to 1 GiB for the next.
fn policies(shape: &Shape) -> Result<Vec<Box<dyn Policy>>> {
    let warm = Config::new(shape.budget_bytes)
        .warm_bytes(1 << 30)
        .growth_bytes(2 * FRAME);
    Ok(vec![
        Box::new(Static::new(shape)),
        Box::new(Paged::new(shape)),
        Box::new(VAttention::new(shape, 2 << 20)),
        Box::new(VAttention::new(shape, 64 << 10)),
        Box::new(KvCached::new(shape, Layout::PerTensor)),
        Box::new(KvCached::new(shape, Layout::Contiguous)),
        Box::new(Ours::new("vattn", shape, simulator(), Config::new(shape.budget_bytes))?),
        Box::new(Ours::new("vattn, warm", shape, simulator(), warm)?),
    ])
}

/// The simulator, behaving as memory files do, without the bytes.
fn simulator() -> SimBackend {
    SimBackend::new(FRAME).like_files().without_contents()
}

/// How far the memory held on the simulator and on this machine are apart at any step of a minute of the trace, with two
/// layers of the model.
fn agreement(trace: &Trace) -> Result<Figure> {
    let trace = trace.clone().first(60.0);
    let shape = Shape {
        tensors: 4,
        budget_bytes: 2 << 30,
        ..shape(&trace)
    };
    let engine = Engine {
        sample_seconds: 0.0,
        ..Engine::default()
    };
    let simulated = series(&shape, &trace, &engine, simulator())?;
    let real = series(&shape, &trace, &engine, HostBackend::new(FRAME)?)?;
    ensure!(
        simulated.len() == real.len(),
        "the simulator and real memory took different steps"
    );
    let apart = simulated
        .iter()
        .zip(&real)
        .map(|(simulated, real)| simulated.abs_diff(*real))
        .max()
        .unwrap_or(0);
    let peak = real.iter().max().copied().unwrap_or(0);
    let group = format!("peers: {}, simulator and real memory", trace.name);
    let name = format!("difference of bytes held, {} steps", real.len());
    Ok(Figure::measured(&group, &name, apart as f64, "bytes")
        .goal(Goal::AtMost(0.0))
        .baseline("most bytes held", peak as f64))
}

/// Bytes held after each step.
fn series<B: Backend>(shape: &Shape, trace: &Trace, engine: &Engine, backend: B) -> Result<Vec<usize>> {
    let mut policy = Ours::new("vattn", shape, backend, Config::new(shape.budget_bytes))?;
    let outcome = replay(&mut policy, shape, trace, engine)?;
    Ok(outcome.series.iter().map(|sample| sample.held_bytes).collect())
}

fn measures(group: &str, outcome: &Outcome) -> Vec<Figure> {
    let account = &outcome.account;
    let measure = |name: &str, value: f64, unit| Figure::simulated(group, name, value, unit).of(&outcome.policy);
    vec![
        measure("held, mean", outcome.mean_held / MIB, "MiB"),
        measure("held, peak", outcome.peak_held as f64 / MIB, "MiB"),
        measure("held, idle", outcome.idle_held as f64 / MIB, "MiB"),
        measure("rows, mean", outcome.mean_used / MIB, "MiB"),
        measure("waste", 100.0 * outcome.waste(), "% of held"),
        measure("waste/sequence", outcome.waste_per_sequence / MIB, "MiB"),
        measure("critical calls", outcome.per_token(account.critical.total()), "/token"),
        measure(
            "background calls",
            outcome.per_token(account.background.total()),
            "/token",
        ),
        measure("table writes", outcome.per_token(account.table_writes), "/token"),
        measure("table reads", outcome.per_token(account.table_reads), "/token/layer"),
        measure("running, mean", outcome.mean_live, "sequences"),
        measure("wait, mean", outcome.mean_wait, "s"),
        measure("preempted", outcome.preemptions as f64, "sequences"),
        measure("makespan", outcome.makespan, "s"),
    ]
}

fn write_series(path: &Path, rows: &[(String, Outcome)]) -> Result<()> {
    let partial = path.with_extension("partial");
    let mut out = BufWriter::new(std::fs::File::create(&partial)?);
    writeln!(out, "trace,policy,seconds,live,used_bytes,assigned_bytes,held_bytes")?;
    for (trace, outcome) in rows {
        for s in &outcome.series {
            writeln!(
                out,
                "{trace},{},{:.3},{},{},{},{}",
                outcome.policy, s.seconds, s.live, s.used_bytes, s.assigned_bytes, s.held_bytes
            )?;
        }
    }
    out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    std::fs::rename(&partial, path)?;
    Ok(())
}
