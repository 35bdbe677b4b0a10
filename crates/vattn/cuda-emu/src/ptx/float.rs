//! Floating-point instructions (PTX ISA 8.0, sections 9.7.3, 9.7.4).
//!
//! What PTX defines to the bit is computed to the bit. The `.approx` functions are computed in `f64` and rounded once, which
//! is within every bound that PTX states for them; a GPU may differ from that within the same bound.

use super::decode::{Computation, Modifiers};
use super::instruction::{Function, Update};
use super::integer::{binary, ternary, unary};
use super::operand::{Problem, syntax, unsupported};
use super::round::{self, Rounding};
use super::types::Type;
use std::cmp::Ordering::{self, Equal, Greater, Less};

/// How an instruction treats its sources and its result.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Type of the elements.
    ty: Type,
    packed: bool,
    rounding: Rounding,
    /// Subnormal sources and results become zero.
    ftz: bool,
    /// Results are clamped to 0 ..= 1, NaN to 0.
    sat: bool,
    /// Negative results become zero.
    relu: bool,
}

impl Shape {
    fn widen(self, bits: u64) -> f64 {
        self.flush(round::widen(bits & self.ty.mask(), self.ty))
    }

    fn narrow(self, value: f64) -> u64 {
        let value = if self.sat {
            if value > 0.0 { value.min(1.0) } else { 0.0 }
        } else {
            value
        };
        let value = if self.relu && value <= 0.0 { 0.0 } else { value };
        let bits = round::narrow(value, self.ty, self.rounding);
        let flushed = self.flush(round::widen(bits, self.ty));
        if flushed == 0.0 {
            round::narrow(flushed, self.ty, self.rounding)
        } else {
            bits
        }
    }

    fn flush(self, value: f64) -> f64 {
        let least = match self.ty {
            Type::F16 => 1.0 / f64::from(1 << 14),
            _ => f64::from(f32::MIN_POSITIVE),
        };
        if self.ftz && value.abs() < least {
            0f64.copysign(value)
        } else {
            value
        }
    }

    /// Applies a function of the values to each element.
    fn apply(self, f: impl Fn(f64, f64, f64) -> f64 + Send + Sync + 'static) -> impl Fn(u64, u64, u64) -> u64 {
        move |a, b, c| {
            let one = |at: u32| self.narrow(f(self.widen(a >> at), self.widen(b >> at), self.widen(c >> at)));
            if self.packed { one(0) | one(16) << 16 } else { one(0) }
        }
    }

    fn source(self) -> Type {
        match (self.packed, self.ty) {
            (true, Type::F16) => Type::F16x2,
            (true, _) => Type::Bf16x2,
            (false, ty) => ty,
        }
    }

    fn unary(self, f: impl Fn(f64) -> f64 + Send + Sync + 'static) -> Computation {
        let f = self.apply(move |a, _, _| f(a));
        unary(self.source(), move |a| f(a, 0, 0))
    }

    fn binary(self, f: impl Fn(f64, f64) -> f64 + Send + Sync + 'static) -> Computation {
        let f = self.apply(move |a, b, _| f(a, b));
        binary([self.source(); 2], move |a, b| f(a, b, 0))
    }

    fn ternary(self, f: impl Fn(f64, f64, f64) -> f64 + Send + Sync + 'static) -> Computation {
        let f = self.apply(f);
        ternary([self.source(); 3], f)
    }

    /// Neither rounding in another direction than to the nearest, nor anything else that changes a value.
    fn plain(self) -> bool {
        self.rounding == Rounding::Nearest && !(self.ftz || self.sat || self.relu || self.packed)
    }
}

