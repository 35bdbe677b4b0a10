//! A key/value cache allocator over virtual memory: every sequence gets contiguous addresses for its longest length, and
//! physical pages are mapped behind them only as it grows. Attention kernels keep reading one plain slice per layer, and
//! memory follows the tokens that exist instead of the tokens that might come.
//!
//! The types you meet:
//!
//! * [`Geometry`]: the shape of the cache (layers, row size, lengths, frame size), checked once.
//! * [`KvCache`]: opens, grows, truncates and frees sequences under a budget of physical bytes.
//! * [`Config`]: the budget, and what may be mapped ahead or kept for later.
//! * [`SeqId`]: names one sequence; an id of a freed sequence is an error, never somebody else's rows.
//! * [`Stats`]: what is reserved, mapped and used, and what the operating system says is really there.
//!
//! ```
//! use vattn::{Geometry, KvCache};
//!
//! // GPT-2 small in f32: 12 layers, 768 floats in a key row and in a value row.
//! let geometry = Geometry::builder()
//!     .layers(12)
//!     .row_bytes(768 * 4)
//!     .max_tokens(1024)
//!     .max_sequences(8)
//!     .build()?;
//! let mut cache = KvCache::new(geometry, 64 << 20)?;
//!
//! let seq = cache.open()?;
//! cache.grow(seq, 5)?; // rows 0..5 exist in all layers, and are zero
//! let (k, v) = cache.rows_mut(seq, 0, 4..5)?;
//! k.fill(1);
//! v.fill(2);
//! assert_eq!(cache.k(seq, 0)?.len(), 5 * 768 * 4);
//!
//! // One 64 KiB frame for each of the 24 regions, where a static cache holds 72 MiB a sequence.
//! let stats = cache.stats();
//! assert_eq!(stats.mapped_bytes, 24 * (64 << 10));
//! assert_eq!(stats.physical_bytes, stats.mapped_bytes);
//!
//! cache.free(seq)?;
//! assert_eq!(cache.stats().physical_bytes, 0);
//! # Ok::<(), vattn::Error>(())
//! ```
//!
//! # Sharing
//!
//! Sequences that begin with the same rows have them in the same frames, mapped read-only at the same place of their own
//! address space; only the last, partly filled frame of each region is copied.
//!
//! ```
//! # use vattn::{Geometry, KvCache};
//! # let geometry = Geometry::builder().layers(12).row_bytes(3072).max_tokens(1024).max_sequences(8).build()?;
//! # let mut cache = KvCache::new(geometry, 256 << 20)?;
//! let prompt = cache.admit(1000)?; // and its rows are computed
//! let prefix = cache.publish_prefix(prompt, 1000)?;
//! let before = cache.stats().physical_bytes;
//! let answer = cache.attach_prefix(prefix)?;
//! cache.grow(answer, 1001)?;
//! // 24 frames of 64 KiB, where a copy would be 70 MiB.
//! assert_eq!(cache.stats().physical_bytes - before, 24 * (64 << 10));
//! # Ok::<(), vattn::Error>(())
//! ```
//!
//! # What it is not
//!
//! It computes nothing: it knows bytes and lengths, no tensors, models or schedulers. It does not choose a victim when
//! the budget is spent: it answers [`Error::NeedFrames`] and leaves the state as it was, and the caller decides whether to
//! free, to evict a prefix or to swap a sequence out.
//!
//! # Below the front door
//!
//! [`backend`] is the seam under the state machine, [`host`] the backend over Linux memory files, [`sim`] a model of memory
//! that panics on every access a device would get wrong. [`host::Arena`] is one
//! such file mapped whole, for programs that want memory of their own counted in the same way.
//!
//! With [`Config::mapper`] a thread maps memory before a step needs it and gives it back behind the calls; `docs/kv-cache.md` in
//! the repository has the protocol, and the test of each invariant.
//!
//! # Features
//!
//! * `cuda`: the backend over a CUDA device.
//! * `serde`: snapshots and exported prefixes in any format.
//! * `tracing`: spans around mapping, sharing, swapping and the jobs of the mapper thread.
//! * `testing`: what tests of a backend need.
//!
//! The host backend needs a 64-bit Linux, kernel 5.14 or later.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("vattn needs 64-bit Linux: it reserves address space far beyond memory and backs it with memory files");

mod audit;
pub mod backend;
mod cache;
mod config;
mod error;
mod geometry;
mod ledger;
mod mapper;
mod reclaim;
mod rows;
mod sequence;
mod share;
mod shared;
mod snapshot;
mod space;
mod stats;
mod swap;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod trace;

pub use audit::AuditError;
#[cfg(feature = "cuda")]
pub use backend::cuda;
pub use backend::{host, sim};
pub use cache::{KvCache, Ticket};
pub use config::Config;
pub use error::{BackendError, Error, GeometryError, Result};
pub use geometry::{Geometry, GeometryBuilder, Layout};
pub use rows::{KvView, Side};
pub use sequence::{PrefixId, SeqId};
pub use snapshot::Snapshot;
pub use stats::Stats;
