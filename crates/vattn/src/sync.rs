//! Locks, atomics, threads and the clock, in one place so that tests can put a scheduler of their own under them: the
//! unpublished crate `vattn-schedules` compiles this one with `shuttle`, which decides at each of them who goes on.

use std::io;
pub(crate) use std::sync::PoisonError;

#[cfg(feature = "shuttle")]
pub(crate) use scheduled::*;
#[cfg(not(feature = "shuttle"))]
pub(crate) use system::*;

/// Starts a thread.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(work)
}

/// Those of the system.
#[cfg(not(feature = "shuttle"))]
mod system {
    pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread::{Builder, JoinHandle};

    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    /// Gives a lock up until the condition is announced or the time is over.
    pub(crate) fn wait_timeout<'a, T>(
        condition: &Condvar,
        _: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        match condition.wait_timeout(guard, timeout) {
            Ok((guard, _)) => guard,
            Err(error) => error.into_inner().0,
        }
    }

    /// Time since some moment in the past.
    pub(crate) fn now() -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// Those of the scheduler.
#[cfg(feature = "shuttle")]
mod scheduled {
    pub(crate) use shuttle::sync::atomic::{AtomicUsize, Ordering};
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use shuttle::thread::{Builder, JoinHandle};

    use std::sync::PoisonError;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use shuttle::rand::{Rng, thread_rng};

    /// The scheduler has no clock: whether the time is over is left to chance.
    pub(crate) fn wait_timeout<'a, T>(
        condition: &Condvar,
        mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> MutexGuard<'a, T> {
        let guard = if thread_rng().gen_bool(0.25) {
            drop(guard);
            shuttle::thread::yield_now();
            mutex.lock()
        } else {
            condition.wait(guard)
        };
        guard.unwrap_or_else(PoisonError::into_inner)
    }

    /// A clock that goes on by being looked at, the same in every run.
    pub(crate) fn now() -> Duration {
        static LOOKS: AtomicU64 = AtomicU64::new(0);
        Duration::from_micros(LOOKS.fetch_add(100, Ordering::Relaxed))
    }
}
