//! Memory itself: waste, the gain of huge pages, giving back, and the kernel's mappings.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use vattn::{Config, KvCache, SeqId};
use vattn_policies::{Policy, Shape, VAttention};

use crate::calls;
use crate::clock::{median, nanos, others};
use crate::figure::{Figure, Goal};
use crate::gpt2;
use crate::ours::FRAME;

const MIB: f64 = (1 << 20) as f64;

/// All figures of this module.
pub(crate) fn figures() -> Result<Vec<Figure>> {
    let mut figures = vec![waste(64 << 10, 0.75)?, waste(16 << 10, 0.19)?];
    figures.extend(calls::supply()?);
    figures.push(background_supply()?);
    figures.extend(strided_reads()?);
    figures.extend([translation(32)?, translation(4)?]);
    figures.extend([shrink()?, mappings(false)?, mappings(true)?]);
    Ok(figures)
}

/// How fast the mapper thread fills slots with zeroed memory, 2 MiB in each region. It does so twice, because under a hypervisor
/// the first use of free memory costs what the host does, too.
fn background_supply() -> Result<Figure> {
    const SEQUENCES: usize = 8;
    // 682 rows of 3,072 bytes are 2 MiB but for 512 bytes.
    const TOKENS: usize = 682;
    let config = Config::new(2 << 30).warm_bytes(256 << 20).mapper(true);
    let mut cache = KvCache::with_config(gpt2::geometry(SEQUENCES, FRAME)?, config)?;
    let mut rates = Vec::new();
    for _ in 0..6 {
        let seq = cache.admit(TOKENS)?;
        cache.free(seq)?;
        cache.trim();
        cache.settle();
        // Whoever opens a sequence is in use again, and the next one is expected to be as long.
        let (before, then) = (cache.stats().warm_bytes, others());
        let seq = cache.open()?;
        cache.settle();
        rates.push((cache.stats().warm_bytes - before) as f64 / (others() - then).as_nanos() as f64);
        cache.free(seq)?;
    }
    Ok(Figure::measured(
        "memory",
        "supply by the mapper thread, huge pages",
        median(rates.split_off(1)),
        "GB/s",
    )
    .goal(Goal::AtLeast(8.0))
    .baseline("4 KiB pages, call of the backend", calls::base_pages()?))
}

/// What a head of attention reads: `head` bytes of each of `tokens` rows.
struct Reads {
    model: &'static str,
    row: usize,
    head: usize,
    tokens: usize,
    layers: usize,
    goal: Goal,
}

/// Reading what attention reads, one head after the other, with the pages that the mapper thread has made huge, and without. What
/// is gained depends on how many small pages a region has, of which the processor keeps some thousands in mind, and on how
/// many bytes are read out of each.
fn strided_reads() -> Result<Vec<Figure>> {
    let reads = |model, row, head, tokens, layers, goal| Reads {
        model,
        row,
        head,
        tokens,
        layers,
        goal,
    };
    let mut figures = Vec::new();
    for reads in [
        reads("GPT-2, f32", 3072, 256, 16_384, 2, Goal::AtLeast(1.5)),
        reads("GPT-2, f32", 3072, 256, 1365, 12, Goal::None),
        reads("Llama 2 7B, f16", 8192, 256, 8192, 2, Goal::None),
    ] {
        let before = huge_bytes()?;
        let caches = [long_sequence(&reads, false)?, long_sequence(&reads, true)?];
        let bytes = (reads.tokens * 2 * reads.layers * reads.row) as f64;
        let share = 100.0 * (huge_bytes()? - before) / bytes;
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..9 {
            for (rates, (cache, seq)) in rates.iter_mut().zip(&caches) {
                let (time, sum) = nanos(|| walk(cache, *seq, &reads));
                std::hint::black_box(sum?);
                rates.push(bytes / time);
            }
        }
        let [base, huge] = rates.map(median);
        let name = format!(
            "{}, {} tokens, {} bytes of each row",
            reads.model, reads.tokens, reads.head
        );
        figures.extend([
            Figure::measured(
                "memory",
                &format!("strided reads with huge pages: {name}"),
                huge / base,
                "times",
            )
            .goal(reads.goal)
            .baseline(&format!("{huge:.1} GB/s, 4 KiB pages {base:.1} GB/s"), 1.0),
            Figure::measured("memory", "part of these rows on huge pages", share, "%"),
        ]);
    }
    Ok(figures)
}

/// Bytes of shared memory that this process has mapped as huge pages.
fn huge_bytes() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("ShmemPmdMapped:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kib.unwrap_or(0.0) * 1024.0)
}

