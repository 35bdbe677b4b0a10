//! Where keys and values live: one trait and three stores with the same rows in different memory.
//!
//! | store | memory of a sequence | physical memory |
//! |---|---|---|
//! | [`StaticKv`] | its whole maximum length | all of it, from the start |
//! | [`PagedKv`] | blocks of 16 tokens through a block table | blocks ever used at once |
//! | [`VirtualKv`] | contiguous addresses, mapped as it grows | frames its rows touch, now |
//!
//! All three live in memory files of the operating system, so [`KvMemory::physical_bytes`] is counted in the same way
//! for each: by the kernel, not by a formula. With feature `cuda` there is `CudaKv` besides, the virtual store in the memory
//! of a device.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

mod copy;
#[cfg(feature = "cuda")]
mod cuda;
mod paged;
mod rows;
mod r#static;
mod virt;

pub(crate) use copy::RowsCopy;
#[cfg(feature = "cuda")]
pub use cuda::CudaKv;
pub use paged::PagedKv;
pub use rows::{Rows, RowsOf};
pub use r#static::StaticKv;
pub use virt::{Place, VirtualKv};

/// How a number of a row is kept. Arithmetic is in `f32` all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// 4 bytes, exact.
    #[default]
    F32,
    /// 2 bytes, rounded to nearest; numbers beyond 65,504, the largest, become that.
    F16,
}

impl KvType {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Shape of a store. A model gives the one it needs in `f32`; for rows of half the bytes set [`numbers`](Self::numbers):
/// `KvGeometry { numbers: KvType::F16, ..model.kv_geometry(16) }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvGeometry {
    /// Layers, each with K and V rows.
    pub layers: usize,
    /// Numbers in one K row (heads * head width); V the same.
    pub row_floats: usize,
    /// How they are kept.
    pub numbers: KvType,
    /// Longest sequence in tokens.
    pub max_tokens: usize,
    /// Most sequences at once.
    pub max_sequences: usize,
}

impl KvGeometry {
    /// Bytes of one K row, and of one V row.
    pub fn row_bytes(&self) -> usize {
        self.row_floats * self.numbers.bytes()
    }

    /// Bytes of K and V of one token over all layers.
    pub fn token_bytes(&self) -> usize {
        2 * self.layers * self.row_bytes()
    }
}

/// A sequence in a store; valid from `open` to `free` on the store that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KvId {
    slot: usize,
    generation: u64,
}

/// Memory of a store at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct KvMemory {
    /// Addresses set aside.
    pub reserved_bytes: usize,
    /// Memory behind them, counted by the operating system.
    pub physical_bytes: usize,
    /// Bytes of rows that live sequences have written or may write now: length times row. Rows that sequences share
    /// count once for each of them.
    pub used_bytes: usize,
}

