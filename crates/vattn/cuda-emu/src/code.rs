//! Results of driver calls, by the numbers of the driver API.

use std::ffi::CStr;

/// Outcome of a driver call.
pub type Outcome<T = ()> = Result<T, Refusal>;

/// A refused call: the code the caller sees, and the rule that was broken, for whoever reads the test's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the call returns.
    pub code: Code,
    /// Which rule was broken, with the values.
    pub why: String,
}

impl Refusal {
    /// A refusal with `code` for the reason `why`.
    pub fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }

    /// A refusal for an argument that the documentation does not allow.
    pub fn invalid(why: impl Into<String>) -> Self {
        Self::new(Code::InvalidValue, why)
    }
}

macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// Codes of failure, `CUresult` without success.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Code {
            $(#[doc = concat!("`", $name, "`: ", $text, ".")] $variant = $number,)*
        }

        impl Code {
            /// The code with this number, when the emulator knows it.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// Name and description, as the driver gives them.
            #[must_use]
            pub fn texts(self) -> (&'static CStr, &'static CStr) {
                const fn c(text: &'static str) -> &'static CStr {
                    match CStr::from_bytes_with_nul(text.as_bytes()) {
                        Ok(text) => text,
                        Err(_) => panic!("text with a nul"),
                    }
                }
                match self {
                    $(Self::$variant => const { (c(concat!($name, "\0")), c(concat!($text, "\0"))) },)*
                }
            }
        }
    };
}

codes! {
    InvalidValue = 1, "CUDA_ERROR_INVALID_VALUE", "invalid argument";
    OutOfMemory = 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory";
    NotInitialized = 3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error";
    NoDevice = 100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected";
    InvalidDevice = 101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal";
    InvalidImage = 200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid";
    InvalidContext = 201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context";
    NoBinaryForGpu = 209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device";
    InvalidPtx = 218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed";
    UnsupportedPtxVersion = 222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain";
    InvalidHandle = 400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle";
    NotFound = 500, "CUDA_ERROR_NOT_FOUND", "named symbol not found";
    NotReady = 600, "CUDA_ERROR_NOT_READY", "device not ready";
    IllegalAddress = 700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered";
    LaunchOutOfResources = 701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch";
    LaunchFailed = 719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure";
    NotPermitted = 800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted";
    NotSupported = 801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported";
    Unknown = 999, "CUDA_ERROR_UNKNOWN", "unknown error";
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn numbers_come_back() {
        for number in 0..1000 {
            if let Some(code) = Code::from_number(number) {
                assert_eq!(code as u32, number);
                assert!(code.texts().0.to_str().unwrap().starts_with("CUDA_ERROR_"));
            }
        }
        assert_eq!(Code::from_number(2), Some(Code::OutOfMemory));
        assert_eq!(Code::from_number(0), None);
    }
}
