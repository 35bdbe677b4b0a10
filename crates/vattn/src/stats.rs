//! What the cache holds, in numbers.

use crate::backend::Backend;
use crate::cache::KvCache;

/// A snapshot of a cache. All sizes are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Address space of all regions: what a cache that maps everything up front would hold.
    pub reserved_bytes: usize,
    /// Frames that exist, times the size of a frame: mapped once or several times, or waiting to be used again.
    pub mapped_bytes: usize,
    /// Rows of the live sequences, over all layers, K and V. Shared rows count once for each sequence that has them, so
    /// this may be above `mapped_bytes`.
    pub used_bytes: usize,
    /// Memory that the backend really holds, as the operating system counts it. Equal to `mapped_bytes`, unless the mapper
    /// thread is at work.
    pub physical_bytes: usize,
    /// Part of `mapped_bytes` that belongs to no row's frame and waits to be given back: the backend refused to take it,
    /// or the device is not done with it. The cache offers it again.
    pub draining_bytes: usize,
    /// Part of `mapped_bytes` that no sequence has, for those that follow.
    pub warm_bytes: usize,
    /// Part of `mapped_bytes` that sequences have beyond what their lengths need, mapped ahead.
    pub ahead_bytes: usize,
    /// Memory that is mapped for more than one sequence or prefix, counted once.
    pub shared_bytes: usize,
    /// Budget as it was set.
    pub budget_bytes: usize,
    /// Sequences that are open.
    pub live_sequences: usize,
    /// Prefixes that are published.
    pub prefixes: usize,
    /// Calls of the backend that mapped a run of frames, or tried to.
    pub map_calls: u64,
    /// Calls of the backend that gave a run of frames back, or tried to.
    pub unmap_calls: u64,
    /// Times that a sequence had to wait for memory because it was not mapped ahead.
    pub sync_maps: u64,
    /// Times that memory was mapped in the background.
    pub background_maps: u64,
    /// Times that the backend has refused something to the mapper thread.
    pub background_refusals: u64,
    /// Bytes copied because a frame could not be shared.
    pub copied_bytes: u64,
}

impl<B: Backend> KvCache<B> {
    /// What the cache holds now. O(slots), with one system call on the host.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let frame = self.geometry.frame_bytes();
        let mut locked = self.shared.lock();
        Self::refresh_keep(&self.slots, &self.geometry, &mut locked);
        locked.limit_pool();
        let pooled = locked.ledger.pool().len().min(locked.ledger.pool_limit);
        let mut draining = locked.ledger.pool().len().saturating_sub(locked.ledger.pool_limit);
        // A copy that was begun and refused leaves its frame in the window.
        draining += usize::from(locked.window.is_some());
        let mut ahead = 0;
        for holding in &locked.holdings {
            match holding.idle {
                true => {}
                false if holding.draining => draining += holding.surplus(),
                false => ahead += holding.surplus(),
            }
        }
        let counters = locked.counters;
        Stats {
            reserved_bytes: self.geometry.reserved_bytes(),
            mapped_bytes: locked.ledger.created * frame,
            used_bytes: self.geometry.used_bytes(self.slots.tokens()),
            physical_bytes: self.shared.space.backend.physical_bytes(),
            draining_bytes: draining * frame,
            warm_bytes: (locked.warm_frames() + pooled) * frame,
            ahead_bytes: ahead * frame,
            shared_bytes: locked.ledger.shared() * frame,
            budget_bytes: locked.config.budget_bytes,
            live_sequences: self.slots.live(),
            prefixes: self.slots.prefixes(),
            map_calls: counters.map_calls,
            unmap_calls: counters.unmap_calls,
            sync_maps: counters.sync_maps,
            background_maps: counters.background_maps,
            background_refusals: counters.background_refusals,
            copied_bytes: counters.copied_bytes,
        }
    }
}
