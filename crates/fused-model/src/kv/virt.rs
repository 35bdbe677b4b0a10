//! Contiguous addresses for each sequence, physical memory mapped as it grows and given back when it ends.

use std::ops::Range;

use vattn::backend::Backend;
use vattn::host::HostBackend;
use vattn::{Config, Geometry, KvCache, SeqId};

use super::{
    FillRow, KvError, KvGeometry, KvId, KvMemory, KvStore, KvType, Rows, Slots, check_cut, check_rows, fill_row,
};

/// Rows in a [`vattn::KvCache`], in the memory of the machine unless another backend is named.
#[derive(Debug)]
pub struct VirtualKv<B: Backend = HostBackend> {
    pub(super) geometry: KvGeometry,
    pub(super) cache: KvCache<B>,
    pub(super) sequences: Slots<SeqId>,
    budget: usize,
    /// The sequences of a step, in memory that the next step uses again.
    batch: Vec<(SeqId, usize)>,
    /// Rows on their way to another type.
    wide: Vec<f32>,
}

/// How the rows of one backend are reached; all else is the same for all.
pub trait Place: Backend + Sized {
    /// What the store is called in reports.
    const NAME: &'static str;
    /// Types that it keeps numbers in.
    const NUMBERS: &'static [KvType] = &[KvType::F32];

    /// [`KvStore::write`], for rows that are known to exist.
    ///
    /// # Errors
    /// Rows are shared, or the device refused.
    fn fill(
        store: &mut VirtualKv<Self>,
        seq: SeqId,
        layer: usize,
        tokens: Range<usize>,
        fill: &mut FillRow<'_>,
    ) -> Result<(), vattn::Error>;

    /// [`KvStore::rows`].
    ///
    /// # Errors
    /// There is no such layer, or the rows are not in memory that the processor reads.
    fn rows(store: &VirtualKv<Self>, seq: SeqId, layer: usize) -> Result<(Rows<'_>, Rows<'_>), KvError>;

    /// [`KvStore::cuda`].
    #[cfg(feature = "cuda")]
    fn cuda(store: &mut VirtualKv<Self>) -> Option<&mut super::CudaKv> {
        let _ = store;
        None
    }
}

impl VirtualKv {
    /// A store whose physical memory comes in frames of `frame_bytes` and never exceeds `budget_bytes`.
    ///
    /// # Errors
    /// [`KvError::Allocator`] when the frame is not a multiple of the system's page or addresses cannot be had.
    pub fn new(geometry: &KvGeometry, frame_bytes: usize, budget_bytes: usize) -> Result<Self, KvError> {
        Self::with_config(geometry, frame_bytes, Config::new(budget_bytes))
    }

    /// A store whose physical memory comes in frames of `frame_bytes`, with the budget of a configuration, and with what that
    /// says of memory kept for sequences to come.
    ///
    /// # Errors
    /// As [`VirtualKv::new`]; also when there can be no mapper thread.
    pub fn with_config(geometry: &KvGeometry, frame_bytes: usize, config: Config) -> Result<Self, KvError> {
        let cache = KvCache::with_config(shape(geometry, frame_bytes)?, config)?;
        Ok(Self::over(cache, geometry, config.budget_bytes))
    }
}

/// The cache's shape for a store's.
fn shape(geometry: &KvGeometry, frame_bytes: usize) -> Result<Geometry, KvError> {
    let shape = Geometry::builder()
        .layers(geometry.layers)
        .row_bytes(geometry.row_bytes())
        .max_tokens(geometry.max_tokens)
        .max_sequences(geometry.max_sequences)
        .frame_bytes(frame_bytes)
        .build();
    Ok(shape.map_err(vattn::Error::from)?)
}

impl<B: Place> VirtualKv<B> {
    /// A store in the memory of `backend` and in frames of its size, which never exceeds `budget_bytes`.
    ///
    /// # Errors
    /// [`KvError::Numbers`] for numbers of a type that the backend does not keep; [`KvError::Allocator`] when addresses cannot
    /// be had.
    pub fn with_backend(backend: B, geometry: &KvGeometry, budget_bytes: usize) -> Result<Self, KvError> {
        if !B::NUMBERS.contains(&geometry.numbers) {
            return Err(KvError::Numbers {
                store: B::NAME,
                numbers: geometry.numbers,
            });
        }
        let shape = shape(geometry, backend.caps().frame_bytes)?;
        let cache = KvCache::with_backend(backend, shape, Config::new(budget_bytes))?;
        Ok(Self::over(cache, geometry, budget_bytes))
    }
}

impl<B: Backend> VirtualKv<B> {
    fn over(cache: KvCache<B>, geometry: &KvGeometry, budget: usize) -> Self {
        Self {
            geometry: *geometry,
            cache,
            sequences: Slots::new(geometry.max_sequences),
            budget,
            batch: Vec::new(),
            wide: Vec::new(),
        }
    }

    /// The allocator below, for its statistics.
    pub fn cache(&self) -> &KvCache<B> {
        &self.cache
    }
}

impl Place for HostBackend {
    const NAME: &'static str = "virtual";
    const NUMBERS: &'static [KvType] = &[KvType::F32, KvType::F16];

    fn fill(
        store: &mut VirtualKv,
        seq: SeqId,
        layer: usize,
        tokens: Range<usize>,
        fill: &mut FillRow<'_>,
    ) -> Result<(), vattn::Error> {
        let row = store.geometry.row_bytes();
        let (k, v) = store.cache.rows_mut(seq, layer, tokens)?;
        for (i, (k, v)) in k.chunks_exact_mut(row).zip(v.chunks_exact_mut(row)).enumerate() {
            fill_row(store.geometry.numbers, i, [k, v], &mut store.wide, fill);
        }
        Ok(())
    }

    fn rows(store: &VirtualKv, seq: SeqId, layer: usize) -> Result<(Rows<'_>, Rows<'_>), KvError> {
        let rows = |bytes| Rows::contiguous(store.geometry.numbers, bytes, store.geometry.row_floats);
        Ok((rows(store.cache.k(seq, layer)?), rows(store.cache.v(seq, layer)?)))
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

impl<B: Place> KvStore for VirtualKv<B> {
    fn name(&self) -> &'static str {
        B::NAME
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
        self.batch.clear();
        for &(id, tokens) in lengths {
            self.batch.push((*self.sequences.get(id)?, tokens));
        }
        let (frame, budget) = (self.cache.geometry().frame_bytes(), self.budget);
        self.cache
            .grow_batch(&self.batch)
            .map_err(|error| refused(error, frame, budget))
    }

    fn write(&mut self, id: KvId, layer: usize, tokens: Range<usize>, fill: &mut FillRow<'_>) -> Result<(), KvError> {
        check_rows(&self.geometry, layer, &tokens, self.len(id)?)?;
        let (frame, budget) = (self.cache.geometry().frame_bytes(), self.budget);
        let seq = *self.sequences.get(id)?;
        B::fill(self, seq, layer, tokens, fill).map_err(|error| refused(error, frame, budget))
    }

    fn rows(&self, id: KvId, layer: usize) -> Result<(Rows<'_>, Rows<'_>), KvError> {
        B::rows(self, *self.sequences.get(id)?, layer)
    }

    #[cfg(feature = "cuda")]
    fn cuda(&mut self) -> Option<&mut super::CudaKv> {
        B::cuda(self)
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
