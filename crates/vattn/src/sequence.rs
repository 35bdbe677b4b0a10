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

/// Names one published prefix of one cache, as [`SeqId`] names a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixId(pub(crate) SeqId);

impl fmt::Display for PrefixId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What lives in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sequence,
    /// Rows that nobody appends to and that sequences start from.
    Prefix,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing; it is on the free list. It may have memory from earlier, which is wiped before it is used.
    Free,
    /// A sequence or prefix of `len` tokens.
    Live {
        kind: Kind,
        generation: u64,
        len: usize,
        /// Whether its own rows are in the swap.
        swapped: bool,
        /// Frames of each region, from the first on, that may be somebody else's too: they are mapped read-only.
        shared: usize,
    },
    /// A freed sequence that still has memory that may not be touched: the slot may not be opened.
    Draining,
}

/// All slots of a cache, and the list of free ones (last in, first out). Every function but `take` is O(1).
#[derive(Debug)]
pub(crate) struct SlotTable {
    slots: Vec<Slot>,
    free: Vec<usize>,
    tokens: usize,
    live: usize,
    prefixes: usize,
}

impl SlotTable {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: vec![Slot::Free; slots],
            free: (0..slots).rev().collect(),
            tokens: 0,
            live: 0,
            prefixes: 0,
        }
    }

    /// The slot that would be opened next; `None` when there is none.
    pub(crate) fn next_free(&self) -> Option<usize> {
        self.free.last().copied()
    }

    /// Puts an empty sequence or prefix into a free slot.
    pub(crate) fn open(&mut self, slot: usize, kind: Kind) -> SeqId {
        static NEXT_GENERATION: AtomicU64 = AtomicU64::new(0);
        let listed = self.free.iter().rposition(|&free| free == slot);
        self.free.remove(listed.expect("the slot is free"));
        let generation = NEXT_GENERATION.fetch_add(1, Ordering::Relaxed);
        self.slots[slot] = Slot::Live {
            kind,
            generation,
            len: 0,
            swapped: false,
            shared: 0,
        };
        match kind {
            Kind::Sequence => self.live += 1,
            Kind::Prefix => self.prefixes += 1,
        }
        SeqId { slot, generation }
    }

    /// Length of a sequence; `None` when the id names none.
    pub(crate) fn len(&self, seq: SeqId) -> Option<usize> {
        match self.slots.get(seq.slot) {
            Some(&Slot::Live { generation, len, .. }) if generation == seq.generation => Some(len),
            _ => None,
        }
    }

    /// Sets the length of a sequence that `len` has just recognised.
    pub(crate) fn set_len(&mut self, seq: SeqId, new_len: usize) {
        debug_assert!(self.len(seq).is_some());
        if let Slot::Live { kind, len, .. } = &mut self.slots[seq.slot] {
            if *kind == Kind::Sequence {
                self.tokens = self.tokens - *len + new_len;
            }
            *len = new_len;
        }
    }

    pub(crate) fn is_swapped(&self, slot: usize) -> bool {
        matches!(self.slots[slot], Slot::Live { swapped: true, .. })
    }

    pub(crate) fn set_swapped(&mut self, slot: usize, now: bool) {
        if let Slot::Live { swapped, .. } = &mut self.slots[slot] {
            *swapped = now;
        }
    }

    /// Frames of each region that may be somebody else's too.
    pub(crate) fn shared(&self, slot: usize) -> usize {
        match self.slots[slot] {
            Slot::Live { shared, .. } => shared,
            Slot::Free | Slot::Draining => 0,
        }
    }

    pub(crate) fn set_shared(&mut self, slot: usize, now: usize) {
        if let Slot::Live { shared, .. } = &mut self.slots[slot] {
            *shared = now;
        }
    }

    /// Ends a sequence or prefix that `len` has just recognised. Its slot drains until [`SlotTable::recycle`].
    pub(crate) fn close(&mut self, seq: SeqId) {
        self.set_len(seq, 0);
        match self.slots[seq.slot] {
            Slot::Live {
                kind: Kind::Sequence, ..
            } => self.live -= 1,
            Slot::Live { kind: Kind::Prefix, .. } => self.prefixes -= 1,
            Slot::Free | Slot::Draining => {}
        }
        self.slots[seq.slot] = Slot::Draining;
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

    /// Number of published prefixes.
    pub(crate) fn prefixes(&self) -> usize {
        self.prefixes
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

    fn open(table: &mut SlotTable) -> Option<SeqId> {
        let slot = table.next_free()?;
        Some(table.open(slot, Kind::Sequence))
    }

    #[test]
    fn an_id_dies_with_its_sequence() {
        let mut table = SlotTable::new(1);
        let first = open(&mut table).unwrap();
        assert!(open(&mut table).is_none());
        table.set_len(first, 7);
        assert_eq!((table.len(first), table.tokens(), table.live()), (Some(7), 7, 1));

        table.close(first);
        assert_eq!((table.len(first), table.tokens(), table.live()), (None, 0, 0));
        assert!(open(&mut table).is_none(), "a draining slot is not free");

        table.recycle(0);
        table.recycle(0);
        let second = open(&mut table).unwrap();
        assert_eq!(second.slot(), first.slot());
        assert_eq!((table.len(first), table.len(second)), (None, Some(0)));
        assert!(open(&mut table).is_none(), "recycling twice frees one slot once");
    }

    #[test]
    fn ids_of_another_table_are_not_recognised() {
        let (mut a, mut b) = (SlotTable::new(2), SlotTable::new(2));
        let (in_a, in_b) = (open(&mut a).unwrap(), open(&mut b).unwrap());
        assert_eq!((a.len(in_a), b.len(in_b)), (Some(0), Some(0)));
        assert_eq!((a.len(in_b), b.len(in_a)), (None, None));
    }
}
