//! The types and state spaces of PTX, and the values of the 32 lanes of a warp.

/// One value for each lane of a warp, kept as the bits of its type, zero-extended.
pub(super) type Lanes = [u64; 32];

/// A fundamental type (PTX ISA 8.0, section 5.2), or a packed pair of 16-bit floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Type {
    /// Reads a type as it stands after the dot.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" => Self::B8,
            "b16" => Self::B16,
            "b32" => Self::B32,
            "b64" => Self::B64,
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "s8" => Self::S8,
            "s16" => Self::S16,
            "s32" => Self::S32,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    /// Bytes in memory. Predicates have no place there; 1 stands for them.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
            Self::B32 | Self::U32 | Self::S32 | Self::F32 | Self::F16x2 | Self::Bf16x2 => 4,
        }
    }

    pub(super) fn bits(self) -> u32 {
        8 * self.bytes() as u32
    }

    /// The bits that a value of this type uses.
    pub(super) fn mask(self) -> u64 {
        match self {
            Self::Pred => 1,
            _ => u64::MAX >> (64 - self.bits()),
        }
    }

    pub(super) fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    pub(super) fn float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// Signed and unsigned integers.
    pub(super) fn integer(self) -> bool {
        self.signed() || matches!(self, Self::U8 | Self::U16 | Self::U32 | Self::U64)
    }

    /// Types without a meaning of their own: only their size counts.
    pub(super) fn untyped(self) -> bool {
        matches!(self, Self::B8 | Self::B16 | Self::B32 | Self::B64)
    }

    /// What a packed pair is made of.
    pub(super) fn half(self) -> Option<Self> {
        match self {
            Self::F16x2 => Some(Self::F16),
            Self::Bf16x2 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// The value as a number: the sign bit of a signed type counts.
    pub(super) fn extend(self, value: u64) -> i128 {
        let value = value & self.mask();
        if self.signed() {
            i128::from((value << (64 - self.bits())) as i64 >> (64 - self.bits()))
        } else {
            i128::from(value)
        }
    }
}

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// Addresses of any space, told apart by the windows below.
    Generic,
    /// Global and constant memory: what the driver maps.
    Global,
    /// Memory of a block.
    Shared,
    /// Memory of a thread.
    Local,
    /// The parameters of the kernel.
    Param,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Generic => "generic",
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Param => "parameter",
        })
    }
}

/// Where shared memory begins among the generic addresses. No address of a device is as large.
pub(super) const SHARED_WINDOW: u64 = 0xf100_0000_0000_0000;
/// Where local memory begins among the generic addresses.
pub(super) const LOCAL_WINDOW: u64 = 0xf200_0000_0000_0000;
/// Bytes of each window.
pub(super) const WINDOW_BYTES: u64 = 1 << 32;
