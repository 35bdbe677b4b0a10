//! Locks and atomics, in one place so that tests can put a scheduler of their own under them.

pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
