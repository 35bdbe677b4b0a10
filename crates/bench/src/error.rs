//! What can end a run.

use std::path::PathBuf;

use crate::plots::PlotError;

/// Everything that can end a run without a report. Nothing is written then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A setting or a file that cannot serve; the message says what to do.
    #[error("{0}")]
    Input(String),
    /// The output folder cannot be written.
    #[error("{path}: {source}", path = path.display())]
    Output {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A tokenizer or corpus file.
    #[error(transparent)]
    Tokenizer(#[from] patchtok::Error),
    /// A model or KV store.
    #[error(transparent)]
    Model(#[from] fused_model::ModelError),
    /// A figure.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// The report as JSON.
    #[error("writing the report as JSON failed: {0}")]
    Json(#[from] serde_json::Error),
    /// A signal asked the program to stop.
    #[error("interrupted; nothing was written")]
    Interrupted,
}
