//! The front type: sequences, their lengths, and the frames behind them.

use std::ops::Range;
use std::ptr;

use crate::backend::host::HostBackend;
use crate::backend::{Backend, HostMemory, Space};
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::sequence::{SeqId, SlotTable};
use crate::stats::Stats;

/// A key/value cache: sequences of rows at fixed, contiguous addresses, with physical memory only behind the rows that
/// exist.
///
/// A sequence of `len` tokens has, in each of its `2 * layers` regions, `ceil(len * row_bytes / frame_bytes)` frames
/// mapped, and nothing else. Rows are zero when a frame is new; rows that come back by growing again after a truncation
/// may hold what this sequence, and only this sequence, had written there.
///
/// An operation that returns an error has changed nothing. Memory that is given back goes to the operating system, not to
/// a pool. All operations that change something take `&mut self`; share the cache between threads behind a lock.
///
/// Calls of the backend are two system calls each on the host. An operation that needs no frame makes none.
#[derive(Debug)]
pub struct KvCache<B: Backend = HostBackend> {
    pub(crate) geometry: Geometry,
    pub(crate) space: B::Space,
    pub(crate) slots: SlotTable,
    /// Frames mapped in all regions.
    pub(crate) mapped_frames: usize,
    /// Slots with more memory than their length needs, because the backend refused to take it back. Each is here once.
    pub(crate) draining: Vec<usize>,
    budget_bytes: usize,
    map_calls: u64,
    unmap_calls: u64,
}

impl KvCache {
    /// Makes an empty cache in the memory of the machine. It may hold up to `budget_bytes` of physical memory, rounded
    /// down to whole frames. Only address space is taken here.
    ///
    /// # Errors
    ///
    /// [`Error::FrameBelowPage`], or [`Error::Backend`] when the address space cannot be had.
    pub fn new(geometry: Geometry, budget_bytes: usize) -> Result<Self> {
        Self::with_backend(HostBackend, geometry, budget_bytes)
    }
}

impl<B: Backend> KvCache<B> {
    /// Makes an empty cache over the memory of `backend`; otherwise as [`KvCache::new`].
    ///
    /// # Errors
    ///
    /// As [`KvCache::new`].
    pub fn with_backend(backend: B, geometry: Geometry, budget_bytes: usize) -> Result<Self> {
        let (frame_bytes, page_bytes) = (geometry.frame_bytes(), backend.page_bytes());
        if !frame_bytes.is_multiple_of(page_bytes) {
            return Err(Error::FrameBelowPage {
                frame_bytes,
                page_bytes,
            });
        }
        Ok(Self {
            space: backend.reserve(geometry.regions(), geometry.region_bytes())?,
            slots: SlotTable::new(geometry.max_sequences()),
            geometry,
            mapped_frames: 0,
            draining: Vec::new(),
            budget_bytes,
            map_calls: 0,
            unmap_calls: 0,
        })
    }

    /// The shape of the cache.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Opens a sequence of length 0, which holds no memory. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::NoSlot`] when `max_sequences` are open.
    pub fn open(&mut self) -> Result<SeqId> {
        self.retry_draining();
        self.slots.open().ok_or(Error::NoSlot {
            limit: self.geometry.max_sequences(),
        })
    }

    /// Length of a sequence in tokens. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`].
    pub fn len(&self, seq: SeqId) -> Result<usize> {
        self.slots.len(seq).ok_or(Error::NotOpen { seq })
    }

    /// Grows a sequence to `new_len` tokens, so that all rows below it exist in all regions. At most one call of the
    /// backend for each region, none when the last frame still has room.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::TooLong`], [`Error::GrowsBackward`]; [`Error::NeedFrames`] when the budget lacks the
    /// frames; [`Error::Backend`] when the machine does. Nothing has changed then.
    pub fn grow(&mut self, seq: SeqId, new_len: usize) -> Result<()> {
        self.grow_batch(&[(seq, new_len)])
    }

    /// Grows several sequences, or none of them: a step of a batch. A sequence that stands in the batch twice must not
    /// shrink on the way. O(batch) when nothing is to be mapped.
    ///
    /// # Errors
    ///
    /// As [`KvCache::grow`]; the `need` of [`Error::NeedFrames`] is that of the whole batch.
    pub fn grow_batch(&mut self, batch: &[(SeqId, usize)]) -> Result<()> {
        self.retry_draining();
        // Lengths go first and memory follows them. Then undoing is one thing: put the old lengths back, and give back
        // what they do not need.
        let mut old_lengths = Vec::with_capacity(batch.len());
        let grown = self
            .extend_lengths(batch, &mut old_lengths)
            .and_then(|need| match need {
                0 => Ok(()),
                _ => self.map_lacking(batch, need),
            });
        if grown.is_err() {
            for &(seq, len) in old_lengths.iter().rev() {
                self.slots.set_len(seq, len);
                self.give_back(seq.slot());
            }
        }
        grown
    }

