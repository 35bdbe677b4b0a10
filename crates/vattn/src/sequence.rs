//! Slots and the ids that name what is in them.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names one sequence of one cache.
///
/// It holds a slot and a generation. Generations are never used twice in a process, so the id of a freed sequence, or an
/// id of another cache, is recognised and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeqId {
    slot: usize,
    generation: u64,
}

impl SeqId {
    /// The slot in which the sequence lives, below `max_sequences`. A later sequence may live in the same slot.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }
}

impl fmt::Display for SeqId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.slot, self.generation)
    }
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing; it is on the free list.
    Free,
    /// A sequence of `len` tokens.
    Live { generation: u64, len: usize },
    /// A freed sequence that still has memory: the slot may not be opened.
    Draining,
}

/// All slots of a cache, and the list of free ones (last in, first out). Every function is O(1).
#[derive(Debug)]
pub(crate) struct SlotTable {
    slots: Vec<Slot>,
    free: Vec<usize>,
    tokens: usize,
    live: usize,
}

impl SlotTable {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: vec![Slot::Free; slots],
            free: (0..slots).rev().collect(),
            tokens: 0,
            live: 0,
        }
    }

    /// Puts an empty sequence into a free slot; `None` when there is none.
    pub(crate) fn open(&mut self) -> Option<SeqId> {
        static NEXT_GENERATION: AtomicU64 = AtomicU64::new(0);
        let slot = self.free.pop()?;
        let generation = NEXT_GENERATION.fetch_add(1, Ordering::Relaxed);
        self.slots[slot] = Slot::Live { generation, len: 0 };
        self.live += 1;
        Some(SeqId { slot, generation })
    }

    /// Length of a sequence; `None` when the id names none.
    pub(crate) fn len(&self, seq: SeqId) -> Option<usize> {
        match self.slots.get(seq.slot) {
            Some(&Slot::Live { generation, len }) if generation == seq.generation => Some(len),
            _ => None,
        }
    }

    /// Sets the length of a sequence that `len` has just recognised.
    pub(crate) fn set_len(&mut self, seq: SeqId, new_len: usize) {
        debug_assert!(self.len(seq).is_some());
        if let Slot::Live { len, .. } = &mut self.slots[seq.slot] {
            self.tokens = self.tokens - *len + new_len;
            *len = new_len;
        }
    }

    /// Ends a sequence that `len` has just recognised. Its slot drains until [`SlotTable::recycle`].
    pub(crate) fn close(&mut self, seq: SeqId) {
        self.set_len(seq, 0);
        self.slots[seq.slot] = Slot::Draining;
        self.live -= 1;
    }

    /// Returns a drained slot to the free list; a slot in any other state is left alone.
    pub(crate) fn recycle(&mut self, slot: usize) {
        if self.slots[slot] == Slot::Draining {
            self.slots[slot] = Slot::Free;
            self.free.push(slot);
        }
    }

    /// Tokens for which a slot must have memory.
    pub(crate) fn tokens_in(&self, slot: usize) -> usize {
        match self.slots[slot] {
            Slot::Live { len, .. } => len,
            Slot::Free | Slot::Draining => 0,
        }
    }

    /// Tokens of all live sequences.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Number of live sequences.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(crate) fn free_list(&self) -> &[usize] {
        &self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_dies_with_its_sequence() {
        let mut table = SlotTable::new(1);
        let first = table.open().unwrap();
        assert!(table.open().is_none());
        table.set_len(first, 7);
        assert_eq!((table.len(first), table.tokens(), table.live()), (Some(7), 7, 1));

        table.close(first);
        assert_eq!((table.len(first), table.tokens(), table.live()), (None, 0, 0));
        assert!(table.open().is_none(), "a draining slot is not free");

        table.recycle(0);
        table.recycle(0);
        let second = table.open().unwrap();
        assert_eq!(second.slot(), first.slot());
        assert_eq!((table.len(first), table.len(second)), (None, Some(0)));
        assert!(table.open().is_none(), "recycling twice frees one slot once");
    }

    #[test]
    fn ids_of_another_table_are_not_recognised() {
        let (mut a, mut b) = (SlotTable::new(2), SlotTable::new(2));
        let (in_a, in_b) = (a.open().unwrap(), b.open().unwrap());
        assert_eq!((a.len(in_a), b.len(in_b)), (Some(0), Some(0)));
        assert_eq!((a.len(in_b), b.len(in_a)), (None, None));
    }
}
