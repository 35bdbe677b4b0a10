//! Device memory: what is mapped where, who may read and write it, and what it holds.

mod arena;
mod table;
#[cfg(test)]
mod tests;

pub use table::{Memory, Rights};

/// Device memory as kernels and copies see it: an access succeeds whole, or faults and changes nothing.
pub trait DeviceMemory {
    /// Copies the bytes at `address` out.
    ///
    /// # Errors
    ///
    /// A part of the range is not mapped, or not readable.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault>;

    /// Copies bytes to `address`.
    ///
    /// # Errors
    ///
    /// A part of the range is not mapped, or not writable.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault>;
}

/// Why an access of the device was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {access} of {bytes} bytes at {address:#x} faults: {at:#x} {why}")]
pub struct Fault {
    /// First byte of the access.
    pub address: u64,
    /// Length of the access.
    pub bytes: u64,
    /// What the access wanted.
    pub access: Access,
    /// The first byte that cannot be accessed so.
    pub at: u64,
    /// Why not.
    pub why: Denied,
}

/// What an access wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write.
    Write,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// Why a byte cannot be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing is mapped there.
    #[error("is not mapped")]
    Unmapped,
    /// It is mapped, and the rights that were set do not cover the access.
    #[error("is mapped without the right to do so")]
    Rights,
}
