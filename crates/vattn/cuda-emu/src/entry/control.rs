//! What tests call besides the driver API. A real driver has none of these, so finding them proves which one was loaded.

use std::ffi::{CStr, c_char};
use std::fmt::Write as _;
use std::ptr;

use super::device;
use crate::code::Code;
use crate::device::Device;
use crate::fault::Action;
use crate::knobs::Knobs;

/// The action of `cudaEmuPlan` that does a call twice.
const REPEAT: u32 = u32::MAX;

/// # Safety
///
/// `text` points to a text with a nul at its end.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    // SAFETY: the contract of this function.
    unsafe { CStr::from_ptr(text) }.to_str().ok()
}

/// Puts a new device with these knobs in the place of the present one, whatever lives there. Returns 0, or 1 when the knobs
/// cannot be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaEmuReset(knobs: *const c_char) -> u32 {
    // SAFETY: the caller's promise.
    match unsafe { text(knobs) }.map(str::parse::<Knobs>) {
        Some(Ok(knobs)) => {
            *device() = Device::new(knobs);
            0
        }
        _ => 1,
    }
}

/// Plans what calls do, as `CallLog::plan` does: `action` is the code they fail with, 0 to leave them out, or
/// [`REPEAT`] to do them twice. With `count` 0 it forgets all plans. Returns 0, or 1 for an unknown action.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaEmuPlan(function: *const c_char, before: u64, count: u64, action: u32) -> u32 {
    let mut device = device();
    if count == 0 {
        device.log.forget();
        return 0;
    }
    let action = match action {
        0 => Some(Action::Skip),
        REPEAT => Some(Action::Repeat),
        code => Code::from_number(code).map(Action::Fail),
    };
    // SAFETY: the caller's promise.
    match (unsafe { text(function) }, action) {
        (Some(function), Some(action)) => {
            device.log.plan(function, before, count, action);
            0
        }
        _ => 1,
    }
}

/// Writes what lives, what was called and what was refused as lines `kind name value`, with a nul at the end, and returns the
/// length. Nothing is written when the buffer is too small.
#[unsafe(no_mangle)]
unsafe extern "C" fn cudaEmuReport(buffer: *mut c_char, bytes: usize) -> usize {
    let device = device();
    let mut report = String::new();
    let (used, peak) = device.memory.used_and_peak();
    let counts = [("used", used), ("peak", peak), ("injected", device.log.injected())];
    let lines = device.live().into_iter().map(|(name, count)| ("live", name, count));
    let lines = lines.chain(counts.map(|(name, count)| ("count", name, count)));
    for (kind, name, value) in lines.chain(device.log.calls().map(|(name, count)| ("call", name, count))) {
        let _ = writeln!(report, "{kind} {name} {value}");
    }
    for refusal in device.refusals() {
        let _ = writeln!(report, "refusal {}", refusal.replace('\n', " "));
    }
    if report.len() < bytes {
        // SAFETY: the caller has `bytes` bytes there, one more at least than are written.
        unsafe {
            ptr::copy_nonoverlapping(report.as_ptr().cast(), buffer, report.len());
            buffer.add(report.len()).write(0);
        }
    }
    report.len()
}
