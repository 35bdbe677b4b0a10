//! Serves a model directory: `cargo run --release -p serve -- --model DIR`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use fused_model::engine::EngineConfig;
use fused_model::kv::KvType;
use fused_model::{Options, Precision, load};
use patchtok::PatchTokenizer;
use serve::Limits;
use serve::net::ConnectionLimits;
use serve::server::{Config, Server};
use tokio::net::TcpListener;

/// Serve a GPT-2 or Llama-family model with OpenAI's HTTP interface.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Hugging Face directory of the model and its tokenizer.
    #[arg(long)]
    model: PathBuf,
    /// How the weights are kept.
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    weights: Weights,
    /// How keys and values are kept.
    #[arg(long, value_enum, default_value_t = Rows::F32)]
    kv: Rows,
    /// Threads of a pass [default: one for each processor].
    #[arg(long)]
    threads: Option<usize>,
    /// Name of the model in requests and answers [default: name of the directory].
    #[arg(long)]
    name: Option<String>,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Most physical memory of keys and values, in MiB.
    #[arg(long, default_value_t = 256)]
    kv_mib: usize,
    /// Unit in which that memory is mapped, in KiB.
    #[arg(long, default_value_t = 64)]
    frame_kib: usize,
    /// Most samples in a pass.
    #[arg(long, default_value_t = 16)]
    max_batch: usize,
    /// Most prompt tokens in a pass: what a long prompt delays others by.
    #[arg(long, default_value_t = 64)]
    prompt_chunk: usize,
    /// Most requests that wait; more are answered 429.
    #[arg(long, default_value_t = 256)]
    max_waiting: usize,
    /// Finished sequences whose rows stay for requests that begin alike.
    #[arg(long, default_value_t = 16)]
    kept_prefixes: usize,
    /// Memory for rows of samples that were put back for lack of KV memory, in MiB; 0 computes them again.
    #[arg(long, default_value_t = 0)]
    swap_mib: usize,
    /// Largest body of a request, in KiB.
    #[arg(long, default_value_t = 1024)]
    body_kib: usize,
    /// Longest prompt in tokens [default: what the model's context allows].
    #[arg(long)]
    prompt_tokens: Option<usize>,
    /// Longest time of a request, in seconds.
    #[arg(long, default_value_t = 300)]
    request_seconds: u64,
    /// Most connections at once.
    #[arg(long, default_value_t = 1024)]
    connections: usize,
    /// Time for open answers to end after Ctrl-C or SIGTERM, in seconds.
    #[arg(long, default_value_t = 10)]
    grace_seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Weights {
    F32,
    F16,
    Int8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rows {
    F32,
    F16,
}

impl Args {
    fn options(&self) -> Options {
        Options {
            precision: match self.weights {
                Weights::F32 => Precision::F32,
                Weights::F16 => Precision::F16,
                Weights::Int8 => Precision::Int8,
            },
            threads: self.threads.unwrap_or(Options::default().threads),
        }
    }

    fn config(&self) -> Config {
        let directory = self.model.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = self.name.clone().or(directory).unwrap_or_else(|| "model".into());
        let base = Config::new(name);
        Config {
            kv_type: match self.kv {
                Rows::F32 => KvType::F32,
                Rows::F16 => KvType::F16,
            },
            kv_budget_bytes: self.kv_mib << 20,
            frame_bytes: self.frame_kib << 10,
            engine: EngineConfig {
                max_batch: self.max_batch,
                prompt_chunk: self.prompt_chunk,
                max_waiting: self.max_waiting,
                kept_prefixes: self.kept_prefixes,
                swap_bytes: self.swap_mib << 20,
            },
            limits: Limits {
                body_bytes: self.body_kib << 10,
                prompt_tokens: self.prompt_tokens.unwrap_or(usize::MAX),
                request_time: Duration::from_secs(self.request_seconds),
                open_requests: self.connections,
                ..base.limits
            },
            connections: ConnectionLimits {
                connections: self.connections,
                grace: Duration::from_secs(self.grace_seconds),
                ..base.connections
            },
            ..base
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tokenizer = PatchTokenizer::load(&args.model)?;
    let model = load(&args.model, args.options())?;
    let server = Server::start(model, tokenizer, args.config())?;
    let listener = TcpListener::bind((args.host, args.port))
        .await
        .with_context(|| format!("cannot listen on {}:{}", args.host, args.port))?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let ended = server.run(listener, stop_signal()).await?;
    eprintln!(
        "stopped{}; {} bytes of KV memory left",
        if ended.in_time { "" } else { " with open connections" },
        ended.memory.physical_bytes
    );
    Ok(())
}

/// Ctrl-C or SIGTERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = terminated => {}
        () = interrupted => {}
    }
}
