//! Calls of the CUDA driver. All of them stand here, and nothing else of the crate has `unsafe` for CUDA.
//!
//! A [`Driver`] is one device with its primary context, the one that candle and cudarc use too, so addresses and streams can
//! be passed between them. Every call makes the context current on the calling thread first.
//!
//! What the driver documents as an error comes back as a [`DriverError`] with its number. Addresses and memory handles are
//! plain numbers, and the driver checks them. Streams, events and modules are owned values here: using a destroyed
//! one is undefined.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int, c_void};
use std::fmt;
use std::mem::{align_of, size_of};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;
use libloading::Library;

use super::error::{DriverError, NOT_READY, NotAvailable, Result};

/// Address of a byte of the device.
pub type Address = u64;
/// Names physical memory of the device.
pub type Handle = u64;

/// `CUmemLocation`, the same in all versions of the bindings, which cudarc's is not.
#[repr(C)]
#[derive(Clone, Copy)]
struct Location {
    kind: u32,
    id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
struct Properties {
    kind: u32,
    handle_kinds: u32,
    location: Location,
    windows: *const c_void,
    /// Compression, RDMA, usage, and bytes that must be zero.
    flags: [u8; 8],
}

/// `CUmemAccessDesc`.
#[repr(C)]
struct AccessDescription {
    location: Location,
    flags: u32,
}

const _: () = {
    assert!(size_of::<Location>() == 8 && size_of::<Location>() == size_of::<sys::CUmemLocation>());
    assert!(align_of::<Location>() == align_of::<sys::CUmemLocation>());
    assert!(size_of::<Properties>() == 32 && size_of::<Properties>() == size_of::<sys::CUmemAllocationProp>());
    assert!(align_of::<Properties>() == align_of::<sys::CUmemAllocationProp>());
    assert!(size_of::<AccessDescription>() == 12);
    assert!(size_of::<AccessDescription>() == size_of::<sys::CUmemAccessDesc>());
    assert!(align_of::<AccessDescription>() == align_of::<sys::CUmemAccessDesc>());
};

/// `CU_MEM_ALLOCATION_TYPE_PINNED`.
const PINNED: u32 = 1;
/// `CUDA_ERROR_INVALID_IMAGE`.
const INVALID_IMAGE: u32 = 200;
/// `CU_MEM_LOCATION_TYPE_DEVICE`.
const ON_DEVICE: u32 = 1;

/// Rights to mapped memory, `CUmemAccess_flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Reading only.
    Read = 1,
    /// Reading and writing.
    ReadWrite = 3,
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Version of the driver API: 1000 · major + 10 · minor.
    pub driver: u32,
    /// Compute capability, major and minor.
    pub compute: (u32, u32),
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Smallest and recommended size of physical memory, in bytes.
    pub granularity: (usize, usize),
    /// How many blocks can run at once, at least.
    pub multiprocessors: u32,
    /// Whether it has memory pools.
    pub pools: bool,
}

/// A device and its primary context.
pub struct Driver {
    ordinal: i32,
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Kept open: the calls go through it.
    _library: Library,
}

// SAFETY: contexts of the driver API may be used from any thread, and every call makes the context current on its own.
unsafe impl Send for Driver {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Driver {}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// Makes a call and turns its result into ours. An expression of the form `function(arguments)`.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: the context is current where the function needs one, and every pointer among the arguments comes from a
        // reference or a slice of this function that outlives the call, or from a value that owns what it points to.
        let code = unsafe { sys::$function($($argument),*) } as u32;
        if code == 0 { Ok(()) } else { Err(DriverError { call: stringify!($function), code }) }
    }};
}

/// Functions whose absence would otherwise be a panic at their first use.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetDefaultMemPool",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuMemGetInfo_v2",
    "cuMemGetAllocationGranularity",
    "cuMemAddressReserve",
    "cuMemAddressFree",
    "cuMemCreate",
    "cuMemRelease",
    "cuMemMap",
    "cuMemUnmap",
    "cuMemSetAccess",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemPoolTrimTo",
    "cuMemPoolSetAttribute",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventDestroy_v2",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuLaunchKernel",
];

