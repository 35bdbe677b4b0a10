//! kvcached's policy.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{Account, BLOCK_TOKENS, Device, Phase, Policy, Shape, Short, Slot};

/// Bytes of a page of one tensor.
const PAGE_BYTES: usize = 2 << 20;

/// The background thread keeps at least so many pages mapped and unused.
const MIN_RESERVED: usize = 5;

/// A freed page stays mapped while fewer than these are.
const MAX_RESERVED: usize = 10;

/// How the tensors lie in address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Each tensor has its own pages: a page number is one page, and one set of calls, for each tensor.
    PerTensor,
    /// A page number is one compound page that holds all tensors: one set of calls.
    Contiguous,
}

/// Paged blocks of 16 tokens in an elastic pool (kvcached; its page allocator and cache manager for the decisions).
///
/// The pool's address space is mapped whole onto one shared zero page. To map a page is: unmap the zero page, create
/// memory, map it, set access. To give it back is: unmap, map the zero page again with access, release. Blocks come out of
/// the fullest page that has room. A page whose blocks are all free goes back, unless fewer than ten are kept in reserve;
/// a background thread keeps five in reserve. Block tables are the engine's and count as for [`crate::Paged`].
#[derive(Debug)]
pub struct KvCached {
    device: Device,
    layout: Layout,
    tensors: usize,
    block_bytes: usize,
    table_bytes: usize,
    max_tokens: usize,
    /// Page numbers that are not mapped.
    unmapped: VecDeque<usize>,
    /// Page numbers that are mapped and hold no block.
    reserved: VecDeque<usize>,
    /// Free blocks of each page in use.
    pages: BTreeMap<usize, Vec<usize>>,
    /// Pages in use that have free blocks, by how many.
    available: BTreeSet<(usize, usize)>,
    slots: Vec<Option<Sequence>>,
    refill: bool,
    table_writes: u64,
    table_reads: u64,
}

#[derive(Debug, Clone, Default)]
struct Sequence {
    blocks: Vec<usize>,
    tokens: usize,
}

impl KvCached {
    /// Reserves address space for the budget and maps the first reserve.
    #[must_use]
    pub fn new(shape: &Shape, layout: Layout) -> Self {
        let table_bytes = shape.max_sequences * shape.max_tokens.div_ceil(BLOCK_TOKENS) * 4;
        let pages = shape.budget_bytes.saturating_sub(table_bytes) / (PAGE_BYTES * shape.tensors);
        let mut device = Device::new();
        device.create(PAGE_BYTES + table_bytes, 2);
        let mut policy = Self {
            device,
            layout,
            tensors: shape.tensors,
            block_bytes: BLOCK_TOKENS * shape.row_bytes,
            table_bytes,
            max_tokens: shape.max_tokens,
            unmapped: (0..pages).collect(),
            reserved: VecDeque::new(),
            pages: BTreeMap::new(),
            available: BTreeSet::new(),
            slots: vec![None; shape.max_sequences],
            refill: true,
            table_writes: 0,
            table_reads: 0,
        };
        policy.fill_reserve();
        policy
    }

    /// Blocks that lie whole within page `page`: block `b` is the bytes from `b * block_bytes` of its tensor.
    fn blocks_of(&self, page: usize) -> std::ops::Range<usize> {
        (page * PAGE_BYTES).div_ceil(self.block_bytes)..(page + 1) * PAGE_BYTES / self.block_bytes
    }

    fn calls(&self) -> usize {
        match self.layout {
            Layout::PerTensor => self.tensors,
            Layout::Contiguous => 1,
        }
    }

    fn map_page(&mut self) {
        let calls = self.calls();
        self.device.unmap(calls);
        self.device.create(PAGE_BYTES * self.tensors, calls);
        self.device.map(calls);
    }

    fn unmap_page(&mut self) {
        let calls = self.calls();
        self.device.unmap(calls);
        self.device.map(calls);
        self.device.release(PAGE_BYTES * self.tensors, calls);
    }

    fn fill_reserve(&mut self) {
        while self.reserved.len() < MIN_RESERVED {
            let Some(page) = self.unmapped.pop_front() else {
                return;
            };
            self.map_page();
            self.reserved.push_back(page);
        }
    }

