//! The virtual store in the memory of a CUDA device.

use std::ops::Range;

use vattn::SeqId;
use vattn::Side;
use vattn::cuda::{CudaBackend, CudaFence};

use super::virt::Place;
use super::{FillRow, KvError, KvId, Rows, VirtualKv};

/// Rows in the memory of a CUDA device, at contiguous addresses, for [`CudaGpt2`](crate::CudaGpt2).
///
/// No tensor and no `CudaSlice` is ever made of rows: whoever drops one frees its memory as an allocation, which rows are
/// not. Kernels get addresses, the processor copies.
pub type CudaKv = VirtualKv<CudaBackend>;

impl CudaKv {
    /// Addresses of the first K and the first V row of one layer, and the bytes from row to row.
    pub(crate) fn addresses(&self, id: KvId, layer: usize) -> Result<(u64, u64, usize), KvError> {
        let view = self.cache.view(*self.sequences.get(id)?, layer)?;
        Ok((view.k as u64, view.v as u64, view.stride_bytes))
    }

    /// Number of the device.
    pub fn device(&self) -> i32 {
        self.cache.backend().driver().ordinal()
    }

    /// Notes that work was started which reads and writes rows of these sequences until `fence` is done: no memory behind
    /// them is given back, wiped or moved before.
    pub(crate) fn in_use(&mut self, ids: impl Iterator<Item = KvId>, fence: CudaFence) -> Result<(), KvError> {
        let lengths = ids.map(|id| {
            let seq = *self.sequences.get(id)?;
            Ok((seq, self.cache.len(seq)?))
        });
        let lengths = lengths.collect::<Result<Vec<_>, KvError>>()?;
        let ticket = self.cache.plan_step(&lengths)?;
        self.cache.commit(ticket, fence);
        Ok(())
    }

    /// Copies rows of one layer out of the device, `(tokens, row_floats)`.
    ///
    /// # Errors
    /// [`KvError::NotOpen`]; [`KvError::Allocator`] when the rows do not exist or the device refuses.
    pub fn read(&self, id: KvId, layer: usize, side: Side, tokens: Range<usize>) -> Result<Vec<f32>, KvError> {
        let mut floats = vec![0.0f32; tokens.len() * self.geometry.row_floats];
        let bytes = bytemuck::cast_slice_mut(&mut floats);
        self.cache
            .read_rows(*self.sequences.get(id)?, layer, side, tokens, bytes)?;
        Ok(floats)
    }
}

impl Place for CudaBackend {
    const NAME: &'static str = "virtual on CUDA";

    /// One copy for each row: for tests and tools. A model writes its rows with a kernel.
    fn fill(
        store: &mut CudaKv,
        seq: SeqId,
        layer: usize,
        tokens: Range<usize>,
        fill: &mut FillRow<'_>,
    ) -> Result<(), vattn::Error> {
        let row = store.geometry.row_floats;
        let mut rows = [(); 2].map(|()| vec![0.0f32; tokens.len() * row]);
        let [k, v] = &mut rows;
        for (i, (k, v)) in k.chunks_exact_mut(row).zip(v.chunks_exact_mut(row)).enumerate() {
            fill(i, k, v);
        }
        for (side, rows) in [Side::K, Side::V].into_iter().zip(&rows) {
            store
                .cache
                .write_rows(seq, layer, side, tokens.start, bytemuck::cast_slice(rows))?;
        }
        Ok(())
    }

    fn rows(_: &CudaKv, _: SeqId, _: usize) -> Result<(Rows<'_>, Rows<'_>), KvError> {
        Err(KvError::OnDevice)
    }

    fn cuda(store: &mut CudaKv) -> Option<&mut CudaKv> {
        Some(store)
    }
}
