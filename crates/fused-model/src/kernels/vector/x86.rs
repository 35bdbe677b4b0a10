//! Vectors of AVX2 and AVX-512.

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
