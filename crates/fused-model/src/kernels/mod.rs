//! CPU kernels over plain `f32` slices, shared by training, tuning and attention.
//!
//! Every kernel is written once, as a loop the compiler can vectorise, and compiled for the
//! instruction sets in [`simd`]; the widest one the processor has is taken at run time.

pub(crate) mod attention;
pub(crate) mod cached_attention;
pub(crate) mod cross_entropy;
pub(crate) mod elementwise;
pub(crate) mod exp;
pub(crate) mod gelu;
pub(crate) mod layer_norm;
pub(crate) mod matmul;
pub(crate) mod rms_norm;
pub(crate) mod simd;
pub(crate) mod swiglu;
pub(crate) mod vector;
