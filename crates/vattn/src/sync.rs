//! Locks, atomics, threads and the clock, in one place so that tests can put a scheduler of their own under them: the
//! package `vattn-schedules` compiles these sources with the feature `shuttle`, which is not one of vattn's.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

pub(crate) use std::sync::PoisonError;
use std::{io, time::Duration};

/// Starts a thread.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    #[cfg(not(feature = "shuttle"))]
    use std::thread::Builder;

    #[cfg(feature = "shuttle")]
    use shuttle::thread::Builder;

    Builder::new().name(name.to_owned()).spawn(work)
}

/// Time since some moment in the past. Under a scheduler of a test it stands still, so that a schedule can be played again.
pub(crate) fn now() -> Duration {
    #[cfg(feature = "shuttle")]
    return Duration::from_secs(1);

    #[cfg(not(feature = "shuttle"))]
    {
        use std::sync::LazyLock;
        use std::time::Instant;

        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}
