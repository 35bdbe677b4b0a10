//! The virtual store: every measurement makes it alike.

use fused_model::CausalLm;
use fused_model::kv::{KvError, KvGeometry, VirtualKv};
use vattn::Config;

use crate::inputs::Subject;

/// Bytes of a frame of the virtual store: the system's page, so that the least memory is lost at
/// the end of each row run.
pub const FRAME_BYTES: usize = 4096;

/// A virtual store that is kept warm: what a finished sequence had stays mapped for the next one, as far as the budget goes, and makes
/// place for sequences that grow.
pub(crate) fn virtual_store(geometry: &KvGeometry, frame: usize, budget: usize) -> Result<VirtualKv, KvError> {
    VirtualKv::with_config(geometry, frame, Config::new(budget).warm_bytes(budget))
}

/// As much memory for a virtual store, in frames of `frame` bytes, as the static one takes for `batch` sequences of any subject.
pub fn whole_budget(subjects: &[&Subject], frame: usize, batch: usize) -> usize {
    let whole = subjects.iter().map(|subject| {
        let geometry = subject.model.kv_geometry(batch);
        // Whole frames for every row run, so that a store with this budget can be filled.
        let runs = geometry.max_sequences * 2 * geometry.layers;
        runs * (geometry.max_sequences * geometry.max_tokens * geometry.token_bytes() / runs).next_multiple_of(frame)
    });
    whole.max().unwrap_or(0)
}
