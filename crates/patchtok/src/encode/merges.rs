//! The merges as a hash table from pairs of tokens to ranks.

use crate::model::Merge;

/// Rank of a pair that has no merge.
pub(crate) const NO_RANK: u32 = u32::MAX;

/// No token has this id (`model::MAX_VOCAB` is 2^24).
const NO_TOKEN: u32 = u32::MAX;

/// Two token ids in one word.
#[inline]
pub(crate) fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// A hash of two token ids; its upper bits are the good ones.
#[inline]
pub(super) fn pair_hash(left: u32, right: u32) -> u64 {
    pair_key(left, right).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A pair and what it becomes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    left: u32,
    right: u32,
    rank: u32,
    result: u32,
}

const EMPTY: Slot = Slot {
    left: NO_TOKEN,
    right: NO_TOKEN,
    rank: NO_RANK,
    result: NO_TOKEN,
};

/// Merges by pair: open addressing, at most half full, so that a lookup of a pair that has no merge
/// ends soon too.
#[derive(Clone, Debug)]
pub(crate) struct Merges {
    slots: Box<[Slot]>,
    shift: u32,
}

impl Merges {
    /// The table of `merges`, of which the first has the rank `first_rank`.
    pub(crate) fn new(merges: &[Merge], first_rank: u32) -> Self {
        let bits = (2 * merges.len()).next_power_of_two().trailing_zeros().max(1);
        let mut table = Merges {
            slots: vec![EMPTY; 1 << bits].into_boxed_slice(),
            shift: 64 - bits,
        };
        for (&Merge { left, right, result }, rank) in merges.iter().zip(first_rank..) {
            let mut at = table.home(left, right);
            while table.slots[at].left != NO_TOKEN {
                at = table.next(at);
            }
            table.slots[at] = Slot {
                left,
                right,
                rank,
                result,
            };
        }
        table
    }

    /// Rank of the merge of `left` and `right` and the token it makes; [`NO_RANK`] when there is
    /// none.
    #[inline]
    pub(crate) fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let mut at = self.home(left, right);
        loop {
            let slot = self.slots[at];
            if slot.left == left && slot.right == right || slot.left == NO_TOKEN {
                return (slot.rank, slot.result);
            }
            at = self.next(at);
        }
    }

    #[inline]
    fn home(&self, left: u32, right: u32) -> usize {
        (pair_hash(left, right) >> self.shift) as usize
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }
}

/// A smaller table for few merges among small ids, in which a pair takes eight bytes.
#[derive(Clone, Debug)]
pub(super) struct Pairs {
    /// The left token, the right one, and one more than the number of the merge; 0 is empty.
    slots: Box<[u64]>,
    shift: u32,
    id_bits: u32,
    number_bits: u32,
    results: Box<[u32]>,
}

impl Pairs {
    /// The table of `merges` among ids of `id_bits` bits; none if there are no merges, or too many.
    pub(super) fn new(merges: &[Merge], id_bits: u32) -> Option<Self> {
        let number_bits = (merges.len() + 1).next_power_of_two().trailing_zeros();
        if merges.is_empty() || 2 * id_bits + number_bits > u64::BITS {
            return None;
        }
        let bits = (2 * merges.len()).next_power_of_two().trailing_zeros();
        let mut pairs = Pairs {
            slots: vec![0; 1 << bits].into_boxed_slice(),
            shift: 64 - bits,
            id_bits,
            number_bits,
            results: merges.iter().map(|merge| merge.result).collect(),
        };
        for (merge, number) in merges.iter().zip(1u64..) {
            let mut at = pairs.home(merge.left, merge.right);
            while pairs.slots[at] != 0 {
                at = (at + 1) & (pairs.slots.len() - 1);
            }
            pairs.slots[at] = pairs.key(merge.left, merge.right) | number;
        }
        Some(pairs)
    }

    /// The number of the merge of `left` and `right`, which is in the order of ranks, and the token
    /// it makes; [`NO_RANK`] when there is none.
    #[inline]
    pub(super) fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let key = self.key(left, right);
        let mut at = self.home(left, right);
        loop {
            let slot = self.slots[at];
            let number = slot.wrapping_sub(key);
            if number >> self.number_bits == 0 && number != 0 {
                let number = number as u32 - 1;
                return (number, self.results[number as usize]);
            }
            if slot == 0 {
                return (NO_RANK, NO_TOKEN);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn key(&self, left: u32, right: u32) -> u64 {
        (u64::from(left) << self.id_bits | u64::from(right)) << self.number_bits
    }

    #[inline]
    fn home(&self, left: u32, right: u32) -> usize {
        (pair_hash(left, right) >> self.shift) as usize
    }
}
