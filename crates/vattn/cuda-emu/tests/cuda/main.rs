//! The CUDA backend of `vattn` over the emulated driver, through the whole way a program takes: the dynamic loader finds the
//! driver, cudarc calls it.

#![allow(unsafe_code, reason = "the emulator is reached through its C functions")]
#![allow(clippy::print_stdout, reason = "tests say which mutants they caught")]

mod driver;
mod emulator;
mod obligations;
mod pressure;
mod story;
