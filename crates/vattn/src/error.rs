//! The errors of the crate. An `Err` from the cache means that nothing changed.

use std::io;

use crate::sequence::{PrefixId, SeqId};

/// Result of a cache operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a cache operation was refused. The state is as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shape of the cache is not usable.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The frame is not a multiple of the page of the backend.
    #[error("a frame of {frame_bytes} bytes is not a multiple of the page of {page_bytes} bytes: use a larger frame")]
    FrameBelowPage {
        /// Bytes of a frame in the geometry.
        frame_bytes: usize,
        /// Bytes of the smallest unit that the backend maps.
        page_bytes: usize,
    },
    /// The backend was made for frames of another size.
    #[error("the geometry has frames of {geometry} bytes and the backend of {backend} bytes: make both with one size")]
    FrameBytes {
        /// Bytes of a frame in the geometry.
        geometry: usize,
        /// Bytes of a frame in the backend.
        backend: usize,
    },
    /// All slots hold a sequence.
    #[error("all {limit} slots are taken: free a sequence, or make the cache with a larger max_sequences")]
    NoSlot {
        /// `max_sequences` of the geometry.
        limit: usize,
    },
    /// The id names no open sequence.
    #[error("sequence {seq} is not open in this cache: it was freed, or the id comes from another cache")]
    NotOpen {
        /// The id that was used.
        seq: SeqId,
    },
    /// The budget lacks the frames that the growth needs, or the machine has less memory than the budget allows.
    #[error("growth needs {need} frames and {free} are free: free or truncate sequences, or raise the budget")]
    NeedFrames {
        /// Frames that the whole call would map; of the call of the backend alone, where the machine refused a fork or a
        /// swap.
        need: usize,
        /// Frames that the budget has left; 0 where the machine refused.
        free: usize,
    },
    /// The length is above what the regions can hold.
    #[error("a length of {len} tokens is above max_tokens, which is {max}: stop the sequence there")]
    TooLong {
        /// The length that was asked for.
        len: usize,
        /// `max_tokens` of the geometry.
        max: usize,
    },
    /// Growth to a length below the present one.
    #[error("sequence {seq} has {len} tokens and cannot grow to {new_len}: use truncate")]
    GrowsBackward {
        /// The sequence.
        seq: SeqId,
        /// Its length.
        len: usize,
        /// The length that was asked for.
        new_len: usize,
    },
    /// Truncation to a length above the present one.
    #[error("sequence {seq} has {len} tokens and cannot be truncated to {new_len}: use grow")]
    TruncatesForward {
        /// The sequence.
        seq: SeqId,
        /// Its length.
        len: usize,
        /// The length that was asked for.
        new_len: usize,
    },
    /// The layer does not exist.
    #[error("layer {layer} does not exist: the cache has {layers} layers")]
    Layer {
        /// The layer that was asked for.
        layer: usize,
        /// `layers` of the geometry.
        layers: usize,
    },
    /// The rows are not all within the length of the sequence.
    #[error("rows {start}..{end} are not within the {len} tokens of the sequence: grow it first")]
    Rows {
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
        /// Length of the sequence.
        len: usize,
    },
    /// A row is in memory that another sequence or a prefix reads too.
    #[error("rows {start}..{end} reach into the {shared} rows that are shared: only later rows can be written")]
    Shared {
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
        /// Rows, from the first on, of which some bytes are shared.
        shared: usize,
    },
    /// The rows of a layer do not lie one behind the other.
    #[error("rows are {stride} bytes apart and {row} bytes long: use the view, or the layout PerLayer")]
    NotContiguous {
        /// Distance of two rows of a layer.
        stride: usize,
        /// Bytes of a row.
        row: usize,
    },
    /// The buffer does not have the size of the rows.
    #[error("a buffer of {bytes} bytes was given for rows of {expected} bytes in all")]
    BufferSize {
        /// Bytes of the buffer.
        bytes: usize,
        /// Bytes of the rows.
        expected: usize,
    },
    /// The rows of the sequence are not in memory that can be addressed.
    #[error("sequence {seq} is swapped out: swap it in first")]
    SwappedOut {
        /// The sequence.
        seq: SeqId,
    },
    /// The sequence is in memory already.
    #[error("sequence {seq} is not swapped out")]
    NotSwappedOut {
        /// The sequence.
        seq: SeqId,
    },
    /// All memory was given back until [`KvCache::wake`](crate::KvCache::wake).
    #[error("the cache sleeps: wake it first")]
    Asleep,
    /// A prefix of no tokens, or of more than the sequence has.
    #[error("a prefix of {tokens} tokens cannot be taken from a sequence of {len}: use 1 to {len} tokens")]
    PrefixLength {
        /// Tokens that were asked for.
        tokens: usize,
        /// Length of the sequence.
        len: usize,
    },
    /// The id names no published prefix.
    #[error("prefix {prefix} is not published in this cache: it was evicted, or the id comes from another cache")]
    NotPublished {
        /// The id that was used.
        prefix: PrefixId,
    },
    /// The backend cannot show one frame at two addresses.
    #[error("this backend cannot share memory between sequences: open a new sequence and compute its rows")]
    NoSharing,
    /// The system allows no more mappings.
    #[error("the call could need {need} mappings and {limit} are allowed: free sequences, or raise vm.max_map_count")]
    Mappings {
        /// Mappings of the cache after the call, at most.
        need: usize,
        /// Mappings that the cache may have.
        limit: usize,
    },
    /// The backend could not reserve or map.
    #[error(transparent)]
    Backend(BackendError),
}

