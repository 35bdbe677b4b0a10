//! TEST-ONLY: an emulated CUDA driver over host memory. It is not a GPU and not CUDA.
//!
//! Built as a shared library it answers the functions of the CUDA driver API that `vattn` and its tests call, and holds
//! every call to the documented contract: what the documentation does not allow is refused, and what it leaves undefined is
//! made to go wrong visibly. Code that passes here has not relied on a driver that forgives.
//!
//! The parts:
//!
//! * [`memory`]: reserved addresses, physical handles, mappings and access rights; every access of the device is checked.
//! * [`ptx`]: the interpreter that runs kernels over that memory.

pub mod memory;
pub mod ptx;