    /// Shortens a sequence to `new_len` tokens and gives back the frames that no row is left in. At most one call of the
    /// backend for each region. Rows of the last frame past `new_len` keep their bytes until they are written again.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`] and [`Error::TruncatesForward`], no others: memory that the backend refuses to take back stays
    /// charged as [`Stats::draining_bytes`] and is offered again by later calls.
    pub fn truncate(&mut self, seq: SeqId, new_len: usize) -> Result<()> {
        let len = self.len(seq)?;
        if new_len > len {
            return Err(Error::TruncatesForward { seq, len, new_len });
        }
        self.retry_draining();
        self.slots.set_len(seq, new_len);
        self.give_back(seq.slot());
        Ok(())
    }

    /// Ends a sequence and gives all its memory back to the operating system.
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], so also on a second free, and no others: as for [`KvCache::truncate`]. The slot is not used
    /// again before its memory is gone.
    pub fn free(&mut self, seq: SeqId) -> Result<()> {
        self.len(seq)?;
        self.retry_draining();
        self.slots.close(seq);
        self.give_back(seq.slot());
        Ok(())
    }

    /// Sets the most physical memory that growth may reach. Below what is mapped, it takes nothing away: growth that
    /// needs frames is refused until enough is freed.
    pub fn set_budget(&mut self, bytes: usize) {
        self.budget_bytes = bytes;
    }

    /// Frames that the budget has left. O(1), without a system call: with [`Geometry::sequence_frames`] it answers
    /// whether a sequence can be admitted.
    #[must_use]
    pub fn free_frames(&self) -> usize {
        (self.budget_bytes / self.geometry.frame_bytes()).saturating_sub(self.mapped_frames)
    }

    /// What the cache holds now. O(1), with one system call on the host.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let draining = self.draining.iter().flat_map(|&slot| {
            let needed = self.geometry.mapped_bytes(self.slots.tokens_in(slot));
            self.regions(slot).map(move |region| self.space.mapped(region) - needed)
        });
        Stats {
            reserved_bytes: self.geometry.reserved_bytes(),
            mapped_bytes: self.mapped_frames * self.geometry.frame_bytes(),
            used_bytes: self.geometry.used_bytes(self.slots.tokens()),
            physical_bytes: self.space.physical_bytes(),
            draining_bytes: draining.sum(),
            budget_bytes: self.budget_bytes,
            live_sequences: self.slots.live(),
            map_calls: self.map_calls,
            unmap_calls: self.unmap_calls,
        }
    }

    /// Addresses of the rows of one layer, for kernels. They stay valid until the sequence is truncated or freed, and
    /// growing does not move them. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::Layer`].
    pub fn view(&self, seq: SeqId, layer: usize) -> Result<KvView> {
        let len = self.len(seq)?;
        let (k, v) = self.layer_regions(seq, layer)?;
        Ok(KvView {
            k: self.space.address(k),
            v: self.space.address(v),
            row_bytes: self.geometry.row_bytes(),
            len,
            mapped_bytes: self.geometry.mapped_bytes(len),
        })
    }

    /// Regions of a slot: K and V of layer 0, K and V of layer 1, and so on.
    pub(crate) fn regions(&self, slot: usize) -> Range<usize> {
        let regions = self.geometry.regions_per_sequence();
        slot * regions..(slot + 1) * regions
    }

    /// The regions of K and V of one layer.
    fn layer_regions(&self, seq: SeqId, layer: usize) -> Result<(usize, usize)> {
        let layers = self.geometry.layers();
        if layer >= layers {
            return Err(Error::Layer { layer, layers });
        }
        let k = self.regions(seq.slot()).start + 2 * layer;
        Ok((k, k + 1))
    }

    /// Sets the new lengths, notes the old ones, and returns the frames that are lacking.
    fn extend_lengths(&mut self, batch: &[(SeqId, usize)], old_lengths: &mut Vec<(SeqId, usize)>) -> Result<usize> {
        let max = self.geometry.max_tokens();
        let mut need = 0;
        for &(seq, new_len) in batch {
            let len = self.len(seq)?;
            if new_len < len {
                return Err(Error::GrowsBackward { seq, len, new_len });
            }
            if new_len > max {
                return Err(Error::TooLong { len: new_len, max });
            }
            let (old, new) = (self.geometry.mapped_bytes(len), self.geometry.mapped_bytes(new_len));
            if new > old {
                // A region can have more than its old length needs, when the backend refused to take it back.
                let lacking = |region| new.saturating_sub(self.space.mapped(region).max(old));
                need += self.regions(seq.slot()).map(lacking).sum::<usize>() / self.geometry.frame_bytes();
            }
            old_lengths.push((seq, len));
            self.slots.set_len(seq, new_len);
        }
        Ok(need)
    }

    /// Maps what the sequences of a batch lack for their lengths: `need` frames.
    fn map_lacking(&mut self, batch: &[(SeqId, usize)], need: usize) -> Result<()> {
        let free = self.free_frames();
        if need > free {
            return Err(Error::NeedFrames { need, free });
        }
        for &(seq, _) in batch {
            let bytes = self.geometry.mapped_bytes(self.slots.tokens_in(seq.slot()));
            for region in self.regions(seq.slot()) {
                let mapped = self.space.mapped(region);
                if mapped < bytes {
                    self.map_calls += 1;
                    self.space.map(region, bytes)?;
                    self.mapped_frames += (bytes - mapped) / self.geometry.frame_bytes();
                }
            }
        }
        Ok(())
    }

    /// Gives back what the regions of a slot hold beyond its length. What the backend refuses puts the slot on the
    /// draining list; a freed slot that holds nothing any more goes to the free list.
    fn give_back(&mut self, slot: usize) {
        let bytes = self.geometry.mapped_bytes(self.slots.tokens_in(slot));
        let mut refused = false;
        for region in self.regions(slot) {
            let mapped = self.space.mapped(region);
            if mapped > bytes {
                self.unmap_calls += 1;
                match self.space.unmap(region, bytes) {
                    Ok(()) => self.mapped_frames -= (mapped - bytes) / self.geometry.frame_bytes(),
                    Err(_) => refused = true,
                }
            }
        }
        self.draining.retain(|&other| other != slot);
        if refused {
            self.draining.push(slot);
        } else {
            self.slots.recycle(slot);
        }
    }

    /// Offers again what the backend has refused to take back.
    fn retry_draining(&mut self) {
        for slot in std::mem::take(&mut self.draining) {
            self.give_back(slot);
        }
    }
}