    /// Blocks that could be had now.
    fn obtainable(&self) -> usize {
        let free: usize = self.available.iter().map(|&(free, _)| free).sum();
        // Where blocks do not divide a page, a page can hold one less than the quotient.
        let in_page = (PAGE_BYTES + 1).div_ceil(self.block_bytes) - 1;
        let in_page = in_page - usize::from(!PAGE_BYTES.is_multiple_of(self.block_bytes));
        free + (self.unmapped.len() + self.reserved.len()) * in_page
    }

    /// Takes one block; the caller has seen that there is one.
    fn take_block(&mut self) -> usize {
        let (free, page) = self.available.pop_first().unwrap_or_else(|| {
            let page = self.reserved.pop_front().unwrap_or_else(|| {
                self.map_page();
                self.unmapped
                    .pop_front()
                    .expect("the caller has seen that there is a page")
            });
            self.refill |= self.reserved.len() < MIN_RESERVED;
            let blocks: Vec<_> = self.blocks_of(page).rev().collect();
            let free = blocks.len();
            self.pages.insert(page, blocks);
            (free, page)
        });
        if free > 1 {
            self.available.insert((free - 1, page));
        }
        let blocks = self.pages.get_mut(&page).expect("an available page is in use");
        blocks.pop().expect("an available page has a free block")
    }

    fn free_block(&mut self, block: usize) {
        let page = block * self.block_bytes / PAGE_BYTES;
        let blocks = self.pages.get_mut(&page).expect("a block lies in a page in use");
        self.available.remove(&(blocks.len(), page));
        blocks.push(block);
        let free = blocks.len();
        if free < self.blocks_of(page).len() {
            self.available.insert((free, page));
            return;
        }
        self.pages.remove(&page);
        if self.reserved.len() < MAX_RESERVED {
            self.reserved.push_back(page);
        } else {
            self.unmap_page();
            self.unmapped.push_back(page);
        }
    }

    fn grow(&mut self, slot: Slot, tokens: usize) {
        let mut sequence = self.slots[slot].take().unwrap_or_default();
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        self.table_writes += (blocks - sequence.blocks.len() + tokens - sequence.tokens) as u64;
        while sequence.blocks.len() < blocks {
            sequence.blocks.push(self.take_block());
        }
        sequence.tokens = tokens;
        self.slots[slot] = Some(sequence);
    }
}

impl Policy for KvCached {
    fn name(&self) -> String {
        match self.layout {
            Layout::PerTensor => "kvcached".to_owned(),
            Layout::Contiguous => "kvcached contiguous".to_owned(),
        }
    }

    fn admit(&mut self, tokens: usize) -> Option<Slot> {
        if tokens > self.max_tokens || tokens.div_ceil(BLOCK_TOKENS) > self.obtainable() {
            return None;
        }
        let slot = self.slots.iter().position(Option::is_none)?;
        self.device.enter(Phase::Critical);
        self.grow(slot, tokens);
        Some(slot)
    }

    fn step(&mut self, batch: &[(Slot, usize)]) -> Result<(), Short> {
        let had = |slot: Slot| self.slots[slot].as_ref().map_or(0, |s| s.blocks.len());
        let need: usize = batch
            .iter()
            .map(|&(slot, len)| len.div_ceil(BLOCK_TOKENS) - had(slot))
            .sum();
        if need > self.obtainable() {
            return Err(Short);
        }
        self.device.enter(Phase::Critical);
        for &(slot, len) in batch {
            self.grow(slot, len);
            self.table_reads += len.div_ceil(BLOCK_TOKENS) as u64;
        }
        Ok(())
    }

    fn background(&mut self) {
        if std::mem::take(&mut self.refill) {
            self.device.enter(Phase::Background);
            self.fill_reserve();
        }
    }

    fn free(&mut self, slot: Slot) {
        self.device.enter(Phase::Critical);
        for block in self.slots[slot].take().unwrap_or_default().blocks {
            self.free_block(block);
        }
    }

    fn backed_tokens(&self, slot: Slot) -> usize {
        self.slots[slot].as_ref().map_or(0, |s| s.blocks.len() * BLOCK_TOKENS)
    }

    fn account(&self) -> Account {
        let blocks: usize = self.slots.iter().flatten().map(|s| s.blocks.len()).sum();
        Account {
            table_bytes: self.table_bytes,
            table_writes: self.table_writes,
            table_reads: self.table_reads,
            ..self.device.account(blocks * self.block_bytes * self.tensors)
        }
    }
}
