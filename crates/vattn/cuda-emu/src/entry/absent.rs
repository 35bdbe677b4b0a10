//! Functions that programs over candle and cudarc are linked with, and that are not emulated: they say so.

use super::call;
use crate::code::{Code, Refusal};
use crate::device::Needs;

/// Defines functions that return one code whatever they are given.
macro_rules! absent {
    ($($code:literal: $($name:ident)*;)*) => {
        $($(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> u32 {
                call(stringify!($name), Needs::Nothing, |_| {
                    Err(Refusal::new(Code::NotSupported, "this function is not emulated"))
                });
                $code
            }
        )*)*
    };
}

absent! {
    801: cuCtxDestroy_v2 cuMemcpyPeerAsync cuModuleLoad cuStreamIsCapturing;
    // `CUBLAS_STATUS_NOT_SUPPORTED`.
    15: cublasDgemmStridedBatched cublasGemmStridedBatchedEx;
}
