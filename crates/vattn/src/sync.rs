//! Locks, atomics, threads and the clock, in one place so that tests can put a scheduler of their own under them: the
//! unpublished crate `vattn-schedules` compiles this one with `shuttle`, which decides at each of them who goes on.

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
};
pub(crate) use std::sync::PoisonError;
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
};

#[cfg(feature = "shuttle")]
use shuttle::thread::Builder;
use std::io;
#[cfg(not(feature = "shuttle"))]
use std::thread::Builder;
use std::time::Duration;

/// Starts a thread.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(work)
}

/// Gives a lock up until the condition is announced or the time is over.
#[cfg(not(feature = "shuttle"))]
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
#[cfg(not(feature = "shuttle"))]
pub(crate) fn now() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// The scheduler has no clock: whether the time is over is left to chance.
#[cfg(feature = "shuttle")]
pub(crate) fn wait_timeout<'a, T>(
    condition: &Condvar,
    mutex: &'a Mutex<T>,
    guard: MutexGuard<'a, T>,
    _: Duration,
) -> MutexGuard<'a, T> {
    use shuttle::rand::{Rng, thread_rng};
    if thread_rng().gen_bool(0.25) {
        drop(guard);
        shuttle::thread::yield_now();
        return mutex.lock().unwrap_or_else(PoisonError::into_inner);
    }
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// A clock that goes on by being looked at, the same in every run.
#[cfg(feature = "shuttle")]
pub(crate) fn now() -> Duration {
    use std::sync::atomic::AtomicU64;
    static LOOKS: AtomicU64 = AtomicU64::new(0);
    Duration::from_micros(LOOKS.fetch_add(100, Ordering::Relaxed))
}
