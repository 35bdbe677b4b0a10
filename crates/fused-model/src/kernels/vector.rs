//! Sixteen lanes of `f32`, and sixteen of `i32` that take products of four bytes, on whatever the processor has.
#![allow(unsafe_code)] // processor intrinsics and the pointers they take

/// Lanes of every vector here: one AVX-512 register, two of AVX2.
pub(crate) use super::simd::LANES;
use super::simd::sum_lanes;

/// Asks for the memory at an address, which need not be there, ahead of its use.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it has no effect but on the caches.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Sixteen `f32`.
///
/// # Safety
/// Every method may be called only on a processor with the implementation's instruction set, and only inlined into a
/// function that enables it; pointers must be good for sixteen elements.
pub(crate) trait Float: Copy {
    /// Vectors that the register file holds.
    const REGISTERS: usize;
    unsafe fn zero() -> Self;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(at: *const f32) -> Self;
    /// Sixteen half-precision numbers, widened.
    unsafe fn load_half(at: *const u16) -> Self;
    unsafe fn store(self, at: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self + a * b`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The sum of the lanes of each vector, added by halves as in [`sum_lanes`](super::simd::sum_lanes).
    unsafe fn sums(vectors: [Self; LANES]) -> Self;
}

/// Sixteen `i32` sums of byte products.
///
/// # Safety
/// As [`Float`].
pub(crate) trait Int: Copy {
    /// Whether [`add_dots`](Self::add_dots) takes the first factor as it is stored, 128 above its value, so that 128 times
    /// the sum of the second must be taken off the result.
    const OFFSET: bool;
    /// As wide a vector of `f32`.
    type Float: Float;
    unsafe fn zero() -> Self;
    /// Adds to lane `l` the dot product of the four bytes `a`, each 128 above its signed value, and the four signed bytes
    /// `b[4l..4l+4]`.
    unsafe fn add_dots(self, a: u32, b: *const i8) -> Self;
    /// Takes the sixteen numbers at `other` off.
    unsafe fn sub(self, other: *const i32) -> Self;
    /// The nearest `f32` of each lane.
    unsafe fn to_float(self) -> Self::Float;
}

/// An element type of stored weights and of stored rows.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    fn widen(self) -> f32;
    /// # Safety
    /// As [`Float`]'s methods; `at` is good for sixteen elements.
    unsafe fn load<V: Float>(at: *const Self) -> V;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn load<V: Float>(at: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(at) }
    }
}

impl Element for half::f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        widen_half(self.to_bits())
    }

    #[inline(always)]
    unsafe fn load<V: Float>(at: *const Self) -> V {
        // SAFETY: the caller's promise; `f16` is a transparent `u16`.
        unsafe { V::load_half(at.cast()) }
    }
}

/// A half-precision number, widened without a branch.
#[inline(always)]
fn widen_half(bits: u16) -> f32 {
    // Moved to their place in an `f32`, the bits are the number times 2^-112, subnormal ones included.
    const BIAS: f32 = f32::from_bits((127 + 112) << 23);
    let (sign, size) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let no_number = if bits & 0x7c00 == 0x7c00 {
        f32::INFINITY.to_bits()
    } else {
        0
    };
    f32::from_bits((f32::from_bits(size) * BIAS).to_bits() | no_number | sign)
}

/// Plain arrays: the baseline of x86-64, NEON where the compiler makes it.
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
            // A fused product is one instruction on aarch64 and a library call on the baseline of x86-64.
            *sum = if cfg!(target_arch = "aarch64") {
                a.mul_add(b, *sum)
            } else {
                *sum + a * b
            };
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

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Vnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Float, Int, LANES};

    /// One AVX-512 register.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    impl Float for Avx512 {
        const REGISTERS: usize = 32;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise, here and in every method below.
            Self(unsafe { _mm512_setzero_ps() })
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_loadu_ps(at) })
        }

        #[inline(always)]
        unsafe fn load_half(at: *const u16) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) })
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(at, self.0) }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        unsafe fn sums(vectors: [Self; LANES]) -> Self {
            // Each step adds the halves of two vectors and keeps the sums of both in one. The vectors that meet are chosen
            // so that the sums end up in order.
            // SAFETY: as above.
            unsafe {
                let eight = |a: Self, b: Self| {
                    let (low, high) = (
                        _mm512_shuffle_f32x4(a.0, b.0, 0x44),
                        _mm512_shuffle_f32x4(a.0, b.0, 0xee),
                    );
                    _mm512_add_ps(low, high)
                };
                let four = |a, b| _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
                let two = |a, b| _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
                let one = |a, b| _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = vectors;
                let first = two(four(eight(a, e), eight(i, m)), four(eight(b, f), eight(j, n)));
                let second = two(four(eight(c, g), eight(k, o)), four(eight(d, h), eight(l, p)));
                Self(one(first, second))
            }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
    }

    /// Two AVX2 registers.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Avx2<T>(T, T);

    impl Float for Avx2<__m256> {
        const REGISTERS: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise, here and in every method below.
            unsafe { Self(_mm256_setzero_ps(), _mm256_setzero_ps()) }
        }

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }

        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
        }

        #[inline(always)]
        unsafe fn load_half(at: *const u16) -> Self {
            // SAFETY: as above.
            unsafe {
                Self(
                    _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast())),
                )
            }
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            // SAFETY: as above.
            unsafe {
                _mm256_storeu_ps(at, self.0);
                _mm256_storeu_ps(at.add(8), self.1);
            }
        }

        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_add_ps(self.0, other.0), _mm256_add_ps(self.1, other.1)) }
        }

        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }

        #[inline(always)]
        unsafe fn sums(vectors: [Self; LANES]) -> Self {
            // As in AVX-512.
            // SAFETY: as above.
            unsafe {
                let eight = |a: Self| _mm256_add_ps(a.0, a.1);
                let four = |a, b| {
                    let (a, b) = (eight(a), eight(b));
                    _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31))
                };
                let two = |a, b| _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
                let one = |a, b| _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = vectors;
                Self(
                    one(two(four(a, e), four(b, f)), two(four(c, g), four(d, h))),
                    one(two(four(i, m), four(j, n)), two(four(k, o), four(l, p))),
                )
            }
        }

        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
    }

    impl Int for Avx2<__m256i> {
        const OFFSET: bool = false;
        type Float = Avx2<__m256>;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise, here and in every method below.
            unsafe { Self(_mm256_setzero_si256(), _mm256_setzero_si256()) }
        }

        #[inline(always)]
        unsafe fn add_dots(self, a: u32, b: *const i8) -> Self {
            // The instruction multiplies unsigned by signed bytes into saturating 16-bit pairs: the first factor's sign
            // goes to the second, and two products of at most 127 * 127 stay below the limit.
            // SAFETY: as above.
            unsafe {
                let a = _mm256_set1_epi32((a ^ 0x8080_8080) as i32);
                let size = _mm256_abs_epi8(a);
                let ones = _mm256_set1_epi16(1);
                let dots = |sum, b| {
                    let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(b, a));
                    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones))
                };
                Self(
                    dots(self.0, _mm256_loadu_si256(b.cast())),
                    dots(self.1, _mm256_loadu_si256(b.add(32).cast())),
                )
            }
        }

        #[inline(always)]
        unsafe fn sub(self, other: *const i32) -> Self {
            // SAFETY: as above.
            unsafe {
                Self(
                    _mm256_sub_epi32(self.0, _mm256_loadu_si256(other.cast())),
                    _mm256_sub_epi32(self.1, _mm256_loadu_si256(other.add(8).cast())),
                )
            }
        }

        #[inline(always)]
        unsafe fn to_float(self) -> Avx2<__m256> {
            // SAFETY: as above.
            unsafe { Avx2(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)) }
        }
    }

    /// One AVX-512 register of sums, made by the byte products of VNNI.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Vnni(__m512i);

    impl Int for Vnni {
        const OFFSET: bool = true;
        type Float = Avx512;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise, here and in every method below.
            Self(unsafe { _mm512_setzero_si512() })
        }

        #[inline(always)]
        unsafe fn add_dots(self, a: u32, b: *const i8) -> Self {
            // SAFETY: as above.
            unsafe {
                let a = _mm512_set1_epi32(a as i32);
                Self(_mm512_dpbusd_epi32(self.0, a, _mm512_loadu_si512(b.cast())))
            }
        }

        #[inline(always)]
        unsafe fn sub(self, other: *const i32) -> Self {
            // SAFETY: as above.
            Self(unsafe { _mm512_sub_epi32(self.0, _mm512_loadu_si512(other.cast())) })
        }

        #[inline(always)]
        unsafe fn to_float(self) -> Avx512 {
            // SAFETY: as above.
            Avx512(unsafe { _mm512_cvtepi32_ps(self.0) })
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (got, want) = (widen_half(bits), f16::from_bits(bits).to_f32());
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#x}: {got} wants {want}"
            );
        }
    }
}
