//! The functions of cuBLAS and cuRAND that candle's CUDA device calls: handles, and the product of f32 matrices. Random numbers
//! are not there.

use std::ffi::{c_int, c_void};
use std::ptr;

use super::{call, get, put};
use crate::code::{Outcome, Refusal};
use crate::device::{Device, Needs};
use crate::gemm::{Gemm, Matrix};
use crate::work::Work;

/// `CUBLAS_STATUS_EXECUTION_FAILED`.
const BLAS_FAILED: u32 = 13;
/// `CURAND_STATUS_LAUNCH_FAILURE`.
const RAND_FAILED: u32 = 201;

/// Defines functions of a library over the driver: whatever goes wrong, they return one code.
macro_rules! library {
    ($failed:ident; $(fn $name:ident($($argument:ident: $type:ty),* $(,)?) |$device:pat_param| $body:block)*) => {
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $type),*) -> u32 {
                match call(stringify!($name), Needs::Context, |$device| $body) {
                    0 => 0,
                    _ => $failed,
                }
            }
        )*
    };
}

fn create(device: &mut Device, handle: *mut *mut c_void) -> Outcome {
    let name = device.libraries.create();
    // SAFETY: the caller's promise.
    unsafe { put(handle, ptr::without_provenance_mut(name as usize)) }
}

library! { BLAS_FAILED;
    fn cublasCreate_v2(handle: *mut *mut c_void) |device| { create(device, handle) }

    fn cublasDestroy_v2(handle: *mut c_void) |device| { device.libraries.destroy(handle.addr() as u64) }

    fn cublasSetStream_v2(handle: *mut c_void, stream: *mut c_void) |device| {
        device.libraries.set_stream(handle.addr() as u64, stream.addr() as u64)
    }

    fn cublasSgemm_v2(
        handle: *mut c_void,
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
    ) |device| {
        let stream = device.libraries.stream(handle.addr() as u64)?;
        let gemm = Gemm {
            m: size(m)?,
            n: size(n)?,
            k: size(k)?,
            // SAFETY: the caller's promise.
            alpha: unsafe { get(alpha) }?,
            // SAFETY: the caller's promise.
            beta: unsafe { get(beta) }?,
            a: matrix(a, leading_a, transposed_a)?,
            b: matrix(b, leading_b, transposed_b)?,
            c: matrix(c, leading_c, 0)?,
        };
        gemm.check()?;
        let stream = device.stream(stream);
        device.submit(stream, Work::Gemm(gemm))
    }
}

library! { RAND_FAILED;
    fn curandCreateGenerator(generator: *mut *mut c_void, _kind: u32) |device| { create(device, generator) }

    fn curandDestroyGenerator(generator: *mut c_void) |device| { device.libraries.destroy(generator.addr() as u64) }

    fn curandSetStream(generator: *mut c_void, stream: *mut c_void) |device| {
        device.libraries.set_stream(generator.addr() as u64, stream.addr() as u64)
    }

    fn curandSetPseudoRandomGeneratorSeed(generator: *mut c_void, _seed: u64) |device| {
        device.libraries.stream(generator.addr() as u64).map(drop)
    }
}

fn size(value: c_int) -> Outcome<u64> {
    u64::try_from(value).map_err(|_| Refusal::invalid(format!("a matrix of {value} rows or columns")))
}

fn matrix(address: u64, leading: c_int, transposed: u32) -> Outcome<Matrix> {
    if transposed > 1 {
        return Err(Refusal::invalid(format!("operation {transposed} on a matrix of f32")));
    }
    Ok(Matrix {
        address,
        leading: size(leading)?,
        transposed: transposed == 1,
    })
}
