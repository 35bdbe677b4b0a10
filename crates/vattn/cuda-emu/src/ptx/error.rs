//! What can be wrong with a module, and with a launch.

use super::types::Space;
use crate::memory;

/// Why PTX text cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PTX.
    #[error("PTX line {line}: {what}")]
    Syntax {
        /// Line of the text, from 1.
        line: u32,
        /// What is wrong.
        what: String,
    },
    /// The kernel has an instruction that this interpreter does not run. Other kernels of the module are not affected.
    #[error("kernel {kernel}, PTX line {line}: `{text}` is not supported: {why}")]
    Unsupported {
        /// The kernel.
        kernel: String,
        /// Line of the text, from 1.
        line: u32,
        /// The instruction.
        text: String,
        /// What about it.
        why: String,
    },
    /// The module has no kernel of this name.
    #[error("the module has no kernel {name}, it has {kernels:?}")]
    NoKernel {
        /// The name asked for.
        name: String,
        /// The names there are.
        kernels: Vec<String>,
    },
}

/// Why a launch stopped: the first instruction that broke a rule, and the thread that ran it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("kernel {kernel}, block {block:?}, thread {thread:?}, PTX line {line}, `{instruction}`: {kind}")]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// The block: x, y, z.
    pub block: [u32; 3],
    /// The thread in its block: x, y, z.
    pub thread: [u32; 3],
    /// Line of the PTX text, from 1; 0 where the launch itself is wrong.
    pub line: u32,
    /// The instruction.
    pub instruction: String,
    /// What happened.
    pub kind: FaultKind,
}

/// The rules that a launch can break.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// The launch does not fit the kernel.
    #[error("{0}")]
    Launch(String),
    /// Global memory that is not mapped, or not with this right.
    #[error(transparent)]
    Global(#[from] memory::Fault),
    /// An access outside the shared or local memory, or outside the parameters.
    #[error("{bytes} bytes at {space} offset {address:#x} are outside its {size} bytes")]
    Bounds {
        /// `shared`, `local` or `parameter`.
        space: &'static str,
        /// Offset of the access.
        address: u64,
        /// Length of the access.
        bytes: u64,
        /// Size of what can be accessed.
        size: u64,
    },
    /// An address that is not a multiple of the size of the access.
    #[error("address {address:#x} is not a multiple of {bytes}")]
    Misaligned {
        /// The address.
        address: u64,
        /// Size of the access, which is the alignment it needs.
        bytes: u64,
    },
    /// Two threads of a block at one byte of shared memory, one of them writing, with no barrier between.
    #[error("{access} shared offset {address:#x} that thread {other:?} {before} with no barrier between")]
    Race {
        /// Offset of the byte.
        address: u64,
        /// `reads` or `writes`.
        access: &'static str,
        /// `read` or `wrote`.
        before: &'static str,
        /// The other thread.
        other: [u32; 3],
    },
    /// Threads of a block wait at different barriers.
    #[error("waits at this barrier while thread {other:?} waits at PTX line {line}, `{instruction}`")]
    DivergentBarrier {
        /// Another thread.
        other: [u32; 3],
        /// Line of the instruction it waits at.
        line: u32,
        /// That instruction.
        instruction: String,
    },
    /// A warp operation that some of the lanes it names never reach.
    #[error("names the lanes {members:#010x}, of which {missing:#010x} do not come")]
    MissingLanes {
        /// The lanes named.
        members: u32,
        /// Those that do not come.
        missing: u32,
    },
    /// A warp operation that does not name a lane that runs it.
    #[error("names the lanes {members:#010x}, and this one is not among them")]
    NotMember {
        /// The lanes named.
        members: u32,
    },
    /// A shuffle that reads from a lane that takes no part.
    #[error("reads lane {lane}, which takes no part")]
    AbsentLane {
        /// The lane.
        lane: u32,
    },
    /// A branch to a label that the table does not hold.
    #[error("index {index} is outside the {labels} labels of the table")]
    BranchIndex {
        /// The index.
        index: u64,
        /// Length of the table.
        labels: usize,
    },
    /// A failed `assert`.
    #[error("a device assertion failed")]
    Assert,
    /// A `trap` instruction.
    #[error("trapped")]
    Trap,
    /// The warp ran longer than any kernel of a test should.
    #[error("a warp ran {0} instructions: an endless loop?")]
    Endless(u64),
}

impl FaultKind {
    pub(super) fn bounds(space: Space, address: u64, bytes: usize, size: usize) -> Self {
        let space = match space {
            Space::Shared => "shared",
            Space::Local => "local",
            _ => "parameter",
        };
        Self::Bounds {
            space,
            address,
            bytes: bytes as u64,
            size: size as u64,
        }
    }
}
