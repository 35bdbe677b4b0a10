//! Bytes behind a reservation, and the slices of them that a cache gives out.

// Memory at an address cannot be read or written in safe Rust.
#![allow(unsafe_code)]

use std::ops::Range;
use std::ptr;
use std::slice;

use super::reservation::Reservation;
use crate::backend::HostMemory;
use crate::cache::KvCache;
use crate::error::Result;
use crate::sequence::SeqId;

// The functions below get runs that `HostBackend::locate` has found within their reservation, of which the cache knows
// that they are mapped. If they were not, the access would fault: it cannot reach other memory.

pub(super) fn zero(to: &Reservation, run: Range<usize>) {
    // SAFETY: the run is within the reservation; the cache wipes memory of no live sequence, so no slice of it exists.
    unsafe { to.base().add(run.start).write_bytes(0, run.end - run.start) }
}

pub(super) fn copy((to, to_run): (&Reservation, Range<usize>), (from, from_run): (&Reservation, Range<usize>)) {
    assert_eq!(to_run.end - to_run.start, from_run.end - from_run.start);
    // SAFETY: both runs are within their reservations. `ptr::copy` allows overlap. The target is memory that no sequence
    // has yet; the source is only read, under the exclusive borrow of the cache.
    unsafe {
        ptr::copy(
            from.base().add(from_run.start),
            to.base().add(to_run.start),
            from_run.end - from_run.start,
        );
    }
}

pub(super) fn read(from: &Reservation, run: Range<usize>, bytes: &mut [u8]) {
    assert_eq!(bytes.len(), run.end - run.start);
    // SAFETY: the run is within the reservation; nobody writes it while the cache is borrowed.
    unsafe { ptr::copy_nonoverlapping(from.base().add(run.start), bytes.as_mut_ptr(), bytes.len()) }
}

pub(super) fn write(to: &Reservation, run: Range<usize>, bytes: &[u8]) {
    assert_eq!(bytes.len(), run.end - run.start);
    // SAFETY: the run is within the reservation; the exclusive borrow of the cache shows that no slice of it exists.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.base().add(run.start), bytes.len()) }
}

/// Rows as slices, where a layer's rows lie one behind the other ([`Layout::PerLayer`](crate::Layout)).
impl<B: HostMemory> KvCache<B> {
    /// The K rows of one layer, `len * row_bytes` bytes, rows in token order. The first byte is page aligned. O(1), no
    /// lock.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`](crate::Error::NotOpen), [`Error::Layer`](crate::Error::Layer),
    /// [`Error::SwappedOut`](crate::Error::SwappedOut), [`Error::NotContiguous`](crate::Error::NotContiguous).
    pub fn k(&self, seq: SeqId, layer: usize) -> Result<&[u8]> {
        let view = self.contiguous(seq, layer)?;
        // SAFETY: the first `len` rows of a live sequence are mapped, initialised (`HostMemory`) and stay so while the
        // cache is borrowed: the mapper thread unmaps and wipes only what lies past the length of a live sequence.
        // Writing takes `&mut self`; other mappings of shared frames are read-only.
        Ok(unsafe { slice::from_raw_parts(view.k_ptr(), view.len * view.row_bytes) })
    }

    /// The V rows of one layer, as [`KvCache::k`].
    ///
    /// # Errors
    ///
    /// As [`KvCache::k`].
    pub fn v(&self, seq: SeqId, layer: usize) -> Result<&[u8]> {
        let view = self.contiguous(seq, layer)?;
        // SAFETY: as in `k`.
        Ok(unsafe { slice::from_raw_parts(view.v_ptr(), view.len * view.row_bytes) })
    }

    /// The K and the V rows of `tokens` in one layer, to be written in place: `tokens.len() * row_bytes` bytes each. O(1),
    /// no lock.
    ///
    /// # Errors
    ///
    /// As [`KvCache::k`]; [`Error::Rows`](crate::Error::Rows) when the rows are not all within the length, and
    /// [`Error::Shared`](crate::Error::Shared) when one of them lies in a frame that another sequence reads too.
    pub fn rows_mut(&mut self, seq: SeqId, layer: usize, tokens: Range<usize>) -> Result<(&mut [u8], &mut [u8])> {
        let view = self.contiguous(seq, layer)?;
        self.writable(seq, &tokens)?;
        let (start, bytes) = (tokens.start * view.row_bytes, tokens.len() * view.row_bytes);
        // SAFETY: as in `k`, and `writable` has checked that the rows lie within the length and in frames that are mapped
        // once, for writing. K and V regions do not overlap, and `&mut self` makes these the only slices.
        Ok(unsafe {
            (
                slice::from_raw_parts_mut(view.k_ptr().add(start), bytes),
                slice::from_raw_parts_mut(view.v_ptr().add(start), bytes),
            )
        })
    }
}
