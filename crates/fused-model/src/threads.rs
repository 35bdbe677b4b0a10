//! A fixed set of threads that run one closure together.
//!
//! A decode step is some fifty short parallel phases; waking a sleeping thread for each would cost more than the
//! phase. Workers spin for the next piece of work for a moment, then sleep.
#![allow(unsafe_code)] // a closure and a slice are lent to the workers by pointer for the length of one call

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Turns of the waiting loop before a worker sleeps: some tens of microseconds.
const SPINS: u32 = 4096;
/// Turns of the caller's waiting loop before it gives its processor to somebody else.
const SPINS_OF_CALLER: u32 = 1024;

type Task = dyn Fn(usize) + Sync;

#[derive(Default)]
struct Shared {
    /// The closure of the current round. Written only while no worker is in a round.
    task: UnsafeCell<Option<*const Task>>,
    /// Counts rounds; a worker that sees it change has a task.
    round: AtomicUsize,
    /// Workers that have not finished the current round.
    pending: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `task` is written by the caller of `run` alone, under the `running` lock and while `pending` is zero, and read
// by workers only after they saw the round that the write precedes (release and acquire on `round`).
unsafe impl Sync for Shared {}
// SAFETY: the pointer inside is dereferenced only while `run` keeps the closure alive, and the closure is `Sync`.
unsafe impl Send for Shared {}

impl Shared {
    /// Waits for a round after `seen`; its number.
    fn next(&self, seen: usize) -> usize {
        for _ in 0..SPINS {
            let round = self.round.load(Ordering::Acquire);
            if round != seen {
                return round;
            }
            std::hint::spin_loop();
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        // Sequentially consistent with the caller's pair (new round, then look for sleepers): one of the two sees the
        // other, so no wake-up is lost.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let round = loop {
            let round = self.round.load(Ordering::SeqCst);
            if round != seen {
                break round;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        round
    }

    fn begin_round(&self) {
        self.round.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }

    fn work(&self, index: usize) {
        let mut round = 0;
        loop {
            round = self.next(round);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            // SAFETY: the round this worker saw was begun after the task was written.
            let task = unsafe { *self.task.get() };
            if let Some(task) = task {
                // SAFETY: `run` keeps the closure alive until `pending` is zero, which this worker lowers last.
                let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*task)(index) }));
                if result.is_err() {
                    self.panicked.store(true, Ordering::Release);
                }
            }
            self.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Threads that run one closure together; the caller is the first of them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    running: Mutex<()>,
}

impl Pool {
    /// A pool of `threads`, the caller included; 1 starts none.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads)
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("fused-model-{index}"))
                    .spawn(move || shared.work(index))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            shared,
            workers,
            running: Mutex::new(()),
        })
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)` here and `task(1..threads)` on the workers; returns when all have.
    ///
    /// # Panics
    /// When a call panics, after all have ended.
    pub(crate) fn run(&self, task: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            return task(0);
        }
        let _running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; the pointer is cleared below, before this borrow ends, and no worker uses it
        // after lowering `pending`.
        let lent: *const Task = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Task>(task) };
        // SAFETY: no worker is in a round: `pending` is zero and `running` is held.
        unsafe { *shared.task.get() = Some(lent) };
        shared.pending.store(self.workers.len(), Ordering::Release);
        shared.begin_round();
        let mine = catch_unwind(AssertUnwindSafe(|| task(0)));
        let mut spins = 0;
        while shared.pending.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS_OF_CALLER {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        // SAFETY: every worker has finished the round.
        unsafe { *shared.task.get() = None };
        let others = shared.panicked.swap(false, Ordering::AcqRel);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!others, "a worker thread panicked");
    }

    /// Calls `task(thread, i)` for every `i` below `count`, on whichever thread is free.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub(crate) fn for_each(&self, count: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        if count <= 1 || self.workers.is_empty() {
            return (0..count).for_each(|index| task(0, index));
        }
        let next = AtomicUsize::new(0);
        self.run(&|thread| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                task(thread, index);
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.begin_round();
        for worker in self.workers.drain(..) {
            // A worker ends only by `stop`; its panics were caught.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

/// A mutable slice that threads write by disjoint parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: the slice is borrowed mutably for 'a, and whoever takes parts promises that they are disjoint.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            lent: PhantomData,
        }
    }

    /// One part.
    ///
    /// # Safety
    /// While it is borrowed nobody else takes any of its elements.
    #[allow(clippy::mut_from_ref)] // the caller's promise
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice by the assert, and the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_runs_every_index_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..=2000 {
                pool.run(&|index| {
                    counts[index].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == round));
                if round % 500 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(2)); // the workers fall asleep
                }
            }
        }
    }

    #[test]
    fn for_each_covers_the_range() {
        let pool = Pool::new(3).unwrap();
        for count in [0, 1, 2, 100] {
            let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(count, &|_, index| {
                seen[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        for bad in 0..2 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|index| assert!(index != bad, "on purpose"));
            }));
            assert!(result.is_err());
        }
        let sum = AtomicUsize::new(0);
        pool.run(&|index| {
            sum.fetch_add(index + 1, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 3);
    }
}
