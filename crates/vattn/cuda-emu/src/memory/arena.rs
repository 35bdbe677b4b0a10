//! Addresses of the device: a range that the process cannot access.

use std::num::NonZero;
use std::ptr;

use rustix::mm::{self, MapFlags, ProtFlags};

/// Addresses that belong to the device and to nobody else in the process. Host code that follows a device address faults,
/// as it does with a real card. Addresses are handed out once: a stale address never comes to mean other memory.
#[derive(Debug)]
pub(super) struct Arena {
    base: u64,
    bytes: u64,
    next: u64,
}

/// Address space of one device. Nothing in the tests comes near it.
const ARENA_BYTES: u64 = 4 << 40;

impl Arena {
    /// Takes the address space, on which no memory is spent.
    pub(super) fn new() -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address that the kernel chooses replaces nothing.
        #[allow(unsafe_code)]
        let base = unsafe { mm::mmap_anonymous(ptr::null_mut(), ARENA_BYTES as usize, ProtFlags::empty(), flags) }
            .expect("address space for the emulated device");
        let base = base.addr() as u64;
        Self {
            base,
            bytes: ARENA_BYTES,
            next: base,
        }
    }

    /// Addresses for `bytes` bytes, aligned to exactly `align` (a power of two) and not to more, so that no code relies
    /// on what it did not ask for. `None` when they are used up.
    pub(super) fn take(&mut self, bytes: u64, align: NonZero<u64>) -> Option<u64> {
        let align = align.get();
        // One alignment is left free before each range, so that running over the end of the last one faults.
        let mut start = self.next.checked_add(align)?.checked_next_multiple_of(align)?;
        if start.is_multiple_of(2 * align) {
            start += align;
        }
        let end = start.checked_add(bytes)?;
        if end > self.base + self.bytes {
            return None;
        }
        self.next = end;
        Some(start)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is this arena's own, and no reference into it was ever made: it cannot be accessed.
        #[allow(unsafe_code)]
        let unmapped = unsafe {
            mm::munmap(
                ptr::with_exposed_provenance_mut(self.base as usize),
                self.bytes as usize,
            )
        };
        debug_assert!(unmapped.is_ok());
    }
}
