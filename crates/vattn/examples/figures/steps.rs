//! What a step costs: with nothing to map, and in steady decode.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use vattn::backend::Backend;
use vattn::host::HostBackend;
use vattn::{Config, KvCache, SeqId};

use crate::clock::{median, nanos};
use crate::counted::{Counted, Counter};
use crate::figure::{Figure, Goal};
use crate::gpt2;
use crate::ours::FRAME;

const BATCH: usize = 32;

/// All figures of this module.
pub(crate) fn figures() -> Result<Vec<Figure>> {
    let mut figures = nothing_to_map()?;
    figures.extend(steady_decode()?);
    Ok(figures)
}

/// Steps in which every sequence grows by a token and no frame is needed, with the mapper thread and without it.
fn nothing_to_map() -> Result<Vec<Figure>> {
    // 44 to 64 tokens lie in three frames of 64 KiB in each region; in one of 1 MiB with more than the thread looks ahead.
    let mut figures = nothing_to_map_with(FRAME, Config::new(1 << 30), "")?;
    figures.extend(nothing_to_map_with(
        1 << 20,
        Config::new(2 << 30).mapper(true),
        ", mapper thread",
    )?);
    Ok(figures)
}

fn nothing_to_map_with(frame_bytes: usize, config: Config, variant: &str) -> Result<Vec<Figure>> {
    const FIRST: usize = 44;
    const STEPS: usize = 20;
    let counter = Counter::new();
    let backend = Counted::new(HostBackend::new(frame_bytes)?, Arc::clone(&counter));
    let mut cache = KvCache::with_backend(backend, gpt2::geometry(BATCH, frame_bytes)?, config)?;
    let sequences: Vec<_> = (0..BATCH).map(|_| cache.admit(FIRST)).collect::<Result<_, _>>()?;
    let batches: Vec<Vec<(SeqId, usize)>> = (1..=STEPS)
        .map(|step| sequences.iter().map(|&seq| (seq, FIRST + step)).collect())
        .collect();
    cache.settle();
    let calls_before = counter.critical().total() + counter.background().total();
    let (mut plain, mut committed, mut spawned) = (Vec::new(), Vec::new(), Vec::new());
    let per_sequence = |nanos: f64| nanos / (STEPS * BATCH) as f64;
    for _ in 0..200 {
        let (time, result) = nanos(|| {
            batches
                .iter()
                .try_for_each(|batch| cache.plan_step(batch).map(|ticket| drop(black_box(ticket))))
        });
        result?;
        plain.push(per_sequence(time));
        back(&mut cache, &sequences, FIRST)?;
        let (time, result) = nanos(|| {
            batches
                .iter()
                .try_for_each(|batch| cache.plan_step(batch).map(|ticket| cache.commit(ticket, ())))
        });
        result?;
        committed.push(per_sequence(time));
        back(&mut cache, &sequences, FIRST)?;
        let (time, handle) = nanos(|| thread::spawn(|| {}));
        handle.join().expect("an empty thread does not panic");
        spawned.push(time / BATCH as f64);
    }
    let calls = counter.critical().total() + counter.background().total() - calls_before;
    let spawn = median(spawned);
    let named = |name: &str, value, unit| Figure::measured("steps", &format!("{name}{variant}"), value, unit);
    Ok(vec![
        named("plan_step, nothing to map, per sequence of 32", median(plain), "ns")
            .goal(Goal::AtMost(100.0))
            .baseline("spawning one thread a step", spawn),
        named("plan_step and commit, per sequence of 32", median(committed), "ns")
            .baseline("spawning one thread a step", spawn),
        named("calls of the backend in these steps", calls as f64, "calls").goal(Goal::AtMost(0.0)),
    ])
}

/// Shortens all sequences again; their frames stay.
fn back<B: Backend>(cache: &mut KvCache<B>, sequences: &[SeqId], len: usize) -> Result<()> {
    for &seq in sequences {
        cache.truncate(seq, len)?;
    }
    Ok(())
}

/// Decoding at batch 32, a step each five milliseconds, as the thread of the model sees it.
fn steady_decode() -> Result<Vec<Figure>> {
    let exact = decode(Config::new(2 << 30))?;
    let mapper = decode(Config::new(2 << 30).mapper(true))?;
    Ok(vec![
        Figure::measured(
            "steps",
            "sync maps in 300 steps of decode at batch 32",
            mapper.sync_maps as f64,
            "maps",
        )
        .goal(Goal::AtMost(0.0))
        .baseline("without the mapper thread", exact.sync_maps as f64),
        Figure::measured("steps", "CPU time of such a step, mean", mapper.step_micros, "us")
            .baseline("without the mapper thread", exact.step_micros),
        Figure::measured(
            "steps",
            "memory ahead of the 32 sequences at the end",
            mapper.ahead_mib,
            "MiB",
        ),
    ])
}

struct Decode {
    sync_maps: u64,
    step_micros: f64,
    ahead_mib: f64,
}

/// 300 steps, after 50 to warm up. The thread of the model sleeps between two steps, as it does while a device computes.
fn decode(config: Config) -> Result<Decode> {
    const PROMPT: usize = 100;
    const WARM_UP: usize = 50;
    const STEPS: usize = 300;
    let mut cache = KvCache::with_config(gpt2::geometry(BATCH, FRAME)?, config)?;
    let sequences: Vec<_> = (0..BATCH)
        .map(|i| Ok((cache.admit(PROMPT + i)?, PROMPT + i)))
        .collect::<Result<_>>()?;
    let (mut before, mut time) = (0, 0.0);
    for step in 1..=WARM_UP + STEPS {
        let batch: Vec<_> = sequences.iter().map(|&(seq, len)| (seq, len + step)).collect();
        let (nanos, ticket) = nanos(|| cache.plan_step(&batch));
        thread::sleep(Duration::from_millis(5));
        cache.commit(ticket?, ());
        if step == WARM_UP {
            before = cache.stats().sync_maps;
        } else if step > WARM_UP {
            time += nanos;
        }
    }
    let stats = cache.stats();
    Ok(Decode {
        sync_maps: stats.sync_maps - before,
        step_micros: time / 1e3 / STEPS as f64,
        ahead_mib: stats.ahead_bytes as f64 / f64::from(1 << 20),
    })
}
