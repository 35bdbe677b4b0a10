//! Modules and launches.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use super::{driver, put};
use crate::code::{Code, Outcome, Refusal};
use crate::device::Device;
use crate::work::Work;

fn handle(name: u64) -> *mut c_void {
    ptr::without_provenance_mut(name as usize)
}

driver! {
    fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) needs Context |device| {
        if image.is_null() {
            return Err(Refusal::invalid("no image"));
        }
        // SAFETY: an image is a text with a nul at its end, unless it begins like a binary; those begin with other bytes
        // than a text, and a nul comes soon enough in them.
        let text = unsafe { CStr::from_ptr(image.cast()) }.to_str();
        let text = text.map_err(|_| Refusal::new(Code::NoBinaryForGpu, "not a text: only PTX is run here"))?;
        let loaded = device.modules.load(text, &device.knobs, &mut device.memory)?;
        // SAFETY: the caller's promise.
        unsafe { put(module, handle(loaded)) }
    }

    fn cuModuleUnload(module: *mut c_void) needs Context |device| {
        device.modules.unload(module.addr() as u64, &mut device.memory)
    }

    fn cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) needs Context |device| {
        if name.is_null() {
            return Err(Refusal::invalid("no name"));
        }
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let found = device.modules.function(module.addr() as u64, &name)?;
        // SAFETY: the caller's promise.
        unsafe { put(function, handle(found)) }
    }

    fn cuLaunchKernel(
        function: *mut c_void,
        grid_x: u32, grid_y: u32, grid_z: u32,
        block_x: u32, block_y: u32, block_z: u32,
        shared_bytes: u32,
        stream: *mut c_void,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) needs Context |device| {
        if !extra.is_null() {
            return Err(Refusal::new(Code::NotSupported, "parameters through `extra`"));
        }
        let function = function.addr() as u64;
        // SAFETY: the caller's promise.
        let parameters = unsafe { gather(device, function, parameters) }?;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let launch = device.modules.launch(function, grid, block, shared_bytes as usize, parameters)?;
        let stream = device.stream(stream.addr() as u64);
        device.submit(stream, Work::Launch(launch))
    }
}

/// Copies the parameters of a launch, which the caller may change as soon as the call returns.
///
/// # Safety
///
/// `parameters` is null or points to as many pointers as the function has parameters, each null or to a value of its size.
unsafe fn gather(device: &Device, function: u64, parameters: *mut *mut c_void) -> Outcome<Vec<u8>> {
    let (places, bytes) = device.modules.parameters(function)?;
    let mut gathered = vec![0; bytes];
    for (index, place) in places.iter().enumerate() {
        if parameters.is_null() {
            return Err(Refusal::invalid("no parameters"));
        }
        // SAFETY: not null, so it has a pointer for each parameter: the contract of this function.
        let from = unsafe { *parameters.add(index) };
        if from.is_null() {
            return Err(Refusal::invalid(format!("parameter {index} is a null pointer")));
        }
        let to = &mut gathered[place.offset..place.offset + place.bytes];
        // SAFETY: not null, so it points to a value of this size: the contract of this function.
        unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to.as_mut_ptr(), to.len()) };
    }
    Ok(gathered)
}
