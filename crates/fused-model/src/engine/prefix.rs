//! Finished sequences whose rows stay in the store for requests that begin in the same way.

use crate::kv::{KvId, KvStore};

#[derive(Debug)]
struct Entry {
    kv: KvId,
    tokens: Vec<u32>,
    /// Turn of the last use.
    used: u64,
}

/// At most `limit` sequences, the least recently used leaving first. A lookup compares with each of them: few long entries
/// are enough, because a fork may take any part of one.
#[derive(Debug)]
pub(super) struct PrefixCache {
    limit: usize,
    entries: Vec<Entry>,
    turns: u64,
}

impl PrefixCache {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            entries: Vec::new(),
            turns: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether rows are shared at all.
    pub(super) fn enabled(&self) -> bool {
        self.limit > 0
    }

    /// The entry with the longest common beginning with `tokens`, and its length.
    pub(super) fn longest(&self, tokens: &[u32]) -> Option<(KvId, usize)> {
        let common = self
            .entries
            .iter()
            .map(|entry| (entry.kv, common(&entry.tokens, tokens)));
        common.max_by_key(|&(_, common)| common)
    }

    /// Notes that an entry was of use.
    pub(super) fn touch(&mut self, kv: KvId) {
        self.turns += 1;
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.kv == kv) {
            entry.used = self.turns;
        }
    }

    /// Takes over a sequence with the rows of `tokens`. Of two entries where one begins with the other the longer stays.
    pub(super) fn insert(&mut self, kv: KvId, tokens: &[u32], store: &mut dyn KvStore) {
        let covered = self.entries.iter().find(|entry| entry.tokens.starts_with(tokens));
        if let Some(covering) = covered {
            let covering = covering.kv;
            self.touch(covering);
            return free(store, kv);
        }
        self.entries.retain(|entry| {
            let shorter = tokens.starts_with(&entry.tokens);
            if shorter {
                free(store, entry.kv);
            }
            !shorter
        });
        if self.entries.len() >= self.limit && !self.evict(store, None) {
            return free(store, kv);
        }
        self.turns += 1;
        self.entries.push(Entry {
            kv,
            tokens: tokens.to_vec(),
            used: self.turns,
        });
    }

    /// Frees the least recently used entry other than `except`; `false` when there is none.
    pub(super) fn evict(&mut self, store: &mut dyn KvStore, except: Option<KvId>) -> bool {
        let others = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| Some(entry.kv) != except);
        let Some((oldest, _)) = others.min_by_key(|(_, entry)| entry.used) else {
            return false;
        };
        free(store, self.entries.swap_remove(oldest).kv);
        true
    }
}

/// Tokens that two sequences have in common at their beginning.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Frees a sequence that is known to be open.
pub(super) fn free(store: &mut dyn KvStore, kv: KvId) {
    let freed = store.free(kv);
    debug_assert!(freed.is_ok(), "{freed:?}");
}
