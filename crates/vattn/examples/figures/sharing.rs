//! What sharing gives: forks, and more sequences in one budget.

use anyhow::Result;
use vattn::{Config, Error, KvCache, SeqId};

use crate::clock::{median, nanos};
use crate::figure::{Figure, Goal};
use crate::gpt2;
use crate::ours::FRAME;

const MIB: f64 = (1 << 20) as f64;

/// All figures of this module.
pub(crate) fn figures() -> Result<Vec<Figure>> {
    let mut figures = fork()?;
    figures.push(one_budget()?);
    Ok(figures)
}

/// A fork of 1,000 tokens beside a deep copy of them.
fn fork() -> Result<Vec<Figure>> {
    const TOKENS: usize = 1000;
    let mut cache = KvCache::new(gpt2::geometry(4, FRAME)?, 1 << 30)?;
    let parent = cache.admit(TOKENS)?;
    gpt2::fill(&mut cache, parent, 7)?;
    let alone = cache.stats().physical_bytes;
    let (mut forked, mut copied) = (Vec::new(), Vec::new());
    let (mut fork_bytes, mut copy_bytes) = (0, 0);
    let mut row = vec![0; TOKENS * gpt2::ROW];
    for _ in 0..15 {
        let (time, child) = nanos(|| cache.fork(parent));
        let child = child?;
        forked.push(time / 1e6);
        fork_bytes = cache.stats().physical_bytes - alone;
        assert!(
            cache.k(child, 5)? == cache.k(parent, 5)?,
            "a fork has the rows of its parent"
        );
        cache.free(child)?;

        let (time, child) = nanos(|| deep_copy(&mut cache, parent, TOKENS, &mut row));
        copied.push(time / 1e6);
        copy_bytes = cache.stats().physical_bytes - alone;
        cache.free(child?)?;
    }
    Ok(vec![
        Figure::measured("sharing", "fork of 1,000 tokens", median(forked), "ms")
            .goal(Goal::AtMost(3.0))
            .baseline("deep copy", median(copied)),
        Figure::measured("sharing", "memory added by the fork", fork_bytes as f64 / MIB, "MiB")
            .goal(Goal::AtMost(1.5))
            .baseline("deep copy", copy_bytes as f64 / MIB),
    ])
}

/// What a cache without sharing does: new memory, and every row copied. The buffer stays in the processor's caches, so
/// this is one pass over memory in each direction.
fn deep_copy(cache: &mut KvCache, parent: SeqId, tokens: usize, buffer: &mut [u8]) -> Result<SeqId> {
    const CHUNK: usize = 16;
    let child = cache.admit(tokens)?;
    for layer in 0..gpt2::LAYERS {
        for start in (0..tokens).step_by(CHUNK) {
            let rows = start..tokens.min(start + CHUNK);
            let bytes = rows.start * gpt2::ROW..rows.end * gpt2::ROW;
            let (k_half, v_half) = buffer.split_at_mut(CHUNK * gpt2::ROW);
            let (k_half, v_half) = (&mut k_half[..bytes.len()], &mut v_half[..bytes.len()]);
            k_half.copy_from_slice(&cache.k(parent, layer)?[bytes.clone()]);
            v_half.copy_from_slice(&cache.v(parent, layer)?[bytes]);
            let (k, v) = cache.rows_mut(child, layer, rows)?;
            k.copy_from_slice(k_half);
            v.copy_from_slice(v_half);
        }
    }
    Ok(child)
}

/// Sequences of 1,000 tokens in 1 GiB, with a prefix of 800 tokens in common and without.
fn one_budget() -> Result<Figure> {
    const TOKENS: usize = 1000;
    const PREFIX: usize = 800;
    const SEQUENCES: usize = 128;
    let config = Config::new(1 << 30);

    let mut cache = KvCache::with_config(gpt2::geometry(SEQUENCES, FRAME)?, config)?;
    let alone = count(|| cache.admit(TOKENS).map(drop))?;
    drop(cache);

    let mut cache = KvCache::with_config(gpt2::geometry(SEQUENCES, FRAME)?, config)?;
    let first = cache.admit(PREFIX)?;
    let prefix = cache.publish_prefix(first, PREFIX)?;
    cache.free(first)?;
    let shared = count(|| {
        let seq = cache.attach_prefix(prefix)?;
        cache.grow(seq, TOKENS).inspect_err(|_| drop(cache.free(seq)))
    })?;
    Ok(Figure::measured(
        "sharing",
        "sequences in 1 GiB, 80 % shared, over those without sharing",
        shared as f64 / alone as f64,
        "times",
    )
    .goal(Goal::AtLeast(4.0))
    .baseline(&format!("{shared} sequences, without sharing {alone}"), 1.0))
}

/// How often `admit` works until the budget is spent.
fn count(mut admit: impl FnMut() -> vattn::Result<()>) -> Result<usize> {
    for admitted in 0.. {
        match admit() {
            Ok(()) => {}
            Err(Error::NeedFrames { .. }) => return Ok(admitted),
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the budget ends")
}
