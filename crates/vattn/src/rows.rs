//! Where rows lie, and reading and writing them on any backend.

use std::ops::Range;
use std::ptr;

use crate::backend::Backend;
use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::sequence::SeqId;

/// Where the rows of one layer of one sequence lie, as plain numbers for a kernel. The layout is that of a C struct.
///
/// Row `t` is the `row_bytes` bytes at `k + t * stride_bytes`, for `t < len`; the V rows likewise. Bytes from the last row
/// up to `mapped_bytes` are readable, and hold zeros or old rows of the same sequence; the byte at `mapped_bytes` may not
/// be.
///
/// Addresses do not change while the sequence lives. Whoever reads or writes through them must see to it that the sequence
/// is neither truncated nor freed nor swapped out meanwhile, and that no slice of [`KvCache::k`], [`KvCache::v`] or
/// [`KvCache::rows_mut`] is alive over bytes that are written. Rows below a shared border are read-only: writing them
/// faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
#[non_exhaustive]
pub struct KvView {
    /// Address of the first K row.
    pub k: usize,
    /// Address of the first V row.
    pub v: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Distance of two rows in bytes.
    pub stride_bytes: usize,
    /// Rows that are valid.
    pub len: usize,
    /// Bytes that are mapped, from the start of the region in which the rows lie.
    pub mapped_bytes: usize,
}

impl KvView {
    /// [`KvView::k`] as a pointer that may be dereferenced, when the backend is memory of the machine.
    #[must_use]
    pub fn k_ptr(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.k)
    }

    /// [`KvView::v`] as a pointer that may be dereferenced, when the backend is memory of the machine.
    #[must_use]
    pub fn v_ptr(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.v)
    }
}

/// One of the two kinds of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Keys.
    K,
    /// Values.
    V,
}

impl<B: Backend> KvCache<B> {
    /// Addresses of the rows of one layer, for kernels. They stay for the life of the sequence. O(1), no lock.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::Layer`], [`Error::SwappedOut`].
    pub fn view(&self, seq: SeqId, layer: usize) -> Result<KvView> {
        let len = self.len(seq)?;
        self.in_memory(seq)?;
        let layers = self.geometry.layers();
        if layer >= layers {
            return Err(Error::Layer { layer, layers });
        }
        let at = self.geometry.placement(layer);
        let space = &self.shared.space;
        Ok(KvView {
            k: space.region(seq.slot(), at.k_region) + at.k_offset,
            v: space.region(seq.slot(), at.v_region) + at.v_offset,
            row_bytes: self.geometry.row_bytes(),
            stride_bytes: self.geometry.stride_bytes(),
            len,
            mapped_bytes: self.shared.covered(seq.slot()) * self.geometry.frame_bytes(),
        })
    }

    /// The view of rows that lie one behind the other.
    pub(crate) fn contiguous(&self, seq: SeqId, layer: usize) -> Result<KvView> {
        let view = self.view(seq, layer)?;
        match view.row_bytes == view.stride_bytes {
            true => Ok(view),
            false => Err(Error::NotContiguous {
                stride: view.stride_bytes,
                row: view.row_bytes,
            }),
        }
    }

    /// Copies rows of one layer to `bytes`, one behind the other, on any backend and in any layout.
    ///
    /// # Errors
    ///
    /// As [`KvCache::view`]; [`Error::Rows`], [`Error::BufferSize`], [`Error::Backend`].
    pub fn read_rows(
        &self,
        seq: SeqId,
        layer: usize,
        side: Side,
        tokens: Range<usize>,
        bytes: &mut [u8],
    ) -> Result<()> {
        let (view, base) = self.side(seq, layer, side)?;
        let Range { start, end } = tokens;
        if start > end || end > view.len {
            let len = view.len;
            return Err(Error::Rows { start, end, len });
        }
        check_buffer(bytes.len(), (end - start) * view.row_bytes)?;
        for (token, row) in (start..end).zip(bytes.chunks_mut(view.row_bytes)) {
            self.shared.space.backend.read(base + token * view.stride_bytes, row)?;
        }
        Ok(())
    }

    /// Writes rows of one layer from `start` on, on any backend and in any layout.
    ///
    /// # Errors
    ///
    /// As [`KvCache::read_rows`], and [`Error::Shared`].
    pub fn write_rows(&mut self, seq: SeqId, layer: usize, side: Side, start: usize, bytes: &[u8]) -> Result<()> {
        let (view, base) = self.side(seq, layer, side)?;
        let rows = bytes.len() / view.row_bytes;
        check_buffer(bytes.len(), rows * view.row_bytes)?;
        self.writable(seq, &(start..start.saturating_add(rows)))?;
        for (token, row) in (start..).zip(bytes.chunks(view.row_bytes)) {
            self.shared.space.backend.write(base + token * view.stride_bytes, row)?;
        }
        Ok(())
    }

    fn side(&self, seq: SeqId, layer: usize, side: Side) -> Result<(KvView, usize)> {
        let view = self.view(seq, layer)?;
        let base = match side {
            Side::K => view.k,
            Side::V => view.v,
        };
        Ok((view, base))
    }
}

fn check_buffer(bytes: usize, expected: usize) -> Result<()> {
    match bytes == expected {
        true => Ok(()),
        false => Err(Error::BufferSize { bytes, expected }),
    }
}
