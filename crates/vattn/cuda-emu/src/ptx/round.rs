//! Floating point of any rounding, exact to the bit.
//!
//! An operation on values of up to 24 bits of precision is done in `f64` *rounded to odd*: if the result is not exact, the
//! neighbour with an odd last bit is taken. Rounding such a value once more, to 24 bits or less and in any direction, gives
//! what one rounding of the exact result gives (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums").

use super::types::Type;

/// The direction of a rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    /// `.rn`: to the nearest, ties to even.
    Nearest,
    /// `.rz`: towards zero.
    Zero,
    /// `.rp`: towards positive infinity.
    Up,
    /// `.rm`: towards negative infinity.
    Down,
}

impl Rounding {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "rn" => Self::Nearest,
            "rz" => Self::Zero,
            "rp" => Self::Up,
            "rm" => Self::Down,
            _ => return None,
        })
    }
}

/// The NaN that PTX instructions give.
pub(super) fn nan(ty: Type) -> u64 {
    match ty {
        Type::F32 => 0x7fff_ffff,
        Type::F64 => 0x7ff8_0000_0000_0000,
        _ => 0x7fff,
    }
}

/// Bits of the mantissa that are stored, and the exponent of the smallest normal number. Not for `F64`.
fn layout(ty: Type) -> (u32, i32) {
    match ty {
        Type::F16 => (10, -14),
        Type::Bf16 => (7, -126),
        _ => (23, -126),
    }
}

/// The value that the bits of a float stand for. Exact.
pub(super) fn widen(bits: u64, ty: Type) -> f64 {
    match ty {
        Type::F64 => f64::from_bits(bits),
        Type::F32 => f64::from(f32::from_bits(bits as u32)),
        Type::Bf16 => f64::from(f32::from_bits((bits as u32) << 16)),
        _ => {
            let (sign, exponent, mantissa) = (bits >> 15 & 1, bits >> 10 & 31, bits & 1023);
            let value = match exponent {
                0 => mantissa as f64 / f64::from(1 << 24),
                31 if mantissa == 0 => f64::INFINITY,
                31 => f64::NAN,
                _ => f64::from_bits((exponent + 1023 - 15) << 52 | mantissa << 42),
            };
            if sign == 1 { -value } else { value }
        }
    }
}

/// The bits of a value after one rounding. The value is exact, or rounded to odd.
pub(super) fn narrow(value: f64, ty: Type, rounding: Rounding) -> u64 {
    if value.is_nan() {
        return nan(ty);
    }
    if ty == Type::F64 {
        return value.to_bits();
    }
    let (stored, lowest) = layout(ty);
    let negative = value.is_sign_negative();
    let sign = u64::from(negative) << (ty.bits() - 1);
    let infinity = ((1u64 << (ty.bits() - 1)) - 1) >> stored << stored;
    if value.is_infinite() {
        return sign | infinity;
    }
    let bits = value.to_bits();
    let exponent = ((bits >> 52 & 0x7ff) as i32 - 1023).max(-1022);
    let hidden = u64::from(value.abs() >= f64::MIN_POSITIVE) << 52;
    let significand = bits & ((1 << 52) - 1) | hidden;
    // The result counts units of its last place; what is shifted out decides the rounding.
    let shift = (52 - stored as i32 + (lowest - exponent).max(0)).min(63) as u32;
    let (kept, rest, half) = (significand >> shift, significand & ((1 << shift) - 1), 1 << (shift - 1));
    let up = match rounding {
        Rounding::Nearest => rest > half || (rest == half && kept & 1 == 1),
        Rounding::Zero => false,
        Rounding::Up => rest > 0 && !negative,
        Rounding::Down => rest > 0 && negative,
    };
    let exponents = (exponent - lowest).max(0) as u64;
    // A carry out of the mantissa goes into the exponent, as it should.
    let magnitude = (exponents << stored) + kept + u64::from(up);
    if magnitude < infinity {
        return sign | magnitude;
    }
    let inward = match rounding {
        Rounding::Nearest => false,
        Rounding::Zero => true,
        Rounding::Up => negative,
        Rounding::Down => !negative,
    };
    sign | (infinity - u64::from(inward))
}

/// Rounds to odd, given the nearest value and the sign of what is missing from it.
fn odd(nearest: f64, error: f64) -> f64 {
    let bits = nearest.to_bits();
    if error == 0.0 || !nearest.is_finite() || error.is_nan() || bits & 1 == 1 {
        return nearest;
    }
    let outward = (error > 0.0) == (nearest > 0.0);
    f64::from_bits(if outward { bits + 1 } else { bits - 1 })
}

/// `a + b`, rounded to odd; the error is exact (Knuth, TAOCP vol. 2, 4.2.2).
pub(super) fn add(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let part = sum - a;
    odd(sum, (a - (sum - part)) + (b - part))
}

/// `a * b + c`, rounded to odd. The product of two values of 24 bits is exact.
pub(super) fn fma(a: f64, b: f64, c: f64) -> f64 {
    add(a * b, c)
}

/// `a / b`, rounded to odd.
pub(super) fn div(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    let remainder = quotient.mul_add(-b, a);
    odd(quotient, if b > 0.0 { remainder } else { -remainder })
}

/// The square root, rounded to odd.
pub(super) fn sqrt(a: f64) -> f64 {
    let root = a.sqrt();
    odd(root, root.mul_add(-root, a))
}

/// An integer, rounded to odd.
pub(super) fn from_integer(value: i128) -> f64 {
    let nearest = value as f64;
    odd(nearest, (value - nearest as i128) as f64)
}
