//! The static policy.

use crate::{Account, Device, Phase, Policy, Shape, Short, Slot};

/// Memory for the longest sequence in every slot, taken before the first request. The budget decides how many slots
/// there are.
#[derive(Debug)]
pub struct Static {
    device: Device,
    slot_bytes: usize,
    max_tokens: usize,
    live: Vec<bool>,
}

impl Static {
    /// Reserves all slots that `shape` asks for and its budget allows.
    #[must_use]
    pub fn new(shape: &Shape) -> Self {
        let slot_bytes = shape.used_bytes(shape.max_tokens);
        let slots = shape.max_sequences.min(shape.budget_bytes / slot_bytes);
        let mut device = Device::new();
        device.create(slots * slot_bytes, shape.tensors);
        device.map(shape.tensors);
        device.enter(Phase::Critical);
        Self {
            device,
            slot_bytes,
            max_tokens: shape.max_tokens,
            live: vec![false; slots],
        }
    }
}

impl Policy for Static {
    fn name(&self) -> String {
        "static".to_owned()
    }

    fn admit(&mut self, tokens: usize) -> Option<Slot> {
        if tokens > self.max_tokens {
            return None;
        }
        let slot = self.live.iter().position(|&live| !live)?;
        self.live[slot] = true;
        Some(slot)
    }

    fn step(&mut self, _batch: &[(Slot, usize)]) -> Result<(), Short> {
        Ok(())
    }

    fn background(&mut self) {}

    fn free(&mut self, slot: Slot) {
        self.live[slot] = false;
    }

    fn backed_tokens(&self, _slot: Slot) -> usize {
        self.max_tokens
    }

    fn account(&self) -> Account {
        let live = self.live.iter().filter(|&&live| live).count();
        self.device.account(live * self.slot_bytes)
    }
}
