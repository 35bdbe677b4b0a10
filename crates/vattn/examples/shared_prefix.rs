//! Two processes read one prefix out of the same memory.
//!
//! ```text
//! cargo run -p vattn --features serde --example shared_prefix
//! ```
//!
//! The parent computes a prompt's rows once and publishes them. Each child gets the memory file as its standard input and the
//! description of the prefix as an argument, maps the rows read-only and adds them up. The parent compares the sums, and
//! shows that the memory behind the rows is there once.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use vattn::host::{ExportedPrefix, ImportedPrefix};
use vattn::{Geometry, KvCache, Side};

const LAYERS: usize = 12;
const ROW: usize = 768 * 4;
const TOKENS: usize = 1000;

fn main() -> Result<()> {
    match env::args().nth(1) {
        Some(description) => child(&description),
        None => parent(),
    }
}

fn parent() -> Result<()> {
    let geometry = Geometry::builder()
        .layers(LAYERS)
        .row_bytes(ROW)
        .max_tokens(1024)
        .max_sequences(4)
        .build()?;
    let mut cache = KvCache::new(geometry, 256 << 20)?;
    let prompt = cache.admit(TOKENS)?;
    for layer in 0..LAYERS {
        let (k, v) = cache.rows_mut(prompt, layer, 0..TOKENS)?;
        for (index, byte) in k.iter_mut().chain(v).enumerate() {
            *byte = (index * 31 + layer * 7) as u8;
        }
    }
    let prefix = cache.publish_prefix(prompt, TOKENS)?;
    cache.free(prompt)?;
    let before = cache.stats().physical_bytes;

    let description = serde_json::to_string(&cache.export_prefix(prefix)?)?;
    let spawn = || -> Result<_> {
        let child = Command::new(env::current_exe()?)
            .arg(&description)
            .stdin(Stdio::from(cache.memory_file()?))
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the other process")?;
        Ok(child)
    };
    let children = [spawn()?, spawn()?];
    let mut sums = 0_u64;
    for layer in 0..LAYERS {
        sums += cache_sum(&mut cache, prefix, layer)?;
    }

    let mut out = io::stdout().lock();
    writeln!(out, "parent: {} MiB of rows, {TOKENS} tokens, sum {sums}", before >> 20)?;
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "the other process failed");
        let text = String::from_utf8(output.stdout)?;
        write!(out, "child:  {text}")?;
        ensure!(
            text.ends_with(&format!("sum {sums}\n")),
            "the other process has read other rows"
        );
    }
    let after = cache.stats().physical_bytes;
    writeln!(
        out,
        "memory behind the rows: {} MiB before, {} MiB after",
        before >> 20,
        after >> 20
    )?;
    Ok(())
}

/// The sum of the bytes of one layer, read through a sequence that begins with the prefix.
fn cache_sum(cache: &mut KvCache, prefix: vattn::PrefixId, layer: usize) -> Result<u64> {
    let seq = cache.attach_prefix(prefix)?;
    let sum = sum(cache.k(seq, layer)?) + sum(cache.v(seq, layer)?);
    cache.free(seq)?;
    Ok(sum)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

fn child(description: &str) -> Result<()> {
    let exported: ExportedPrefix = serde_json::from_str(description)?;
    let file = io::stdin().as_fd().try_clone_to_owned()?;
    let prefix = ImportedPrefix::map(file, &exported)?;
    let mut total = 0;
    let mut row = vec![0; prefix.geometry().row_bytes()];
    for layer in 0..prefix.geometry().layers() {
        for token in 0..prefix.len() {
            for side in [Side::K, Side::V] {
                prefix.read_rows(layer, side, token..token + 1, &mut row)?;
                total += sum(&row);
            }
        }
    }
    // Of the rows, the kernel charges this process with its part of what it shares (Pss), not with a copy.
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    let kib = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    writeln!(
        io::stdout(),
        "resident {}, its share of it {}; sum {total}",
        kib("Rss:"),
        kib("Pss:")
    )?;
    Ok(())
}
