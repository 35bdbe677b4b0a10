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

/// Steps in which every sequence grows by a token and no frame is needed.
fn nothing_to_map() -> Result<Vec<Figure>> {
    // 44 to 64 tokens lie in three frames of each region.
    const FIRST: usize = 44;
    const STEPS: usize = 20;
    let counter = Counter::new();
    let backend = Counted::new(HostBackend::new(FRAME)?, Arc::clone(&counter));
    let mut cache = KvCache::with_backend(backend, gpt2::geometry(BATCH, FRAME)?, Config::new(1 << 30))?;
    let sequences: Vec<_> = (0..BATCH).map(|_| cache.admit(FIRST)).collect::<Result<_, _>>()?;
    let batches: Vec<Vec<(SeqId, usize)>> = (1..=STEPS)
        .map(|step| sequences.iter().map(|&seq| (seq, FIRST + step)).collect())
        .collect();
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
    let name = "plan_step, nothing to map, per sequence of 32";
    Ok(vec![
        Figure::measured("steps", name, median(plain), "ns")
            .goal(Goal::AtMost(100.0))
            .baseline("spawning one thread a step", spawn),
        Figure::measured(
            "steps",
            "plan_step and commit, per sequence of 32",
            median(committed),
            "ns",
        )
        .baseline("spawning one thread a step", spawn),
        Figure::measured("steps", "calls of the backend in these steps", calls as f64, "calls").goal(Goal::AtMost(0.0)),
    ])
}

/// Shortens all sequences again; their frames stay.
fn back<B: Backend>(cache: &mut KvCache<B>, sequences: &[SeqId], len: usize) -> Result<()> {
    for &seq in sequences {
        cache.truncate(seq, len)?;
    }
    Ok(())
}

/// Decoding at batch 32, a step each five milliseconds: growing by four frames at once, and by one.
fn steady_decode() -> Result<Vec<Figure>> {
    let ahead = decode(Config::new(2 << 30).growth_bytes(4 * FRAME))?;
    let exact = decode(Config::new(2 << 30))?;
    Ok(vec![
        Figure::measured(
            "steps",
            "sync maps in 300 steps of decode at batch 32",
            ahead as f64,
            "maps",
        )
        .goal(Goal::AtMost(0.0))
        .baseline("one frame at a time", exact as f64),
    ])
}

/// Times that a sequence had to wait for memory in 300 steps, after 50 to warm up.
fn decode(config: Config) -> Result<u64> {
    const PROMPT: usize = 100;
    const WARM_UP: usize = 50;
    const STEPS: usize = 300;
    let mut cache = KvCache::with_config(gpt2::geometry(BATCH, FRAME)?, config)?;
    let sequences: Vec<_> = (0..BATCH)
        .map(|i| Ok((cache.admit(PROMPT + i)?, PROMPT + i)))
        .collect::<Result<_>>()?;
    let mut before = 0;
    for step in 1..=WARM_UP + STEPS {
        let batch: Vec<_> = sequences.iter().map(|&(seq, len)| (seq, len + step)).collect();
        let ticket = cache.plan_step(&batch)?;
        thread::sleep(Duration::from_millis(5));
        cache.commit(ticket, ());
        if step == WARM_UP {
            before = cache.stats().sync_maps;
        }
    }
    Ok(cache.stats().sync_maps - before)
}
