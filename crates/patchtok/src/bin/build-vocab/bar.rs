//! Progress on standard error; nothing when that is not a terminal.

use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use patchtok::{Counting, Progress};

/// Bytes of a megabyte, as speeds of text are given.
const MEGABYTE: f64 = 1e6;

pub(crate) struct Bar {
    bar: ProgressBar,
    merging: bool,
}

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Bar { bar, merging: false }
    }

    /// Shows how far a build is.
    pub(crate) fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Reading(counting) => self.counting(counting),
            Progress::Merging(found, wanted) => {
                if !self.merging {
                    self.merging = true;
                    self.bar.reset();
                    self.style("{spinner} new tokens {bar:30} {pos}/{len} {eta} left");
                }
                self.bar.set_length(wanted as u64);
                self.bar.set_position(found as u64);
            }
            _ => self.message("counting tokens"),
        }
    }

    /// Shows how far counting is: in bytes of files, which are known beforehand, and how fast, in
    /// bytes of text.
    pub(crate) fn counting(&mut self, counting: Counting) {
        let seconds = self.bar.elapsed().as_secs_f64();
        let speed = counting.bytes as f64 / seconds.max(1e-3) / MEGABYTE;
        let text = HumanBytes(counting.bytes);
        self.bar
            .set_message(format!("{} documents, {text}, {speed:.0} MB/s", counting.documents));
        if let Some(all) = counting.all_file_bytes {
            if self.bar.length() != Some(all) {
                self.bar.set_length(all);
                self.style("{spinner} {msg} {bar:30} {percent}% {eta} left");
            }
            self.bar.set_position(counting.file_bytes.min(all));
        }
    }

    /// Shows what is done now, which nobody knows the length of.
    pub(crate) fn message(&mut self, message: &'static str) {
        self.bar.set_style(ProgressStyle::default_spinner());
        self.bar.set_message(message);
    }

    fn style(&self, template: &str) {
        let style = ProgressStyle::with_template(template);
        self.bar
            .set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