/// Names under which cudarc looks for the driver, in its order where it matters.
const LIBRARIES: &[&str] = &["libcuda.so", "libcuda.so.1"];

/// Opens the driver's library, and finds out before cudarc would panic whether it can be used.
fn open_library() -> Result<Library, NotAvailable> {
    let mut why = String::from("there is no NVIDIA driver");
    for name in LIBRARIES {
        // SAFETY: the driver's library is meant to be loaded into any process; its initialisers have no conditions.
        match unsafe { Library::new(*name) } {
            Ok(library) => {
                for function in FUNCTIONS {
                    // SAFETY: only whether the symbol exists is asked; it is not called through this pointer.
                    if unsafe { library.get::<*const c_void>(function.as_bytes()) }.is_err() {
                        let why = format!("the driver in {name} has no function {function}: a newer driver is needed");
                        return Err(NotAvailable { why });
                    }
                }
                return Ok(library);
            }
            Err(error) => why = format!("there is no NVIDIA driver ({error})"),
        }
    }
    Err(NotAvailable { why })
}

impl Driver {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    ///
    /// [`NotAvailable`] when there is no driver, no such device, or a device that does not manage virtual memory.
    pub fn open(ordinal: i32) -> Result<Arc<Self>, NotAvailable> {
        let library = open_library()?;
        Self::retain(ordinal, library).map_err(|error| match error {
            Opening::Failed(error) => NotAvailable { why: error.to_string() },
            Opening::NoVirtualMemory => NotAvailable {
                why: format!("device {ordinal} does not support virtual memory management"),
            },
        })
    }

    fn retain(ordinal: i32, library: Library) -> Result<Arc<Self>, Opening> {
        call!(cuInit(0))?;
        let (mut device, mut supported) = (0, 0);
        call!(cuDeviceGet(&raw mut device, ordinal))?;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_ADDRESS_MANAGEMENT_SUPPORTED;
        call!(cuDeviceGetAttribute(&raw mut supported, attribute, device))?;
        if supported == 0 {
            return Err(Opening::NoVirtualMemory);
        }
        let mut context = ptr::null_mut();
        call!(cuDevicePrimaryCtxRetain(&raw mut context, device))?;
        Ok(Arc::new(Self {
            ordinal,
            device,
            context,
            _library: library,
        }))
    }

    /// The number of the device.
    #[must_use]
    pub fn ordinal(&self) -> i32 {
        self.ordinal
    }

    /// Makes the context current on this thread.
    fn bind(&self) -> Result {
        call!(cuCtxSetCurrent(self.context))
    }