impl<B: Backend<Space: HostMemory>> KvCache<B> {
    /// The K rows of one layer, `len * row_bytes` bytes, rows in token order. The first byte is page aligned. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::Layer`].
    pub fn k(&self, seq: SeqId, layer: usize) -> Result<&[u8]> {
        let bytes = self.len(seq)? * self.geometry.row_bytes();
        let (k, _) = self.layer_regions(seq, layer)?;
        Ok(self.space.bytes(k, 0..bytes))
    }

    /// The V rows of one layer, as [`KvCache::k`].
    ///
    /// # Errors
    ///
    /// As [`KvCache::k`].
    pub fn v(&self, seq: SeqId, layer: usize) -> Result<&[u8]> {
        let bytes = self.len(seq)? * self.geometry.row_bytes();
        let (_, v) = self.layer_regions(seq, layer)?;
        Ok(self.space.bytes(v, 0..bytes))
    }

    /// The K and the V rows of `tokens` in one layer, to be written in place: `tokens.len() * row_bytes` bytes each. O(1).
    ///
    /// # Errors
    ///
    /// [`Error::NotOpen`], [`Error::Layer`]; [`Error::Rows`] when the rows are not all within the length.
    pub fn rows_mut(&mut self, seq: SeqId, layer: usize, tokens: Range<usize>) -> Result<(&mut [u8], &mut [u8])> {
        let len = self.len(seq)?;
        let (k, v) = self.layer_regions(seq, layer)?;
        if tokens.start > tokens.end || tokens.end > len {
            return Err(Error::Rows {
                start: tokens.start,
                end: tokens.end,
                len,
            });
        }
        let row = self.geometry.row_bytes();
        Ok(self.space.pair_mut(k, v, tokens.start * row..tokens.end * row))
    }
}

/// Where the rows of one layer of one sequence lie, as plain numbers for a kernel.
///
/// Row `t` is the `row_bytes` bytes at `k + t * row_bytes`, for `t < len`; the V rows likewise. Bytes from the last row up
/// to `mapped_bytes` are readable, and hold zeros or old rows of the same sequence; the byte at `mapped_bytes` is not.
///
/// Whoever reads or writes through the addresses must see to it that the sequence is neither truncated nor freed
/// meanwhile, and that no slice of [`KvCache::k`], [`KvCache::v`] or [`KvCache::rows_mut`] is alive over bytes that are
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvView {
    /// Address of the first K row.
    pub k: usize,
    /// Address of the first V row.
    pub v: usize,
    /// Distance of two rows in bytes: rows are dense.
    pub row_bytes: usize,
    /// Rows that are valid.
    pub len: usize,
    /// Bytes from `k`, and from `v`, that are mapped.
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
