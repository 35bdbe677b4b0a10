//! A progress bar on standard error, silent where that is not a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// One stage of a run.
#[derive(Debug)]
pub(crate) struct Stage(ProgressBar);

impl Stage {
    /// A stage of `steps` steps. The bar goes when the value is dropped.
    pub(crate) fn new(name: &'static str, steps: usize) -> Self {
        let style = ProgressStyle::with_template("{msg:32} [{bar:40}] {percent:>3}%  {elapsed} elapsed, {eta} left");
        let style = style
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        Self(ProgressBar::new(steps as u64).with_style(style).with_message(name))
    }

    /// `done` of `all` steps are done, where the number of steps was not known before.
    pub(crate) fn at(&self, done: usize, all: usize) {
        self.0.set_length(all as u64);
        self.0.set_position(done as u64);
    }

    /// One step is done.
    pub(crate) fn step(&self) {
        self.0.inc(1);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
