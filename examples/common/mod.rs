//! What the programs that run a model have in common: how it runs, and loading it with a progress bar.

use std::path::Path;

use anyhow::Result;
use clap::{Args, ValueEnum};
use fused_model::kv::{KvGeometry, KvType};
use fused_model::{CausalLm, Options, Precision, load_and_tell};
use indicatif::{ProgressBar, ProgressStyle};

/// How a model runs.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// How the weights are kept.
    #[arg(long, value_enum, default_value_t = Weights::F32)]
    weights: Weights,
    /// How keys and values are kept.
    #[arg(long, value_enum, default_value_t = Rows::F32)]
    kv: Rows,
    /// Threads of a pass [default: one for each processor].
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Weights {
    F32,
    F16,
    Int8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rows {
    F32,
    F16,
}

impl RunArgs {
    /// Shape of a store for so many sequences of a model.
    pub(crate) fn kv_geometry(&self, model: &dyn CausalLm, sequences: usize) -> KvGeometry {
        KvGeometry {
            numbers: match self.kv {
                Rows::F32 => KvType::F32,
                Rows::F16 => KvType::F16,
            },
            ..model.kv_geometry(sequences)
        }
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            precision: match self.weights {
                Weights::F32 => Precision::F32,
                Weights::F16 => Precision::F16,
                Weights::Int8 => Precision::Int8,
            },
            threads: self.threads.unwrap_or(Options::default().threads),
        }
    }
}

/// Loads a model; a bar in the terminal shows how far it is.
pub(crate) fn load(dir: &Path, options: Options) -> Result<Box<dyn CausalLm>> {
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("loading {bar:40} {percent}%")?);
    let model = load_and_tell(dir, options, &mut |progress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
    });
    bar.finish_and_clear();
    Ok(model?)
}