    /// What the device says of itself.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn info(&self) -> Result<DeviceInfo> {
        let mut name = [0u8; 256];
        let (mut driver, mut memory_bytes) = (0, 0);
        call!(cuDriverGetVersion(&raw mut driver))?;
        call!(cuDeviceGetName(
            name.as_mut_ptr().cast(),
            name.len() as c_int,
            self.device
        ))?;
        call!(cuDeviceTotalMem_v2(&raw mut memory_bytes, self.device))?;
        let attribute = |attribute| {
            let mut value = 0;
            call!(cuDeviceGetAttribute(&raw mut value, attribute, self.device))?;
            Ok(value as u32)
        };
        use sys::CUdevice_attribute as Attribute;
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        Ok(DeviceInfo {
            name: String::from_utf8_lossy(&name[..length]).into_owned(),
            driver: driver as u32,
            compute: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            memory_bytes,
            granularity: (self.granularity(false)?, self.granularity(true)?),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            pools: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0,
        })
    }

    fn properties(&self) -> Properties {
        Properties {
            kind: PINNED,
            handle_kinds: 0,
            location: self.location(),
            windows: ptr::null(),
            flags: [0; 8],
        }
    }

    fn location(&self) -> Location {
        Location {
            kind: ON_DEVICE,
            id: self.device,
        }
    }

    /// The smallest size of physical memory, or the recommended one: sizes and addresses are multiples of it.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn granularity(&self, recommended: bool) -> Result<usize> {
        use sys::CUmemAllocationGranularity_flags as Option;
        self.bind()?;
        let option = match recommended {
            false => Option::CU_MEM_ALLOC_GRANULARITY_MINIMUM,
            true => Option::CU_MEM_ALLOC_GRANULARITY_RECOMMENDED,
        };
        let (properties, mut bytes) = (self.properties(), 0);
        call!(cuMemGetAllocationGranularity(
            &raw mut bytes,
            (&raw const properties).cast(),
            option
        ))?;
        Ok(bytes)
    }

    /// Free and total memory of the device in bytes, for all its users together.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn memory_info(&self) -> Result<(usize, usize)> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        call!(cuMemGetInfo_v2(&raw mut free, &raw mut total))?;
        Ok((free, total))
    }

    /// Reserves addresses.
    ///
    /// # Errors
    ///
    /// The driver refused: sizes are not multiples of the granularity, or addresses are used up.
    pub fn reserve(&self, bytes: usize, align: usize) -> Result<Address> {
        self.bind()?;
        let mut address = 0;
        call!(cuMemAddressReserve(&raw mut address, bytes, align, 0, 0))?;
        Ok(address)
    }

    /// Gives a reservation back. Nothing may be mapped in it.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn release_addresses(&self, address: Address, bytes: usize) -> Result {
        self.bind()?;
        call!(cuMemAddressFree(address, bytes))
    }

    /// Creates physical memory.
    ///
    /// # Errors
    ///
    /// The driver refused: the size is no multiple of the granularity, or memory is used up.
    pub fn create(&self, bytes: usize) -> Result<Handle> {
        self.bind()?;
        let (properties, mut handle) = (self.properties(), 0);
        call!(cuMemCreate(&raw mut handle, bytes, (&raw const properties).cast(), 0))?;
        Ok(handle)
    }

    /// Gives a handle back. The memory lives on while it is mapped.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn release(&self, handle: Handle) -> Result {
        self.bind()?;
        call!(cuMemRelease(handle))
    }

    /// Maps the memory of a handle, without any right to it.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn map(&self, address: Address, bytes: usize, handle: Handle) -> Result {
        self.bind()?;
        call!(cuMemMap(address, bytes, 0, handle, 0))
    }

    /// Takes away what one [`Driver::map`] mapped. It does not wait for work that uses it.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn unmap(&self, address: Address, bytes: usize) -> Result {
        self.bind()?;
        call!(cuMemUnmap(address, bytes))
    }

    /// Gives rights to a range of whole mappings.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn set_access(&self, address: Address, bytes: usize, rights: Rights) -> Result {
        self.bind()?;
        let access = AccessDescription {
            location: self.location(),
            flags: rights as u32,
        };
        call!(cuMemSetAccess(address, bytes, (&raw const access).cast(), 1))
    }

    /// Waits for all work of the context.
    ///
    /// # Errors
    ///
    /// The work failed.
    pub fn synchronize(&self) -> Result {
        self.bind()?;
        call!(cuCtxSynchronize())
    }

    /// Makes a stream of its own, which is not ordered with the default stream.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn stream(self: &Arc<Self>) -> Result<Stream> {
        self.bind()?;
        let mut raw = ptr::null_mut();
        call!(cuStreamCreate(&raw mut raw, NON_BLOCKING))?;
        Ok(Stream {
            driver: Arc::clone(self),
            raw: StreamHandle(raw.expose_provenance()),
        })
    }

    /// Sets bytes of the device, in the order of the stream.
    ///
    /// # Errors
    ///
    /// The driver refused, or earlier work failed.
    pub fn fill(&self, stream: StreamHandle, to: Address, value: u8, bytes: usize) -> Result {
        self.bind()?;
        call!(cuMemsetD8Async(to, value, bytes, stream.raw()))
    }

    /// Copies bytes of the device to other bytes of it, in the order of the stream.
    ///
    /// # Errors
    ///
    /// The driver refused, or earlier work failed.
    pub fn copy(&self, stream: StreamHandle, to: Address, from: Address, bytes: usize) -> Result {
        self.bind()?;
        call!(cuMemcpyDtoDAsync_v2(to, from, bytes, stream.raw()))
    }

    /// Copies bytes to the device, in the order of the stream, and waits for it.
    ///
    /// # Errors
    ///
    /// The driver refused, or earlier work failed.
    pub fn write(&self, stream: StreamHandle, to: Address, bytes: &[u8]) -> Result {
        self.bind()?;
        call!(cuMemcpyHtoDAsync_v2(
            to,
            bytes.as_ptr().cast(),
            bytes.len(),
            stream.raw()
        ))?;
        self.wait_stream(stream)
    }

    /// Copies bytes from the device, in the order of the stream, and waits for it.
    ///
    /// # Errors
    ///
    /// The driver refused, or earlier work failed.
    pub fn read(&self, stream: StreamHandle, from: Address, bytes: &mut [u8]) -> Result {
        self.bind()?;
        call!(cuMemcpyDtoHAsync_v2(
            bytes.as_mut_ptr().cast(),
            from,
            bytes.len(),
            stream.raw()
        ))?;
        self.wait_stream(stream)
    }

    /// Waits for all work of a stream.
    ///
    /// # Errors
    ///
    /// The work failed.
    pub fn wait_stream(&self, stream: StreamHandle) -> Result {
        self.bind()?;
        call!(cuStreamSynchronize(stream.raw()))
    }

    /// An event behind all work of a stream so far.
    ///
    /// # Errors
    ///
    /// The driver refused, or earlier work failed.
    pub fn record(self: &Arc<Self>, stream: StreamHandle) -> Result<Event> {
        self.bind()?;
        let mut raw = ptr::null_mut();
        call!(cuEventCreate(&raw mut raw, DISABLE_TIMING))?;
        let event = Event {
            driver: Arc::clone(self),
            raw: raw.expose_provenance(),
        };
        call!(cuEventRecord(raw, stream.raw()))?;
        Ok(event)
    }

    /// Lets later work of a stream come after an event.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn wait_event(&self, stream: StreamHandle, event: &Event) -> Result {
        self.bind()?;
        call!(cuStreamWaitEvent(stream.raw(), event.raw(), 0))
    }

    /// Allocates memory from the default pool, in the order of the stream.
    ///
    /// # Errors
    ///
    /// Memory is used up, or the device has no pools.
    pub fn allocate(&self, stream: StreamHandle, bytes: usize) -> Result<Address> {
        self.bind()?;
        let mut address = 0;
        call!(cuMemAllocAsync(&raw mut address, bytes, stream.raw()))?;
        Ok(address)
    }

    /// Gives memory back to the default pool, in the order of the stream.
    ///
    /// # Errors
    ///
    /// The address is not that of an allocation.
    pub fn free(&self, stream: StreamHandle, address: Address) -> Result {
        self.bind()?;
        call!(cuMemFreeAsync(address, stream.raw()))
    }

    fn default_pool(&self) -> Result<sys::CUmemoryPool> {
        let mut pool = ptr::null_mut();
        call!(cuDeviceGetDefaultMemPool(&raw mut pool, self.device))?;
        Ok(pool)
    }

    /// Lets the default memory pool give back what it holds unused.
    ///
    /// # Errors
    ///
    /// The device has no pools.
    pub fn trim_pool(&self) -> Result {
        self.bind()?;
        call!(cuMemPoolTrimTo(self.default_pool()?, 0))
    }

    /// Sets how many bytes the default memory pool may keep over a synchronisation.
    ///
    /// # Errors
    ///
    /// The device has no pools.
    pub fn set_pool_threshold(&self, mut bytes: u64) -> Result {
        self.bind()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        call!(cuMemPoolSetAttribute(
            self.default_pool()?,
            attribute,
            (&raw mut bytes).cast()
        ))
    }
}

