//! Watches the cache of a running program.
//!
//! ```text
//! cargo run -p vattn --features serde --example kvtop -- serve kv.sock     # a program with a cache, in one terminal
//! cargo run -p vattn --features serde --example kvtop -- kv.sock           # its memory, in another, each second
//! cargo run -p vattn --features serde --example kvtop -- --json kv.sock    # one snapshot; or --prometheus
//! ```
//!
//! A program that wants to be watched does what [`serve`] does: it listens on a socket of the file system, and writes its
//! snapshot as JSON to everybody who connects. The file's permissions decide who may look.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vattn::{Config, Geometry, KvCache, Snapshot};

/// A snapshot is a few hundred bytes; more is not one.
const MAX_BYTES: u64 = 1 << 16;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["serve", socket] => serve_demo(Path::new(socket)),
        ["--json", socket] => fetch(socket).and_then(|snapshot| print(&(serde_json::to_string(&snapshot)? + "\n"))),
        ["--prometheus", socket] => {
            fetch(socket).and_then(|snapshot| print(&snapshot.prometheus(&[("socket", socket)])))
        }
        [socket] if !socket.starts_with('-') => watch(socket),
        _ => {
            eprintln!("usage: kvtop [--json | --prometheus | serve] SOCKET");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn print(text: &str) -> Result<()> {
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

/// Answers every connection with the snapshot that `snapshot` gives, until the process ends.
fn serve(listener: &UnixListener, snapshot: impl Fn() -> Snapshot) {
    for stream in listener.incoming() {
        // A reader that goes away or does not read harms nobody.
        let answer = |mut stream: UnixStream| -> Result<()> {
            stream.set_write_timeout(Some(Duration::from_secs(1)))?;
            serde_json::to_writer(&mut stream, &snapshot())?;
            Ok(())
        };
        if let Err(error) = stream.map_err(Into::into).and_then(answer) {
            eprintln!("a reader was not served: {error:#}");
        }
    }
}

/// The snapshot of the program behind a socket.
fn fetch(socket: &str) -> Result<Snapshot> {
    let stream = UnixStream::connect(socket).with_context(|| format!("no program serves {socket}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("{socket} does not answer"))?;
    let snapshot: Snapshot =
        serde_json::from_str(&text).with_context(|| format!("{socket} answers with no snapshot"))?;
    ensure!(
        snapshot.version == Snapshot::VERSION,
        "{socket} serves snapshots of version {}, this program knows {}",
        snapshot.version,
        Snapshot::VERSION
    );
    Ok(snapshot)
}

/// Shows a snapshot each second, with what happened since the last one.
fn watch(socket: &str) -> Result<()> {
    let mut last = fetch(socket)?;
    loop {
        thread::sleep(Duration::from_secs(1));
        let now = fetch(socket)?;
        let mut screen = String::new();
        if io::stdout().is_terminal() {
            screen.push_str("\x1b[H\x1b[2J");
        }
        screen.push_str(&page(socket, &last, &now));
        print(&screen)?;
        last = now;
    }
}

fn page(socket: &str, last: &Snapshot, now: &Snapshot) -> String {
    const WIDTH: u64 = 50;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let bar = |bytes: u64| {
        let filled = (bytes * WIDTH).div_ceil(now.budget_bytes.max(1)).min(WIDTH) as usize;
        format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH as usize - filled))
    };
    let mut text = format!(
        "{socket}: {} layers, rows of {} bytes, frames of {} KiB\n{} sequences of at most {}, {} prefixes, {} tokens\n\n",
        now.layers,
        now.row_bytes,
        now.frame_bytes >> 10,
        now.live_sequences,
        now.max_sequences,
        now.prefixes,
        now.tokens,
    );
    for (name, bytes) in [
        ("budget", now.budget_bytes),
        ("physical", now.physical_bytes),
        ("rows", now.used_bytes),
        ("shared", now.shared_bytes),
        ("ahead", now.ahead_bytes),
        ("warm", now.warm_bytes),
        ("draining", now.draining_bytes),
    ] {
        text.push_str(&format!("{name:>9} {:>10.2} MiB  {}\n", mib(bytes), bar(bytes)));
    }
    let since = |field: fn(&Snapshot) -> u64| field(now).saturating_sub(field(last));
    text.push_str(&format!(
        "\nin the last second: {} maps, {} unmaps, {} waits for memory, {} maps in the background, {:.2} MiB copied\n\n",
        since(|s| s.map_calls),
        since(|s| s.unmap_calls),
        since(|s| s.sync_maps),
        since(|s| s.background_maps),
        mib(since(|s| s.copied_bytes)),
    ));
    text
}

/// A program worth watching: sequences come, grow at different speeds, and go.
fn serve_demo(socket: &Path) -> Result<()> {
    let geometry = Geometry::builder()
        .layers(12)
        .row_bytes(768 * 4)
        .max_tokens(1024)
        .max_sequences(8)
        .build()?;
    let config = Config::new(256 << 20).warm_bytes(64 << 20);
    let cache = Arc::new(Mutex::new(KvCache::with_config(geometry, config)?));
    let listener = UnixListener::bind(socket).with_context(|| {
        format!(
            "cannot listen on {}: remove the file if no program serves it",
            socket.display()
        )
    })?;
    let watched = Arc::clone(&cache);
    thread::spawn(move || serve(&listener, || lock(&watched).snapshot()));

    let mut sequences = Vec::new();
    for step in 0_usize.. {
        let mut cache = lock(&cache);
        if step.is_multiple_of(50) && sequences.len() < 6 {
            sequences.push((cache.open()?, 1 + step / 50 % 4));
        }
        let mut done = None;
        for (index, &(seq, speed)) in sequences.iter().enumerate() {
            let len = cache.len(seq)? + speed;
            if len > geometry.max_tokens() || cache.grow(seq, len).is_err() {
                done = Some(index);
            }
        }
        if let Some(index) = done {
            cache.free(sequences.swap_remove(index).0)?;
        }
        drop(cache);
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The cache, also after a thread has panicked: its state is whole between two operations.
fn lock(cache: &Mutex<KvCache>) -> MutexGuard<'_, KvCache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}
