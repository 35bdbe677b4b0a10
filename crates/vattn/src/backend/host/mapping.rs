//! One memory file, mapped whole at the same offsets: the only place that talks to the kernel.

// System calls on address ranges cannot be expressed in safe Rust.
#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::{self, NonNull};

use rustix::fs::{self, FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::error::BackendError;

/// Unit of `st_blocks`, whatever the block size of the file system (inode(7)).
const BLOCK_BYTES: usize = 512;

/// What the processor may do with a run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: an access is a fault.
    None,
    /// Read and write.
    ReadWrite,
}

/// A sparse memory file of `bytes` bytes and a shared mapping of all of it: the byte at offset `o` of the file is the
/// byte at `base + o`. Both live as long as the value.
///
/// The file has no name, is closed on exec, and its length is sealed: within the mapping an access can neither hit
/// another file nor the end of this one.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    file: OwnedFd,
}

// SAFETY: the mapping is owned by this value alone and no thread-local state is attached to it.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` gives an address and a count by fstat; all that changes pages or protection takes `&mut`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `bytes` bytes, a multiple of the page; no memory is used yet.
    pub(super) fn new(bytes: usize, access: Access) -> Result<Self, BackendError> {
        let refused = |call| {
            move |errno: Errno| {
                let hint =
                    "reduce the shape, or raise the limits of address space (ulimit -v) and open files (ulimit -n)";
                BackendError::new(call, bytes, hint, errno.into())
            }
        };
        let file = fs::memfd_create("vattn", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(refused("memfd_create"))?;
        fs::ftruncate(&file, bytes as u64).map_err(refused("ftruncate"))?;
        fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(refused("F_ADD_SEALS"))?;
        let prot = match access {
            Access::None => ProtFlags::empty(),
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: without MAP_FIXED the kernel chooses addresses that nothing uses.
        let base =
            unsafe { mm::mmap(ptr::null_mut(), bytes, prot, MapFlags::SHARED, &file, 0) }.map_err(refused("mmap"))?;
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| refused("mmap")(Errno::NOMEM))?;
        let mapping = Self { base, bytes, file };
        // Rows have no place in a core dump, and a dump would walk the whole reservation.
        mapping
            .advise_all(Advice::LinuxDontDump)
            .map_err(refused("MADV_DONTDUMP"))?;
        // A huge page would back more than the run that was asked for. A kernel built without huge pages says EINVAL.
        match mapping.advise_all(Advice::LinuxNoHugepage) {
            Ok(()) | Err(Errno::INVAL) => Ok(mapping),
            Err(errno) => Err(refused("MADV_NOHUGEPAGE")(errno)),
        }
    }

    /// First byte. The pointer may be used for all of the mapping, as far as the pages are accessible.
    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes of address space.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that the file holds: `st_blocks`, exact to the page. Pages in swap are counted.
    pub(super) fn physical_bytes(&self) -> usize {
        let stat = fs::fstat(&self.file).expect("fstat of an open memory file has no way to fail");
        stat.st_blocks as usize * BLOCK_BYTES
    }

    /// Changes what the processor may do with a run.
    pub(super) fn protect(&mut self, run: Range<usize>, access: Access) -> Result<(), BackendError> {
        let flags = match access {
            Access::None => MprotectFlags::empty(),
            Access::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        let (start, bytes) = self.run(run);
        // SAFETY: `run` lies in this mapping, and `&mut self` shows that no slice of it is alive.
        unsafe { mm::mprotect(start.cast(), bytes, flags) }.map_err(|errno| {
            let hint = "free sequences, or raise vm.max_map_count if the process has that many mappings";
            BackendError::new("mprotect", bytes, hint, errno.into())
        })
    }

    /// Backs a run that is writable: pages that are not there are allocated and zeroed, pages that are there keep their
    /// contents, and later accesses do not fault. On an error part of the run may be backed.
    pub(super) fn populate(&mut self, run: Range<usize>) -> Result<(), BackendError> {
        let (start, bytes) = self.run(run);
        // SAFETY: populating changes no byte: it does what a read and a write back of the same value would do.
        retry_on_intr(|| unsafe { mm::madvise(start.cast(), bytes, Advice::LinuxPopulateWrite) }).map_err(|errno| {
            let hint = "memory is exhausted (set a smaller budget), or the kernel is older than 5.14";
            BackendError::new("MADV_POPULATE_WRITE", bytes, hint, errno.into())
        })
    }

    /// Gives the memory behind a run back: it reads as zero when it is backed again.
    pub(super) fn punch(&mut self, run: Range<usize>) -> Result<(), BackendError> {
        let offset = run.start as u64;
        let (_, bytes) = self.run(run);
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry_on_intr(|| fs::fallocate(&self.file, mode, offset, bytes as u64)).map_err(|errno| {
            let hint = "the memory stays charged and is offered again at the next call";
            BackendError::new("FALLOC_FL_PUNCH_HOLE", bytes, hint, errno.into())
        })
    }

    fn advise_all(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the range is this mapping, and the two advices given above change neither contents nor accessibility.
        unsafe { mm::madvise(self.base.as_ptr().cast(), self.bytes, advice) }
    }

    /// Start and length of a run, which must lie in the mapping.
    fn run(&self, run: Range<usize>) -> (*mut u8, usize) {
        assert!(
            run.start <= run.end && run.end <= self.bytes,
            "run {run:?} of {} bytes",
            self.bytes
        );
        // SAFETY: the offset is within the mapping, which is one allocated object.
        (unsafe { self.base.as_ptr().add(run.start) }, run.end - run.start)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping and all borrows of it have ended. A refusal leaves the mapping in place,
        // which leaks it and harms nobody.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
