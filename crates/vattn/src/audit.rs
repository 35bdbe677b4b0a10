//! The invariants of the cache, checked from the ground up.

use std::collections::HashMap;

use crate::backend::{Backend, Frame};
use crate::cache::KvCache;
use crate::sequence::Slot;
use crate::shared::Locked;
use crate::space::Region;

/// An invariant that does not hold: a defect of the cache or of its backend, never of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// A region of a slot does not have the memory that the length of its sequence needs.
    #[error("region {region} of slot {slot} has {mapped} bytes mapped, its length needs {needed}")]
    Coverage {
        /// The slot.
        slot: usize,
        /// The region within the slot.
        region: usize,
        /// Bytes mapped.
        mapped: usize,
        /// Bytes that the length needs, in whole frames.
        needed: usize,
    },
    /// A region has more than its sequence needs, and nobody knows of it.
    #[error("region {region} of slot {slot} has {surplus} bytes that its sequence does not need and may not keep")]
    Surplus {
        /// The slot.
        slot: usize,
        /// The region within the slot.
        region: usize,
        /// Bytes too many.
        surplus: usize,
    },
    /// A frame is not in as many regions as the account says, or is mapped for writing in one of several.
    #[error("frame {frame} is in {found} regions ({writable} of them may write), the account says {counted}")]
    Shares {
        /// The number of the frame.
        frame: u64,
        /// Regions that have it mapped.
        found: u32,
        /// Regions that have it mapped for writing.
        writable: u32,
        /// Regions that have it by the account.
        counted: u32,
    },
    /// A frame is mapped and listed as mapped nowhere, or is listed twice.
    #[error("frame {frame} is listed as mapped nowhere, and is mapped or listed twice")]
    Pool {
        /// The number of the frame.
        frame: u64,
    },
    /// The frames that are mapped or pooled are not those that the cache has counted.
    #[error("there are {found} bytes in frames, the cache has counted {counted}")]
    Conservation {
        /// Bytes found.
        found: usize,
        /// Bytes that the cache has counted.
        counted: usize,
    },
    /// The operating system does not hold the memory that the cache has.
    #[error("the backend holds {physical} bytes of memory, the cache has {counted}")]
    Physical {
        /// Bytes that the backend holds.
        physical: usize,
        /// Bytes in frames that the cache has counted.
        counted: usize,
    },
    /// The slots do not add up.
    #[error("{what} is {counted} by the counter and {found} by looking at all slots")]
    Slots {
        /// What was counted.
        what: &'static str,
        /// The counter.
        counted: usize,
        /// What a walk over the slots finds.
        found: usize,
    },
    /// A slot is listed as free or as draining, and its state says otherwise.
    #[error("slot {slot} is on the {list} list and should not be")]
    Listed {
        /// The slot.
        slot: usize,
        /// The list.
        list: &'static str,
    },
    /// A freed slot still has memory and nobody will offer it again.
    #[error("slot {slot} drains and is not on the draining list")]
    Lost {
        /// The slot.
        slot: usize,
    },
}

/// In how many regions a frame is mapped.
#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    all: u32,
    writable: u32,
}

impl<B: Backend> KvCache<B> {
    /// Checks that the state is sound: every slot is in one state and on the list of that state; every region has the
    /// frames its length needs; every frame is in as many regions as it is counted for, and in one at most for writing;
    /// the frames add up; and the backend holds exactly their memory. O(frames), with one system call on the host.
    /// For tests and for operators in doubt. Waits until the mapper thread has nothing in its hands.
    ///
    /// # Errors
    ///
    /// The first invariant that does not hold.
    pub fn audit(&self) -> Result<(), AuditError> {
        let mut locked = self.shared.lock();
        locked.quiet();
        self.audit_slots(&locked)?;
        Self::refresh_keep(&self.slots, &self.geometry, &mut locked);
        let mut uses = HashMap::<Frame, Uses>::new();
        for slot in 0..self.geometry.max_sequences() {
            let live = matches!(self.slots.slots()[slot], Slot::Live { .. }) && !self.is_asleep();
            let keep = locked.holdings[slot].keep;
            let may_have_more = locked.holdings[slot].draining || !live || locked.config.maps_ahead();
            for (index, region) in locked.body(slot).regions.iter().enumerate() {
                self.audit_region((slot, index), region, if live { keep } else { 0 }, may_have_more)?;
                for (position, &frame) in region.frames.iter().enumerate() {
                    let uses = uses.entry(frame).or_default();
                    uses.all += 1;
                    uses.writable += u32::from(position >= region.shared);
                }
            }
        }
        for (&frame, &Uses { all, writable }) in &uses {
            let counted = locked.ledger.count(frame);
            if all != counted || (all > 1 && writable > 0) {
                return Err(AuditError::Shares {
                    frame: frame.0,
                    found: all,
                    writable,
                    counted,
                });
            }
        }
        if let Some(frame) = locked.window {
            uses.entry(frame).or_default();
        }
        for spare in locked.ledger.pool() {
            if uses.insert(spare.frame, Uses::default()).is_some() {
                let frame = spare.frame.0;
                return Err(AuditError::Pool { frame });
            }
        }
        let frame_bytes = self.geometry.frame_bytes();
        let (found, counted) = (uses.len() * frame_bytes, locked.ledger.created * frame_bytes);
        if found != counted || locked.ledger.promised > 0 {
            return Err(AuditError::Conservation { found, counted });
        }
        match self.shared.space.backend.physical_bytes() {
            physical if physical != counted => Err(AuditError::Physical { physical, counted }),
            _ => Ok(()),
        }
    }

