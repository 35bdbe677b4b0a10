//! The rules that the functions themselves check, each broken once: what a caller passes in C.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut, without_provenance_mut};

use super::device;
use crate::device::Device;

type Pointer = *mut c_void;

unsafe extern "C" {
    fn cuInit(flags: u32) -> u32;
    fn cuDriverGetVersion(version: *mut c_int) -> u32;
    fn cuGetErrorName(code: u32, name: *mut *const c_char) -> u32;
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> u32;
    fn cuDeviceGetName(name: *mut c_char, length: c_int, ordinal: c_int) -> u32;
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: u32, ordinal: c_int) -> u32;
    fn cuDeviceGetDefaultMemPool(pool: *mut Pointer, ordinal: c_int) -> u32;
    fn cuDevicePrimaryCtxRetain(context: *mut Pointer, ordinal: c_int) -> u32;
    fn cuCtxSetCurrent(context: Pointer) -> u32;
    fn cuStreamCreate(stream: *mut Pointer, flags: u32) -> u32;
    fn cuStreamWaitEvent(stream: Pointer, event: Pointer, flags: u32) -> u32;
    fn cuEventCreate(event: *mut Pointer, flags: u32) -> u32;
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> u32;
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: Pointer) -> u32;
    fn cuMemFreeAsync(address: u64, stream: Pointer) -> u32;
    fn cuMemPoolTrimTo(pool: Pointer, keep: usize) -> u32;
    fn cuMemPoolSetAttribute(pool: Pointer, attribute: u32, value: Pointer) -> u32;
    fn cuMemPoolGetAttribute(pool: Pointer, attribute: u32, value: Pointer) -> u32;
    fn cuMemGetAllocationGranularity(bytes: *mut usize, properties: *const c_void, option: u32) -> u32;
    fn cuMemAddressReserve(address: *mut u64, bytes: usize, align: usize, hint: u64, flags: u64) -> u32;
    fn cuMemSetAccess(address: u64, bytes: usize, access: *const c_void, count: usize) -> u32;
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Pointer) -> u32;
    fn cuMemcpyDtoHAsync_v2(to: Pointer, from: u64, bytes: usize, stream: Pointer) -> u32;
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Pointer) -> u32;
    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Pointer) -> u32;
    fn cuModuleLoadData(module: *mut Pointer, image: *const c_void) -> u32;
    fn cuModuleGetFunction(function: *mut Pointer, module: Pointer, name: *const c_char) -> u32;
    fn cuLaunchKernel(
        function: Pointer,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared_bytes: u32,
        stream: Pointer,
        parameters: *mut Pointer,
        extra: *mut Pointer,
    ) -> u32;
    fn cuModuleLoad() -> u32;
    fn cublasDgemmStridedBatched() -> u32;
    fn cublasCreate_v2(handle: *mut Pointer) -> u32;
    fn cublasDestroy_v2(handle: Pointer) -> u32;
    fn cublasSetStream_v2(handle: Pointer, stream: Pointer) -> u32;
    fn cublasSgemm_v2(
        handle: Pointer,
        transposed_a: u32,
        transposed_b: u32,
        m: c_int,
        n: c_int,
        k: c_int,
        alpha: *const f32,
        a: u64,
        leading_a: c_int,
        b: u64,
        leading_b: c_int,
        beta: *const f32,
        c: u64,
        leading_c: c_int,
    ) -> u32;
    fn curandCreateGenerator(generator: *mut Pointer, kind: u32) -> u32;
    fn curandSetStream(generator: Pointer, stream: Pointer) -> u32;
    fn curandSetPseudoRandomGeneratorSeed(generator: Pointer, seed: u64) -> u32;
    fn curandDestroyGenerator(generator: Pointer) -> u32;
}

const KERNEL: &CStr = c".version 8.0 .target sm_70 .address_size 64 .visible .entry k(.param .u64 to) { ret; }";

/// `CUmemAllocationProp` of pinned memory on device 0, and what may be wrong with it.
fn properties(change: impl FnOnce(&mut [u32; 8])) -> [u32; 8] {
    let mut words = [1, 0, 1, 0, 0, 0, 0, 0];
    change(&mut words);
    words
}

/// Checks that a call was refused with this code, and for this reason.
#[track_caller]
fn refused(code: u32, expected: u32, why: &str) {
    assert_eq!(code, expected, "{why}");
    let device = device();
    let last = device.refusals().last().map_or("", String::as_str);
    assert!(last.contains(why), "'{last}' does not say '{why}'");
}

