//! Paged attention's policy.

use crate::{Account, BLOCK_TOKENS, Device, Phase, Policy, Shape, Short, Slot};

/// Bytes of a block number in a table.
const ENTRY_BYTES: usize = 4;

/// Blocks of 16 tokens, each over all tensors, out of one pool that is taken whole at the start. A table of block numbers
/// for each sequence says where its blocks are, and kernels follow it (vLLM, SOSP 2023).
///
/// Counted: the entries appended to tables, the slot number that is written for every new token, and the table entries
/// that the attention kernel of one layer follows in a step. Not counted: the copy of tables to the device.
#[derive(Debug)]
pub struct Paged {
    device: Device,
    block_bytes: usize,
    table_bytes: usize,
    max_tokens: usize,
    free_blocks: usize,
    /// Most blocks that admission leaves untouched, so that running sequences can grow: 1 % of the pool.
    watermark: usize,
    /// Blocks and tokens of each slot that is live.
    slots: Vec<Option<(usize, usize)>>,
    table_writes: u64,
    table_reads: u64,
}

impl Paged {
    /// Takes the pool: the whole budget, less the tables.
    #[must_use]
    pub fn new(shape: &Shape) -> Self {
        let block_bytes = shape.used_bytes(BLOCK_TOKENS);
        let table_bytes = shape.max_sequences * shape.max_tokens.div_ceil(BLOCK_TOKENS) * ENTRY_BYTES;
        let blocks = shape.budget_bytes.saturating_sub(table_bytes) / block_bytes;
        let mut device = Device::new();
        device.create(blocks * block_bytes + table_bytes, shape.tensors + 1);
        device.map(shape.tensors + 1);
        device.enter(Phase::Critical);
        Self {
            device,
            block_bytes,
            table_bytes,
            max_tokens: shape.max_tokens,
            free_blocks: blocks,
            watermark: blocks / 100,
            slots: vec![None; shape.max_sequences],
            table_writes: 0,
            table_reads: 0,
        }
    }

    fn give(&mut self, slot: Slot, blocks: usize, tokens: usize) {
        let (had, old_tokens) = self.slots[slot].unwrap_or_default();
        self.free_blocks -= blocks - had;
        self.table_writes += (blocks - had + tokens - old_tokens) as u64;
        self.slots[slot] = Some((blocks, tokens));
    }
}

impl Policy for Paged {
    fn name(&self) -> String {
        "paged".to_owned()
    }

    fn admit(&mut self, tokens: usize) -> Option<Slot> {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        if tokens > self.max_tokens || blocks + self.watermark > self.free_blocks {
            return None;
        }
        let slot = self.slots.iter().position(Option::is_none)?;
        self.give(slot, blocks, tokens);
        Some(slot)
    }

    fn step(&mut self, batch: &[(Slot, usize)]) -> Result<(), Short> {
        let blocks_of = |len: usize| len.div_ceil(BLOCK_TOKENS);
        let had = |slot: Slot| self.slots[slot].map_or(0, |(blocks, _)| blocks);
        let need: usize = batch.iter().map(|&(slot, len)| blocks_of(len) - had(slot)).sum();
        if need > self.free_blocks {
            return Err(Short);
        }
        for &(slot, len) in batch {
            self.give(slot, blocks_of(len), len);
            self.table_reads += blocks_of(len) as u64;
        }
        Ok(())
    }

    fn background(&mut self) {}

    fn free(&mut self, slot: Slot) {
        if let Some((blocks, _)) = self.slots[slot].take() {
            self.free_blocks += blocks;
        }
    }

    fn backed_tokens(&self, slot: Slot) -> usize {
        self.slots[slot].map_or(0, |(blocks, _)| blocks * BLOCK_TOKENS)
    }

    fn account(&self) -> Account {
        let blocks: usize = self.slots.iter().flatten().map(|&(blocks, _)| blocks).sum();
        Account {
            table_bytes: self.table_bytes,
            table_writes: self.table_writes,
            table_reads: self.table_reads,
            ..self.device.account(blocks * self.block_bytes)
        }
    }
}
