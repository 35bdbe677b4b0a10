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
//! * [`stream`]: streams and events; queued work runs at once, or as late as the documentation allows.
//! * [`modules`]: loaded kernels, and the checks of a launch.
//! * [`gemm`]: what stands in for cuBLAS, and handles of libraries.
//! * [`work`]: what streams do.
//! * [`device`]: one device with all of that, and the checks that every call goes through.
//! * [`entry`]: the functions of the shared library.
//! * [`fault`] and [`knobs`]: calls that fail on request, and how the device is built.
//! * [`code`]: the results of the driver API.

pub mod code;
pub mod device;
pub mod entry;
pub mod fault;
pub mod gemm;
pub mod knobs;
pub mod memory;
pub mod modules;
pub mod ptx;
pub mod stream;
pub mod work;
