//! What can go wrong between a model directory and its output.

use std::path::PathBuf;

/// Errors of loading, running, adapting and tuning a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `config.json` is not one this crate can run.
    #[error("{path}: {why}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The weight file is damaged or lacks something.
    #[error("{path}: {why}", path = path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A model is not in the cache of the Hugging Face Hub.
    #[error("model {model}: {why}")]
    Hub {
        /// Its name.
        model: String,
        /// What is missing.
        why: String,
    },
    /// A request the model cannot serve: too long, empty, or with an id outside the vocabulary.
    #[error("{0}")]
    Request(String),
    /// Too many requests wait.
    #[error("{waiting} requests wait and the limit is {limit}; try again later")]
    Busy {
        /// Requests that wait.
        waiting: usize,
        /// Most that may.
        limit: usize,
    },
    /// The tokenizer and the model do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// Worker threads could not be started.
    #[error("cannot start {threads} threads: {source}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tokenizer or a corpus could not be read or written.
    #[error(transparent)]
    Text(#[from] patchtok::Error),
    /// The KV store refused.
    #[error(transparent)]
    Kv(#[from] crate::kv::KvError),
    /// There is no CUDA device, or the allocator cannot use it.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    NoDevice(#[from] vattn::cuda::NotAvailable),
    /// The CUDA driver refused a call.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Driver(#[from] vattn::cuda::DriverError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
