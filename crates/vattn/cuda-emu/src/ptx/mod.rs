//! Kernels: PTX text, run one instruction at a time over [`DeviceMemory`](crate::memory::DeviceMemory).
//!
//! What the driver asks of this module: parse a text once into a `Module` (its PTX version and target, its global
//! variables, its kernels), say of a kernel how its parameters lie in one buffer, how much shared memory it declares and how
//! many threads it allows, and run a grid of it over a `&mut dyn DeviceMemory`. A run that touches memory it may not ends
//! with the [`Fault`](crate::memory::Fault); one that breaks another rule (a missing barrier, say) ends with a reason.
