//! Blocks of 16 tokens and a block table for each sequence: the layout of PagedAttention (Kwon et al. 2023), the strong
//! baseline.

use std::ops::Range;

use vattn::host::Arena;

use super::{FillRow, KvError, KvGeometry, KvId, KvMemory, KvStore, Rows, Slots, check_length, check_rows};

#[derive(Debug, Default)]
struct Sequence {
    len: usize,
    table: Vec<usize>,
}

/// Rows laid out as `(block, layer, K|V, 16, row)`. A block becomes physical when it is first used and stays in the
/// pool when its sequence ends, the lowest numbers being used first: the pool is as large as the largest need so far.
#[derive(Debug)]
pub struct PagedKv {
    geometry: KvGeometry,
    arena: Arena,
    /// Free block numbers; the lowest is last.
    free: Vec<usize>,
    /// Blocks that have been used, all below this number.
    backed: usize,
    sequences: Slots<Sequence>,
}

impl PagedKv {
    /// Tokens in a block: vLLM's default.
    pub const BLOCK_TOKENS: usize = 16;

    /// A pool large enough for every sequence at its longest; address space only.
    ///
    /// # Errors
    /// [`KvError::System`] when the address space cannot be had.
    pub fn new(geometry: &KvGeometry) -> Result<Self, KvError> {
        let blocks = geometry.max_sequences * geometry.max_tokens.div_ceil(Self::BLOCK_TOKENS);
        Ok(Self {
            geometry: *geometry,
            arena: Arena::new(blocks * Self::BLOCK_TOKENS * geometry.token_bytes())?,
            free: (0..blocks).rev().collect(),
            backed: 0,
            sequences: Slots::new(geometry.max_sequences),
        })
    }

    fn block_floats(&self) -> usize {
        Self::BLOCK_TOKENS * self.geometry.row_floats
    }

    fn stride(&self) -> usize {
        2 * self.geometry.layers * self.block_floats()
    }
}

impl KvStore for PagedKv {
    fn name(&self) -> &'static str {
        "paged"
    }

    fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn open(&mut self) -> Result<KvId, KvError> {
        self.sequences.open(|_| Ok(Sequence::default()))
    }

    fn len(&self, id: KvId) -> Result<usize, KvError> {
        Ok(self.sequences.get(id)?.len)
    }

    fn grow(&mut self, lengths: &[(KvId, usize)]) -> Result<(), KvError> {
        for &(id, tokens) in lengths {
            self.sequences.get(id)?;
            check_length(&self.geometry, tokens)?;
        }
        let lacks = |sequence: &Sequence, tokens: usize| {
            tokens.div_ceil(Self::BLOCK_TOKENS).saturating_sub(sequence.table.len())
        };
        let mut need = 0;
        for &(id, tokens) in lengths {
            need += lacks(self.sequences.get(id)?, tokens);
        }
        // The pool holds every sequence at its longest, so `need` is above the free blocks only when an id stands twice
        // in `lengths`; it is then served by the blocks that are there.
        let taken = self.free.len().saturating_sub(need);
        let backed = self.free[taken..]
            .iter()
            .map(|&block| block + 1)
            .max()
            .unwrap_or(0)
            .max(self.backed);
        let block_bytes = Self::BLOCK_TOKENS * self.geometry.token_bytes();
        self.arena
            .populate_range(self.backed * block_bytes..backed * block_bytes)?;
        self.backed = backed;
        for &(id, tokens) in lengths {
            let sequence = self.sequences.get_mut(id)?;
            sequence.len = tokens.max(sequence.len);
            for _ in 0..lacks(sequence, tokens) {
                sequence.table.extend(self.free.pop());
            }
        }
        Ok(())
    }

    fn write(&mut self, id: KvId, layer: usize, tokens: Range<usize>, fill: &mut FillRow<'_>) -> Result<(), KvError> {
        check_rows(&self.geometry, layer, &tokens, self.len(id)?)?;
        let (row, block, stride) = (self.geometry.row_floats, self.block_floats(), self.stride());
        let table = &self.sequences.get(id)?.table;
        let floats: &mut [f32] = bytemuck::cast_slice_mut(self.arena.as_mut_slice());
        for (i, token) in tokens.enumerate() {
            let start =
                table[token / Self::BLOCK_TOKENS] * stride + 2 * layer * block + token % Self::BLOCK_TOKENS * row;
            // The block's V rows follow its K rows.
            let (k, v) = floats[start..start + block + row].split_at_mut(block);
            fill(i, &mut k[..row], v);
        }
        Ok(())
    }

    fn rows(&self, id: KvId, layer: usize) -> Result<(Rows<'_>, Rows<'_>), KvError> {
        let sequence = self.sequences.get(id)?;
        check_rows(&self.geometry, layer, &(0..sequence.len), sequence.len)?;
        let rows = |part| Rows::Blocks {
            arena: bytemuck::cast_slice(self.arena.as_slice()),
            table: &sequence.table,
            stride: self.stride(),
            offset: (2 * layer + part) * self.block_floats(),
            block: self.block_floats(),
            row: self.geometry.row_floats,
            len: sequence.len * self.geometry.row_floats,
        };
        Ok((rows(0), rows(1)))
    }

    fn free(&mut self, id: KvId) -> Result<(), KvError> {
        let sequence = self.sequences.close(id)?;
        self.free.extend(sequence.table);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
        Ok(())
    }

    fn memory(&self) -> KvMemory {
        let tokens: usize = self.sequences.values().map(|sequence| sequence.len).sum();
        KvMemory {
            reserved_bytes: self.arena.len(),
            physical_bytes: self.arena.physical_bytes(),
            used_bytes: tokens * self.geometry.token_bytes(),
        }
    }
}
