//! The whole cache on the device: random growth and shrinking, and a pool that has taken the memory.

use std::error::Error;

use serde_json::json;
use vattn::backend::Backend;
use vattn::cuda::CudaBackend;
use vattn::{Config, Error as CacheError, Geometry, KvCache, SeqId, Side};

use crate::report::Found;

const SEQUENCES: usize = 6;

/// A generator of numbers (xorshift64*, Vigna 2016), so that every run makes the same steps.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// One sequence and the value of each of its rows.
struct Live {
    seq: SeqId,
    rows: Vec<u8>,
}

fn check(cache: &KvCache<CudaBackend>, live: &Live, random: &mut Random) -> Result<(), Box<dyn Error>> {
    let row_bytes = cache.geometry().row_bytes();
    let layers = cache.geometry().layers();
    let Some(last) = live.rows.len().checked_sub(1) else {
        return Ok(());
    };
    // The first and the last row, and one between.
    for row in [0, random.below(live.rows.len()), last] {
        let layer = random.below(layers);
        for side in [Side::K, Side::V] {
            let mut bytes = vec![0; row_bytes];
            cache.read_rows(live.seq, layer, side, row..row + 1, &mut bytes)?;
            if let Some(wrong) = bytes.iter().find(|byte| **byte != live.rows[row]) {
                return Err(format!("row {row} holds {wrong} instead of {}", live.rows[row]).into());
            }
        }
    }
    Ok(())
}

/// Grows, truncates, forks and frees sequences at random under a budget that is too small for all of them; every new row is
/// written, and rows are read back.
pub(crate) fn random(device: i32, steps: usize) -> Found {
    let backend = CudaBackend::open(device)?;
    let frame_bytes = backend.caps().frame_bytes;
    // Rows that divide no frame: a few tokens fill one.
    let row_bytes = frame_bytes / 5 + 96;
    let geometry = Geometry::builder()
        .layers(2)
        .row_bytes(row_bytes)
        .max_tokens(24)
        .max_sequences(SEQUENCES)
        .frame_bytes(frame_bytes)
        .build()?;
    let mut cache = KvCache::with_backend(backend.clone(), geometry, Config::new(48 * frame_bytes))?;
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut live: Vec<Live> = Vec::new();
    let (mut grown, mut refused) = (0, 0);
    for step in 0..steps {
        let value = (step % 251) as u8 + 1;
        match random.below(8) {
            0 if live.len() < SEQUENCES => {
                let seq = cache.open()?;
                live.push(Live { seq, rows: Vec::new() });
            }
            1 if !live.is_empty() => {
                let gone = live.swap_remove(random.below(live.len()));
                cache.free(gone.seq)?;
            }
            2 if !live.is_empty() => {
                let index = random.below(live.len());
                let len = random.below(live[index].rows.len() + 1);
                cache.truncate(live[index].seq, len)?;
                live[index].rows.truncate(len);
            }
            3 if !live.is_empty() && live.len() < SEQUENCES && backend.caps().alias => {
                let index = random.below(live.len());
                match cache.fork(live[index].seq) {
                    Ok(seq) => {
                        let rows = live[index].rows.clone();
                        live.push(Live { seq, rows });
                    }
                    Err(CacheError::NeedFrames { .. }) => refused += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            _ if !live.is_empty() => {
                let index = random.below(live.len());
                let (seq, before) = (live[index].seq, live[index].rows.len());
                let len = (before + 1 + random.below(4)).min(24);
                match cache.grow(seq, len) {
                    Ok(()) => {
                        for layer in 0..2 {
                            for side in [Side::K, Side::V] {
                                cache.write_rows(seq, layer, side, before, &vec![value; (len - before) * row_bytes])?;
                            }
                        }
                        live[index].rows.resize(len, value);
                        grown += 1;
                    }
                    Err(CacheError::NeedFrames { .. }) => refused += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            _ => {}
        }
        if !live.is_empty() {
            let index = random.below(live.len());
            check(&cache, &live[index], &mut random)?;
        }
        if step % 64 == 0 {
            cache.audit()?;
        }
    }
    cache.audit()?;
    for gone in live {
        cache.free(gone.seq)?;
    }
    cache.trim();
    let left = backend.physical_bytes();
    let said =
        format!("{steps} steps, {grown} growths, {refused} refused for the budget, {left} bytes left at the end");
    match left {
        0 => Ok((said, json!({"steps": steps, "growths": grown, "refused": refused}))),
        _ => Err(said.into()),
    }
}

/// Lets the default pool hold nearly all memory, freed but kept, and then asks the cache for more than is left.
pub(crate) fn pool(device: i32) -> Found {
    let backend = CudaBackend::open(device)?;
    let driver = backend.driver();
    if !driver.info()?.pools {
        return Ok(("the device has no pools".to_owned(), json!(null)));
    }
    let frame_bytes = backend.caps().frame_bytes;
    let (free, _) = driver.memory_info()?;
    // What is left beside the pool; the cache then wants twice that.
    let left = (free / 8).min(256 << 20) / frame_bytes * frame_bytes;
    let wanted = 2 * left / frame_bytes / 2 * 2;
    driver.set_pool_threshold(u64::MAX)?;
    let stream = driver.stream()?;
    let held = free - left;
    let filled = driver
        .allocate(stream.handle(), held)
        .and_then(|memory| driver.free(stream.handle(), memory));
    let outcome = filled
        .map_err(Into::into)
        .and_then(|()| -> Result<usize, Box<dyn Error>> {
            driver.wait_stream(stream.handle())?;
            let (beside, _) = driver.memory_info()?;
            let geometry = Geometry::builder()
                .layers(1)
                .row_bytes(frame_bytes)
                .max_tokens(wanted)
                .max_sequences(1)
                .frame_bytes(frame_bytes)
                .build()?;
            let mut cache = KvCache::with_backend(backend.clone(), geometry, Config::new(usize::MAX))?;
            cache.admit(wanted / 2)?;
            Ok(beside)
        });
    driver.set_pool_threshold(0)?;
    driver.synchronize()?;
    driver.trim_pool()?;
    let beside = outcome?;
    let said = format!(
        "the cache had {} MiB where {} MiB were free beside the pool's {} MiB",
        (wanted / 2 * 2 * frame_bytes) >> 20,
        beside >> 20,
        held >> 20
    );
    Ok((
        said,
        json!({"held_bytes": held, "free_beside_bytes": beside, "mapped_bytes": wanted / 2 * 2 * frame_bytes}),
    ))
}