/// Why a device could not be opened.
enum Opening {
    Failed(DriverError),
    NoVirtualMemory,
}

impl From<DriverError> for Opening {
    fn from(error: DriverError) -> Self {
        Self::Failed(error)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        insist(|| call!(cuDevicePrimaryCtxRelease_v2(self.device)));
    }
}

/// Makes a call that gives something back and that nobody can be told has failed: twice, if the driver refuses it once.
fn insist(call: impl Fn() -> Result) {
    let _ = call().or_else(|_| call());
}

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: u32 = 2;

/// A stream by its `CUstream`, owned by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHandle(usize);

impl StreamHandle {
    /// The legacy default stream. Work on it comes after all earlier work of the blocking streams of the context, candle's
    /// among them.
    pub const LEGACY: Self = Self(0);

    /// The stream with this `CUstream`.
    ///
    /// # Safety
    ///
    /// The stream belongs to the primary context of the device on which it will be used, and outlives every use.
    #[must_use]
    pub unsafe fn from_raw(stream: *mut c_void) -> Self {
        Self(stream.expose_provenance())
    }

    fn raw(self) -> sys::CUstream {
        ptr::with_exposed_provenance_mut(self.0)
    }
}

/// A stream of its own, destroyed with this value.
#[derive(Debug)]
pub struct Stream {
    driver: Arc<Driver>,
    raw: StreamHandle,
}

