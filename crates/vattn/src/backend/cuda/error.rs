//! What can go wrong with a driver.

use std::fmt;

/// `CUDA_ERROR_INVALID_VALUE`.
const INVALID_VALUE: u32 = 1;
/// `CUDA_ERROR_NOT_SUPPORTED`.
const NOT_SUPPORTED: u32 = 801;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub(super) const OUT_OF_MEMORY: u32 = 2;
/// `CUDA_ERROR_NOT_READY`.
pub(super) const NOT_READY: u32 = 600;

/// Why no device can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no CUDA device can be used: {why}")]
pub struct NotAvailable {
    /// The reason, for a person to read.
    pub why: String,
}

/// A driver call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverError {
    /// The function.
    pub call: &'static str,
    /// Its `CUresult`.
    pub code: u32,
}

impl std::error::Error for DriverError {}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.code {
            INVALID_VALUE => "CUDA_ERROR_INVALID_VALUE",
            OUT_OF_MEMORY => "CUDA_ERROR_OUT_OF_MEMORY",
            3 => "CUDA_ERROR_NOT_INITIALIZED",
            4 => "CUDA_ERROR_DEINITIALIZED",
            34 => "CUDA_ERROR_STUB_LIBRARY",
            46 => "CUDA_ERROR_DEVICE_UNAVAILABLE",
            100 => "CUDA_ERROR_NO_DEVICE",
            101 => "CUDA_ERROR_INVALID_DEVICE",
            201 => "CUDA_ERROR_INVALID_CONTEXT",
            209 => "CUDA_ERROR_NO_BINARY_FOR_GPU",
            218 => "CUDA_ERROR_INVALID_PTX",
            222 => "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
            400 => "CUDA_ERROR_INVALID_HANDLE",
            500 => "CUDA_ERROR_NOT_FOUND",
            NOT_READY => "CUDA_ERROR_NOT_READY",
            700 => "CUDA_ERROR_ILLEGAL_ADDRESS",
            701 => "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
            719 => "CUDA_ERROR_LAUNCH_FAILED",
            800 => "CUDA_ERROR_NOT_PERMITTED",
            NOT_SUPPORTED => "CUDA_ERROR_NOT_SUPPORTED",
            803 => "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            804 => "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
            999 => "CUDA_ERROR_UNKNOWN",
            _ => "see CUresult in the documentation of the driver API",
        };
        write!(f, "{} returned {} ({name})", self.call, self.code)
    }
}

/// Result of a driver call.
pub type Result<T = (), E = DriverError> = std::result::Result<T, E>;

impl DriverError {
    /// Whether the device has no memory left.
    #[must_use]
    pub fn is_out_of_memory(&self) -> bool {
        self.code == OUT_OF_MEMORY
    }

    /// Whether the driver does not do what was asked, on this device or at all.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.code, INVALID_VALUE | NOT_SUPPORTED)
    }
}
