//! Vectors of NEON.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Float, Int, LANES};

/// Four registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon<T>([T; 4]);

/// `$value` for each `$quarter` of a vector.
macro_rules! quarters {
    ($quarter:ident, $value:expr) => {
        [
            quarters!(@ $quarter, 0, $value),
            quarters!(@ $quarter, 1, $value),
            quarters!(@ $quarter, 2, $value),
            quarters!(@ $quarter, 3, $value),
        ]
    };
    (@ $quarter:ident, $index:literal, $value:expr) => {{
        let $quarter = $index;
        $value
    }};
}

impl Float for Neon<float32x4_t> {
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and in every method below.
        unsafe { Self([vdupq_n_f32(0.0); 4]) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: as above.
        unsafe { Self([vdupq_n_f32(x); 4]) }
    }

    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { Self(quarters!(i, vld1q_f32(at.add(4 * i)))) }
    }

    #[inline(always)]
    unsafe fn load_half(at: *const u16) -> Self {
        // SAFETY: as above.
        unsafe {
            let (first, second) = (vld1q_u16(at), vld1q_u16(at.add(8)));
            Self([
                widen_low(first),
                widen_high(first),
                widen_low(second),
                widen_high(second),
            ])
        }
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: as above.
        unsafe {
            quarters!(i, vst1q_f32(at.add(4 * i), self.0[i]));
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(quarters!(i, vaddq_f32(self.0[i], other.0[i]))) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(quarters!(i, vmulq_f32(self.0[i], other.0[i]))) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(quarters!(i, vfmaq_f32(self.0[i], a.0[i], b.0[i]))) }
    }

    #[inline(always)]
    unsafe fn sums(vectors: [Self; LANES]) -> Self {
        // As in AVX2: halves of a vector, then halves of four lanes with those of its neighbour, then pairs.
        // SAFETY: as above.
        unsafe {
            let four = |a: Self| vaddq_f32(vaddq_f32(a.0[0], a.0[2]), vaddq_f32(a.0[1], a.0[3]));
            let two = |a: Self, b: Self| {
                let (a, b) = (vreinterpretq_f64_f32(four(a)), vreinterpretq_f64_f32(four(b)));
                let (low, high) = (vzip1q_f64(a, b), vzip2q_f64(a, b));
                vaddq_f32(vreinterpretq_f32_f64(low), vreinterpretq_f32_f64(high))
            };
            let one = |i: usize| vpaddq_f32(two(vectors[i], vectors[i + 1]), two(vectors[i + 2], vectors[i + 3]));
            Self(quarters!(i, one(4 * i)))
        }
    }
}

/// The first four of eight half-precision numbers as `f32`. The intrinsic takes a type that is not in stable Rust.
#[inline(always)]
unsafe fn widen_low(halves: uint16x8_t) -> float32x4_t {
    let wide;
    // SAFETY: the instruction belongs to NEON, which the caller promises.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}

/// The last four.
#[inline(always)]
unsafe fn widen_high(halves: uint16x8_t) -> float32x4_t {
    let wide;
    // SAFETY: as in `widen_low`.
    unsafe {
        asm!(
            "fcvtl2 {wide:v}.4s, {halves:v}.8h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}

impl Int for Neon<int32x4_t> {
    const OFFSET: bool = false;
    type Float = Neon<float32x4_t>;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and in every method below.
        unsafe { Self([vdupq_n_s32(0); 4]) }
    }

    #[inline(always)]
    unsafe fn add_dots(self, a: u32, b: *const i8) -> Self {
        // Two products of at most 127 * 127 fit 16 bits.
        // SAFETY: as above.
        unsafe {
            let a = vreinterpretq_s8_u32(vdupq_n_u32(a ^ 0x8080_8080));
            let dots = |sum, b| {
                let (low, high) = (vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
                vpadalq_s16(sum, vpaddq_s16(low, high))
            };
            Self(quarters!(i, dots(self.0[i], vld1q_s8(b.add(16 * i)))))
        }
    }

    #[inline(always)]
    unsafe fn sub(self, other: *const i32) -> Self {
        // SAFETY: as above.
        unsafe { Self(quarters!(i, vsubq_s32(self.0[i], vld1q_s32(other.add(4 * i))))) }
    }

    #[inline(always)]
    unsafe fn to_float(self) -> Neon<float32x4_t> {
        // SAFETY: as above.
        unsafe { Neon(quarters!(i, vcvtq_f32_s32(self.0[i]))) }
    }
}

/// Four registers of sums, made by the dot products of bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeonDot(Neon<int32x4_t>);

impl Int for NeonDot {
    const OFFSET: bool = false;
    type Float = Neon<float32x4_t>;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, here and in every method below.
        Self(unsafe { Neon::<int32x4_t>::zero() })
    }

    #[inline(always)]
    unsafe fn add_dots(self, a: u32, b: *const i8) -> Self {
        // SAFETY: as above.
        unsafe {
            let a = vreinterpretq_s8_u32(vdupq_n_u32(a ^ 0x8080_8080));
            let sums = self.0.0;
            Self(Neon(quarters!(i, dots(sums[i], a, vld1q_s8(b.add(16 * i))))))
        }
    }

    #[inline(always)]
    unsafe fn sub(self, other: *const i32) -> Self {
        // SAFETY: as above.
        Self(unsafe { self.0.sub(other) })
    }

    #[inline(always)]
    unsafe fn to_float(self) -> Neon<float32x4_t> {
        // SAFETY: as above.
        unsafe { self.0.to_float() }
    }
}

/// Adds to each lane the dot product of its four bytes. The intrinsic is not in stable Rust.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dots(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: this function enables the instruction.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inlateout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