/// Decodes an instruction of this module; none if there is none of this name.
pub(super) fn decode(name: &str, m: &mut Modifiers<'_>) -> Result<Option<Computation>, Problem> {
    if name == "testp" {
        return test(m).map(Some);
    }
    let rounding = m.find(Rounding::parse);
    let approx = m.take("approx");
    let full = m.take("full");
    let mut shape = Shape {
        ty: Type::F32,
        packed: false,
        rounding: rounding.unwrap_or(Rounding::Nearest),
        ftz: m.take("ftz"),
        sat: m.take("sat"),
        relu: m.take("relu"),
    };
    let ty = m.ty()?;
    shape.packed = ty.half().is_some();
    shape.ty = ty.half().unwrap_or(ty);
    if ty == Type::F64 && (shape.ftz || shape.rounding != Rounding::Nearest) {
        return unsupported("a rounding of f64 other than .rn");
    }
    if matches!(name, "div" | "rcp" | "sqrt") && (rounding.is_some() == (approx || full)) {
        return syntax("the instruction is either rounded or approximate");
    }
    let found = match name {
        "add" | "sub" | "mul" | "fma" | "mad" | "div" | "rcp" | "sqrt" if !approx && !full => exact(name, shape),
        "div" => Some(if approx {
            shape.binary(div_approx)
        } else {
            shape.binary(|a, b| a / b)
        }),
        "min" | "max" => return Ok(Some(extremum(name, shape, m))),
        "neg" => Some(shape.unary(|a| -a)),
        "abs" => Some(shape.unary(f64::abs)),
        "copysign" => Some(shape.binary(|a, b| b.copysign(a))),
        _ if approx && ty != Type::F64 => approximate(name).map(|f| shape.unary(f)),
        _ => None,
    };
    match found {
        Some(computation) => Ok(Some(computation)),
        None => unsupported("this form of it"),
    }
}

/// The operations that IEEE 754 defines.
fn exact(name: &str, shape: Shape) -> Option<Computation> {
    if shape.ty == Type::F64 {
        return Some(match name {
            "add" => shape.binary(|a, b| a + b),
            "sub" => shape.binary(|a, b| a - b),
            "mul" => shape.binary(|a, b| a * b),
            "div" => shape.binary(|a, b| a / b),
            "rcp" => shape.unary(|a| 1.0 / a),
            "sqrt" => shape.unary(f64::sqrt),
            _ => shape.ternary(f64::mul_add),
        });
    }
    // What kernels do most, without the way over f64. Equal to it: see the tests.
    if shape.ty == Type::F32 && shape.plain() {
        let types = [Type::F32; 2];
        match name {
            "add" => return Some(binary(types, |a, b| bits(float(a) + float(b)))),
            "sub" => return Some(binary(types, |a, b| bits(float(a) - float(b)))),
            "mul" => return Some(binary(types, |a, b| bits(float(a) * float(b)))),
            "fma" | "mad" => {
                return Some(ternary([Type::F32; 3], |a, b, c| {
                    bits(float(a).mul_add(float(b), float(c)))
                }));
            }
            _ => {}
        }
    }
    // Rounding down, a sum that is exactly zero is -0, unless both terms are +0.
    let down = shape.rounding == Rounding::Down;
    let zero = move |sum: f64, a: f64, b: f64| {
        let both = a == 0.0 && b == 0.0 && a.is_sign_positive() && b.is_sign_positive();
        if down && sum == 0.0 && !both { -0.0 } else { sum }
    };
    Some(match name {
        "add" => shape.binary(move |a, b| zero(round::add(a, b), a, b)),
        "sub" => shape.binary(move |a, b| zero(round::add(a, -b), a, -b)),
        "mul" => shape.binary(|a, b| a * b),
        "div" => shape.binary(round::div),
        "rcp" => shape.unary(|a| round::div(1.0, a)),
        "sqrt" => shape.unary(round::sqrt),
        _ => shape.ternary(move |a, b, c| zero(round::fma(a, b, c), a * b, c)),
    })
}

fn float(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn bits(value: f32) -> u64 {
    if value.is_nan() {
        round::nan(Type::F32)
    } else {
        u64::from(value.to_bits())
    }
}

/// `div.approx` gives 0 for divisors between 2^126 and 2^128, as PTX says.
fn div_approx(a: f64, b: f64) -> f64 {
    let huge = b.abs() > 2f64.powi(126) && b.is_finite();
    match (huge, a.is_infinite()) {
        (false, _) => a / b,
        (true, true) => f64::NAN,
        (true, false) => 0f64.copysign(a) * b.signum(),
    }
}

fn approximate(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "rcp" => |a| 1.0 / a,
        "sqrt" => f64::sqrt,
        "rsqrt" => |a| 1.0 / a.sqrt(),
        "ex2" => f64::exp2,
        "lg2" => f64::log2,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tanh" => f64::tanh,
        _ => return None,
    })
}

