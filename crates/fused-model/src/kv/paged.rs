//! Blocks of 16 tokens and a block table for each sequence: the layout of PagedAttention (Kwon et al. 2023), the strong
//! baseline.

use std::ops::Range;

use vattn::host::Arena;

use super::{
    FillRow, KvError, KvGeometry, KvId, KvMemory, KvStore, KvType, Rows, RowsOf, Slots, check_cut, check_length,
    check_rows, fill_row,
};

#[derive(Debug, Default)]
struct Sequence {
    len: usize,
    table: Vec<usize>,
}

/// Rows laid out as `(block, layer, K|V, 16, row)`. A block becomes physical when it is first used and stays in the
/// pool when its last sequence ends, the lowest numbers being used first: the pool is as large as the largest need so
/// far.
///
/// A fork shares the full blocks and copies the part of a last one, so a block that is not full belongs to one sequence.
#[derive(Debug)]
pub struct PagedKv {
    geometry: KvGeometry,
    arena: Arena,
    /// Free block numbers; the lowest is last.
    free: Vec<usize>,
    /// Sequences that each block is in.
    owners: Vec<u32>,
    /// Blocks that have been used, all below this number.
    backed: usize,
    sequences: Slots<Sequence>,
    /// Rows on their way to another type.
    wide: Vec<f32>,
}

impl PagedKv {
    /// Tokens in a block: vLLM's default.
    pub const BLOCK_TOKENS: usize = 16;

    /// A pool large enough for every sequence at its longest; address space only.
    ///
    /// # Errors
    /// [`KvError::System`] when the address space cannot be had.
    pub fn new(geometry: &KvGeometry) -> Result<Self, KvError> {
        Self::with_budget(geometry, usize::MAX)
    }

    /// A pool of as many whole blocks as fit in `budget_bytes`, at most what every sequence at its longest needs.
    ///
    /// # Errors
    /// As [`PagedKv::new`].
    pub fn with_budget(geometry: &KvGeometry, budget_bytes: usize) -> Result<Self, KvError> {
        let block_bytes = Self::BLOCK_TOKENS * geometry.token_bytes();
        let all = geometry.max_sequences * geometry.max_tokens.div_ceil(Self::BLOCK_TOKENS);
        let blocks = all.min(budget_bytes / block_bytes.max(1));
        Ok(Self {
            geometry: *geometry,
            arena: Arena::new(blocks * block_bytes)?,
            free: (0..blocks).rev().collect(),
            owners: vec![0; blocks],
            backed: 0,
            sequences: Slots::new(geometry.max_sequences),
            wide: Vec::new(),
        })
    }

    /// Bytes of the K rows, or the V rows, of one layer in a block.
    fn part_bytes(&self) -> usize {
        Self::BLOCK_TOKENS * self.geometry.row_bytes()
    }

    /// Rows of one layer of a sequence: the K (0) or the V (1) rows, of numbers of the store's type.
    fn rows_of<'a, T: bytemuck::Pod>(&'a self, sequence: &'a Sequence, layer: usize, part: usize) -> RowsOf<'a, T> {
        let row = self.geometry.row_floats;
        let block = Self::BLOCK_TOKENS * row;
        RowsOf::Blocks {
            arena: bytemuck::cast_slice(self.arena.as_slice()),
            table: &sequence.table,
            stride: 2 * self.geometry.layers * block,
            offset: (2 * layer + part) * block,
            block,
            row,
            len: sequence.len * row,
        }
    }

    fn block_bytes(&self) -> usize {
        Self::BLOCK_TOKENS * self.geometry.token_bytes()
    }

    /// Sees to it that the next `blocks` calls of [`take`](Self::take) succeed.
    fn reserve(&mut self, blocks: usize) -> Result<(), KvError> {
        let bytes = self.block_bytes();
        let Some(rest) = self.free.len().checked_sub(blocks) else {
            return Err(KvError::NeedMemory {
                need: blocks * bytes,
                free: self.free_bytes(),
                budget: self.owners.len() * bytes,
            });
        };
        let top = self.free[rest..].iter().map(|&block| block + 1).max().unwrap_or(0);
        if top > self.backed {
            self.arena.populate_range(self.backed * bytes..top * bytes)?;
            self.backed = top;
        }
        Ok(())
    }

    /// A block of its own, `None` when none is free.
    fn take(&mut self) -> Option<usize> {
        let block = self.free.pop()?;
        self.owners[block] = 1;
        Some(block)
    }

