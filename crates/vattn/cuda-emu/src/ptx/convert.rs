//! `cvt` (PTX ISA 8.0, section 9.7.8.21).

use super::decode::{Computation, Modifiers};
use super::integer::{binary, unary};
use super::operand::{Problem, syntax, unsupported};
use super::round::{self, Rounding};
use super::types::Type;

/// What is asked for besides the types.
#[derive(Debug, Clone, Copy, Default)]
struct Wishes {
    rounding: Option<Rounding>,
    /// Rounding to an integer value.
    integral: Option<fn(f64) -> f64>,
    ftz: bool,
    sat: bool,
    relu: bool,
}

/// Decodes the modifiers of a `cvt`.
pub(super) fn decode(m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    let wishes = Wishes {
        rounding: m.find(Rounding::parse),
        integral: m.find(|name| {
            let round: fn(f64) -> f64 = match name {
                "rni" => f64::round_ties_even,
                "rzi" => f64::trunc,
                "rmi" => f64::floor,
                "rpi" => f64::ceil,
                _ => return None,
            };
            Some(round)
        }),
        ftz: m.take("ftz"),
        sat: m.take("sat"),
        relu: m.take("relu"),
    };
    let (to, from) = (m.ty()?, m.ty()?);
    if let (Some(half), Type::F32) = (to.half(), from) {
        let Some(rounding) = wishes.rounding else {
            return syntax("a narrowing conversion says how to round");
        };
        let one = move |bits| float_to_float(wishes, rounding, half, from, bits);
        // The first source becomes the upper half.
        return Ok(binary([from, from], move |upper, lower| one(upper) << 16 | one(lower)));
    }
    let number = |ty: Type| ty.float() || ty.integer();
    if !number(to) || !number(from) {
        return unsupported(format!("a conversion from {from:?} to {to:?}"));
    }
    match (from.float(), to.float()) {
        (false, false) => Ok(unary(from, move |value| {
            integer_to_integer(wishes.sat, to, from, value)
        })),
        (false, true) => {
            let Some(rounding) = wishes.rounding else {
                return syntax("a conversion to a float says how to round");
            };
            if to == Type::F64 && rounding != Rounding::Nearest {
                return unsupported("a rounding of f64 other than .rn");
            }
            Ok(unary(from, move |value| {
                let value = from.extend(value);
                let value = if to == Type::F64 {
                    value as f64
                } else {
                    round::from_integer(value)
                };
                let value = if wishes.sat { value.clamp(0.0, 1.0) } else { value };
                round::narrow(value, to, rounding)
            }))
        }
        (true, false) => {
            let Some(integral) = wishes.integral else {
                return syntax("a conversion to an integer says how to round");
            };
            Ok(unary(from, move |value| {
                let value = flush(wishes.ftz, from, round::widen(value & from.mask(), from));
                // The cast clamps to an i128 and makes NaN 0; the destination clamps further, .sat or not.
                clamp(integral(value) as i128, to)
            }))
        }
        (true, true) => {
            let narrows = to.bits() < from.bits() || (to.bits() == from.bits() && to != from);
            if narrows && wishes.rounding.is_none() {
                return syntax("a narrowing conversion says how to round");
            }
            let rounding = wishes.rounding.unwrap_or(Rounding::Nearest);
            Ok(unary(from, move |bits| {
                float_to_float(wishes, rounding, to, from, bits)
            }))
        }
    }
}

fn float_to_float(wishes: Wishes, rounding: Rounding, to: Type, from: Type, bits: u64) -> u64 {
    let value = flush(wishes.ftz, from, round::widen(bits & from.mask(), from));
    let value = wishes.integral.map_or(value, |round| round(value));
    let value = if wishes.sat {
        if value > 0.0 { value.min(1.0) } else { 0.0 }
    } else {
        value
    };
    let value = if wishes.relu && value <= 0.0 { 0.0 } else { value };
    let bits = round::narrow(value, to, rounding);
    round::narrow(flush(wishes.ftz, to, round::widen(bits, to)), to, rounding)
}

/// With `.ftz`, subnormal values of f32 become zero, and no others.
fn flush(ftz: bool, ty: Type, value: f64) -> f64 {
    if ftz && ty == Type::F32 && value.abs() < f64::from(f32::MIN_POSITIVE) {
        return 0f64.copysign(value);
    }
    value
}

fn integer_to_integer(sat: bool, to: Type, from: Type, value: u64) -> u64 {
    let value = from.extend(value);
    if sat {
        return clamp(value, to);
    }
    // A register wider than the type is filled with the sign or with zeros.
    to.extend(value as u64) as u64
}

fn clamp(value: i128, to: Type) -> u64 {
    let bits = to.bits();
    let (least, most) = if to.signed() {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    };
    value.clamp(least, most) as u64
}
