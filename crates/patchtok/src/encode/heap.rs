//! Merging of long pieces whose merges may have any order: a linked list of symbols and a heap of
//! the pairs that have a merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::merges::NO_RANK;

/// End of the list.
const NONE: usize = usize::MAX;

/// Bits of a heap entry that hold the position; the rank stands above them (`model::MAX_VOCAB` is
/// 2^24).
const POSITION_BITS: u32 = 40;

#[derive(Clone, Copy, Debug)]
struct Node {
    symbol: u32,
    /// Rank of the pair of this node and the next; [`NO_RANK`] also marks a node that was merged
    /// away.
    rank: u32,
    /// What this pair becomes.
    result: u32,
    prev: usize,
    next: usize,
}

/// Memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    nodes: Vec<Node>,
    /// Rank and position of pairs; an entry is stale when the node at the position has another rank
    /// by now.
    queue: BinaryHeap<Reverse<u64>>,
}

/// Appends the tokens of the piece `symbols` to `out`. `pair` gives the rank of the merge of two tokens
/// and its result. O(n log n).
pub(crate) fn merge(
    symbols: impl Iterator<Item = u32>,
    pair: impl Fn(u32, u32) -> (u32, u32),
    Scratch { nodes, queue }: &mut Scratch,
    out: &mut Vec<u32>,
) {
    nodes.clear();
    nodes.extend(symbols.enumerate().map(|(at, symbol)| Node {
        symbol,
        rank: NO_RANK,
        result: symbol,
        prev: at.wrapping_sub(1),
        next: at + 1,
    }));
    let Some(last) = nodes.last_mut() else { return };
    last.next = NONE;
    queue.clear();
    for at in 0..nodes.len() {
        rate(at, nodes, &pair, queue);
    }
    while let Some(Reverse(entry)) = queue.pop() {
        let rank = (entry >> POSITION_BITS) as u32;
        let at = (entry & ((1 << POSITION_BITS) - 1)) as usize;
        if nodes[at].rank != rank {
            continue;
        }
        let gone = nodes[at].next;
        let next = nodes[gone].next;
        nodes[gone].rank = NO_RANK;
        nodes[at].symbol = nodes[at].result;
        nodes[at].next = next;
        if next != NONE {
            nodes[next].prev = at;
        }
        rate(at, nodes, &pair, queue);
        if nodes[at].prev != NONE {
            rate(nodes[at].prev, nodes, &pair, queue);
        }
    }
    let mut at = 0;
    while at != NONE {
        out.push(nodes[at].symbol);
        at = nodes[at].next;
    }
}

/// Notes the rank of the pair that starts at `at` and queues it.
fn rate(at: usize, nodes: &mut [Node], pair: impl Fn(u32, u32) -> (u32, u32), queue: &mut BinaryHeap<Reverse<u64>>) {
    let next = nodes[at].next;
    let (rank, result) = match next {
        NONE => (NO_RANK, NO_RANK),
        next => pair(nodes[at].symbol, nodes[next].symbol),
    };
    (nodes[at].rank, nodes[at].result) = (rank, result);
    if rank != NO_RANK {
        queue.push(Reverse(u64::from(rank) << POSITION_BITS | at as u64));
    }
}
