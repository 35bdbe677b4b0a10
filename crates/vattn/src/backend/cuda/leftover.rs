//! What could not be undone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::driver::{Address, Driver, Handle};
use super::error::Result;

/// Something that should be gone.
#[derive(Debug, Clone, Copy)]
pub(super) enum Leftover {
    /// A frame is mapped here.
    Mapping(Address, usize),
    /// Memory without an owner.
    Handle(Handle),
    /// Addresses without an owner.
    Addresses(Address, usize),
}

impl Leftover {
    fn give_back(self, driver: &Driver) -> Result {
        match self {
            Self::Mapping(address, bytes) => driver.unmap(address, bytes),
            Self::Handle(handle) => driver.release(handle),
            Self::Addresses(address, bytes) => driver.release_addresses(address, bytes),
        }
    }
}

/// Things that should be gone and are not, because the driver refused while a failed call was undone, or when something
/// was given back by a call that cannot fail. They are offered again before the next change.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<Vec<Leftover>>);

impl Leftovers {
    /// Gives something back, later if not now. What was left before goes first: a mapping before the addresses it is in.
    pub(super) fn give_back(&self, driver: &Driver, leftover: Leftover) {
        self.list().push(leftover);
        self.retry(driver);
    }

    /// Offers everything again.
    pub(super) fn retry(&self, driver: &Driver) {
        self.list().retain(|leftover| leftover.give_back(driver).is_err());
    }

    fn list(&self) -> MutexGuard<'_, Vec<Leftover>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
