//! Memory itself: waste, the gain of huge pages, giving back, and the kernel's mappings.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use vattn::{Config, KvCache};
use vattn_policies::{Policy, Shape, VAttention};

use crate::calls;
use crate::clock::median;
use crate::figure::{Figure, Goal};
use crate::gpt2;
use crate::ours::FRAME;

const MIB: f64 = (1 << 20) as f64;

/// All figures of this module.
pub(crate) fn figures() -> Result<Vec<Figure>> {
    let mut figures = vec![waste(64 << 10, 0.75)?, waste(16 << 10, 0.19)?];
    figures.extend(calls::supply()?);
    figures.extend([shrink()?, mappings()?]);
    Ok(figures)
}

/// Memory that sequences of evenly spread lengths have beyond their rows. They live one after the other.
fn waste(frame_bytes: usize, goal: f64) -> Result<Figure> {
    const SEQUENCES: usize = 48;
    // Multiples of the golden ratio are spread evenly and keep time with no frame.
    let lengths = || (1..=SEQUENCES).map(|i| 1 + (1024.0 * (i as f64 * 0.618_034).fract()) as usize);
    let mut cache = KvCache::new(gpt2::geometry(1, frame_bytes)?, 4 << 30)?;
    let (mut physical, mut used) = (0, 0);
    for len in lengths() {
        let seq = cache.admit(len)?;
        let stats = cache.stats();
        physical += stats.physical_bytes;
        used += stats.used_bytes;
        cache.free(seq)?;
    }
    let per_sequence = |bytes: usize| bytes as f64 / MIB / SEQUENCES as f64;

    let shape = Shape {
        tensors: 2 * gpt2::LAYERS,
        row_bytes: gpt2::ROW,
        max_tokens: 1024,
        max_sequences: SEQUENCES,
        budget_bytes: 64 << 30,
    };
    let mut peer = VAttention::new(&shape, 2 << 20);
    let batch: Vec<_> = lengths()
        .map(|len| (peer.admit(len).expect("the pool is large"), len))
        .collect();
    peer.step(&batch).expect("the pool is large");
    let peer_bytes = peer.account().assigned_bytes - used;
    let name = format!("waste a sequence, frames of {} KiB", frame_bytes >> 10);
    Ok(Figure::measured("memory", &name, per_sequence(physical - used), "MiB")
        .goal(Goal::AtMost(goal))
        .baseline("vattention 2 MiB (simulated)", per_sequence(peer_bytes)))
}

/// How long after the frees the memory is gone that a lower limit asks for.
fn shrink() -> Result<Figure> {
    const SEQUENCES: usize = 8;
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut cache = KvCache::with_config(
            gpt2::geometry(SEQUENCES, FRAME)?,
            Config::new(1 << 30).warm_bytes(1 << 30),
        )?;
        let sequences: Vec<_> = (0..SEQUENCES).map(|_| cache.admit(500)).collect::<Result<_, _>>()?;
        let limit = cache.stats().physical_bytes / 2;
        cache.set_limit(limit);
        let freed = Instant::now();
        for &seq in &sequences[..SEQUENCES / 2] {
            cache.free(seq)?;
        }
        while cache.stats().physical_bytes > limit && freed.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(freed.elapsed().as_secs_f64() * 1e3);
    }
    let name = "from the frees to the lower limit, 144 MiB given back, wall";
    Ok(Figure::measured("memory", name, median(times), "ms").goal(Goal::AtMost(100.0)))
}

/// Mappings of the kernel for each region of sequences that have grown token by token.
fn mappings() -> Result<Figure> {
    const SEQUENCES: usize = 16;
    let lines = || -> Result<usize> { Ok(fs::read_to_string("/proc/self/maps")?.lines().count()) };
    let before = lines()?;
    let geometry = gpt2::geometry(SEQUENCES, FRAME)?;
    let mut cache = KvCache::new(geometry, 2 << 30)?;
    let sequences: Vec<_> = (0..SEQUENCES)
        .map(|i| Ok((cache.admit(20 + i)?, 20 + i)))
        .collect::<Result<_>>()?;
    for step in 1..300 {
        let batch: Vec<_> = sequences.iter().map(|&(seq, len)| (seq, len + step)).collect();
        cache.grow_batch(&batch)?;
    }
    let regions = SEQUENCES * geometry.regions_per_sequence();
    let grown = (lines()? - before) as f64 / regions as f64;
    let frames = geometry.region_frames(315) as f64;
    Ok(
        Figure::measured("memory", "kernel mappings for each region", grown, "mappings")
            .goal(Goal::AtMost(3.0))
            .baseline("one for each frame (computed)", frames),
    )
}
