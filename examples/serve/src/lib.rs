//! An HTTP server with OpenAI's interface over [`fused_model::engine`].
//!
//! | path | |
//! |---|---|
//! | `POST /v1/completions`, `POST /v1/chat/completions` | whole or streamed, with usage |
//! | `GET /v1/models` | the one model |
//! | `POST /tokenize`, `POST /detokenize` | as vLLM has them |
//! | `GET /health`, `GET /metrics` | |
//!
//! [`server::Server`] puts the parts together: [`App`] answers requests, [`runner`] has the engine on a thread of its own,
//! [`net`] accepts connections. Everything a client can make large has a limit in [`server::Config`].
//!
//! It has no TLS, no keys and no HTTP/2: put a proxy in front of it.

mod answer;
mod api;
pub mod app;
pub mod client;
mod error;
pub mod metrics;
pub mod net;
pub mod runner;
pub mod server;

pub use app::{App, Limits};