/// One test: it has the one device of the process.
#[test]
fn arguments_are_checked() {
    let none = null_mut::<c_void>();
    let nowhere = without_provenance_mut::<c_void>(0x5);
    let (mut number, mut size, mut address, mut pointer) = (0, 0, 0, none);
    let (one, mut word) = (1.0f32, 0u64);
    // SAFETY: every pointer is null, or leads to a value of its type that outlives the call; handles are numbers.
    unsafe {
        *device() = Device::new("vmm=0,pools=0".parse().unwrap());
        refused(cuDeviceGet(&raw mut number, 0), 3, "cuInit was not called");
        refused(cuInit(1), 1, "flags of cuInit must be 0");
        assert_eq!((cuInit(0), cuDeviceGet(&raw mut number, 0)), (0, 0));
        refused(cuDeviceGet(&raw mut number, 1), 101, "there is no device 1");
        refused(cuStreamCreate(&raw mut pointer, 0), 201, "no context is current");
        assert_eq!(cuDevicePrimaryCtxRetain(&raw mut pointer, 0), 0);
        refused(cuCtxSetCurrent(nowhere), 201, "is no context");
        assert_eq!(cuCtxSetCurrent(pointer), 0);
        refused(cuDeviceGetDefaultMemPool(&raw mut pointer, 0), 801, "no memory pools");
        refused(cuMemAllocAsync(&raw mut address, 8, none), 801, "no memory pools");
        let reserve = cuMemAddressReserve(&raw mut address, 2 << 20, 2 << 20, 0, 0);
        refused(reserve, 801, "does not manage virtual memory");

        *device() = Device::new("granularity=8192".parse().unwrap());
        assert_eq!((cuInit(0), cuDevicePrimaryCtxRetain(&raw mut pointer, 0)), (0, 0));
        assert_eq!(cuCtxSetCurrent(pointer), 0);
        refused(cuDriverGetVersion(null_mut()), 1, "null pointer for a result");
        let mut text = null();
        refused(cuGetErrorName(12_345, &raw mut text), 1, "error 12345 is unknown");
        refused(cuDeviceGetName(null_mut(), 9, 0), 1, "no room for a name");
        refused(
            cuDeviceGetName(without_provenance_mut(8), -1, 0),
            1,
            "no room for a name",
        );
        refused(
            cuDeviceGetAttribute(&raw mut number, 0, 0),
            1,
            "attribute 0 does not exist",
        );
        refused(
            cuDeviceGetAttribute(&raw mut number, 148, 0),
            1,
            "attribute 148 does not exist",
        );

        refused(cuStreamCreate(&raw mut pointer, 2), 1, "flags 2 of a stream");
        refused(cuEventCreate(&raw mut pointer, 4), 1, "flags 4 of an event");
        assert_eq!(cuEventCreate(&raw mut pointer, 3), 0);
        refused(cuStreamWaitEvent(none, pointer, 2), 1, "flags 2 of a wait");
        refused(cuStreamWaitEvent(nowhere, pointer, 0), 400, "stream 0x5 does not exist");

        for (change, at) in [(0, 2), (1, 1), (2, 2), (4, 1), (6, 1), (7, 1)] {
            let wrong = properties(|words| words[change] = at);
            let asked = cuMemGetAllocationGranularity(&raw mut size, wrong.as_ptr().cast(), 0);
            refused(asked, 1, "other than plain pinned memory");
        }
        let elsewhere = properties(|words| words[3] = 1);
        let asked = cuMemGetAllocationGranularity(&raw mut size, elsewhere.as_ptr().cast(), 0);
        refused(asked, 101, "there is no device 1");
        let good = properties(|_| ());
        let asked = cuMemGetAllocationGranularity(&raw mut size, good.as_ptr().cast(), 2);
        refused(asked, 1, "granularity option 2");
        refused(
            cuMemGetAllocationGranularity(&raw mut size, null(), 0),
            1,
            "null pointer for an argument",
        );

        let access = [1u32, 0, 3];
        for (words, count, why) in [
            ([1u32, 0, 3], 2, "2 access descriptions"),
            ([2, 0, 3], 1, "elsewhere than a device"),
            ([1, 0, 2], 1, "access flags 2"),
        ] {
            refused(cuMemSetAccess(8192, 8192, words.as_ptr().cast(), count), 1, why);
        }
        refused(
            cuMemSetAccess(8192, 8192, access.as_ptr().cast(), 1),
            1,
            "no mapping begins",
        );
        refused(cuMemFreeAsync(64, none), 1, "not the start of an allocation");
        refused(cuMemPoolTrimTo(nowhere, 0), 1, "is no memory pool");
        assert_eq!(cuDeviceGetDefaultMemPool(&raw mut pointer, 0), 0);
        let value = (&raw mut word).cast();
        refused(
            cuMemPoolSetAttribute(pointer, 5, value),
            1,
            "attribute 5 of a pool cannot be set",
        );
        refused(cuMemPoolSetAttribute(pointer, 4, null_mut()), 1, "null pointer");
        refused(
            cuMemPoolGetAttribute(pointer, 1, value),
            1,
            "attribute 1 of a pool is not kept",
        );

        assert_eq!(cuMemAlloc_v2(&raw mut address, 256), 0);
        refused(
            cuMemcpyHtoDAsync_v2(address, null(), 8, none),
            1,
            "copy from a null pointer",
        );
        refused(
            cuMemcpyDtoHAsync_v2(null_mut(), address, 8, none),
            1,
            "copy to a null pointer",
        );
        refused(cuMemcpyDtoDAsync_v2(address + 4, address, 8, none), 1, "they overlap");
        refused(cuMemsetD32Async(address + 2, 0, 1, none), 1, "not aligned to 4 bytes");

        refused(cuModuleLoadData(&raw mut pointer, null()), 1, "no image");
        refused(
            cuModuleLoadData(&raw mut pointer, [0xffu8, 0xfe, 0].as_ptr().cast()),
            209,
            "not a text",
        );
        assert_eq!(cuModuleLoadData(&raw mut pointer, KERNEL.as_ptr().cast()), 0);
        let (module, mut function) = (pointer, none);
        refused(cuModuleGetFunction(&raw mut function, module, null()), 1, "no name");
        refused(
            cuModuleGetFunction(&raw mut function, module, c"other".as_ptr()),
            500,
            "other",
        );
        assert_eq!(cuModuleGetFunction(&raw mut function, module, c"k".as_ptr()), 0);
        let launch =
            |function, parameters, extra| cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, none, parameters, extra);
        refused(
            launch(function, null_mut(), &raw mut pointer),
            801,
            "parameters through `extra`",
        );
        refused(launch(function, null_mut(), null_mut()), 1, "no parameters");
        let mut parameters = [none];
        refused(
            launch(function, parameters.as_mut_ptr(), null_mut()),
            1,
            "parameter 0 is a null pointer",
        );
        refused(
            launch(nowhere, parameters.as_mut_ptr(), null_mut()),
            400,
            "0x5 does not exist",
        );

        refused(cublasCreate_v2(null_mut()), 13, "null pointer for a result");
        let mut blas = none;
        assert_eq!(cublasCreate_v2(&raw mut blas), 0);
        assert_eq!(cublasSetStream_v2(blas, without_provenance_mut(2)), 0);
        let gemm = |handle, operation, rows, leading| {
            let alpha = &raw const one;
            let (a, b, c) = (address, address + 64, address + 128);
            cublasSgemm_v2(handle, operation, 0, rows, 2, 2, alpha, a, leading, b, 2, alpha, c, 2)
        };
        assert_eq!(gemm(blas, 1, 2, 2), 0);
        refused(gemm(nowhere, 0, 2, 2), 13, "library handle 0x5 does not exist");
        refused(gemm(blas, 2, 2, 2), 13, "operation 2 on a matrix");
        refused(gemm(blas, 0, -1, 2), 13, "a matrix of -1 rows");
        refused(gemm(blas, 0, 2, 1), 13, "columns of a are 2 long and 1 apart");
        assert_eq!(cublasDestroy_v2(blas), 0);
        refused(cublasDestroy_v2(blas), 13, "library handle");

        refused(cuModuleLoad(), 801, "not emulated");
        refused(cublasDgemmStridedBatched(), 15, "not emulated");

        let mut generator = none;
        assert_eq!(curandCreateGenerator(&raw mut generator, 100), 0);
        assert_eq!(curandSetStream(generator, none), 0);
        assert_eq!(curandSetPseudoRandomGeneratorSeed(generator, 7), 0);
        assert_eq!(curandDestroyGenerator(generator), 0);
        refused(curandSetPseudoRandomGeneratorSeed(generator, 7), 201, "library handle");
    }
    *device() = Device::new("".parse().unwrap());
}
