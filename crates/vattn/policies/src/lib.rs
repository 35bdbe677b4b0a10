//! Memory policies of KV-cache allocators, replayed over one trace of requests under one accounting.
//!
//! A [`Policy`] decides when memory is taken from the device, which sequence gets it and when it goes back. [`replay`]
//! drives a policy with the requests of a [`Trace`] the way a serving engine with continuous batching does, and
//! integrates over time what the policy's [`Account`] says. The policies here are models of published allocators, written
//! from their papers and sources:
//!
//! * [`Static`]: the longest sequence reserved for every slot, before the first request.
//! * [`Paged`]: blocks of 16 tokens out of a pool that is taken whole at the start; block tables.
//! * [`VAttention`]: contiguous slots, a pool of pages taken whole at the start, one background pass a step, pages of a
//!   freed slot left where they are (deferred reclamation).
//! * [`KvCached`]: paged blocks in an elastic pool: every page is created when it is mapped, and a zero page stands
//!   wherever none is.
//!
//! They move no bytes: they keep books. Each keeps them about the same [`Device`], so that a byte held and a call made
//! mean the same thing for all.

mod account;
mod kvcached;
mod paged;
mod replay;
mod reserved;
mod trace;
mod vattention;

pub use account::{Account, Calls, Device, Phase};
pub use kvcached::{KvCached, Layout};
pub use paged::Paged;
pub use replay::{Engine, Outcome, ReplayError, Sample, replay};
pub use reserved::Static;
pub use trace::{Request, Trace, TraceError};
pub use vattention::VAttention;

/// Tokens in a block of the paged policies.
pub const BLOCK_TOKENS: usize = 16;

/// The shape of the cache that is to be managed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tensors: one for K and one for V in each layer.
    pub tensors: usize,
    /// Bytes of one row of one tensor.
    pub row_bytes: usize,
    /// Longest length of a sequence in tokens.
    pub max_tokens: usize,
    /// Most sequences at the same time.
    pub max_sequences: usize,
    /// Bytes of device memory that the cache may take.
    pub budget_bytes: usize,
}

impl Shape {
    /// Bytes of the rows of `tokens` tokens over all tensors.
    #[must_use]
    pub fn used_bytes(&self, tokens: usize) -> usize {
        self.tensors * self.row_bytes * tokens
    }
}

/// Names a sequence within a policy. A slot is used again after its sequence is freed.
pub type Slot = usize;

/// The budget lacks the memory that a step needs. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short;

/// A memory policy, as an engine sees it. One step is: [`Policy::admit`] for each new request, [`Policy::step`] for the
/// whole batch, the model's pass over the batch, and during that pass [`Policy::background`].
pub trait Policy {
    /// Name in tables.
    fn name(&self) -> String;

    /// Takes in a sequence whose prompt has `tokens` tokens, if a slot and the memory for the prompt can be had.
    fn admit(&mut self, tokens: usize) -> Option<Slot>;

    /// Makes the rows below each length exist. On the critical path: the model waits for it.
    ///
    /// # Errors
    ///
    /// [`Short`]; the engine then frees a sequence and asks again.
    fn step(&mut self, batch: &[(Slot, usize)]) -> Result<(), Short>;

    /// What the policy does while the model computes.
    fn background(&mut self);

    /// Ends a sequence.
    fn free(&mut self, slot: Slot);

    /// Tokens of a live sequence that have memory.
    fn backed_tokens(&self, slot: Slot) -> usize;

    /// The books.
    fn account(&self) -> Account;
}
