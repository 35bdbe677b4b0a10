//! What the program says at the end.

use std::io::Write;

use anyhow::Result;
use fused_model::train::{Stopped, TrainConfig};
use serde::Serialize;

use crate::args::{Args, Fit, HeadChoice, Init, Tune};

/// The report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    pub(crate) new_tokens: usize,
    pub(crate) head: HeadChoice,
    /// Absent from the report of a resumed run, which begins with a checkpoint.
    #[serde(flatten)]
    pub(crate) begin: Option<Begin>,
    pub(crate) heldout_bytes: usize,
    /// Held-out bits per byte.
    pub(crate) base_bits_per_byte: f64,
    /// Of the files just written, their rounding included.
    pub(crate) bits_per_byte: f64,
    pub(crate) tuning: Option<Tuning>,
}

/// The rows that tuning begins with.
#[derive(Debug, Serialize)]
pub(crate) struct Begin {
    pub(crate) init: Init,
    pub(crate) ratio: f32,
    pub(crate) fit: Vec<Fit>,
    pub(crate) initial_bits_per_byte: f64,
    /// After the fits, before tuning.
    pub(crate) fitted_bits_per_byte: f64,
    pub(crate) fit_seconds: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Tuning {
    pub(crate) tune: Tune,
    pub(crate) settings: TrainConfig,
    pub(crate) resumed: bool,
    pub(crate) stopped: Stopped,
    pub(crate) steps_done: usize,
    pub(crate) best_step: usize,
    /// Of this run of the program.
    pub(crate) seconds: f64,
}

impl Report {
    pub(crate) fn print(&self, args: &Args) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if args.json {
            serde_json::to_writer_pretty(&mut out, self)?;
            writeln!(out)?;
            return Ok(());
        }
        writeln!(out, "new tokens      {}", self.new_tokens)?;
        writeln!(out, "bits per byte of {} held-out bytes", self.heldout_bytes)?;
        writeln!(out, "  base          {:.4}", self.base_bits_per_byte)?;
        if let Some(begin) = &self.begin {
            writeln!(out, "  initial rows  {:.4}", begin.initial_bits_per_byte)?;
            let (bits, seconds) = (begin.fitted_bits_per_byte, begin.fit_seconds);
            writeln!(out, "  fitted rows   {bits:.4}  ({seconds:.0} s)")?;
        }
        if let Some(tuning) = &self.tuning {
            writeln!(
                out,
                "  tuned         {:.4}  (best at step {} of {} done, {:.0} s)",
                self.bits_per_byte, tuning.best_step, tuning.steps_done, tuning.seconds
            )?;
        }
        writeln!(out, "wrote           {}", args.out.display())?;
        Ok(())
    }
}
