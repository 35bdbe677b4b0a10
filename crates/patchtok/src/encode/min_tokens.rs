//! The segmentation of a piece into the fewest tokens.
//!
//! Of all ways to write a piece as tokens it is one with the fewest; among these, the one whose
//! last token is the longest, then the one before it, and so on. That is the Viterbi path of a
//! unigram model in which all tokens have the same score, with the ties of Hugging Face.

use hashbrown::HashMap;

use crate::model::{Hasher, Model, Vocab};

/// Node of the trie that is no node, and token that is no token.
const NONE: u32 = u32::MAX;

/// The ordinary tokens of a vocabulary as a trie.
#[derive(Clone, Debug)]
pub(crate) struct MinTokens {
    nodes: Vec<Node>,
    /// Children of all nodes; those of one node side by side, ascending by byte.
    edges: Vec<(u8, u32)>,
    /// Children of the root by byte: most steps begin there.
    first: Box<[u32; 256]>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    first_edge: u32,
    edges: u16,
    token: u32,
}

/// Memory that one call reuses from piece to piece.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// For each place in the piece: the fewest tokens before it, and the last of them.
    best: Vec<(u32, u32)>,
}

impl MinTokens {
    pub(crate) fn new(model: &Model) -> Self {
        let mut tokens: Vec<(&[u8], u32)> = ordinary(model).into_iter().collect();
        tokens.sort_unstable();
        let mut trie = MinTokens {
            nodes: Vec::new(),
            edges: Vec::new(),
            first: Box::new([NONE; 256]),
        };
        // Level by level; a node is the tokens that begin with its string.
        let mut level = vec![(0, tokens.len())];
        trie.nodes.push(Node {
            first_edge: 0,
            edges: 0,
            token: NONE,
        });
        let mut depth = 0;
        let mut node = 0;
        while !level.is_empty() {
            let mut below = Vec::new();
            for (mut start, end) in level {
                if let Some(&(token, id)) = tokens[start..end].first()
                    && token.len() == depth
                {
                    trie.nodes[node].token = id;
                    start += 1;
                }
                trie.nodes[node].first_edge = trie.edges.len() as u32;
                while start < end {
                    let byte = tokens[start].0[depth];
                    let same = tokens[start..end].partition_point(|(token, _)| token[depth] == byte);
                    let child = trie.nodes.len() as u32;
                    trie.edges.push((byte, child));
                    trie.nodes[node].edges += 1;
                    trie.nodes.push(Node {
                        first_edge: 0,
                        edges: 0,
                        token: NONE,
                    });
                    below.push((start, start + same));
                    start += same;
                }
                node += 1;
            }
            level = below;
            depth += 1;
        }
        for &(byte, child) in &trie.edges[..usize::from(trie.nodes[0].edges)] {
            trie.first[usize::from(byte)] = child;
        }
        trie
    }

    /// Appends the tokens of `piece` to `out`. O(n L) for n bytes and tokens of at most L.
    pub(crate) fn encode_piece(&self, vocab: &Vocab, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let best = &mut scratch.best;
        best.clear();
        best.resize(piece.len() + 1, (NONE, NONE));
        best[0].0 = 0;
        for start in 0..piece.len() {
            // Every byte is a token, so every place was reached.
            let tokens = best[start].0 + 1;
            let mut node = self.first[usize::from(piece[start])];
            let mut end = start + 1;
            while node != NONE {
                let token = self.nodes[node as usize].token;
                // Of equals the earliest start stays.
                if token != NONE && tokens < best[end].0 {
                    best[end] = (tokens, token);
                }
                node = piece.get(end).map_or(NONE, |&byte| self.child(node, byte));
                end += 1;
            }
        }
        let before = out.len();
        let mut end = piece.len();
        while end > 0 {
            let token = best[end].1;
            out.push(token);
            end -= vocab.get(token).map_or(end, <[u8]>::len);
        }
        out[before..].reverse();
    }

    fn child(&self, node: u32, byte: u8) -> u32 {
        let Node { first_edge, edges, .. } = self.nodes[node as usize];
        let edges = &self.edges[first_edge as usize..][..usize::from(edges)];
        let found = if edges.len() <= 8 {
            edges.iter().find(|edge| edge.0 == byte)
        } else {
            let found = edges.binary_search_by_key(&byte, |edge| edge.0);
            found.ok().map(|at| &edges[at])
        };
        found.map_or(NONE, |edge| edge.1)
    }
}

/// The same by its definition, for checking: the best way to each place, with all its tokens.
pub(crate) fn reference(tokens: &HashMap<&[u8], u32, Hasher>, piece: &[u8]) -> Vec<u32> {
    let mut best: Vec<Vec<u32>> = vec![Vec::new()];
    for end in 1..=piece.len() {
        let ways = (0..end).filter_map(|start| {
            let id = tokens.get(&piece[start..end])?;
            Some([best[start].as_slice(), &[*id]].concat())
        });
        best.push(ways.min_by_key(Vec::len).unwrap_or_default());
    }
    best.pop().unwrap_or_default()
}

/// The ordinary tokens of a model by their bytes.
pub(crate) fn ordinary(model: &Model) -> HashMap<&[u8], u32, Hasher> {
    model.ordinary().map(|(id, token)| (token, id)).collect()
}
