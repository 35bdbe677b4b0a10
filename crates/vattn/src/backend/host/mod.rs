//! Memory of the machine, by way of Linux memory files.
//!
//! A [`HostSpace`] is one sparse memory file mapped once, without access, over the whole reservation. Growing a region
//! makes its next pages accessible (`mprotect`) and backs them (`MADV_POPULATE_WRITE`); shrinking punches the hole
//! (`FALLOC_FL_PUNCH_HOLE`) and takes the access away. The offset in the file is the distance from the base address and
//! never changes, so neighbouring pages of equal access always merge into one kernel mapping: a region costs two of them
//! whatever its length. `docs/kv-cache.md` has the protocol in full.

// Slices over a mapping cannot be made in safe Rust.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::slice;

use self::mapping::{Access, Mapping};
use super::{Backend, HostMemory, Space};
use crate::error::BackendError;

mod arena;
mod mapping;
#[cfg(test)]
mod tests;

pub use self::arena::Arena;

/// Bytes of a page of the processor.
fn page_bytes() -> usize {
    rustix::param::page_size()
}

/// The backend over the memory of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostBackend;

impl Backend for HostBackend {
    type Space = HostSpace;

    fn page_bytes(&self) -> usize {
        page_bytes()
    }

    fn reserve(&self, regions: usize, region_bytes: usize) -> Result<HostSpace, BackendError> {
        let page = page_bytes();
        let layout = region_bytes
            .checked_add(page)
            .and_then(|stride| Some((stride, stride.checked_mul(regions)?)))
            .filter(|&(_, bytes)| bytes > 0 && region_bytes.is_multiple_of(page));
        let Some((stride, bytes)) = layout else {
            return Err(BackendError::new(
                "reservation",
                region_bytes,
                "use at least one region, of whole pages, within the address space",
                io::ErrorKind::InvalidInput.into(),
            ));
        };
        Ok(HostSpace {
            mapping: Mapping::new(bytes, Access::None)?,
            mapped: vec![0; regions],
            region_bytes,
            stride,
        })
    }
}

/// Regions of a memory file. Each is followed by one page that is never mapped, so that an access past the end of a full
/// region faults too.
#[derive(Debug)]
pub struct HostSpace {
    mapping: Mapping,
    /// Bytes mapped in each region: exactly these are accessible and backed.
    mapped: Vec<usize>,
    region_bytes: usize,
    stride: usize,
}

impl HostSpace {
    /// Offset of a range of a region in the mapping. All of the range is accessible, or this panics.
    fn offset(&self, region: usize, range: &Range<usize>) -> usize {
        let mapped = self.mapped[region];
        assert!(
            range.start <= range.end && range.end <= mapped,
            "bytes {range:?} of a region with {mapped} mapped bytes"
        );
        region * self.stride + range.start
    }
}

impl Space for HostSpace {
    fn address(&self, region: usize) -> usize {
        assert!(region < self.mapped.len(), "region {region} of {}", self.mapped.len());
        // Exposed, because views hand addresses to kernels that turn them into pointers again.
        self.mapping.base().expose_provenance() + region * self.stride
    }

    fn mapped(&self, region: usize) -> usize {
        self.mapped[region]
    }

    fn map(&mut self, region: usize, bytes: usize) -> Result<(), BackendError> {
        let mapped = self.mapped[region];
        assert!(
            mapped <= bytes && bytes <= self.region_bytes && bytes.is_multiple_of(page_bytes()),
            "map from {mapped} to {bytes} bytes in a region of {}",
            self.region_bytes
        );
        let start = region * self.stride;
        let run = start + mapped..start + bytes;
        let backed = self
            .mapping
            .protect(run.clone(), Access::ReadWrite)
            .and_then(|()| self.mapping.populate(run.clone()));
        match backed {
            Ok(()) => {
                self.mapped[region] = bytes;
                Ok(())
            }
            Err(error) => {
                // Part of the run may be accessible or backed. If undoing that is refused too, the next map of the run
                // starts from what is left, which nobody has written.
                let _ = self.mapping.punch(run.clone());
                let _ = self.mapping.protect(run, Access::None);
                Err(error)
            }
        }
    }

    fn unmap(&mut self, region: usize, bytes: usize) -> Result<(), BackendError> {
        let mapped = self.mapped[region];
        assert!(
            bytes <= mapped && bytes.is_multiple_of(page_bytes()),
            "unmap from {mapped} to {bytes} bytes"
        );
        let start = region * self.stride;
        let run = start + bytes..start + mapped;
        // In this order a refusal at any point leaves all of the mapped length accessible.
        self.mapping.punch(run.clone())?;
        self.mapping.protect(run, Access::None)?;
        self.mapped[region] = bytes;
        Ok(())
    }

    fn physical_bytes(&self) -> usize {
        self.mapping.physical_bytes()
    }
}

impl HostMemory for HostSpace {
    fn bytes(&self, region: usize, range: Range<usize>) -> &[u8] {
        let offset = self.offset(region, &range);
        // SAFETY: `offset` has checked that the range is mapped: accessible, and initialised because backed pages are
        // zero or written. The file can neither shrink nor be reached by anybody else, and writes need `&mut self`.
        unsafe { slice::from_raw_parts(self.mapping.base().add(offset), range.end - range.start) }
    }

    fn pair_mut(&mut self, first: usize, second: usize, range: Range<usize>) -> (&mut [u8], &mut [u8]) {
        assert_ne!(first, second, "two different regions");
        let offsets = (self.offset(first, &range), self.offset(second, &range));
        let (base, len) = (self.mapping.base(), range.end - range.start);
        // SAFETY: as in `bytes`. Regions do not overlap and the two differ, so neither do the slices, and `&mut self`
        // makes them the only ones.
        unsafe {
            (
                slice::from_raw_parts_mut(base.add(offsets.0), len),
                slice::from_raw_parts_mut(base.add(offsets.1), len),
            )
        }
    }
}
