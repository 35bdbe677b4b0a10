//! Instructions after decoding: operands are resolved, and what an instruction computes is a function over the lanes.

use super::types::{Lanes, Space, Type};

/// What an arithmetic instruction computes, for all lanes at once. Lanes that do not run it are computed too and thrown
/// away, so no function may panic on any input.
pub(super) type Function = Box<dyn Fn([&Lanes; 4]) -> Lanes + Send + Sync>;

/// What an atomic instruction leaves in memory, from the old value and the operands.
pub(super) type Update = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

/// Index of a register of the kernel. Every value an instruction reads is one: constants and special registers have
/// registers of their own, filled when a warp starts.
pub(super) type Register = u32;

/// A predicate and the value of it that counts as true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Predicate {
    pub(super) register: Register,
    pub(super) value: bool,
}

/// What a register holds that no instruction writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fixed {
    Constant(u64),
    Special(Special),
    /// Address of a variable of the module, plus bytes.
    Global(usize, u64),
}

/// A special register (PTX ISA 8.0, section 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    Warp,
    Warps,
    LanesEqual,
    LanesBelow,
    LanesUpTo,
    LanesAbove,
    LanesFrom,
    Multiprocessor,
    DynamicShared,
}

impl Special {
    /// Reads the name of a special register.
    pub(super) fn parse(name: &str) -> Option<Self> {
        if let Some((register, axis)) = name.rsplit_once('.') {
            let axis = ["x", "y", "z"].iter().position(|a| *a == axis)?;
            return Some(match register {
                "%tid" => Self::Thread(axis),
                "%ntid" => Self::Threads(axis),
                "%ctaid" => Self::Block(axis),
                "%nctaid" => Self::Blocks(axis),
                _ => return None,
            });
        }
        Some(match name {
            "%laneid" => Self::Lane,
            "%warpid" => Self::Warp,
            "%nwarpid" => Self::Warps,
            "%lanemask_eq" => Self::LanesEqual,
            "%lanemask_lt" => Self::LanesBelow,
            "%lanemask_le" => Self::LanesUpTo,
            "%lanemask_gt" => Self::LanesAbove,
            "%lanemask_ge" => Self::LanesFrom,
            "%smid" => Self::Multiprocessor,
            "%dynamic_smem_size" => Self::DynamicShared,
            _ => return None,
        })
    }
}

/// Where an access goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) space: Space,
    pub(super) base: Register,
    pub(super) offset: u64,
}

/// How the result of a comparison meets a third predicate.
#[derive(Debug, Clone, Copy)]
pub(super) enum Combine {
    And,
    Or,
    Xor,
}

/// Which lane a lane of a shuffle reads from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// What a vote answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// What an instruction does.
pub(super) enum Op {
    Compute {
        function: Function,
        sources: [Register; 4],
        destination: Register,
    },
    /// `destinations` get the comparison and its opposite, each after `combine`.
    Compare {
        test: Function,
        sources: [Register; 2],
        combine: Option<(Combine, Predicate)>,
        destinations: [Option<Register>; 2],
    },
    Pack {
        bits: u32,
        sources: Vec<Register>,
        destination: Register,
    },
    Unpack {
        bits: u32,
        source: Register,
        destinations: Vec<Option<Register>>,
    },
    Load {
        ty: Type,
        address: Address,
        destinations: Vec<Option<Register>>,
    },
    Store {
        ty: Type,
        address: Address,
        sources: Vec<Register>,
    },
    Atomic {
        ty: Type,
        address: Address,
        update: Update,
        sources: [Register; 2],
        destination: Option<Register>,
    },
    Branch(usize),
    BranchTable {
        index: Register,
        labels: Vec<usize>,
    },
    Exit,
    Trap,
    Assert,
    /// A barrier of the block. An aligned one must be reached by all threads of a warp together.
    Barrier {
        id: Register,
        aligned: bool,
    },
    /// An operation of the lanes in `members` together.
    Together {
        members: Register,
        what: Together,
    },
    ActiveMask(Register),
    /// Orders memory, or is a hint: threads run one after another here, so there is nothing to do.
    Nothing,
}

/// What lanes of a warp do together.
pub(super) enum Together {
    Barrier,
    Shuffle {
        mode: Shuffle,
        source: Register,
        lane: Register,
        clamp: Register,
        destination: Option<Register>,
        valid: Option<Register>,
    },
    Vote {
        mode: Vote,
        source: Predicate,
        destination: Register,
    },
    Reduce {
        update: Update,
        source: Register,
        destination: Register,
    },
}

/// One instruction.
pub(super) struct Instruction {
    /// It runs in the lanes where this is true.
    pub(super) guard: Option<Predicate>,
    pub(super) op: Op,
    pub(super) text: String,
    pub(super) line: u32,
}

/// The instructions of a kernel and what a launch of it needs.
pub(super) struct Code {
    pub(super) name: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) parameter_bytes: usize,
    /// Shared memory declared with a size; dynamic memory begins at the next multiple of 16.
    pub(super) shared_bytes: usize,
    pub(super) local_bytes: usize,
    /// The bits that each register holds.
    pub(super) registers: Vec<u64>,
    /// The registers that hold something from the start.
    pub(super) fixed: Vec<(Register, Fixed)>,
    /// Most threads of a block, where the kernel says so.
    pub(super) max_threads: Option<u32>,
    /// Threads of a block, where the kernel demands a shape.
    pub(super) required_threads: Option<[u32; 3]>,
    pub(super) instructions: Vec<Instruction>,
}

/// Offset at which dynamic shared memory begins, after `shared_bytes` of declared memory.
pub(super) fn dynamic_shared(shared_bytes: usize) -> usize {
    shared_bytes.next_multiple_of(16)
}

/// Where a parameter of a kernel lies among the bytes of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Offset of its first byte.
    pub offset: usize,
    /// Its size in bytes.
    pub bytes: usize,
    /// Its alignment in bytes.
    pub align: usize,
}
