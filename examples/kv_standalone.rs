//! The KV cache without a model: four sequences of different lengths grow side by side, and the table compares what they
//! hold with what a static cache would have reserved for them.
//!
//! `cargo run --release --example kv_standalone`

use std::io::{self, Write};

use anyhow::Result;
use vattn::{Error, Geometry, KvCache};

const MIB: f64 = (1 << 20) as f64;

fn main() -> Result<()> {
    // The shape of GPT-2 small in f32: 12 layers, rows of 768 floats, 1,024 positions.
    let geometry = Geometry::builder()
        .layers(12)
        .row_bytes(768 * 4)
        .max_tokens(1024)
        .max_sequences(8)
        .build()?;
    let mut cache = KvCache::new(geometry, 128 << 20)?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:24} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "step", "sequences", "tokens", "used", "mapped", "physical", "static", "waste"
    )?;

    // A static cache takes the longest length for every sequence, however short it turns out to be.
    let static_bytes = geometry.used_bytes(geometry.max_tokens());
    let mut row = |cache: &KvCache, step: &str, tokens: usize| -> Result<()> {
        let stats = cache.stats();
        writeln!(
            out,
            "{step:24} {:>9} {tokens:>7} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>8.1}%",
            stats.live_sequences,
            stats.used_bytes as f64 / MIB,
            stats.mapped_bytes as f64 / MIB,
            stats.physical_bytes as f64 / MIB,
            (stats.live_sequences * static_bytes) as f64 / MIB,
            100.0 * (stats.mapped_bytes - stats.used_bytes) as f64 / stats.mapped_bytes.max(1) as f64,
        )?;
        Ok(())
    };

    // (prompt, final length) of each request.
    let requests = [(12, 60), (100, 180), (300, 420), (40, 500)];
    let mut sequences = Vec::new();
    for (prompt, end) in requests {
        let seq = cache.open()?;
        cache.grow(seq, prompt)?;
        sequences.push((seq, prompt, end));
    }
    let tokens = |sequences: &[(_, usize, usize)]| sequences.iter().map(|&(_, len, _)| len).sum();
    row(&cache, "prompts", tokens(&sequences))?;

    for step in 1.. {
        // One token for everybody: all of them grow, or none does.
        let batch: Vec<_> = sequences.iter().map(|&(seq, len, _)| (seq, len + 1)).collect();
        cache.grow_batch(&batch)?;
        for (seq, len, _) in &mut sequences {
            write_token(&mut cache, *seq, *len)?;
            *len += 1;
        }
        let running = sequences.len();
        for (seq, ..) in sequences.extract_if(.., |&mut (_, len, end)| len == end) {
            cache.free(seq)?;
        }
        if sequences.is_empty() {
            row(&cache, &format!("{step} tokens on, all done"), 0)?;
            break;
        }
        if sequences.len() < running {
            row(&cache, &format!("{step} tokens on, one done"), tokens(&sequences))?;
        } else if step % 100 == 0 {
            row(&cache, &format!("{step} tokens on"), tokens(&sequences))?;
        }
    }

    // The budget holds one long sequence and a good part of another: the error says what is missing.
    let (first, second) = (cache.open()?, cache.open()?);
    cache.grow(first, 1024)?;
    row(&cache, "a full sequence", 1024)?;
    match cache.grow(second, 1024) {
        Err(error @ Error::NeedFrames { .. }) => writeln!(io::stderr(), "a second full one: {error}")?,
        other => other?,
    }
    cache.truncate(first, 512)?;
    row(&cache, "truncated to half", 512)?;
    cache.grow(second, 1024)?;
    row(&cache, "the second one fits", 512 + 1024)?;
    writeln!(
        out,
        "sizes in MiB; waste is the part of the mapped memory that holds no row"
    )?;
    Ok(())
}

/// Writes the K and V rows of one token in all layers, as a model would.
fn write_token(cache: &mut KvCache, seq: vattn::SeqId, token: usize) -> Result<(), Error> {
    for layer in 0..cache.geometry().layers() {
        let (k, v) = cache.rows_mut(seq, layer, token..token + 1)?;
        k.fill(1);
        v.fill(2);
    }
    Ok(())
}
