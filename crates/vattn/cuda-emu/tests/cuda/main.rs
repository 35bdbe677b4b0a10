//! The CUDA backend of `vattn` over the emulated driver, through the whole way a program takes: the dynamic loader finds the
//! driver, cudarc calls it.

#![allow(unsafe_code, reason = "the emulator is reached through its C functions")]
#![allow(clippy::print_stdout, reason = "tests say which mutants they caught")]

/// The suite of the cache that every backend goes through; it also runs over the host and the model here.
#[path = "../../../tests/cache/atomicity.rs"]
mod atomicity;
mod driver;
mod emulator;
mod obligations;
mod pressure;
mod story;