impl From<BackendError> for Error {
    fn from(error: BackendError) -> Self {
        match error.lacking {
            0 => Self::Backend(error),
            need => Self::NeedFrames { need, free: 0 },
        }
    }
}

/// Why a shape is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// A field is zero, or was never set.
    #[error("{field} is 0: set it to at least 1")]
    Zero {
        /// Name of the field.
        field: &'static str,
    },
    /// The frame is not a power of two.
    #[error("frame_bytes is {value}: use a power of two of at least a page")]
    FrameBytes {
        /// The frame that was asked for.
        value: usize,
    },
    /// A quantity is above its limit.
    #[error("{field} would be {value}, the limit is {limit}: reduce the shape")]
    TooLarge {
        /// Name of the quantity.
        field: &'static str,
        /// Its value.
        value: u128,
        /// The largest value allowed.
        limit: usize,
    },
}

/// A call of the backend that the operating system (or the driver) refused.
#[derive(Debug, thiserror::Error)]
#[error("{call} of {bytes} bytes failed ({source}): {hint}")]
pub struct BackendError {
    call: &'static str,
    bytes: usize,
    hint: &'static str,
    source: io::Error,
    /// Frames that could not be had because memory is out; 0 for any other reason.
    lacking: usize,
}

impl BackendError {
    /// The refusal `source` of `call` over `bytes` bytes; `hint` says what the user can do about it.
    #[must_use]
    pub fn new(call: &'static str, bytes: usize, hint: &'static str, source: io::Error) -> Self {
        Self {
            call,
            bytes,
            hint,
            source,
            lacking: 0,
        }
    }

    /// Says that the call failed because the memory for `frames` frames, at least one, cannot be had now. A cache that grows,
    /// shares or swaps in then gives back what no sequence needs and tries again; its answer is [`Error::NeedFrames`].
    #[must_use]
    pub fn lacking_frames(mut self, frames: usize) -> Self {
        self.lacking = frames.max(1);
        self
    }

    /// Whether the operating system had no memory.
    pub(crate) fn is_exhaustion(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENOMEM | libc::ENOSPC))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_memory_is_known() {
        let refused = |code| BackendError::new("call", 1, "", io::Error::from_raw_os_error(code));
        assert!(refused(libc::ENOMEM).is_exhaustion() && refused(libc::ENOSPC).is_exhaustion());
        assert!(!refused(libc::EFBIG).is_exhaustion() && !refused(libc::EINTR).is_exhaustion());
    }
}
