//! The whole maximum length of every sequence, set aside and backed from the start.

use std::ops::Range;

use vattn::host::Arena;

use super::{
    FillRow, KvError, KvGeometry, KvId, KvMemory, KvStore, Rows, Slots, check_cut, check_length, check_rows, fill_row,
};

/// Rows laid out as `(sequence, layer, K|V, max_tokens, row)` in one memory that is physical from the start: what a
/// framework's static cache costs.
#[derive(Debug)]
pub struct StaticKv {
    geometry: KvGeometry,
    arena: Arena,
    lengths: Slots<usize>,
    /// Rows on their way to another type.
    wide: Vec<f32>,
}

impl StaticKv {
    /// Takes all memory the store can ever need.
    ///
    /// # Errors
    /// [`KvError::System`] when the memory cannot be had.
    pub fn new(geometry: &KvGeometry) -> Result<Self, KvError> {
        let bytes = geometry.max_sequences * geometry.max_tokens * geometry.token_bytes();
        let mut arena = Arena::new(bytes)?;
        arena.populate()?;
        Ok(Self {
            geometry: *geometry,
            arena,
            lengths: Slots::new(geometry.max_sequences),
            wide: Vec::new(),
        })
    }

    /// First byte of the K (0) or V (1) rows of a layer.
    fn start(&self, id: KvId, layer: usize, part: usize) -> usize {
        ((id.slot * self.geometry.layers + layer) * 2 + part) * self.geometry.max_tokens * self.geometry.row_bytes()
    }
}

impl KvStore for StaticKv {
    fn name(&self) -> &'static str {
        "static"
    }

    fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn open(&mut self) -> Result<KvId, KvError> {
        self.lengths.open(|_| Ok(0))
    }

    fn len(&self, id: KvId) -> Result<usize, KvError> {
        self.lengths.get(id).copied()
    }

    fn grow(&mut self, lengths: &[(KvId, usize)]) -> Result<(), KvError> {
        for &(id, tokens) in lengths {
            self.lengths.get(id)?;
            check_length(&self.geometry, tokens)?;
        }
        for &(id, tokens) in lengths {
            let len = self.lengths.get_mut(id)?;
            *len = tokens.max(*len);
        }
        Ok(())
    }

    fn write(&mut self, id: KvId, layer: usize, tokens: Range<usize>, fill: &mut FillRow<'_>) -> Result<(), KvError> {
        check_rows(&self.geometry, layer, &tokens, self.len(id)?)?;
        let row = self.geometry.row_bytes();
        let [k, v] = [0, 1].map(|part| self.start(id, layer, part) + tokens.start * row);
        // K rows of a layer lie before its V rows.
        let (before, values) = self.arena.as_mut_slice().split_at_mut(v);
        let keys = before[k..].chunks_exact_mut(row);
        for (i, (k, v)) in keys.zip(values.chunks_exact_mut(row)).take(tokens.len()).enumerate() {
            fill_row(self.geometry.numbers, i, [k, v], &mut self.wide, fill);
        }
        Ok(())
    }

    fn rows(&self, id: KvId, layer: usize) -> Result<(Rows<'_>, Rows<'_>), KvError> {
        let len = self.len(id)?;
        check_rows(&self.geometry, layer, &(0..len), len)?;
        let rows = |part| {
            let first = self.start(id, layer, part);
            let bytes = &self.arena.as_slice()[first..first + len * self.geometry.row_bytes()];
            Rows::contiguous(self.geometry.numbers, bytes, self.geometry.row_floats)
        };
        Ok((rows(0), rows(1)))
    }

    fn truncate(&mut self, id: KvId, tokens: usize) -> Result<(), KvError> {
        let len = self.lengths.get_mut(id)?;
        check_cut(tokens, *len)?;
        *len = tokens;
        Ok(())
    }

    fn free(&mut self, id: KvId) -> Result<(), KvError> {
        self.lengths.close(id).map(drop)
    }

    fn memory(&self) -> KvMemory {
        KvMemory {
            reserved_bytes: self.arena.len(),
            physical_bytes: self.arena.physical_bytes(),
            used_bytes: self.lengths.values().sum::<usize>() * self.geometry.token_bytes(),
        }
    }
}
