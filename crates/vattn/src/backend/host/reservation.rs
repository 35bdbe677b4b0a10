//! Address space of this process, and the system calls that change what lies in it.

// System calls on address ranges cannot be expressed in safe Rust.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags};

use super::file::MemoryFile;
use super::page_bytes;
use crate::backend::Access;
use crate::error::BackendError;

const MAPPINGS_HINT: &str = "free sequences, or raise vm.max_map_count if the process has that many mappings";

/// Address space that belongs to this value, given back when it is dropped. What is not mapped has no access and no
/// memory. Runs are distances from the base, in whole pages.
#[derive(Debug)]
pub(super) struct Reservation {
    base: NonNull<u8>,
    bytes: usize,
    /// Whether the page behind the reservation is a mapping of its own. At its limit of mappings the kernel refuses to take
    /// one out as well, since that is done by mapping something else in its place; giving this one up makes room for it.
    spare: AtomicBool,
}

// SAFETY: the address space is owned by this value alone and no thread-local state is attached to it.
unsafe impl Send for Reservation {}
// SAFETY: `&Reservation` gives an address and makes system calls, which the kernel orders. No function touches the
// bytes; who may, and when, is for the owner of the reservation to see to.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Reserves `bytes` bytes, whole pages, aligned to `align`, a power of two.
    pub(super) fn new(bytes: usize, align: usize) -> Result<Self, BackendError> {
        let refused = |errno: Errno| {
            let hint = "reduce the shape, or raise the limit of address space (ulimit -v)";
            BackendError::new("reservation", bytes, hint, errno.into())
        };
        // Too much is reserved first, and what is not aligned is given back.
        let slack = if align > page_bytes() { align } else { 0 };
        let tail = Self::tail_bytes();
        let wide = bytes
            .checked_add(slack + tail)
            .filter(|_| bytes > 0)
            .ok_or_else(|| refused(Errno::INVAL))?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: without MAP_FIXED the kernel chooses addresses that nothing uses.
        let start = unsafe { mm::mmap_anonymous(ptr::null_mut(), wide, ProtFlags::empty(), flags) }.map_err(refused)?;
        let head = start.addr().next_multiple_of(align.max(1)) - start.addr();
        let cut = |from: usize, to: usize| {
            if from < to {
                // SAFETY: the range is part of the mapping just made, outside what is kept.
                let _ = unsafe { mm::munmap(start.wrapping_byte_add(from), to - from) };
            }
        };
        cut(0, head);
        cut(head + bytes + tail, wide);
        let base = NonNull::new(start.cast::<u8>().wrapping_add(head)).ok_or_else(|| refused(Errno::NOMEM))?;
        let reservation = Self {
            base,
            bytes,
            spare: AtomicBool::new(false),
        };
        reservation.take_spare();
        Ok(reservation)
    }

    /// Bytes behind the reservation: the spare mapping, and a page that keeps it apart from what follows.
    fn tail_bytes() -> usize {
        2 * page_bytes()
    }

    /// Makes the spare a mapping of its own by giving it other access than its neighbours, if it is none. The kernel may
    /// refuse; then it is tried again when a mapping has gone.
    fn take_spare(&self) {
        if !self.spare.load(Ordering::Relaxed) && self.protect_spare(MprotectFlags::READ) {
            self.spare.store(true, Ordering::Relaxed);
        }
    }

    /// Gives the spare up; whether there was one.
    fn give_spare(&self) -> bool {
        self.spare.swap(false, Ordering::Relaxed) && self.protect_spare(MprotectFlags::empty())
    }

    fn protect_spare(&self, flags: MprotectFlags) -> bool {
        let page = self.base().wrapping_add(self.bytes);
        // SAFETY: the page is part of the mapping made in `new`, behind what is given out, and nobody accesses it.
        unsafe { mm::mprotect(page.cast(), page_bytes(), flags) }.is_ok()
    }

    /// First byte.
    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes of address space.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Maps the bytes of the file from `offset` on, in place of whatever the run holds. With `resident`, pages that the
    /// file has are put into the page tables at once, so that no later access faults.
    pub(super) fn map(
        &self,
        run: Range<usize>,
        file: &MemoryFile,
        offset: u64,
        access: Access,
        resident: bool,
    ) -> Result<(), BackendError> {
        let prot = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        let mut flags = MapFlags::SHARED | MapFlags::FIXED;
        if resident {
            flags |= MapFlags::POPULATE;
        }
        let (start, bytes) = self.run(run);
        // SAFETY: the run is part of this reservation, so MAP_FIXED replaces nothing that belongs to anybody else.
        unsafe { mm::mmap(start.cast(), bytes, prot, flags, file, offset) }
            .map_err(|errno| BackendError::new("mmap", bytes, MAPPINGS_HINT, errno.into()))?;
        // Rows have no place in a core dump. A refusal leaves them in it, and everything else as it should be.
        // SAFETY: the advice changes neither contents nor access.
        let _ = unsafe { mm::madvise(start.cast(), bytes, Advice::LinuxDontDump) };
        Ok(())
    }

    /// Changes what may be done with a mapped run.
    pub(super) fn protect(&self, run: Range<usize>, access: Access) -> Result<(), BackendError> {
        let flags = match access {
            Access::Read => MprotectFlags::READ,
            Access::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        let (start, bytes) = self.run(run);
        // SAFETY: the run is part of this reservation; that no slice is written through it is for the cache to see to.
        unsafe { mm::mprotect(start.cast(), bytes, flags) }
            .map_err(|errno| BackendError::new("mprotect", bytes, MAPPINGS_HINT, errno.into()))
    }

    /// Puts the run back to what is reserved and has no access.
    pub(super) fn unmap(&self, run: Range<usize>) -> Result<(), BackendError> {
        let (start, bytes) = self.run(run);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        let take_out = || {
            // SAFETY: the run is part of this reservation; that no slice of it is alive is for the cache to see to.
            unsafe { mm::mmap_anonymous(start.cast(), bytes, ProtFlags::empty(), flags) }.map(drop)
        };
        let outcome = match take_out() {
            Err(Errno::NOMEM) if self.give_spare() => take_out(),
            outcome => outcome,
        };
        self.take_spare();
        outcome.map_err(|errno| BackendError::new("mmap (no access)", bytes, MAPPINGS_HINT, errno.into()))
    }

    /// Puts huge pages behind a mapped run that is aligned to them; the pages that are not there yet are allocated.
    /// Returns whether all of the run is huge now.
    pub(super) fn collapse(&self, run: Range<usize>) -> bool {
        let (start, bytes) = self.run(run);
        // SAFETY: the run is part of this reservation, and the advice keeps contents and access.
        unsafe { libc::madvise(start.cast(), bytes, libc::MADV_COLLAPSE) == 0 }
    }

    /// Backs a writable run: pages that are not there are allocated and zeroed, pages that are there keep their contents,
    /// and later accesses do not fault. On an error part of the run may be backed.
    pub(super) fn populate(&self, run: Range<usize>) -> Result<(), BackendError> {
        let (start, bytes) = self.run(run);
        // SAFETY: populating changes no byte: it does what a read and a write back of the same value would do.
        retry_on_intr(|| unsafe { mm::madvise(start.cast(), bytes, Advice::LinuxPopulateWrite) }).map_err(|errno| {
            let hint = "memory is exhausted (set a smaller budget), or the kernel is older than 5.14";
            BackendError::new("MADV_POPULATE_WRITE", bytes, hint, errno.into())
        })
    }

    /// Keeps the kernel from backing more than the pages that are touched. A kernel built without huge pages says EINVAL.
    pub(super) fn refuse_huge_pages(&self) -> Result<(), BackendError> {
        // SAFETY: the advice changes neither contents nor access.
        match unsafe { mm::madvise(self.base().cast(), self.bytes, Advice::LinuxNoHugepage) } {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => {
                let hint = "this kernel refuses an advice that every Linux since 3.0 knows";
                Err(BackendError::new("MADV_NOHUGEPAGE", self.bytes, hint, errno.into()))
            }
        }
    }

    /// Start and length of a run, which must lie in the reservation.
    fn run(&self, run: Range<usize>) -> (*mut u8, usize) {
        assert!(
            run.start <= run.end && run.end <= self.bytes,
            "run {run:?} of {} bytes",
            self.bytes
        );
        // SAFETY: the distance is within the reservation, which is one allocated object.
        (unsafe { self.base.as_ptr().add(run.start) }, run.end - run.start)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range is this reservation and all borrows of it have ended. A refusal leaves it in place, which leaks it and
        // harms nobody.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), self.bytes + Self::tail_bytes()) };
    }
}
