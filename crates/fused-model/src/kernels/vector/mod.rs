//! Sixteen lanes of `f32`, and sixteen of `i32` that take products of four bytes, on whatever the processor has.
#![allow(unsafe_code)] // processor intrinsics and the pointers they take

/// Lanes of every vector here: one AVX-512 register, two of AVX2, four of NEON.
pub(crate) use super::simd::LANES;

#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(crate) use neon::{Neon, NeonDot};
pub(crate) use plain::Plain;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Vnni};

/// Asks for the memory at an address, which need not be there, ahead of its use.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it has no effect but on the caches.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        // The intrinsic of this instruction is not in stable Rust.
        std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
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
