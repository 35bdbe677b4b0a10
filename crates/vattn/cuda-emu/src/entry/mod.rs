//! The functions of the shared library: the driver API in C, over one device for the process.
//!
//! Each function takes the caller's pointers apart, checks them for null, and calls the [`Device`]. Only this module touches
//! memory of the caller.

#![allow(unsafe_code)]
#![allow(non_snake_case, reason = "the names are the driver's")]

mod absent;
mod context;
mod control;
mod copy;
mod libraries;
mod memory;
mod module;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::code::{Code, Outcome, Refusal};
use crate::device::{Device, Needs};
use crate::knobs::Knobs;

/// Environment variable with the [`Knobs`] of the device that a process starts with.
pub const KNOBS_VARIABLE: &str = "VATTN_CUDA_EMU";

/// The device of the process.
fn device() -> MutexGuard<'static, Device> {
    static DEVICE: OnceLock<Mutex<Device>> = OnceLock::new();
    let first = || {
        let settings = std::env::var(KNOBS_VARIABLE).unwrap_or_default();
        let knobs = settings.parse::<Knobs>();
        Mutex::new(Device::new(
            knobs.unwrap_or_else(|error| panic!("{KNOBS_VARIABLE}: {error}")),
        ))
    };
    DEVICE.get_or_init(first).lock().unwrap_or_else(PoisonError::into_inner)
}

/// `CUresult` of a call.
fn result(outcome: Result<(), Code>) -> u32 {
    outcome.map_or_else(|code| code as u32, |()| 0)
}

fn call(function: &'static str, needs: Needs, run: impl FnMut(&mut Device) -> Outcome) -> u32 {
    result(device().call(function, needs, run))
}

/// Writes a result to the caller's variable.
///
/// # Safety
///
/// `to` is null or can be written.
unsafe fn put<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(Refusal::invalid("null pointer for a result"));
    }
    // SAFETY: not null, so it can be written: the contract of this function.
    unsafe { to.write(value) };
    Ok(())
}

/// Reads a structure of the caller.
///
/// # Safety
///
/// `from` is null or points to a value.
unsafe fn get<T: Copy>(from: *const T) -> Outcome<T> {
    if from.is_null() {
        return Err(Refusal::invalid("null pointer for an argument"));
    }
    // SAFETY: not null, so it points to a value: the contract of this function.
    Ok(unsafe { from.read() })
}

/// Defines functions of the driver API: name, arguments, what the call needs, and the body, which sees the device.
///
/// The caller of each promises what the driver API asks of it: pointers are null or point to what they are for.
macro_rules! driver {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) needs $needs:ident |$device:pat_param| $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
                $crate::entry::call(stringify!($name), $crate::device::Needs::$needs, |$device| $body)
            }
        )*
    };
}
use driver;
