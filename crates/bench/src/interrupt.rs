//! Stopping on Ctrl-C: the first signal ends the run at the next unit of work, the second at once.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::BenchError;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Catches the signals that ask a program to stop. A process that already has another handler keeps
/// it.
pub fn install() {
    let handler = || {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        eprintln!("\nstopping after the current step (once more stops at once)");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("signals are not caught: {error}");
    }
}

/// An error once a signal has come; asked between units of work.
///
/// # Errors
///
/// [`BenchError::Interrupted`].
pub fn check() -> Result<(), BenchError> {
    if ASKED.load(Ordering::Relaxed) {
        Err(BenchError::Interrupted)
    } else {
        Ok(())
    }
}
