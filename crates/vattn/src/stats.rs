//! What the cache holds, in numbers.

/// A snapshot of a cache. All sizes are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Address space of all regions: what a cache that maps everything up front would hold.
    pub reserved_bytes: usize,
    /// Frames mapped, times the size of a frame.
    pub mapped_bytes: usize,
    /// Rows of the live sequences, over all layers, K and V.
    pub used_bytes: usize,
    /// Memory that the backend really holds, as the operating system counts it. Equal to `mapped_bytes`.
    pub physical_bytes: usize,
    /// Part of `mapped_bytes` that belongs to no row's frame: memory that the backend refused to take back, and that the
    /// cache will offer again. Zero unless a call of the backend failed.
    pub draining_bytes: usize,
    /// Budget as it was set.
    pub budget_bytes: usize,
    /// Sequences that are open.
    pub live_sequences: usize,
    /// Calls of the backend that mapped a run of frames, or tried to.
    pub map_calls: u64,
    /// Calls of the backend that gave a run of frames back, or tried to.
    pub unmap_calls: u64,
}
