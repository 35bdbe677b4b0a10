//! vAttention's policy.

use crate::{Account, Device, Phase, Policy, Shape, Short, Slot};

/// How many steps ahead the background pass looks, less one.
const EAGER_STEPS: usize = 10;

/// Pages of all tensors (one each) after which the background pass stops looking further ahead than the next step.
const EAGER_BLOCKS: usize = 2;

/// Contiguous slots over a pool of pages that is taken whole at the start (vAttention, ASPLOS 2025; its allocator's source
/// for the order of decisions).
///
/// * A length needs `ceil(len / floor(page / row))` pages of each tensor: tokens never straddle pages.
/// * A step maps what the lengths lack, one map and one access call for each page of each tensor. Where the pool is empty,
///   surplus pages are taken from the slots with the highest numbers.
/// * The background pass maps what the next step needs, then looks up to nine tokens ahead until two pages of all tensors
///   were mapped.
/// * A freed slot keeps its pages. A new sequence gets the first inactive slot, or a later one that has enough pages and
///   fewer than the first.
///
/// Two things are kinder than the source: a step that cannot be served changes nothing (the source throws half way), and
/// a slot has as many pages as its longest length needs (the source reserves too few when rows do not divide a page).
#[derive(Debug)]
pub struct VAttention {
    device: Device,
    page_bytes: usize,
    tensors: usize,
    tokens_per_page: usize,
    max_tokens: usize,
    max_pages: usize,
    /// Pages of each tensor in the pool and not mapped.
    pool: usize,
    total: usize,
    /// Tokens of each slot, 0 when it is inactive, and its mapped pages of each tensor.
    slots: Vec<(usize, usize)>,
}

impl VAttention {
    /// Takes the pool: the whole budget in pages of `page_bytes`, which must hold a row.
    ///
    /// # Panics
    ///
    /// When a row is larger than a page: the policy is not defined then.
    #[must_use]
    pub fn new(shape: &Shape, page_bytes: usize) -> Self {
        let tokens_per_page = page_bytes / shape.row_bytes;
        assert!(
            tokens_per_page > 0,
            "a row of {} bytes is larger than a page of {page_bytes}",
            shape.row_bytes
        );
        let total = shape.budget_bytes / (page_bytes * shape.tensors);
        let mut device = Device::new();
        device.create(total * page_bytes * shape.tensors, total * shape.tensors);
        device.enter(Phase::Critical);
        Self {
            device,
            page_bytes,
            tensors: shape.tensors,
            tokens_per_page,
            max_tokens: shape.max_tokens,
            max_pages: shape.max_tokens.div_ceil(tokens_per_page),
            pool: total,
            total,
            slots: vec![(0, 0); shape.max_sequences],
        }
    }

    fn pages(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.tokens_per_page)
    }

    /// Pages that the lengths of all active slots need.
    fn promised(&self) -> usize {
        self.slots.iter().map(|&(len, _)| self.pages(len)).sum()
    }

    /// Pages that an active slot lacks for `ahead` more tokens.
    fn lacking(&self, slot: Slot, ahead: usize) -> usize {
        match self.slots[slot] {
            (0, _) => 0,
            (len, mapped) => self.pages(len + ahead).min(self.max_pages).saturating_sub(mapped),
        }
    }

    /// Maps pages out of the pool, which has them.
    fn map(&mut self, slot: Slot, pages: usize) {
        self.pool -= pages;
        self.slots[slot].1 += pages;
        self.device.map(pages * self.tensors);
    }

    /// Takes the whole surplus of one slot after the other, highest number first, until the pool has `pages`.
    fn reclaim(&mut self, pages: usize) {
        for slot in (0..self.slots.len()).rev() {
            let (len, mapped) = self.slots[slot];
            if self.pool >= pages {
                return;
            }
            let surplus = mapped.saturating_sub(self.pages(len));
            self.pool += surplus;
            self.slots[slot].1 -= surplus;
            self.device.unmap(surplus * self.tensors);
        }
    }
}

impl Policy for VAttention {
    fn name(&self) -> String {
        match self.page_bytes {
            bytes if bytes >= 1 << 20 => format!("vattention {} MiB", bytes >> 20),
            bytes => format!("vattention {} KiB", bytes >> 10),
        }
    }

    fn admit(&mut self, tokens: usize) -> Option<Slot> {
        let need = self.pages(tokens);
        // The scheduler's watermark is 1 %.
        if tokens > self.max_tokens || self.promised() + need + self.total / 100 > self.total {
            return None;
        }
        let mut inactive = (0..self.slots.len()).filter(|&slot| self.slots[slot].0 == 0);
        let mut chosen = inactive.next()?;
        for slot in inactive {
            if self.slots[slot].1 >= need && self.slots[slot].1 < self.slots[chosen].1 {
                chosen = slot;
            }
        }
        self.slots[chosen].0 = tokens;
        Some(chosen)
    }

    fn step(&mut self, batch: &[(Slot, usize)]) -> Result<(), Short> {
        let more: usize = batch
            .iter()
            .map(|&(slot, len)| self.pages(len) - self.pages(self.slots[slot].0))
            .sum();
        if self.promised() + more > self.total {
            return Err(Short);
        }
        self.device.enter(Phase::Critical);
        for &(slot, len) in batch {
            self.slots[slot].0 = len;
        }
        for slot in 0..self.slots.len() {
            let lacking = self.lacking(slot, 0);
            if lacking > self.pool {
                self.reclaim(lacking);
            }
            self.map(slot, lacking);
        }
        Ok(())
    }

    fn background(&mut self) {
        self.device.enter(Phase::Background);
        let need: usize = (0..self.slots.len()).map(|slot| self.lacking(slot, 1)).sum();
        if need > self.pool {
            self.reclaim(need);
        }
        if need > self.pool {
            return;
        }
        let mut mapped = 0;
        for ahead in 1..EAGER_STEPS {
            for slot in 0..self.slots.len() {
                let lacking = self.lacking(slot, ahead);
                if lacking <= self.pool {
                    self.map(slot, lacking);
                }
                mapped += lacking;
                if ahead > 1 && mapped >= EAGER_BLOCKS {
                    return;
                }
            }
        }
    }

    fn free(&mut self, slot: Slot) {
        self.slots[slot].0 = 0;
    }

    fn backed_tokens(&self, slot: Slot) -> usize {
        self.slots[slot].1 * self.tokens_per_page
    }

    fn account(&self) -> Account {
        let pages: usize = self.slots.iter().filter(|slot| slot.0 > 0).map(|slot| slot.1).sum();
        self.device.account(pages * self.page_bytes * self.tensors)
    }
}
