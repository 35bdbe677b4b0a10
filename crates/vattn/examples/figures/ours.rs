//! This allocator as a policy.

use std::sync::Arc;

use anyhow::Result;
use vattn::backend::Backend;
use vattn::{Config, Geometry, KvCache, SeqId};
use vattn_policies::{Account, Policy, Shape, Short, Slot};

use crate::counted::{Counted, Counter};

/// Bytes of a frame.
pub(crate) const FRAME: usize = 64 << 10;

/// A [`KvCache`] over any backend, whose calls are counted.
#[derive(Debug)]
pub(crate) struct Ours<B: Backend> {
    name: String,
    cache: KvCache<Counted<B>>,
    counter: Arc<Counter>,
    sequences: Vec<Option<SeqId>>,
    lengths: Vec<usize>,
}

/// The geometry of a shape, rows of a layer one behind the other.
pub(crate) fn geometry(shape: &Shape) -> Result<Geometry> {
    let geometry = Geometry::builder()
        .layers(shape.tensors / 2)
        .row_bytes(shape.row_bytes)
        .max_tokens(shape.max_tokens)
        .max_sequences(shape.max_sequences)
        .frame_bytes(FRAME)
        .build()?;
    Ok(geometry)
}

impl<B: Backend> Ours<B> {
    /// A cache of `shape` over `backend`, whose frames are [`FRAME`] bytes.
    pub(crate) fn new(name: &str, shape: &Shape, backend: B, config: Config) -> Result<Self> {
        let counter = Counter::new();
        let backend = Counted::new(backend, Arc::clone(&counter));
        Ok(Self {
            name: name.to_owned(),
            cache: KvCache::with_backend(backend, geometry(shape)?, config)?,
            counter,
            sequences: vec![None; shape.max_sequences],
            lengths: vec![0; shape.max_sequences],
        })
    }
}

impl<B: Backend> Policy for Ours<B> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn admit(&mut self, tokens: usize) -> Option<Slot> {
        let seq = self.cache.admit(tokens).ok()?;
        self.sequences[seq.slot()] = Some(seq);
        self.lengths[seq.slot()] = tokens;
        Some(seq.slot())
    }

    fn step(&mut self, batch: &[(Slot, usize)]) -> Result<(), Short> {
        let batch: Vec<_> = batch
            .iter()
            .map(|&(slot, len)| (self.sequences[slot].expect("the engine steps live slots"), len))
            .collect();
        self.cache.grow_batch(&batch).map_err(|_| Short)?;
        for (seq, len) in batch {
            self.lengths[seq.slot()] = len;
        }
        Ok(())
    }

    fn background(&mut self) {}

    fn free(&mut self, slot: Slot) {
        let seq = self.sequences[slot].take().expect("the engine frees live slots");
        self.lengths[slot] = 0;
        self.cache.free(seq).expect("a live sequence can be freed");
    }

    fn backed_tokens(&self, slot: Slot) -> usize {
        let seq = self.sequences[slot].expect("the engine asks for live slots");
        self.cache
            .view(seq, 0)
            .map_or(0, |view| view.mapped_bytes / view.stride_bytes)
    }

    fn account(&self) -> Account {
        let stats = self.cache.stats();
        let geometry = self.cache.geometry();
        let needed: usize = self.lengths.iter().map(|&len| geometry.sequence_frames(len)).sum();
        Account {
            held_bytes: stats.physical_bytes,
            assigned_bytes: needed * FRAME + stats.ahead_bytes,
            critical: self.counter.critical(),
            background: self.counter.background(),
            ..Account::default()
        }
    }
}
