//! Copies and fills.
//!
//! All memory of the host is pageable here: bytes that go to the device are taken before the call returns, and a copy to the
//! host is done when it returns.

use std::ffi::c_void;
use std::ptr;
use std::slice;

use super::driver;
use crate::code::{Outcome, Refusal};
use crate::device::Device;
use crate::memory::Access;
use crate::work::Work;

driver! {
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) needs Context |device| {
        // SAFETY: the caller's promise.
        unsafe { host_to_device(device, to, from, bytes, stream.addr() as u64) }
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) needs Context |device| {
        // SAFETY: the caller's promise.
        unsafe { host_to_device(device, to, from, bytes, 0) }?;
        device.wait(crate::stream::LEGACY)
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) needs Context |device| {
        // SAFETY: the caller's promise.
        unsafe { device_to_host(device, to, from, bytes, stream.addr() as u64) }
    }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) needs Context |device| {
        // SAFETY: the caller's promise.
        unsafe { device_to_host(device, to, from, bytes, 0) }
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) needs Context |device| {
        let bytes = bytes as u64;
        if bytes == 0 {
            return Ok(());
        }
        device.check(from, bytes, Access::Read)?;
        device.check(to, bytes, Access::Write)?;
        if from < to + bytes && to < from + bytes {
            return Err(Refusal::invalid(format!("copy of {bytes} bytes from {from:#x} to {to:#x}: they overlap")));
        }
        let stream = device.stream(stream.addr() as u64);
        device.submit(stream, Work::Copy { to, from, bytes })
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: *mut c_void) needs Context |device| {
        fill(device, to, vec![value], count, stream.addr() as u64)
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: *mut c_void) needs Context |device| {
        fill(device, to, value.to_le_bytes().to_vec(), count, stream.addr() as u64)
    }
}

/// # Safety
///
/// `from` is null or points to `bytes` bytes.
unsafe fn host_to_device(device: &mut Device, to: u64, from: *const c_void, bytes: usize, stream: u64) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    if from.is_null() {
        return Err(Refusal::invalid("copy from a null pointer"));
    }
    device.check(to, bytes as u64, Access::Write)?;
    // SAFETY: not null, so `bytes` bytes are there: the contract of this function.
    let bytes = unsafe { slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec();
    let stream = device.stream(stream);
    device.submit(stream, Work::Write { to, bytes })
}

/// # Safety
///
/// `to` is null or `bytes` bytes can be written there.
unsafe fn device_to_host(device: &mut Device, to: *mut c_void, from: u64, bytes: usize, stream: u64) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    if to.is_null() {
        return Err(Refusal::invalid("copy to a null pointer"));
    }
    device.check(from, bytes as u64, Access::Read)?;
    let address = to.expose_provenance();
    let sink = Box::new(move |bytes: &[u8]| {
        // SAFETY: the buffer of the caller is as long as the copy, and the caller's call has not returned: the copy is
        // waited for below, with the device locked.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), ptr::with_exposed_provenance_mut(address), bytes.len()) }
    });
    let stream = device.stream(stream);
    let bytes = bytes as u64;
    device.submit(stream, Work::Read { from, bytes, sink })?;
    device.wait(stream)
}

fn fill(device: &mut Device, to: u64, pattern: Vec<u8>, count: usize, stream: u64) -> Outcome {
    let width = pattern.len() as u64;
    let bytes = width * count as u64;
    if !to.is_multiple_of(width) {
        return Err(Refusal::invalid(format!(
            "fill at {to:#x}: not aligned to {width} bytes"
        )));
    }
    if bytes == 0 {
        return Ok(());
    }
    device.check(to, bytes, Access::Write)?;
    let stream = device.stream(stream);
    device.submit(stream, Work::Fill { to, bytes, pattern })
}
