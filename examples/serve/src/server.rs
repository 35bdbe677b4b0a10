//! A server from its parts, and its end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::anyhow;
use fused_model::CausalLm;
use fused_model::engine::EngineConfig;
use fused_model::kv::{KvGeometry, KvMemory, KvType, VirtualKv};
use patchtok::PatchTokenizer;
use tokio::net::TcpListener;

use crate::app::{App, Limits};
use crate::metrics::Metrics;
use crate::net::{ConnectionLimits, serve};
use crate::runner::Runner;

/// Sizes and limits of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the model in answers.
    pub name: String,
    /// How keys and values are kept.
    pub kv_type: KvType,
    /// Most physical memory of keys and values.
    pub kv_budget_bytes: usize,
    /// Unit in which that memory is mapped.
    pub frame_bytes: usize,
    /// Limits of the engine.
    pub engine: EngineConfig,
    /// Limits of a request.
    pub limits: Limits,
    /// Limits of connections.
    pub connections: ConnectionLimits,
}

impl Config {
    /// Limits for a server of one small machine.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kv_type: KvType::F32,
            kv_budget_bytes: 256 << 20,
            frame_bytes: 64 << 10,
            engine: EngineConfig::default(),
            limits: Limits {
                body_bytes: 1 << 20,
                body_time: Duration::from_secs(10),
                prompt_tokens: usize::MAX,
                request_time: Duration::from_secs(300),
                open_requests: 512,
            },
            connections: ConnectionLimits {
                connections: 1024,
                head_time: Duration::from_secs(10),
                grace: Duration::from_secs(10),
            },
        }
    }
}

/// A server whose engine runs.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    connections: ConnectionLimits,
    engine: JoinHandle<KvMemory>,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whether every connection ended within its time.
    pub in_time: bool,
    /// Memory of the KV store after the engine has given everything back.
    pub memory: KvMemory,
}

impl Server {
    /// Starts the engine of a model.
    ///
    /// # Errors
    /// When the parts do not fit, or the KV store cannot be made.
    pub fn start(model: Box<dyn CausalLm>, tokenizer: PatchTokenizer, config: Config) -> anyhow::Result<Self> {
        let sequences = config.engine.max_batch + config.engine.kept_prefixes;
        let geometry = KvGeometry {
            numbers: config.kv_type,
            ..model.kv_geometry(sequences)
        };
        let kv = VirtualKv::new(&geometry, config.frame_bytes, config.kv_budget_bytes)?;
        let (tokenizer, metrics) = (Arc::new(tokenizer), Arc::new(Metrics::new(config.kv_budget_bytes)));
        let context = model.context();
        let runner = Runner {
            model,
            kv: Box::new(kv),
            tokenizer: tokenizer.clone(),
            config: config.engine,
            metrics: metrics.clone(),
        };
        let (engine, thread) = runner.start()?;
        let app = App {
            engine,
            tokenizer,
            metrics,
            model: config.name,
            context,
            limits: config.limits,
            open: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        };
        Ok(Self {
            app: Arc::new(app),
            connections: config.connections,
            engine: thread,
        })
    }

    /// Serves until `stop` is ready, lets what is open end, and stops the engine.
    ///
    /// # Errors
    /// When the engine's thread has died.
    pub async fn run(self, listener: TcpListener, stop: impl Future<Output = ()>) -> anyhow::Result<Ended> {
        let Self {
            app,
            connections,
            engine,
        } = self;
        let (stopping, handle) = (app.clone(), app.engine.clone());
        let stop = async move {
            stop.await;
            stopping.stopping.store(true, Ordering::Relaxed);
        };
        let aborting = handle.clone();
        let router = app.router();
        let in_time = serve(listener, router, connections, stop, move || aborting.abort()).await;
        // Connections that hang still hold the engine; their requests must not.
        handle.abort();
        handle.close();
        let memory = tokio::task::spawn_blocking(|| engine.join()).await?;
        Ok(Ended {
            in_time,
            memory: memory.map_err(|_| anyhow!("the engine's thread has died"))?,
        })
    }
}
