//! Memory of encoders that nobody uses at the moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Memory;

/// Keeps memory from call to call, one for each thread that encodes at the same time.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<Vec<Box<Memory>>>);

impl Pool {
    /// Memory that nobody uses.
    pub(crate) fn take(&self) -> Pooled<'_> {
        Pooled {
            memory: self.lock().pop(),
            pool: self,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<Memory>>> {
        // The list is whole whatever its last user did.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A clone starts with none.
impl Clone for Pool {
    fn clone(&self) -> Self {
        Pool::default()
    }
}

/// Memory that goes back to its pool in the end.
#[derive(Debug)]
pub(crate) struct Pooled<'p> {
    /// None until it is used, if the pool had none.
    memory: Option<Box<Memory>>,
    pool: &'p Pool,
}

impl Pooled<'_> {
    pub(crate) fn get(&mut self) -> &mut Memory {
        self.memory.get_or_insert_default()
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        self.pool.lock().extend(self.memory.take());
    }
}
