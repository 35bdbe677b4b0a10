//! The memory file: what counts and holds the pages, without an address.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::error::BackendError;

/// Unit of `st_blocks`, whatever the block size of the file system (inode(7)).
const BLOCK_BYTES: usize = 512;

/// A sparse file in memory, without a name, closed on exec and of fixed length: an access within a mapping of it can hit
/// neither another file nor the end of this one.
#[derive(Debug)]
pub(super) struct MemoryFile {
    file: OwnedFd,
}

impl MemoryFile {
    /// Makes a file of `bytes` bytes; no memory is used yet.
    pub(super) fn new(bytes: u64) -> Result<Self, BackendError> {
        let refused = |call| {
            move |errno: Errno| {
                let hint = "raise the limits of file sizes (ulimit -f) and open files (ulimit -n)";
                BackendError::new(call, bytes as usize, hint, errno.into())
            }
        };
        let file = fs::memfd_create("vattn", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(refused("memfd_create"))?;
        fs::ftruncate(&file, bytes).map_err(refused("ftruncate"))?;
        fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(refused("F_ADD_SEALS"))?;
        Ok(Self { file })
    }

    /// A memory file that another process has made.
    pub(super) fn from_fd(file: OwnedFd) -> Self {
        Self { file }
    }

    /// Backs a run: pages that are not there are allocated and zeroed. On an error part of the run may be backed.
    pub(super) fn allocate(&self, run: Range<u64>) -> Result<(), BackendError> {
        if run.is_empty() {
            return Ok(());
        }
        self.fallocate(FallocateFlags::KEEP_SIZE, &run).map_err(|errno| {
            let hint = "memory is exhausted: set a smaller budget";
            BackendError::new("fallocate", (run.end - run.start) as usize, hint, errno.into())
        })
    }

    /// Gives the memory behind a run back: it reads as zero when it is backed again.
    pub(super) fn punch(&self, run: Range<u64>) -> Result<(), BackendError> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.fallocate(mode, &run).map_err(|errno| {
            let hint = "the memory stays charged and is offered again at the next call";
            BackendError::new(
                "FALLOC_FL_PUNCH_HOLE",
                (run.end - run.start) as usize,
                hint,
                errno.into(),
            )
        })
    }

    /// Bytes of memory that the file holds: `st_blocks`, exact to the page. Pages in swap are counted.
    pub(super) fn physical_bytes(&self) -> usize {
        let stat = fs::fstat(&self.file).expect("fstat of an open memory file has no way to fail");
        stat.st_blocks as usize * BLOCK_BYTES
    }

    fn fallocate(&self, mode: FallocateFlags, run: &Range<u64>) -> Result<(), Errno> {
        retry_on_intr(|| fs::fallocate(&self.file, mode, run.start, run.end - run.start))
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
