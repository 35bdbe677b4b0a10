//! A memory file mapped whole.

// Slices over a mapping cannot be made in safe Rust.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::slice;

use super::file::MemoryFile;
use super::page_bytes;
use super::reservation::Reservation;
use crate::backend::Access;
use crate::error::BackendError;

/// `len` zero bytes of readable and writable memory, backed page by page when they are first touched.
///
/// It is the plain sibling of the cache: caches that reserve everything, or hand out blocks, take their memory from here
/// and are measured in the same way, by the operating system.
///
/// **Reading counts.** The first access of a page allocates it, a read as much as a write: a hole of a shared memory file
/// is filled with a zero page of its own. [`Arena::physical_bytes`] therefore counts all pages ever touched. When memory
/// runs out at such a touch the process gets SIGBUS; [`Arena::populate`] reports it as an error instead.
///
/// Pages are of the base size (4 KiB on x86-64), never huge.
#[derive(Debug)]
pub struct Arena {
    memory: Reservation,
    file: MemoryFile,
    len: usize,
}

impl Arena {
    /// Reserves `len` bytes; nothing is backed yet. O(1).
    ///
    /// # Errors
    ///
    /// `len` is 0, or the address space cannot be had.
    pub fn new(len: usize) -> Result<Self, BackendError> {
        let whole = len.checked_next_multiple_of(page_bytes()).filter(|&bytes| bytes > 0);
        let Some(bytes) = whole else {
            return Err(BackendError::new(
                "arena",
                len,
                "use a length from 1 byte to the size of the address space",
                io::ErrorKind::InvalidInput.into(),
            ));
        };
        let memory = Reservation::new(bytes, page_bytes())?;
        let file = MemoryFile::new(bytes as u64)?;
        memory.map(0..bytes, &file, 0, Access::ReadWrite, false)?;
        memory.refuse_huge_pages()?;
        Ok(Self { memory, file, len })
    }

    /// Bytes of the arena.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an arena is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// All bytes. The first byte is page aligned.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the mapping is at least `len` bytes, readable and initialised (zero or written), its file can neither
        // shrink nor be reached by anybody else, and writes need `&mut self`.
        unsafe { slice::from_raw_parts(self.memory.base(), self.len) }
    }

    /// All bytes, writable. The first byte is page aligned.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes this the only slice.
        unsafe { slice::from_raw_parts_mut(self.memory.base(), self.len) }
    }

    /// Backs all pages now, so that no later access faults. O(len).
    ///
    /// # Errors
    ///
    /// Memory is exhausted; part of the pages may be backed, no contents have changed.
    pub fn populate(&mut self) -> Result<(), BackendError> {
        self.memory.populate(0..self.memory.bytes())
    }

    /// Backs the pages that hold the bytes of `range` now. O(range).
    ///
    /// # Errors
    ///
    /// The range is not within the arena, or memory is exhausted (part of the pages may be backed then). No contents
    /// have changed.
    pub fn populate_range(&mut self, range: Range<usize>) -> Result<(), BackendError> {
        if range.start > range.end || range.end > self.len {
            return Err(BackendError::new(
                "populate_range",
                range.end.saturating_sub(range.start),
                "use a range within the arena",
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        if range.is_empty() {
            return Ok(());
        }
        let page = page_bytes();
        let start = range.start / page * page;
        self.memory.populate(start..range.end.next_multiple_of(page))
    }

    /// Bytes of memory behind the arena: `st_blocks` of its file, exact to the page.
    #[must_use]
    pub fn physical_bytes(&self) -> usize {
        self.file.physical_bytes()
    }
}
