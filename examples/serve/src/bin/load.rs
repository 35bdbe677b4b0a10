//! Closed-loop load on a running server: so many clients, each with the next request as soon as its last one has ended.
//!
//! `cargo run --release -p serve --bin load -- --clients 32 --seconds 20`

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};
use serve::client;
use tokio::sync::Mutex;

/// Put load on a server and print what it gave, as one JSON object.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Address of the server.
    #[arg(long, default_value = "127.0.0.1:8000")]
    server: SocketAddr,
    /// Clients at once.
    #[arg(long, default_value_t = 16)]
    clients: u64,
    /// How long clients start new requests.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Words of a prompt that all requests share.
    #[arg(long, default_value_t = 40)]
    shared_words: usize,
    /// Words of a prompt that no other request has.
    #[arg(long, default_value_t = 10)]
    own_words: usize,
    /// Tokens of each reply.
    #[arg(long, default_value_t = 48)]
    max_tokens: usize,
    /// Every so many requests a client goes away after the first token; 0 never.
    #[arg(long, default_value_t = 0)]
    vanish_every: u64,
}

const WORDS: [&str; 12] = [
    "select", "index", "table", "returns", "value", "server", "query", "column", "function", "default", "backup", "row",
];

/// What came of all requests.
#[derive(Debug, Default)]
struct Totals {
    complete: u64,
    vanished: u64,
    busy: u64,
    other: u64,
    tokens: u64,
    bytes: u64,
    /// Seconds from sending a request to its first event with text, from there to the next, and to the last.
    first: Vec<f64>,
    between: Vec<f64>,
    whole: Vec<f64>,
}

fn prompt(args: &Args, number: u64) -> String {
    let words = (0..args.shared_words).map(|i| WORDS[i * 7 % WORDS.len()]);
    // Digits of the request's number in another base: different from the first word on.
    let own =
        (0..args.own_words).map(|i| WORDS[(number / (WORDS.len() as u64).pow(i as u32 % 8)) as usize % WORDS.len()]);
    words.chain(own).collect::<Vec<_>>().join(" ")
}

async fn one(args: &Args, number: u64, totals: &Mutex<Totals>) -> io::Result<()> {
    let body = json!({
        "prompt": prompt(args, number), "max_tokens": args.max_tokens, "temperature": 0.8, "top_p": 0.95, "seed": number,
        "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
    });
    let vanishes = args.vanish_every > 0 && number.is_multiple_of(args.vanish_every);
    let start = Instant::now();
    let mut answer = client::open(args.server, "POST", "/v1/completions", body.to_string().as_bytes()).await?;
    if answer.status != 200 {
        let mut totals = totals.lock().await;
        match answer.status {
            429 => totals.busy += 1,
            _ => totals.other += 1,
        }
        drop(totals);
        // As the answer's retry-after asks, in small.
        tokio::time::sleep(Duration::from_millis(100)).await;
        return Ok(());
    }
    let (mut last, mut first, mut between) = (start, None, Vec::new());
    let (mut bytes, mut tokens, mut done) = (0, 0, false);
    while let Some(data) = answer.event().await? {
        if data == "[DONE]" {
            done = true;
            break;
        }
        let event: Value = serde_json::from_str(&data).unwrap_or_default();
        tokens += event["usage"]["completion_tokens"].as_u64().unwrap_or(0);
        let text = event["choices"][0]["text"].as_str().unwrap_or("");
        if text.is_empty() {
            continue;
        }
        bytes += text.len() as u64;
        let now = Instant::now();
        match first {
            None => first = Some((now - start).as_secs_f64()),
            Some(_) => between.push((now - last).as_secs_f64()),
        }
        last = now;
        if vanishes {
            totals.lock().await.vanished += 1;
            return Ok(());
        }
    }
    let mut totals = totals.lock().await;
    match done {
        true => totals.complete += 1,
        false => totals.other += 1,
    }
    totals.tokens += tokens;
    totals.bytes += bytes;
    totals.first.extend(first);
    totals.between.extend(between);
    totals.whole.push((last - start).as_secs_f64());
    Ok(())
}

/// Milliseconds at the quantiles a server is judged by.
fn quantiles(seconds: &mut [f64]) -> Value {
    seconds.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| match seconds.len() {
        0 => Value::Null,
        n => json!((1e6 * seconds[((n - 1) as f64 * q).round() as usize]).round() / 1e3),
    };
    json!({"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)})
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    client::get(args.server, "/health").await?;
    let (totals, number) = (Arc::new(Mutex::new(Totals::default())), Arc::new(AtomicU64::new(1)));
    let start = Instant::now();
    let end = start + Duration::from_secs(args.seconds);
    let clients: Vec<_> = (0..args.clients)
        .map(|_| {
            let (args, totals, number) = (args.clone(), totals.clone(), number.clone());
            tokio::spawn(async move {
                while Instant::now() < end {
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    if one(&args, number, &totals).await.is_err() {
                        totals.lock().await.other += 1;
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut totals = totals.lock().await;
    let Totals {
        first, between, whole, ..
    } = &mut *totals;
    let latency = json!({
        "time_to_first_text_ms": quantiles(first), "between_texts_ms": quantiles(between), "whole_ms": quantiles(whole),
    });
    let report = json!({
        "clients": args.clients,
        "seconds": seconds,
        "requests": {
            "complete": totals.complete, "vanished": totals.vanished, "answered_429": totals.busy, "other": totals.other,
        },
        "requests_per_second": totals.complete as f64 / seconds,
        "output_bytes_per_second": totals.bytes as f64 / seconds,
        "output_tokens_per_second": totals.tokens as f64 / seconds,
        "latency": latency,
    });
    writeln!(io::stdout(), "{report:#}")?;
    Ok(())
}
