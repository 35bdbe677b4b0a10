//! Allocations, the memory pool, and virtual memory.

use std::ffi::{c_int, c_void};

use super::context::{POOL, get_untyped};
use super::{driver, get, put};
use crate::code::{Code, Outcome, Refusal};
use crate::device::Device;
use crate::memory::Rights;
use crate::work::Work;

/// `CUmemLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Location {
    kind: u32,
    id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Properties {
    kind: u32,
    handle_kinds: u32,
    location: Location,
    windows: *const c_void,
    compression: u8,
    rdma: u8,
    usage: u16,
    reserved: [u8; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
struct AccessDescription {
    location: Location,
    flags: u32,
}

const PINNED: u32 = 1;
const ON_DEVICE: u32 = 1;
const POOL_RELEASE_THRESHOLD: u32 = 4;
const POOL_RESERVED_NOW: u32 = 5;
const POOL_USED_NOW: u32 = 7;

fn manages_memory(device: &Device) -> Outcome {
    let refusal = || Refusal::new(Code::NotSupported, "the device does not manage virtual memory");
    device.knobs.vmm.then_some(()).ok_or_else(refusal)
}

/// # Safety
///
/// `properties` is null or points to a `CUmemAllocationProp`.
unsafe fn check_properties(device: &Device, properties: *const Properties) -> Outcome {
    // SAFETY: the contract of this function.
    let properties = unsafe { get(properties) }?;
    if properties.kind != PINNED
        || properties.location.kind != ON_DEVICE
        || properties.handle_kinds != 0
        || !properties.windows.is_null()
        || (
            properties.compression,
            properties.rdma,
            properties.usage,
            properties.reserved,
        ) != (0, 0, 0, [0; 4])
    {
        return Err(Refusal::invalid(
            "properties other than plain pinned memory on the device",
        ));
    }
    device.ordinal(properties.location.id)
}

fn check_pool(pool: *mut c_void) -> Outcome {
    match pool.addr() {
        POOL => Ok(()),
        other => Err(Refusal::invalid(format!("{other:#x} is no memory pool"))),
    }
}

driver! {
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) needs Context |device| {
        let (used, _) = device.memory.used_and_peak();
        let capacity = device.memory.capacity();
        // SAFETY: the caller's promise.
        unsafe { put(free, (capacity - used) as usize) }?;
        // SAFETY: the caller's promise.
        unsafe { put(total, capacity as usize) }
    }

    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) needs Context |device| {
        let allocated = device.memory.allocate(bytes as u64, false)?;
        // SAFETY: the caller's promise.
        unsafe { put(address, allocated) }
    }

    fn cuMemFree_v2(address: u64) needs Context |device| {
        if address == 0 {
            return Ok(());
        }
        device.wait_all()?;
        device.memory.free(address)
    }

    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: *mut c_void) needs Context |device| {
        if !device.knobs.pools {
            return Err(Refusal::new(Code::NotSupported, "the device has no memory pools"));
        }
        let stream = device.stream(stream.addr() as u64);
        device.streams.last(stream)?;
        let allocated = device.memory.allocate(bytes as u64, true)?;
        // SAFETY: the caller's promise.
        unsafe { put(address, allocated) }
    }

    fn cuMemFreeAsync(address: u64, stream: *mut c_void) needs Context |device| {
        if address == 0 {
            return Ok(());
        }
        if !device.memory.is_allocation(address) {
            return Err(Refusal::invalid(format!("{address:#x} is not the start of an allocation")));
        }
        let stream = device.stream(stream.addr() as u64);
        device.submit(stream, Work::Free { address })
    }

    fn cuMemPoolTrimTo(pool: *mut c_void, keep: usize) needs Context |device| {
        check_pool(pool)?;
        device.memory.trim_pool(keep as u64);
        Ok(())
    }

    fn cuMemPoolSetAttribute(pool: *mut c_void, attribute: u32, value: *mut c_void) needs Context |device| {
        check_pool(pool)?;
        if attribute != POOL_RELEASE_THRESHOLD {
            return Err(Refusal::invalid(format!("attribute {attribute} of a pool cannot be set")));
        }
        // SAFETY: the caller's promise; this attribute is 64 bits.
        device.pool_threshold = unsafe { get_untyped(value) }?;
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: *mut c_void, attribute: u32, value: *mut c_void) needs Context |device| {
        check_pool(pool)?;
        let (reserved, used) = device.memory.pool();
        let found = match attribute {
            POOL_RELEASE_THRESHOLD => device.pool_threshold,
            POOL_RESERVED_NOW => reserved,
            POOL_USED_NOW => used,
            _ => return Err(Refusal::invalid(format!("attribute {attribute} of a pool is not kept"))),
        };
        // SAFETY: the caller's promise; these attributes are 64 bits.
        unsafe { put(value.cast::<u64>(), found) }
    }

    fn cuMemGetAllocationGranularity(bytes: *mut usize, properties: *const Properties, option: u32) needs Context |device| {
        manages_memory(device)?;
        // SAFETY: the caller's promise.
        unsafe { check_properties(device, properties) }?;
        if option > 1 {
            return Err(Refusal::invalid(format!("granularity option {option}")));
        }
        // SAFETY: the caller's promise.
        unsafe { put(bytes, device.memory.granularity() as usize) }
    }

    fn cuMemAddressReserve(address: *mut u64, bytes: usize, align: usize, hint: u64, flags: u64) needs Context |device| {
        manages_memory(device)?;
        let reserved = device.memory.reserve(bytes as u64, align as u64, hint, flags)?;
        // SAFETY: the caller's promise.
        unsafe { put(address, reserved) }
    }

    fn cuMemAddressFree(address: u64, bytes: usize) needs Context |device| {
        device.memory.free_reservation(address, bytes as u64)
    }

    fn cuMemCreate(handle: *mut u64, bytes: usize, properties: *const Properties, flags: u64) needs Context |device| {
        manages_memory(device)?;
        // SAFETY: the caller's promise.
        unsafe { check_properties(device, properties) }?;
        let created = device.memory.create(bytes as u64, flags)?;
        // SAFETY: the caller's promise.
        unsafe { put(handle, created) }
    }

    fn cuMemRelease(handle: u64) needs Context |device| { device.memory.release(handle) }

    fn cuMemRetainAllocationHandle(handle: *mut u64, address: *mut c_void) needs Context |device| {
        let retained = device.memory.retain(address.addr() as u64)?;
        // SAFETY: the caller's promise.
        unsafe { put(handle, retained) }
    }

    fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64) needs Context |device| {
        device.memory.map(address, bytes as u64, offset as u64, handle, flags)
    }

    fn cuMemUnmap(address: u64, bytes: usize) needs Context |device| { device.memory.unmap(address, bytes as u64) }

    fn cuMemSetAccess(address: u64, bytes: usize, access: *const AccessDescription, count: usize) needs Context |device| {
        if count != 1 {
            return Err(Refusal::invalid(format!("{count} access descriptions for one device")));
        }
        // SAFETY: the caller's promise.
        let AccessDescription { location, flags } = unsafe { get(access) }?;
        if location.kind != ON_DEVICE {
            return Err(Refusal::invalid("access from elsewhere than a device"));
        }
        device.ordinal(location.id)?;
        let rights = Rights::from_number(flags).ok_or_else(|| Refusal::invalid(format!("access flags {flags}")))?;
        device.memory.set_access(address, bytes as u64, rights)
    }

    fn cuMemGetAccess(flags: *mut u64, location: *const Location, address: u64) needs Context |device| {
        // SAFETY: the caller's promise.
        device.ordinal(unsafe { get(location) }?.id)?;
        let rights = device.memory.access_at(address)?;
        // SAFETY: the caller's promise.
        unsafe { put(flags, rights.number()) }
    }
}
