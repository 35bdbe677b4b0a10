//! CPU time, and medians of it.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// CPU time of all threads but this one.
pub(crate) fn others() -> Duration {
    duration(clock_gettime(ClockId::ProcessCPUTime)).saturating_sub(thread())
}

/// CPU time of this thread.
pub(crate) fn thread() -> Duration {
    duration(clock_gettime(ClockId::ThreadCPUTime))
}

fn duration(time: Timespec) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Nanoseconds of CPU time of this thread that `work` takes.
pub(crate) fn nanos<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = thread();
    let result = work();
    ((thread() - start).as_nanos() as f64, result)
}

/// The middle of the values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "a median needs a value");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