/// Errors of a KV store. The store is as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// All places for sequences are taken.
    #[error("all {limit} sequences of the KV store are in use; finish one or make the store for more")]
    NoSlot {
        /// Sequences the store was made for.
        limit: usize,
    },
    /// The memory budget is used up.
    #[error(
        "the KV store lacks memory: {need} bytes are needed and {free} of {budget} are free; raise the budget or run fewer or shorter sequences"
    )]
    NeedMemory {
        /// Bytes this call asks for beyond what is mapped.
        need: usize,
        /// Bytes left.
        free: usize,
        /// The whole budget.
        budget: usize,
    },
    /// A sequence outgrew the store.
    #[error("a sequence of {tokens} tokens; the KV store holds at most {limit} a sequence")]
    TooLong {
        /// Length asked for.
        tokens: usize,
        /// Longest length.
        limit: usize,
    },
    /// The id was freed, or belongs to another store.
    #[error("no such sequence in this KV store: it was freed, or it belongs to another store")]
    NotOpen,
    /// A sequence was to be cut or forked at a length it does not have.
    #[error("a sequence of {len} tokens cannot be cut or forked at {tokens}")]
    TooShort {
        /// Length asked for.
        tokens: usize,
        /// Length of the sequence.
        len: usize,
    },
    /// Rows that other sequences read too.
    #[error("row {row} is shared with another sequence; truncate the sequence to it, then grow and write")]
    Shared {
        /// First such row.
        row: usize,
    },
    /// A layer or a range of rows outside the sequence.
    #[error("rows {start}..{end} of layer {layer} are outside a sequence of {len} tokens and {layers} layers")]
    OutOfRange {
        /// Layer asked for.
        layer: usize,
        /// First row.
        start: usize,
        /// Row behind the last.
        end: usize,
        /// Length of the sequence.
        len: usize,
        /// Layers of the store.
        layers: usize,
    },
    /// The store keeps no numbers of this type.
    #[error("the {store} KV store keeps no rows in {numbers:?}; make it for F32")]
    Numbers {
        /// What kind of store it is.
        store: &'static str,
        /// Type asked for.
        numbers: KvType,
    },
    /// The processor was to read rows in the memory of a device.
    #[error("the rows are in the memory of a CUDA device: run a CUDA model over this store, or copy them out")]
    OnDevice,
    /// The allocator refused for another reason.
    #[error(transparent)]
    Allocator(#[from] vattn::Error),
    /// The operating system gave no memory.
    #[error(transparent)]
    System(#[from] vattn::BackendError),
}

/// Fills the K and the V row of one token, every number of both; see [`KvStore::write`].
pub type FillRow<'a> = dyn FnMut(usize, &mut [f32], &mut [f32]) + 'a;

/// A store of K and V rows for many sequences.
pub trait KvStore: std::fmt::Debug + Send + Sync {
    /// What kind of store it is, for reports.
    fn name(&self) -> &'static str;

    /// Its shape.
    fn geometry(&self) -> &KvGeometry;

    /// Starts an empty sequence.
    ///
    /// # Errors
    /// [`KvError::NoSlot`].
    fn open(&mut self) -> Result<KvId, KvError>;

    /// Tokens in a sequence.
    ///
    /// # Errors
    /// [`KvError::NotOpen`].
    fn len(&self, id: KvId) -> Result<usize, KvError>;

    /// Makes each sequence long enough for the given number of tokens; all of them or none. A sequence stands in the list
    /// at most once.
    ///
    /// # Errors
    /// [`KvError::NotOpen`], [`KvError::TooLong`], [`KvError::NeedMemory`].
    fn grow(&mut self, lengths: &[(KvId, usize)]) -> Result<(), KvError>;

    /// Writes rows of one layer in place: `fill(i, k, v)` is called for each of `tokens` in order, `i` counting from 0,
    /// with its K and its V row of `row_floats` each, which are then kept in the store's type.
    ///
    /// # Errors
    /// [`KvError::NotOpen`], [`KvError::OutOfRange`], [`KvError::Shared`]; nothing is written then.
    fn write(&mut self, id: KvId, layer: usize, tokens: Range<usize>, fill: &mut FillRow<'_>) -> Result<(), KvError>;

    /// The K and V rows of one layer, `(len, row_floats)` each, in the store's type.
    ///
    /// # Errors
    /// [`KvError::NotOpen`], [`KvError::OutOfRange`], [`KvError::OnDevice`].
    fn rows(&self, id: KvId, layer: usize) -> Result<(Rows<'_>, Rows<'_>), KvError>;

    /// The store itself, if its rows are in the memory of a CUDA device.
    #[cfg(feature = "cuda")]
    fn cuda(&mut self) -> Option<&mut CudaKv> {
        None
    }

    /// Shortens a sequence to its first `tokens`, as a rollback of speculated tokens does. Rows below stay as they are,
    /// and what is grown again may be written even where the rows were shared before.
    ///
    /// # Errors
    /// [`KvError::NotOpen`]; [`KvError::TooShort`]; [`KvError::NeedMemory`] when the cut falls inside memory that is shared
    /// and there is no room for a copy of its own.
    fn truncate(&mut self, id: KvId, tokens: usize) -> Result<(), KvError>;

    /// Starts a sequence that begins with the first `tokens` rows of `id` and grows on its own. A store that can share
    /// memory copies only what does not fill a whole unit of it; the default copies every row.
    ///
    /// # Errors
    /// [`KvError::NotOpen`], [`KvError::TooShort`], [`KvError::NoSlot`], [`KvError::NeedMemory`].
    fn fork(&mut self, id: KvId, tokens: usize) -> Result<KvId, KvError> {
        RowsCopy::take(self, id, tokens)?.put(self)
    }

    /// Bytes of memory that a sequence of `tokens` takes when it shares none. O(1).
    fn sequence_bytes(&self, tokens: usize) -> usize {
        tokens * self.geometry().token_bytes()
    }

    /// Bytes that sequences may still grow by; `usize::MAX` when only the number of sequences is limited. No system call.
    fn free_bytes(&self) -> usize {
        usize::MAX
    }

    /// Ends a sequence; its memory is free for others.
    ///
    /// # Errors
    /// [`KvError::NotOpen`].
    fn free(&mut self, id: KvId) -> Result<(), KvError>;

    /// Memory now. Costs one system call.
    fn memory(&self) -> KvMemory;
}

/// Lets `fill` write one token's rows, which are kept in `k` and `v`; `wide` is memory for both in `f32`.
fn fill_row(numbers: KvType, index: usize, [k, v]: [&mut [u8]; 2], wide: &mut Vec<f32>, fill: &mut FillRow<'_>) {
    match numbers {
        KvType::F32 => fill(index, bytemuck::cast_slice_mut(k), bytemuck::cast_slice_mut(v)),
        KvType::F16 => {
            let row = k.len() / size_of::<f16>();
            wide.resize(2 * row, 0.0);
            let (wide_k, wide_v) = wide.split_at_mut(row);
            fill(index, wide_k, wide_v);
            for (kept, wide) in [(k, wide_k), (v, wide_v)] {
                let largest = f16::MAX.to_f32();
                wide.iter_mut().for_each(|x| *x = x.clamp(-largest, largest));
                bytemuck::cast_slice_mut::<_, f16>(kept).convert_from_f32_slice(wide);
            }
        }
    }
}

/// Open sequences and what a store knows of each.
#[derive(Debug)]
struct Slots<T> {
    slots: Vec<Option<(u64, T)>>,
    opened: u64,
}

impl<T> Slots<T> {
    fn new(max_sequences: usize) -> Self {
        Self {
            slots: (0..max_sequences).map(|_| None).collect(),
            opened: 0,
        }
    }

    /// The lowest free slot, so that the memory behind low slots is used first.
    fn open(&mut self, make: impl FnOnce(usize) -> Result<T, KvError>) -> Result<KvId, KvError> {
        let limit = self.slots.len();
        let slot = self
            .slots
            .iter()
            .position(Option::is_none)
            .ok_or(KvError::NoSlot { limit })?;
        let value = make(slot)?;
        self.opened += 1;
        self.slots[slot] = Some((self.opened, value));
        Ok(KvId {
            slot,
            generation: self.opened,
        })
    }

    fn get(&self, id: KvId) -> Result<&T, KvError> {
        match self.slots.get(id.slot) {
            Some(Some((generation, value))) if *generation == id.generation => Ok(value),
            _ => Err(KvError::NotOpen),
        }
    }

    fn get_mut(&mut self, id: KvId) -> Result<&mut T, KvError> {
        match self.slots.get_mut(id.slot) {
            Some(Some((generation, value))) if *generation == id.generation => Ok(value),
            _ => Err(KvError::NotOpen),
        }
    }

    fn close(&mut self, id: KvId) -> Result<T, KvError> {
        self.get(id)?;
        self.slots[id.slot]
            .take()
            .map(|(_, value)| value)
            .ok_or(KvError::NotOpen)
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten().map(|(_, value)| value)
    }
}

/// Refuses a layer the store lacks and rows outside a sequence of `len` tokens.
fn check_rows(geometry: &KvGeometry, layer: usize, tokens: &Range<usize>, len: usize) -> Result<(), KvError> {
    if layer >= geometry.layers || tokens.start > tokens.end || tokens.end > len {
        return Err(KvError::OutOfRange {
            layer,
            start: tokens.start,
            end: tokens.end,
            len,
            layers: geometry.layers,
        });
    }
    Ok(())
}

/// Refuses a length above the store's.
fn check_length(geometry: &KvGeometry, tokens: usize) -> Result<(), KvError> {
    if tokens > geometry.max_tokens {
        return Err(KvError::TooLong {
            tokens,
            limit: geometry.max_tokens,
        });
    }
    Ok(())
}

/// Refuses a cut beyond the end of a sequence.
fn check_cut(tokens: usize, len: usize) -> Result<(), KvError> {
    if tokens > len {
        return Err(KvError::TooShort { tokens, len });
    }
    Ok(())
}
