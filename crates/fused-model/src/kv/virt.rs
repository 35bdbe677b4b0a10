//! Contiguous addresses for each sequence, physical memory mapped as it grows and given back when it ends.

use std::ops::Range;

use vattn::{Geometry, KvCache, SeqId};

use super::{FillRow, KvError, KvGeometry, KvId, KvMemory, KvStore, Rows, Slots, check_cut, check_rows};

/// Rows in a [`vattn::KvCache`].
#[derive(Debug)]
pub struct VirtualKv {
    geometry: KvGeometry,
    cache: KvCache,
    sequences: Slots<SeqId>,
    budget: usize,
}

impl VirtualKv {
    /// A store whose physical memory comes in frames of `frame_bytes` and never exceeds `budget_bytes`.
    ///
    /// # Errors
    /// [`KvError::Allocator`] when the frame is not a multiple of the system's page or addresses cannot be had.
    pub fn new(geometry: &KvGeometry, frame_bytes: usize, budget_bytes: usize) -> Result<Self, KvError> {
        let shape = Geometry::builder()
            .layers(geometry.layers)
            .row_bytes(geometry.row_floats * size_of::<f32>())
            .max_tokens(geometry.max_tokens)
            .max_sequences(geometry.max_sequences)
            .frame_bytes(frame_bytes)
            .build()
            .map_err(vattn::Error::from)?;
        Ok(Self {
            geometry: *geometry,
            cache: KvCache::new(shape, budget_bytes)?,
            sequences: Slots::new(geometry.max_sequences),
            budget: budget_bytes,
        })
    }

    /// The allocator below, for its statistics.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }
}

/// An error of the allocator in the words of all stores.
fn refused(error: vattn::Error, frame_bytes: usize, budget: usize) -> KvError {
    match error {
        vattn::Error::NeedFrames { need, free } => KvError::NeedMemory {
            need: need * frame_bytes,
            free: free * frame_bytes,
            budget,
        },
        vattn::Error::TooLong { len, max } => KvError::TooLong {
            tokens: len,
            limit: max,
        },
        vattn::Error::Shared { start, .. } => KvError::Shared { row: start },
        other => other.into(),
    }
}

impl KvStore for VirtualKv {
    fn name(&self) -> &'static str {
        "virtual"
    }

    fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn open(&mut self) -> Result<KvId, KvError> {
        self.sequences.open(|_| Ok(self.cache.open()?))
    }

    fn len(&self, id: KvId) -> Result<usize, KvError> {
        Ok(self.cache.len(*self.sequences.get(id)?)?)
    }

    fn grow(&mut self, lengths: &[(KvId, usize)]) -> Result<(), KvError> {
        let batch = lengths
            .iter()
            .map(|&(id, tokens)| Ok((*self.sequences.get(id)?, tokens)))
            .collect::<Result<Vec<_>, KvError>>()?;
        let (frame, budget) = (self.cache.geometry().frame_bytes(), self.budget);
        self.cache
            .grow_batch(&batch)
            .map_err(|error| refused(error, frame, budget))
    }

    fn write(&mut self, id: KvId, layer: usize, tokens: Range<usize>, fill: &mut FillRow<'_>) -> Result<(), KvError> {
        check_rows(&self.geometry, layer, &tokens, self.len(id)?)?;
        let row = self.geometry.row_floats;
        let (frame, budget) = (self.cache.geometry().frame_bytes(), self.budget);
        let rows = self.cache.rows_mut(*self.sequences.get(id)?, layer, tokens);
        let (k, v) = rows.map_err(|error| refused(error, frame, budget))?;
        let (k, v): (&mut [f32], &mut [f32]) = (bytemuck::cast_slice_mut(k), bytemuck::cast_slice_mut(v));
        for (i, (k, v)) in k.chunks_exact_mut(row).zip(v.chunks_exact_mut(row)).enumerate() {
            fill(i, k, v);
        }
        Ok(())
    }

    fn rows(&self, id: KvId, layer: usize) -> Result<(Rows<'_>, Rows<'_>), KvError> {
        let seq = *self.sequences.get(id)?;
        let rows = |bytes| Rows::Contiguous {
            data: bytemuck::cast_slice(bytes),
            row: self.geometry.row_floats,
        };
        Ok((rows(self.cache.k(seq, layer)?), rows(self.cache.v(seq, layer)?)))
    }

    fn truncate(&mut self, id: KvId, tokens: usize) -> Result<(), KvError> {
        check_cut(tokens, self.len(id)?)?;
        Ok(self.cache.truncate(*self.sequences.get(id)?, tokens)?)
    }

    /// Whole frames are shared; of the last one each sequence has its own.
    fn fork(&mut self, id: KvId, tokens: usize) -> Result<KvId, KvError> {
        let source = *self.sequences.get(id)?;
        check_cut(tokens, self.cache.len(source)?)?;
        let (frame, budget) = (self.cache.geometry().frame_bytes(), self.budget);
        let cache = &mut self.cache;
        self.sequences.open(|_| {
            let fork = cache.fork(source).map_err(|error| refused(error, frame, budget))?;
            match cache.truncate(fork, tokens) {
                Ok(()) => Ok(fork),
                Err(error) => {
                    cache.free(fork)?;
                    Err(error.into())
                }
            }
        })
    }

    fn sequence_bytes(&self, tokens: usize) -> usize {
        let shape = self.cache.geometry();
        shape.sequence_frames(tokens.min(shape.max_tokens())) * shape.frame_bytes()
    }

    fn free_bytes(&self) -> usize {
        self.cache.free_frames() * self.cache.geometry().frame_bytes()
    }

    fn free(&mut self, id: KvId) -> Result<(), KvError> {
        let seq = self.sequences.close(id)?;
        Ok(self.cache.free(seq)?)
    }

    fn memory(&self) -> KvMemory {
        let stats = self.cache.stats();
        KvMemory {
            reserved_bytes: stats.reserved_bytes,
            physical_bytes: stats.physical_bytes,
            used_bytes: stats.used_bytes,
        }
    }
}
