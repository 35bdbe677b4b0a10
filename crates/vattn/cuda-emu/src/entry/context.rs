//! Driver, device and context.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use super::{driver, get, put};
use crate::code::{Code, Refusal};

/// Handle of the primary context. It points nowhere.
const CONTEXT: usize = 0x1000_0001;
/// Handle of the device's default memory pool.
pub(super) const POOL: usize = 0x1000_0002;

/// What the device says of itself.
const NAME: &[u8] = b"cuda-emu (TEST-ONLY, not a GPU)\0";

driver! {
    fn cuInit(flags: u32) needs Nothing |device| { device.init(flags) }

    fn cuDriverGetVersion(version: *mut c_int) needs Nothing |device| {
        // SAFETY: the caller's promise.
        unsafe { put(version, device.knobs.driver as c_int) }
    }

    fn cuGetErrorName(code: u32, name: *mut *const c_char) needs Nothing |_| {
        // SAFETY: the caller's promise.
        unsafe { put_text(code, name, |code| code.texts().0.as_ptr()) }
    }

    fn cuGetErrorString(code: u32, text: *mut *const c_char) needs Nothing |_| {
        // SAFETY: the caller's promise.
        unsafe { put_text(code, text, |code| code.texts().1.as_ptr()) }
    }

    fn cuDeviceGetCount(count: *mut c_int) needs Init |_| {
        // SAFETY: the caller's promise.
        unsafe { put(count, 1) }
    }

    fn cuDeviceGet(ordinal_device: *mut c_int, ordinal: c_int) needs Init |device| {
        device.ordinal(ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { put(ordinal_device, ordinal) }
    }

    fn cuDeviceGetName(name: *mut c_char, length: c_int, ordinal: c_int) needs Init |device| {
        device.ordinal(ordinal)?;
        let taken = NAME.len().min(usize::try_from(length).unwrap_or(0));
        if name.is_null() || taken == 0 {
            return Err(Refusal::invalid("no room for a name"));
        }
        // SAFETY: the caller has `length` bytes there, and the last one written is a nul.
        unsafe {
            ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, taken);
            name.add(taken - 1).write(0);
        }
        Ok(())
    }

    fn cuDeviceTotalMem_v2(bytes: *mut usize, ordinal: c_int) needs Init |device| {
        device.ordinal(ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { put(bytes, device.memory.capacity() as usize) }
    }

    fn cuDeviceGetAttribute(value: *mut c_int, attribute: u32, ordinal: c_int) needs Init |device| {
        device.ordinal(ordinal)?;
        let knobs = &device.knobs;
        let found = match attribute {
            1..=3 => 1024,           // threads of a block, and along x and y
            4 => 64,                     // threads along z
            5 => c_int::MAX,             // blocks along x
            6 | 7 => 65_535,             // blocks along y and z
            8 => 48 << 10,               // shared memory of a block
            10 => 32,                    // threads of a warp
            16 => 4,                     // multiprocessors
            41 => 1,                     // unified addressing
            75 => knobs.compute as c_int / 10,
            76 => knobs.compute as c_int % 10,
            97 => 96 << 10,              // shared memory of a block that asks for more
            102 => knobs.vmm.into(),     // management of virtual memory
            115 => knobs.pools.into(),   // memory pools
            0 | 148.. => return Err(Refusal::invalid(format!("attribute {attribute} does not exist"))),
            _ => 0,
        };
        // SAFETY: the caller's promise.
        unsafe { put(value, found) }
    }

    fn cuDeviceGetDefaultMemPool(pool: *mut *mut c_void, ordinal: c_int) needs Init |device| {
        device.ordinal(ordinal)?;
        if !device.knobs.pools {
            return Err(Refusal::new(Code::NotSupported, "the device has no memory pools"));
        }
        // SAFETY: the caller's promise.
        unsafe { put(pool, ptr::without_provenance_mut(POOL)) }
    }

    fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, ordinal: c_int) needs Init |device| {
        device.ordinal(ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { put(context, ptr::without_provenance_mut(CONTEXT)) }?;
        device.retain_context();
        Ok(())
    }

    fn cuDevicePrimaryCtxRelease_v2(ordinal: c_int) needs Init |device| {
        device.ordinal(ordinal)?;
        device.release_context()
    }

    fn cuCtxSetCurrent(context: *mut c_void) needs Init |device| {
        match context.addr() {
            0 => device.set_current(false),
            CONTEXT => device.set_current(true),
            other => Err(Refusal::new(Code::InvalidContext, format!("{other:#x} is no context"))),
        }
    }

    fn cuCtxGetCurrent(context: *mut *mut c_void) needs Init |device| {
        let current = if device.is_current() { CONTEXT } else { 0 };
        // SAFETY: the caller's promise.
        unsafe { put(context, ptr::without_provenance_mut(current)) }
    }

    fn cuCtxSynchronize() needs Context |device| { device.wait_all() }
}

/// Gives a text of an error code, static for the life of the library.
///
/// # Safety
///
/// `to` is null or can be written.
unsafe fn put_text(
    code: u32,
    to: *mut *const c_char,
    text: impl FnOnce(Code) -> *const c_char,
) -> crate::code::Outcome {
    let found = match code {
        0 => Some(c"CUDA_SUCCESS".as_ptr()),
        _ => Code::from_number(code).map(text),
    };
    // SAFETY: the contract of this function.
    unsafe { put(to, found.unwrap_or(ptr::null())) }?;
    found
        .map(drop)
        .ok_or_else(|| Refusal::invalid(format!("error {code} is unknown")))
}

/// Reads a value of the caller through an untyped pointer.
///
/// # Safety
///
/// `from` is null or points to a `T`.
pub(super) unsafe fn get_untyped<T: Copy>(from: *const c_void) -> crate::code::Outcome<T> {
    // SAFETY: the contract of this function.
    unsafe { get(from.cast()) }
}
