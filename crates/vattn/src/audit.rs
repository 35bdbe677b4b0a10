//! The invariants of the cache, checked from the ground up.

use crate::backend::{Backend, Space};
use crate::cache::KvCache;
use crate::sequence::Slot;

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
    /// The regions together do not have the frames that the cache has counted.
    #[error("the regions have {mapped} bytes mapped, the cache has counted {counted}")]
    Conservation {
        /// Bytes mapped in all regions.
        mapped: usize,
        /// Bytes that the cache has counted.
        counted: usize,
    },
    /// The operating system does not hold the memory that is mapped.
    #[error("the backend holds {physical} bytes of memory, {mapped} are mapped")]
    Physical {
        /// Bytes that the backend holds.
        physical: usize,
        /// Bytes mapped in all regions.
        mapped: usize,
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

impl<B: Backend> KvCache<B> {
    /// Checks that the state is sound: every slot is in one state and on the list of that state; every region has exactly
    /// the frames its length needs (or more, while a slot drains); the frames add up; and the backend holds exactly the
    /// memory that is mapped. O(regions), with one system call on the host. For tests and for operators in doubt.
    ///
    /// # Errors
    ///
    /// The first invariant that does not hold.
    pub fn audit(&self) -> Result<(), AuditError> {
        self.audit_slots()?;
        let mut may_have_more = vec![false; self.geometry.max_sequences()];
        for &slot in &self.draining {
            may_have_more[slot] = true;
        }
        let mut total = 0;
        for (slot, may_have_more) in may_have_more.into_iter().enumerate() {
            let needed = self.geometry.mapped_bytes(self.slots.tokens_in(slot));
            for (region, index) in self.regions(slot).enumerate() {
                let mapped = self.space.mapped(index);
                if mapped < needed || (mapped > needed && !may_have_more) {
                    return Err(AuditError::Coverage {
                        slot,
                        region,
                        mapped,
                        needed,
                    });
                }
                total += mapped;
            }
        }
        let counted = self.mapped_frames * self.geometry.frame_bytes();
        if total != counted {
            return Err(AuditError::Conservation { mapped: total, counted });
        }
        let physical = self.space.physical_bytes();
        if physical != total {
            return Err(AuditError::Physical {
                physical,
                mapped: total,
            });
        }
        Ok(())
    }

    fn audit_slots(&self) -> Result<(), AuditError> {
        let slots = self.slots.slots();
        let (mut live, mut tokens, mut free) = (0, 0, 0);
        for &slot in slots {
            match slot {
                Slot::Free => free += 1,
                Slot::Live { len, .. } => (live, tokens) = (live + 1, tokens + len),
                Slot::Draining => {}
            }
        }
        for (what, counted, found) in [
            ("the number of live sequences", self.slots.live(), live),
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
            if slots[slot] != Slot::Free || std::mem::replace(&mut listed[slot], true) {
                return Err(AuditError::Listed { slot, list: "free" });
            }
        }
        // Live slots may drain; a freed one that drains must be on the list, or it would be lost.
        let mut listed = vec![false; slots.len()];
        for &slot in &self.draining {
            if slots[slot] == Slot::Free || std::mem::replace(&mut listed[slot], true) {
                return Err(AuditError::Listed { slot, list: "draining" });
            }
        }
        match (0..slots.len()).find(|&slot| slots[slot] == Slot::Draining && !listed[slot]) {
            Some(slot) => Err(AuditError::Lost { slot }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Geometry, SeqId};

    fn healthy() -> (KvCache, SeqId) {
        let geometry = Geometry::builder()
            .layers(1)
            .row_bytes(1 << 16)
            .max_tokens(4)
            .max_sequences(2)
            .build()
            .unwrap();
        let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
        let seq = cache.open().unwrap();
        cache.grow(seq, 2).unwrap();
        cache.audit().unwrap();
        (cache, seq)
    }

    #[test]
    fn every_invariant_is_looked_at() {
        let bytes = 1 << 16;
        type Damage = fn(&mut KvCache, SeqId);
        let damages: [(Damage, AuditError); 7] = [
            (
                |c, s| c.slots.set_len(s, 3),
                AuditError::Coverage {
                    slot: 0,
                    region: 0,
                    mapped: 2 * bytes,
                    needed: 3 * bytes,
                },
            ),
            (
                |c, s| c.slots.set_len(s, 1),
                AuditError::Coverage {
                    slot: 0,
                    region: 0,
                    mapped: 2 * bytes,
                    needed: bytes,
                },
            ),
            (
                |c, _| c.space.map(3, 1 << 16).unwrap(),
                AuditError::Coverage {
                    slot: 1,
                    region: 1,
                    mapped: bytes,
                    needed: 0,
                },
            ),
            (
                |c, _| c.mapped_frames += 1,
                AuditError::Conservation {
                    mapped: 4 * bytes,
                    counted: 5 * bytes,
                },
            ),
            (|c, s| c.slots.close(s), AuditError::Lost { slot: 0 }),
            (
                |c, _| c.draining = vec![1],
                AuditError::Listed {
                    slot: 1,
                    list: "draining",
                },
            ),
            (
                |c, _| c.draining = vec![0, 0],
                AuditError::Listed {
                    slot: 0,
                    list: "draining",
                },
            ),
        ];
        for (damage, expected) in damages {
            let (mut cache, seq) = healthy();
            damage(&mut cache, seq);
            assert_eq!(cache.audit(), Err(expected));
        }
    }
}
