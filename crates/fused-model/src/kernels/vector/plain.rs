//! Vectors as plain arrays, which the compiler turns into what the target is sure to have.

use super::{Float, Int, LANES, widen_half};
use crate::kernels::simd::sum_lanes;

/// Sixteen numbers in an array.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain<T>([T; LANES]);

impl Float for Plain<f32> {
    const REGISTERS: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; LANES])
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: the caller's promise; arrays need no alignment here.
        Self(unsafe { at.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_half(at: *const u16) -> Self {
        // SAFETY: the caller's promise.
        let halves = unsafe { at.cast::<[u16; LANES]>().read_unaligned() };
        Self(halves.map(widen_half))
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(x, y)| *x += y);
        self
    }

    #[inline(always)]
    unsafe fn mul(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(x, y)| *x *= y);
        self
    }

    #[inline(always)]
    unsafe fn sums(vectors: [Self; LANES]) -> Self {
        Self(vectors.map(|vector| sum_lanes(vector.0)))
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for ((sum, a), b) in self.0.iter_mut().zip(a.0).zip(b.0) {
            // Not fused: where the processor has no such instruction, that would be a call into a library.
            *sum += a * b;
        }
        self
    }
}

impl Int for Plain<i32> {
    const OFFSET: bool = false;
    type Float = Plain<f32>;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; LANES])
    }

    #[inline(always)]
    unsafe fn add_dots(mut self, a: u32, b: *const i8) -> Self {
        let a = (a ^ 0x8080_8080).to_le_bytes().map(|byte| i32::from(byte as i8));
        // SAFETY: the caller's promise.
        let b = unsafe { b.cast::<[[i8; 4]; LANES]>().read_unaligned() };
        for (sum, b) in self.0.iter_mut().zip(b) {
            for (a, b) in a.iter().zip(b) {
                *sum += a * i32::from(b);
            }
        }
        self
    }

    #[inline(always)]
    unsafe fn sub(mut self, other: *const i32) -> Self {
        // SAFETY: the caller's promise.
        let other = unsafe { other.cast::<[i32; LANES]>().read_unaligned() };
        self.0.iter_mut().zip(other).for_each(|(x, y)| *x -= y);
        self
    }

    #[inline(always)]
    unsafe fn to_float(self) -> Plain<f32> {
        Plain(self.0.map(|x| x as f32))
    }
}
