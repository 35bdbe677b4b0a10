//! Whether two tokens may stand side by side.
//!
//! Merges whose parts are made by earlier merges give each token a tree of parts. When two tokens
//! meet, only the parts along the border matter: the last part of the left one and the first part
//! of the right one, as they are at each moment. `docs/tokenizer.md` has the argument.

use super::merges::Merges;
use crate::model::Model;

/// How a token is made.
#[derive(Clone, Copy, Debug)]
struct Parts {
    left: u32,
    right: u32,
    /// One more than the rank of the merge that makes the token; 0 for a byte, and for a token that
    /// nothing makes.
    made: u32,
}

/// The parts of every token.
#[derive(Clone, Debug)]
pub(super) struct Spines {
    parts: Box<[Parts]>,
}

impl Spines {
    /// The parts of the tokens of `model`; none when a merge uses a token that a later one makes,
    /// or nothing.
    pub(super) fn new(model: &Model) -> Option<Self> {
        let nothing = Parts {
            left: 0,
            right: 0,
            made: 0,
        };
        let mut parts = vec![nothing; model.vocab().len()].into_boxed_slice();
        let is_made = |parts: &[Parts], id: u32| {
            parts[id as usize].made > 0 || model.vocab().get(id).is_some_and(|token| token.len() == 1)
        };
        for (merge, made) in model.merges().iter().zip(1..) {
            if !is_made(&parts, merge.left) || !is_made(&parts, merge.right) {
                return None;
            }
            parts[merge.result as usize] = Parts {
                left: merge.left,
                right: merge.right,
                made,
            };
        }
        Some(Spines { parts })
    }

    /// One more than the rank of the merge that makes `token`, 0 for a byte.
    #[inline]
    pub(super) fn made(&self, token: u32) -> u32 {
        self.parts[token as usize].made
    }

    /// Whether byte pair encoding by the merges of rank below `limit` leaves `left` and `right`,
    /// each of which it makes of its own bytes, as they are when they stand side by side. O(depth of
    /// their trees) lookups, which `steps` counts.
    pub(super) fn apart(&self, mut left: u32, mut right: u32, limit: u32, merges: &Merges, steps: &mut u64) -> bool {
        // The ranks at which they become parts of something else.
        let (mut left_ends, mut right_ends) = (limit, limit);
        loop {
            *steps += 1;
            let (rank, _) = merges.get(left, right);
            // Merges of one rank are applied from the left: what happens to the left one then
            // happens first, what happens to the right one happens later.
            if rank < left_ends && rank <= right_ends {
                return false;
            }
            let (l, r) = (self.parts[left as usize], self.parts[right as usize]);
            if l.made >= r.made {
                if l.made == 0 {
                    return true;
                }
                left_ends = l.made - 1;
                left = l.right;
            } else {
                right_ends = r.made - 1;
                right = r.left;
            }
        }
    }
}