impl Stream {
    /// Its handle, to be used while this value lives.
    #[must_use]
    pub fn handle(&self) -> StreamHandle {
        self.raw
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        insist(|| {
            self.driver.bind()?;
            call!(cuStreamDestroy_v2(self.raw.raw()))
        });
    }
}

/// A point in the work of a stream.
#[derive(Debug)]
pub struct Event {
    driver: Arc<Driver>,
    raw: usize,
}

impl Event {
    fn raw(&self) -> sys::CUevent {
        ptr::with_exposed_provenance_mut(self.raw)
    }

    /// Whether the work before it is done. It does not wait.
    ///
    /// # Errors
    ///
    /// The work failed.
    pub fn is_done(&self) -> Result<bool> {
        self.driver.bind()?;
        match call!(cuEventQuery(self.raw())) {
            Err(error) if error.code == NOT_READY => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Waits for the work before it.
    ///
    /// # Errors
    ///
    /// The work failed.
    pub fn wait(&self) -> Result {
        self.driver.bind()?;
        call!(cuEventSynchronize(self.raw()))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        insist(|| {
            self.driver.bind()?;
            call!(cuEventDestroy_v2(self.raw()))
        });
    }
}

/// Kernels from a PTX text.
#[derive(Debug)]
pub struct Module {
    driver: Arc<Driver>,
    raw: usize,
}

/// How many blocks of how many threads run a kernel, and the dynamic shared memory of a block in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y, z.
    pub threads: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}

impl Module {
    /// Compiles a PTX text for the device.
    ///
    /// # Errors
    ///
    /// The driver refused the text.
    pub fn load(driver: &Arc<Driver>, ptx: &str) -> Result<Self> {
        driver.bind()?;
        let text = CString::new(ptx).map_err(|_| DriverError {
            call: "cuModuleLoadData",
            code: INVALID_IMAGE,
        })?;
        let mut raw = ptr::null_mut();
        call!(cuModuleLoadData(&raw mut raw, text.as_ptr().cast()))?;
        Ok(Self {
            driver: Arc::clone(driver),
            raw: raw.expose_provenance(),
        })
    }

    /// Runs a kernel with these arguments, one pointer to each, in the order of the stream.
    ///
    /// # Errors
    ///
    /// There is no such kernel, or the driver refused the launch.
    ///
    /// # Safety
    ///
    /// The arguments are those of the kernel in number and type, and what it does with the addresses among them is in order.
    pub unsafe fn launch(
        &self,
        kernel: &CStr,
        grid: Grid,
        stream: StreamHandle,
        arguments: &mut [*mut c_void],
    ) -> Result {
        self.driver.bind()?;
        let mut function = ptr::null_mut();
        call!(cuModuleGetFunction(&raw mut function, self.raw(), kernel.as_ptr()))?;
        let ([x, y, z], [tx, ty, tz]) = (grid.blocks, grid.threads);
        let (shared, arguments) = (grid.shared_bytes, arguments.as_mut_ptr());
        call!(cuLaunchKernel(
            function,
            x,
            y,
            z,
            tx,
            ty,
            tz,
            shared,
            stream.raw(),
            arguments,
            ptr::null_mut()
        ))
    }

    fn raw(&self) -> sys::CUmodule {
        ptr::with_exposed_provenance_mut(self.raw)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        insist(|| {
            self.driver.bind()?;
            call!(cuModuleUnload(self.raw()))
        });
    }
}