/// A sequence with every row written.
fn long_sequence(reads: &Reads, mapper: bool) -> Result<(KvCache, SeqId)> {
    let geometry = vattn::Geometry::builder()
        .layers(reads.layers)
        .row_bytes(reads.row)
        .max_tokens(reads.tokens)
        .max_sequences(1)
        .build()?;
    let mut cache = KvCache::with_config(geometry, Config::new(1 << 30).mapper(mapper))?;
    let seq = cache.admit(reads.tokens)?;
    gpt2::fill(&mut cache, seq, 3)?;
    cache.settle();
    Ok((cache, seq))
}

/// Adds up all rows, head by head.
fn walk(cache: &KvCache, seq: SeqId, reads: &Reads) -> Result<u64> {
    let mut sum = 0_u64;
    for layer in 0..reads.layers {
        for rows in [cache.k(seq, layer)?, cache.v(seq, layer)?] {
            for head in (0..reads.row).step_by(reads.head) {
                for row in rows.chunks_exact(reads.row) {
                    let part = row[head..head + reads.head].as_chunks::<8>().0;
                    sum = part
                        .iter()
                        .fold(sum, |sum, &word| sum.wrapping_add(u64::from_le_bytes(word)));
                }
            }
        }
    }
    Ok(sum)
}

/// What it costs to find the page of an address: reads that follow each other through one cache line of every 4 KiB, in an order
/// without a pattern. The lines fit into the second cache, and 16 large pages into any translation cache; where large pages
/// are not near the time of 4 MiB, the processor does not translate by large pages, as under a hypervisor that has small ones.
fn translation(mebibytes: usize) -> Result<Figure> {
    const ROW: usize = 4096;
    const READS: usize = 1_000_000;
    let tokens = (mebibytes << 20) / ROW;
    let mut times = [Vec::new(), Vec::new()];
    for (times, mapper) in times.iter_mut().zip([false, true]) {
        let geometry = vattn::Geometry::builder()
            .layers(1)
            .row_bytes(ROW)
            .max_tokens(tokens)
            .max_sequences(1)
            .build()?;
        let mut cache = KvCache::with_config(geometry, Config::new(1 << 30).mapper(mapper))?;
        let seq = cache.admit(tokens)?;
        // Steps of the golden section visit every row once; where in the row is spread over the sets of the caches.
        let step = (tokens as f64 * 0.618_034) as usize | 1;
        let at = |index: usize| {
            let row = index * step % tokens;
            row * ROW + row % 61 * 64
        };
        let (rows, _) = cache.rows_mut(seq, 0, 0..tokens)?;
        for index in 0..tokens {
            let next = (at(index + 1) as u32).to_le_bytes();
            rows[at(index)..][..4].copy_from_slice(&next);
        }
        cache.settle();
        let rows = cache.k(seq, 0)?;
        let mut place = 0;
        for _ in 0..7 {
            let (time, ()) = nanos(|| {
                for _ in 0..READS {
                    let next = rows[place..][..4].try_into().expect("four bytes");
                    place = u32::from_le_bytes(next) as usize;
                }
            });
            times.push(time / READS as f64);
        }
        std::hint::black_box(place);
    }
    let [base, huge] = times.map(median);
    let name = format!("one read after the other, a line of each 4 KiB of {mebibytes} MiB, huge pages");
    Ok(Figure::measured("memory", &name, huge, "ns").baseline("4 KiB pages", base))
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
            Config::new(1 << 30).warm_bytes(1 << 30).mapper(true),
        )?;
        let sequences: Vec<_> = (0..SEQUENCES).map(|_| cache.admit(500)).collect::<Result<_, _>>()?;
        let geometry = cache.geometry();
        let limit = SEQUENCES / 2 * geometry.sequence_frames(500) * geometry.frame_bytes();
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

/// Mappings of the kernel for each region of sequences that have grown token by token, with the mapper thread or without.
fn mappings(mapper: bool) -> Result<Figure> {
    const SEQUENCES: usize = 16;
    let lines = || -> Result<usize> { Ok(fs::read_to_string("/proc/self/maps")?.lines().count()) };
    let before = lines()?;
    let geometry = gpt2::geometry(SEQUENCES, FRAME)?;
    let mut cache = KvCache::with_config(geometry, Config::new(2 << 30).mapper(mapper))?;
    let sequences: Vec<_> = (0..SEQUENCES)
        .map(|i| Ok((cache.admit(20 + i)?, 20 + i)))
        .collect::<Result<_>>()?;
    for step in 1..300 {
        let batch: Vec<_> = sequences.iter().map(|&(seq, len)| (seq, len + step)).collect();
        cache.grow_batch(&batch)?;
    }
    cache.settle();
    let regions = SEQUENCES * geometry.regions_per_sequence();
    let grown = (lines()? - before) as f64 / regions as f64;
    let frames = geometry.region_frames(315) as f64;
    let name = match mapper {
        true => "kernel mappings for each region, mapper thread",
        false => "kernel mappings for each region",
    };
    Ok(Figure::measured("memory", name, grown, "mappings")
        .goal(Goal::AtMost(3.0))
        .baseline("one for each frame (computed)", frames))
}