/// The smaller or larger of two values. A NaN loses, or with `.NaN` wins; -0 is less than +0.
fn extremum(name: &str, shape: Shape, m: &mut Modifiers<'_>) -> Computation {
    let (nan, max) = (m.take("NaN"), name == "max");
    shape.binary(move |a, b| {
        if a.is_nan() || b.is_nan() {
            return if nan || (a.is_nan() && b.is_nan()) {
                f64::NAN
            } else if a.is_nan() {
                b
            } else {
                a
            };
        }
        let less = a < b || (a == b && a.is_sign_negative());
        if less == max { b } else { a }
    })
}

fn test(m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    let test = m.find(|name| {
        let test: fn(f64, f64) -> bool = match name {
            "finite" => |a, _| a.is_finite(),
            "infinite" => |a, _| a.is_infinite(),
            "number" => |a, _| !a.is_nan(),
            "notanumber" => |a, _| a.is_nan(),
            "normal" => |a, least| a.is_finite() && a.abs() >= least,
            "subnormal" => |a, least| a != 0.0 && a.abs() < least,
            _ => return None,
        };
        Some(test)
    });
    let Some(test) = test else {
        return syntax("a test is missing");
    };
    let ty = m.one_of(|ty| matches!(ty, Type::F32 | Type::F64))?;
    let least = if ty == Type::F32 {
        f64::from(f32::MIN_POSITIVE)
    } else {
        f64::MIN_POSITIVE
    };
    Ok(unary(ty, move |a| u64::from(test(round::widen(a, ty), least))))
}

/// Takes a comparison and the type of its sources. It gives 1 or 0; with a NaN the plain ones give 0, the `u` ones 1.
pub(super) fn comparison(m: &mut Modifiers<'_>) -> Result<Function, Problem> {
    let ftz = m.take("ftz");
    let test = m.find(|name| {
        let test: fn(Option<Ordering>) -> bool = match name {
            "eq" => |order| order == Some(Equal),
            "ne" => |order| matches!(order, Some(Less | Greater)),
            "lt" => |order| order == Some(Less),
            "le" => |order| matches!(order, Some(Less | Equal)),
            "gt" => |order| order == Some(Greater),
            "ge" => |order| matches!(order, Some(Greater | Equal)),
            "equ" => |order| matches!(order, None | Some(Equal)),
            "neu" => |order| order != Some(Equal),
            "ltu" => |order| matches!(order, None | Some(Less)),
            "leu" => |order| order != Some(Greater),
            "gtu" => |order| matches!(order, None | Some(Greater)),
            "geu" => |order| order != Some(Less),
            "num" => |order| order.is_some(),
            "nan" => |order| order.is_none(),
            _ => return None,
        };
        Some(test)
    });
    let Some(test) = test else {
        return syntax("a comparison is missing");
    };
    let ty = m.one_of(Type::float)?;
    let shape = Shape {
        ty,
        packed: false,
        rounding: Rounding::Nearest,
        ftz,
        sat: false,
        relu: false,
    };
    Ok(binary([ty; 2], move |a, b| {
        u64::from(test(shape.widen(a).partial_cmp(&shape.widen(b))))
    })
    .function)
}

/// What an atomic operation leaves in memory.
pub(super) fn atomic(operation: &str, m: &mut Modifiers<'_>, ty: Type) -> Result<Update, Problem> {
    m.take("noftz");
    if operation != "add" {
        return unsupported("an atomic operation of this type");
    }
    Ok(match ty {
        Type::F64 => {
            Box::new(|old, a, _| round::narrow(f64::from_bits(old) + f64::from_bits(a), Type::F64, Rounding::Nearest))
        }
        ty => Box::new(move |old, a, _| {
            round::narrow(
                round::add(round::widen(old, ty), round::widen(a, ty)),
                ty,
                Rounding::Nearest,
            )
        }),
    })
}