    fn audit_region(
        &self,
        (slot, index): (usize, usize),
        region: &Region,
        needed: usize,
        may_have_more: bool,
    ) -> Result<(), AuditError> {
        let frame_bytes = self.geometry.frame_bytes();
        let mapped = region.usable();
        if mapped < needed {
            return Err(AuditError::Coverage {
                slot,
                region: index,
                mapped: mapped * frame_bytes,
                needed: needed * frame_bytes,
            });
        }
        if region.frames.len() > needed && !may_have_more {
            let surplus = (region.frames.len() - needed) * frame_bytes;
            return Err(AuditError::Surplus {
                slot,
                region: index,
                surplus,
            });
        }
        Ok(())
    }

    fn audit_slots(&self, locked: &Locked<'_, B>) -> Result<(), AuditError> {
        let slots = self.slots.slots();
        let (mut live, mut prefixes, mut tokens, mut free) = (0, 0, 0, 0);
        for &slot in slots {
            match slot {
                Slot::Free => free += 1,
                Slot::Live {
                    kind: crate::sequence::Kind::Sequence,
                    len,
                    ..
                } => (live, tokens) = (live + 1, tokens + len),
                Slot::Live { .. } => prefixes += 1,
                Slot::Draining => {}
            }
        }
        for (what, counted, found) in [
            ("the number of live sequences", self.slots.live(), live),
            ("the number of prefixes", self.slots.prefixes(), prefixes),
            ("the number of tokens", self.slots.tokens(), tokens),
            ("the number of free slots", self.slots.free_list().len(), free),
        ] {
            if counted != found {
                return Err(AuditError::Slots { what, counted, found });
            }
        }
        // A slot is free exactly when it is on the free list, which has as many entries as there are free slots.
        let mut listed = vec![false; slots.len()];
        for &slot in self.slots.free_list() {
            if slots[slot] != Slot::Free || std::mem::replace(&mut listed[slot], true) || !locked.holdings[slot].idle {
                return Err(AuditError::Listed { slot, list: "free" });
            }
        }
        // Live slots may drain; a freed one that drains must be on the list, or it would be lost.
        let mut listed = vec![false; slots.len()];
        for &slot in &locked.draining {
            if slots[slot] == Slot::Free || std::mem::replace(&mut listed[slot], true) {
                return Err(AuditError::Listed { slot, list: "draining" });
            }
        }
        let drained = |slot: usize| listed[slot] || locked.drained.contains(&slot);
        match (0..slots.len()).find(|&slot| slots[slot] == Slot::Draining && !drained(slot)) {
            Some(slot) => Err(AuditError::Lost { slot }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::sim::SimBackend;
    use crate::space::Spare;
    use crate::{Config, Geometry, SeqId};

    const FRAME: usize = 64;

    type Cache = KvCache<SimBackend>;

    fn healthy() -> (Cache, SeqId) {
        let geometry = Geometry::builder()
            .layers(1)
            .row_bytes(FRAME)
            .max_tokens(4)
            .max_sequences(2)
            .frame_bytes(FRAME)
            .build()
            .unwrap();
        let mut cache = KvCache::with_backend(SimBackend::new(FRAME), geometry, Config::new(usize::MAX)).unwrap();
        let seq = cache.open().unwrap();
        cache.grow(seq, 2).unwrap();
        cache.audit().unwrap();
        (cache, seq)
    }

    fn damage_region(cache: &mut Cache, change: impl FnOnce(&mut Region)) {
        let mut locked = cache.shared.lock();
        let mut body = locked.take(0);
        change(&mut body.regions[0]);
        locked.put(0, body);
    }

    #[test]
    fn every_invariant_is_looked_at() {
        type Damage = fn(&mut Cache, SeqId);
        let damages: [(Damage, &str); 11] = [
            (|c, s| c.slots.set_len(s, 3), "Coverage"),
            (|c, s| c.slots.set_len(s, 1), "Surplus"),
            (|c, _| damage_region(c, |r| r.stale = 1), "Coverage"),
            (|c, _| damage_region(c, |r| r.frames[1] = r.frames[0]), "Shares"),
            (
                |c, _| {
                    let frame = c.shared.lock().body(0).regions[0].frames[0];
                    c.shared.lock().ledger.share(&[frame]);
                },
                "Shares",
            ),
            (
                |c, _| {
                    let frame = c.shared.lock().body(0).regions[0].frames[0];
                    let spares = crate::space::Spares {
                        frames: vec![Spare { frame, zero: false }],
                        created: 0,
                    };
                    c.shared.lock().ledger.put_back(spares);
                },
                "Pool",
            ),
            (|c, _| c.shared.lock().ledger.created += 1, "Conservation"),
            (|c, _| c.shared.lock().ledger.promised += 1, "Conservation"),
            (|c, s| c.slots.close(s), "Lost"),
            (|c, _| c.shared.lock().draining = vec![1], "Listed"),
            (|c, _| c.shared.lock().draining = vec![0, 0], "Listed"),
        ];
        for (nth, (damage, expected)) in damages.into_iter().enumerate() {
            let (mut cache, seq) = healthy();
            damage(&mut cache, seq);
            let error = format!("{:?}", cache.audit().unwrap_err());
            assert!(error.starts_with(expected), "damage {nth}: {error}");
            std::mem::forget(cache); // dropping it would stumble over the damage
        }
    }
}
