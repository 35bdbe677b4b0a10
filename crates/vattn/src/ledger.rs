//! The account of frames: how many exist, who shares them, which are mapped nowhere.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::backend::{Backend, Frame};
use crate::space::{Space, Spare, Spares};

/// Frames of the whole cache.
///
/// A frame is in exactly one of three places: mapped in one region; mapped in several regions, and then in `shares`; or
/// nowhere, and then in `pool`.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Most frames that may exist after growth.
    pub(crate) limit: usize,
    /// Frames that exist.
    pub(crate) created: usize,
    /// Most frames that sequences have needed at one time, as far as they were counted: where something is warm.
    pub(crate) most_needed: usize,
    /// Frames that the mapper thread may create and has not reported yet.
    pub(crate) promised: usize,
    /// How many regions have a frame, for those with at least two.
    shares: HashMap<Frame, u32, BuildHasherDefault<FrameHasher>>,
    pool: Vec<Spare>,
    /// Frames that the pool may keep.
    pub(crate) pool_limit: usize,
}

impl Ledger {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            created: 0,
            most_needed: 0,
            promised: 0,
            shares: HashMap::default(),
            pool: Vec::new(),
            pool_limit: 0,
        }
    }

    /// Frames that could be mapped without taking any from anybody.
    pub(crate) fn room(&self) -> usize {
        self.limit.saturating_sub(self.created + self.promised) + self.pool.len().min(self.limit)
    }

    pub(crate) fn pool(&self) -> &[Spare] {
        &self.pool
    }

    /// Frames that several regions have.
    pub(crate) fn shared(&self) -> usize {
        self.shares.len()
    }

    /// Regions that have a mapped frame.
    pub(crate) fn count(&self, frame: Frame) -> u32 {
        self.shares.get(&frame).copied().unwrap_or(1)
    }

    /// Notes one more region for each of the frames.
    pub(crate) fn share(&mut self, frames: &[Frame]) {
        for &frame in frames {
            *self.shares.entry(frame).or_insert(1) += 1;
        }
    }

    /// Up to `count` frames out of the pool.
    pub(crate) fn take(&mut self, count: usize) -> Spares {
        Spares {
            frames: self.pool.split_off(self.pool.len().saturating_sub(count)),
            created: 0,
        }
    }

    /// What a growth has left over goes back.
    pub(crate) fn put_back(&mut self, spares: Spares) {
        self.created += spares.created;
        self.pool.extend(spares.frames);
    }

    /// Notes that a frame is mapped nowhere.
    pub(crate) fn add_to_pool(&mut self, spare: Spare) {
        self.pool.push(spare);
    }

    /// Notes that regions do not have the frames any more. Those that nobody has now go to the pool.
    pub(crate) fn drop_frames(&mut self, frames: Vec<Frame>) {
        for frame in frames {
            match self.shares.get_mut(&frame) {
                Some(2) => drop(self.shares.remove(&frame)),
                Some(count) => *count -= 1,
                None => self.pool.push(Spare { frame, zero: false }),
            }
        }
    }

    /// Destroys frames of the pool down to what it may keep, and more where the limit asks for it. What the backend
    /// refuses stays.
    pub(crate) fn shrink<B: Backend>(&mut self, space: &Space<B>) {
        let mut frames = self.excess();
        if !frames.is_empty() {
            let count = frames.len();
            let _ = space.backend.destroy(&mut frames);
            self.destroyed(count, frames);
        }
    }

    /// Whether the pool has more than it may keep.
    pub(crate) fn has_excess(&self) -> bool {
        self.count_excess() > 0
    }

    fn count_excess(&self) -> usize {
        let over = self.created.saturating_sub(self.limit);
        self.pool
            .len()
            .saturating_sub(self.pool_limit)
            .max(over.min(self.pool.len()))
    }

    /// Takes what the pool has too much, in order to destroy it.
    pub(crate) fn excess(&mut self) -> Vec<Frame> {
        let excess = self.count_excess();
        self.pool.drain(..excess).map(|spare| spare.frame).collect()
    }

    /// Notes that frames were destroyed, out of `count` all but those that are `left`.
    pub(crate) fn destroyed(&mut self, count: usize, left: Vec<Frame>) {
        self.created -= count - left.len();
        self.pool
            .extend(left.into_iter().map(|frame| Spare { frame, zero: false }));
    }
}

/// Multiplies: frames are numbers that the backend chose, not an attacker.
#[derive(Debug, Default)]
pub(crate) struct FrameHasher(u64);

impl std::hash::Hasher for FrameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a frame is hashed as one number")
    }

    fn write_u64(&mut self, value: u64) {
        // The high half has the mixed bits, and the table looks at both ends.
        let product = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }
}
