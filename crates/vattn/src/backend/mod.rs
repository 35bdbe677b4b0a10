//! The seam under the state machine: what a cache asks of memory.
//!
//! A [`Backend`] reserves a [`Space`]: a number of equal regions of address space. Each region is mapped from its start
//! up to some length, and the cache moves that length. Dropping the space releases everything.
//!
//! Obligations of every [`Space`], which the cache builds on:
//!
//! 1. Addresses of a region never change while the space lives.
//! 2. Memory that `map` adds to a region reads as zero.
//! 3. An access of a region at or past its mapped length does not reach memory of any region.
//! 4. `Err` means that the mapped length is as it was.
//! 5. While no call has failed, `physical_bytes` is the sum of all mapped lengths, taken from the owner of the memory and
//!    not from a counter here.

use std::fmt;
use std::ops::Range;

use crate::error::BackendError;

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod host;

/// Where memory comes from.
pub trait Backend: fmt::Debug + Send + Sync {
    /// What [`Backend::reserve`] gives.
    type Space: Space;

    /// The smallest unit that can be mapped, in bytes: a power of two.
    fn page_bytes(&self) -> usize;

    /// Reserves `regions` regions of `region_bytes` bytes (a multiple of the page), none of it mapped.
    ///
    /// # Errors
    ///
    /// The address space cannot be had.
    fn reserve(&self, regions: usize, region_bytes: usize) -> Result<Self::Space, BackendError>;
}

/// Reserved address space, divided into regions that are mapped from their start.
///
/// Region numbers and lengths that the space does not have are errors of the program: the functions panic on them.
pub trait Space: fmt::Debug + Send + Sync {
    /// Address of the first byte of a region.
    fn address(&self, region: usize) -> usize;

    /// Bytes of the region that are mapped.
    fn mapped(&self, region: usize) -> usize;

    /// Extends the mapped part of a region to `bytes`, a multiple of the page above [`Space::mapped`]. The bytes added
    /// are zero and physically there.
    ///
    /// # Errors
    ///
    /// Memory or mappings are exhausted; the mapped length is as it was.
    fn map(&mut self, region: usize, bytes: usize) -> Result<(), BackendError>;

    /// Shortens the mapped part of a region to `bytes`, a multiple of the page below [`Space::mapped`], and gives the
    /// memory behind the rest back to the operating system.
    ///
    /// # Errors
    ///
    /// The call was refused; the mapped length is as it was, but the contents past `bytes` may be gone.
    fn unmap(&mut self, region: usize, bytes: usize) -> Result<(), BackendError>;

    /// Bytes of physical memory held, as their owner counts them.
    fn physical_bytes(&self) -> usize;
}

/// A space whose mapped bytes the processor can read and write.
///
/// The functions panic when the range is not mapped, as slices do.
pub trait HostMemory: Space {
    /// Bytes of a region.
    fn bytes(&self, region: usize, range: Range<usize>) -> &[u8];

    /// The same bytes of two different regions.
    fn pair_mut(&mut self, first: usize, second: usize, range: Range<usize>) -> (&mut [u8], &mut [u8]);
}