    /// Takes blocks out of a sequence's table.
    fn release(&mut self, blocks: impl IntoIterator<Item = usize>) {
        for block in blocks {
            self.owners[block] -= 1;
            if self.owners[block] == 0 {
                self.free.push(block);
            }
        }
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// The first `tokens` rows of a block, copied to another for all layers.
    fn copy_rows(&mut self, from: usize, to: usize, tokens: usize) {
        let (part, block) = (self.part_bytes(), self.block_bytes());
        let rows = tokens * self.geometry.row_bytes();
        let bytes = self.arena.as_mut_slice();
        for part in (0..block).step_by(part) {
            let start = from * block + part;
            bytes.copy_within(start..start + rows, to * block + part);
        }
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
        let mut need = 0;
        for &(id, tokens) in lengths {
            let held = self.sequences.get(id)?.table.len();
            check_length(&self.geometry, tokens)?;
            need += tokens.div_ceil(Self::BLOCK_TOKENS).saturating_sub(held);
        }
        self.reserve(need)?;
        for &(id, tokens) in lengths {
            let held = self.sequences.get(id)?.table.len();
            for _ in held..tokens.div_ceil(Self::BLOCK_TOKENS) {
                let block = self.take();
                self.sequences.get_mut(id)?.table.extend(block);
            }
            let len = &mut self.sequences.get_mut(id)?.len;
            *len = tokens.max(*len);
        }
        Ok(())
    }

    fn write(&mut self, id: KvId, layer: usize, tokens: Range<usize>, fill: &mut FillRow<'_>) -> Result<(), KvError> {
        check_rows(&self.geometry, layer, &tokens, self.len(id)?)?;
        let (row, part, block) = (self.geometry.row_bytes(), self.part_bytes(), self.block_bytes());
        let table = &self.sequences.get(id)?.table;
        if let Some(shared) = tokens
            .clone()
            .find(|token| self.owners[table[token / Self::BLOCK_TOKENS]] > 1)
        {
            return Err(KvError::Shared { row: shared });
        }
        let bytes = self.arena.as_mut_slice();
        for (i, token) in tokens.enumerate() {
            let start = table[token / Self::BLOCK_TOKENS] * block + 2 * layer * part + token % Self::BLOCK_TOKENS * row;
            // The block's V rows follow its K rows.
            let (k, v) = bytes[start..start + part + row].split_at_mut(part);
            fill_row(self.geometry.numbers, i, [&mut k[..row], v], &mut self.wide, fill);
        }
        Ok(())
    }

    fn rows(&self, id: KvId, layer: usize) -> Result<(Rows<'_>, Rows<'_>), KvError> {
        let sequence = self.sequences.get(id)?;
        check_rows(&self.geometry, layer, &(0..sequence.len), sequence.len)?;
        let rows = |part| match self.geometry.numbers {
            KvType::F32 => Rows::F32(self.rows_of(sequence, layer, part)),
            KvType::F16 => Rows::F16(self.rows_of(sequence, layer, part)),
        };
        Ok((rows(0), rows(1)))
    }

    fn truncate(&mut self, id: KvId, tokens: usize) -> Result<(), KvError> {
        let sequence = self.sequences.get(id)?;
        check_cut(tokens, sequence.len)?;
        let keep = tokens.div_ceil(Self::BLOCK_TOKENS);
        let part = tokens % Self::BLOCK_TOKENS;
        // A block that is no longer full must not be shared.
        let shared = (part > 0)
            .then(|| sequence.table[keep - 1])
            .filter(|&block| self.owners[block] > 1);
        if let Some(shared) = shared {
            self.reserve(1)?;
            if let Some(own) = self.take() {
                self.copy_rows(shared, own, part);
                self.sequences.get_mut(id)?.table[keep - 1] = own;
                self.owners[shared] -= 1;
            }
        }
        let sequence = self.sequences.get_mut(id)?;
        sequence.len = tokens;
        let dropped = sequence.table.split_off(keep);
        self.release(dropped);
        Ok(())
    }

    fn fork(&mut self, id: KvId, tokens: usize) -> Result<KvId, KvError> {
        let source = self.sequences.get(id)?;
        check_cut(tokens, source.len)?;
        let mut table = source.table[..tokens.div_ceil(Self::BLOCK_TOKENS)].to_vec();
        let (full, part) = (tokens / Self::BLOCK_TOKENS, tokens % Self::BLOCK_TOKENS);
        self.reserve(usize::from(part > 0))?;
        let fork = self.open()?;
        if let Some(last) = table.get_mut(full)
            && let Some(own) = self.take()
        {
            self.copy_rows(*last, own, part);
            *last = own;
        }
        for &block in &table[..full] {
            self.owners[block] += 1;
        }
        *self.sequences.get_mut(fork)? = Sequence { len: tokens, table };
        Ok(fork)
    }

    fn sequence_bytes(&self, tokens: usize) -> usize {
        tokens.div_ceil(Self::BLOCK_TOKENS) * self.block_bytes()
    }

    fn free_bytes(&self) -> usize {
        self.free.len() * self.block_bytes()
    }

    fn free(&mut self, id: KvId) -> Result<(), KvError> {
        let sequence = self.sequences.close(id)?;
        self.release(sequence.table);
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
