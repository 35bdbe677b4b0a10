//! What streams do, and doing it.

use std::fmt;

use crate::code::{Code, Outcome, Refusal};
use crate::gemm::Gemm;
use crate::memory::{DeviceMemory, Fault, Memory};
use crate::modules::Launch;

/// Takes bytes that a copy brings to the host.
pub type Sink = Box<dyn FnOnce(&[u8]) + Send>;

/// A piece of work for the device.
pub enum Work {
    /// Bytes of the host go to the device. They were taken when the copy was queued, as the driver does for pageable memory.
    Write {
        /// Where to.
        to: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Bytes of the device go to the host.
    Read {
        /// Where from.
        from: u64,
        /// How many.
        bytes: u64,
        /// Takes them.
        sink: Sink,
    },
    /// Bytes of the device go elsewhere on the device.
    Copy {
        /// Where to.
        to: u64,
        /// Where from.
        from: u64,
        /// How many.
        bytes: u64,
    },
    /// A pattern is repeated.
    Fill {
        /// Where to.
        to: u64,
        /// How many bytes, whole patterns.
        bytes: u64,
        /// The bytes to repeat.
        pattern: Vec<u8>,
    },
    /// An allocation of the pool is given back.
    Free {
        /// Its start.
        address: u64,
    },
    /// A kernel runs.
    Launch(Launch),
    /// Matrices are multiplied.
    Gemm(Gemm),
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { to, bytes } => write!(f, "write of {} bytes to {to:#x}", bytes.len()),
            Self::Read { from, bytes, .. } => write!(f, "read of {bytes} bytes from {from:#x}"),
            Self::Copy { to, from, bytes } => write!(f, "copy of {bytes} bytes from {from:#x} to {to:#x}"),
            Self::Fill { to, bytes, .. } => write!(f, "fill of {bytes} bytes at {to:#x}"),
            Self::Free { address } => write!(f, "free of {address:#x}"),
            Self::Launch(launch) => write!(f, "launch of {}", launch.kernel()),
            Self::Gemm(Gemm { m, n, k, .. }) => write!(f, "product of {m} x {k} and {k} x {n}"),
        }
    }
}

/// Bytes moved at a time, so that a large fill needs no large buffer.
const CHUNK: u64 = 1 << 16;

impl Work {
    /// Does it.
    ///
    /// # Errors
    ///
    /// It touched memory that it may not touch, or a kernel broke another rule. The context is lost then.
    pub fn run(self, memory: &mut Memory) -> Outcome {
        let illegal = |fault: Fault| Refusal::new(Code::IllegalAddress, fault.to_string());
        match self {
            Self::Write { to, bytes } => memory.write(to, &bytes).map_err(illegal),
            Self::Read { from, bytes, sink } => {
                let mut taken = vec![0; bytes as usize];
                memory.read(from, &mut taken).map_err(illegal)?;
                sink(&taken);
                Ok(())
            }
            Self::Copy { to, from, bytes } => {
                let mut taken = vec![0; bytes as usize];
                memory.read(from, &mut taken).map_err(illegal)?;
                memory.write(to, &taken).map_err(illegal)
            }
            Self::Fill { to, bytes, pattern } => {
                let chunk = pattern.repeat((CHUNK.min(bytes) as usize).div_ceil(pattern.len()));
                let mut done = 0;
                while done < bytes {
                    let length = (bytes - done).min(chunk.len() as u64);
                    memory.write(to + done, &chunk[..length as usize]).map_err(illegal)?;
                    done += length;
                }
                Ok(())
            }
            Self::Free { address } => memory.free(address),
            Self::Launch(launch) => launch.run(memory),
            Self::Gemm(gemm) => gemm.run(memory).map_err(illegal),
        }
    }
}
