//! Integer and logic instructions (PTX ISA 8.0, sections 9.7.1, 9.7.2, 9.7.5, 9.7.7) and the atomic operations on them.

use super::decode::{self, Computation, Modifiers};
use super::instruction::{Function, Update};
use super::operand::{Problem, syntax, unsupported};
use super::types::{Lanes, Type};
use std::array::from_fn;

/// A function of one source.
pub(super) fn unary(ty: Type, f: impl Fn(u64) -> u64 + Send + Sync + 'static) -> Computation {
    Computation {
        sources: vec![ty],
        function: Box::new(move |[a, ..]: [&Lanes; 4]| from_fn(|lane| f(a[lane]))),
    }
}

/// A function of two sources.
pub(super) fn binary(types: [Type; 2], f: impl Fn(u64, u64) -> u64 + Send + Sync + 'static) -> Computation {
    Computation {
        sources: types.into(),
        function: Box::new(move |[a, b, ..]: [&Lanes; 4]| from_fn(|lane| f(a[lane], b[lane]))),
    }
}

/// A function of three sources.
pub(super) fn ternary(types: [Type; 3], f: impl Fn(u64, u64, u64) -> u64 + Send + Sync + 'static) -> Computation {
    Computation {
        sources: types.into(),
        function: Box::new(move |[a, b, c, _]: [&Lanes; 4]| from_fn(|lane| f(a[lane], b[lane], c[lane]))),
    }
}

/// A function of four sources.
fn quaternary(types: [Type; 4], f: impl Fn([u64; 4]) -> u64 + Send + Sync + 'static) -> Computation {
    Computation {
        sources: types.into(),
        function: Box::new(move |[a, b, c, d]: [&Lanes; 4]| from_fn(|lane| f([a[lane], b[lane], c[lane], d[lane]]))),
    }
}

/// Decodes an instruction of this module; none if there is none of this name.
pub(super) fn decode(name: &str, m: &mut Modifiers<'_>) -> Result<Option<Computation>, Problem> {
    if let Some(bits) = bitwise(name) {
        let ty = m.one_of(|ty| ty == Type::Pred || (ty.untyped() && ty != Type::B8))?;
        let mask = ty.mask();
        return Ok(Some(match name {
            "not" => unary(ty, move |a| !a & mask),
            "cnot" => unary(ty, |a| u64::from(a == 0)),
            _ => binary([ty, ty], bits),
        }));
    }
    Ok(Some(match name {
        "add" | "sub" | "mul" | "mad" | "mul24" | "mad24" => product(name, m)?,
        "div" | "rem" => quotient(name, m)?,
        "min" | "max" | "abs" | "neg" | "sad" => order(name, m)?,
        "shl" | "shr" | "shf" => shift(name, m)?,
        "popc" | "clz" | "brev" | "bfind" | "bfe" | "bfi" | "prmt" | "lop3" => bits(name, m)?,
        "dp4a" => dot(m)?,
        "selp" => {
            let ty = m.ty()?;
            ternary([ty, ty, Type::Pred], |a, b, p| if p & 1 == 1 { a } else { b })
        }
        "set" => {
            let ty = m.one_of(|ty| matches!(ty, Type::U32 | Type::S32))?;
            let (test, compared) = decode::comparison(m)?;
            let all = ty.mask();
            Computation {
                sources: vec![compared, compared],
                function: Box::new(move |sources| test(sources).map(|yes| if yes == 1 { all } else { 0 })),
            }
        }
        "slct" => {
            let ty = m.ty()?;
            match m.ty()? {
                Type::S32 => ternary([ty, ty, Type::S32], |a, b, c| if c as i32 >= 0 { a } else { b }),
                _ => return unsupported("a selector that is not s32"),
            }
        }
        "isspacep" => return unsupported("the test of an address"),
        _ => return Ok(None),
    }))
}

fn bitwise(name: &str) -> Option<fn(u64, u64) -> u64> {
    Some(match name {
        "and" => |a, b| a & b,
        "or" => |a, b| a | b,
        "xor" => |a, b| a ^ b,
        "not" | "cnot" => |a, _| a,
        _ => return None,
    })
}

fn product(name: &str, m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    let (low, high, wide) = (m.take("lo"), m.take("hi"), m.take("wide"));
    let sat = m.take("sat");
    let ty = m.one_of(|ty| ty.integer() && ty.bytes() > 1)?;
    let (mask, bits) = (ty.mask(), ty.bits());
    if sat && !(ty == Type::S32 && matches!(name, "add" | "sub")) {
        return unsupported("saturation of this type");
    }
    let clamp = |value: i64| (value.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as u64) & 0xffff_ffff;
    match name {
        "add" if sat => {
            return Ok(binary([ty, ty], move |a, b| {
                clamp(i64::from(a as i32) + i64::from(b as i32))
            }));
        }
        "sub" if sat => {
            return Ok(binary([ty, ty], move |a, b| {
                clamp(i64::from(a as i32) - i64::from(b as i32))
            }));
        }
        "add" => return Ok(binary([ty, ty], move |a, b| a.wrapping_add(b) & mask)),
        "sub" => return Ok(binary([ty, ty], move |a, b| a.wrapping_sub(b) & mask)),
        _ => {}
    }
    if name.ends_with("24") && ty.bits() != 32 {
        return syntax("24-bit products are of 32-bit types");
    }
    // Which bits of the product: an i128 holds that of any two 64-bit values.
    let narrow = name.ends_with("24");
    let (shift, result) = match (low, high, wide, narrow) {
        (true, false, false, _) => (0, ty),
        (false, true, false, false) => (bits, ty),
        (false, true, false, true) => (16, ty),
        (false, false, true, false) => (0, wider(ty)?),
        _ => return syntax("a product is lo, hi or wide"),
    };
    let factor = move |value: u64| {
        if !narrow {
            ty.extend(value)
        } else if ty.signed() {
            i128::from((value as i32) << 8 >> 8)
        } else {
            i128::from(value & 0xff_ffff)
        }
    };
    if low && !narrow {
        return Ok(if name == "mad" {
            ternary([ty; 3], move |a, b, c| a.wrapping_mul(b).wrapping_add(c) & mask)
        } else {
            binary([ty; 2], move |a, b| a.wrapping_mul(b) & mask)
        });
    }
    let multiply = move |a, b| ((factor(a).wrapping_mul(factor(b))) >> shift) as u64;
    let result_mask = result.mask();
    Ok(if name.starts_with("mad") {
        ternary([ty, ty, result], move |a, b, c| {
            multiply(a, b).wrapping_add(c) & result_mask
        })
    } else {
        binary([ty, ty], move |a, b| multiply(a, b) & result_mask)
    })
}

fn wider(ty: Type) -> Result<Type, Problem> {
    Ok(match ty {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        Type::S32 => Type::S64,
        _ => return syntax("a wide product of 64-bit values"),
    })
}

/// Division by zero gives all ones, the remainder of it the dividend: PTX leaves both open, and a GPU does that.
fn quotient(name: &str, m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    let ty = m.one_of(|ty| ty.integer() && ty.bytes() > 1)?;
    let (mask, remainder) = (ty.mask(), name == "rem");
    Ok(binary([ty, ty], move |a, b| {
        let (x, y) = (ty.extend(a), ty.extend(b));
        let value = match (y, remainder) {
            (0, false) => -1,
            (0, true) => x,
            (_, false) => x / y,
            (_, true) => x % y,
        };
        value as u64 & mask
    }))
}

fn order(name: &str, m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    let ty = m.one_of(|ty| ty.integer() && ty.bytes() > 1)?;
    let mask = ty.mask();
    if matches!(name, "abs" | "neg") && !ty.signed() {
        return syntax(format!("{name} of an unsigned type"));
    }
    Ok(match name {
        "min" => binary([ty, ty], move |a, b| if ty.extend(a) <= ty.extend(b) { a } else { b }),
        "max" => binary([ty, ty], move |a, b| if ty.extend(a) >= ty.extend(b) { a } else { b }),
        "abs" => unary(ty, move |a| ty.extend(a).unsigned_abs() as u64 & mask),
        "neg" => unary(ty, move |a| a.wrapping_neg() & mask),
        _ => ternary([ty, ty, ty], move |a, b, c| {
            ((ty.extend(a) - ty.extend(b)).unsigned_abs() as u64).wrapping_add(c) & mask
        }),
    })
}

fn shift(name: &str, m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    if name == "shf" {
        let (left, right, wrap, clamp) = (m.take("l"), m.take("r"), m.take("wrap"), m.take("clamp"));
        let ty = m.one_of(|ty| ty == Type::B32)?;
        if left == right || wrap == clamp {
            return syntax("a funnel shift is l or r, and wrap or clamp");
        }
        return Ok(ternary([ty, ty, Type::U32], move |low, high, by| {
            let by = if wrap { by & 31 } else { by.min(32) };
            let both = high << 32 | low;
            let value = if left {
                (u128::from(both) << by >> 32) as u64
            } else {
                both.wrapping_shr(by as u32)
            };
            value & 0xffff_ffff
        }));
    }
    let ty = m.one_of(|ty| ty.bytes() > 1 && (ty.integer() || ty.untyped()))?;
    let (mask, bits) = (ty.mask(), u64::from(ty.bits()));
    Ok(if name == "shl" {
        binary(
            [ty, Type::U32],
            move |a, by| if by >= bits { 0 } else { a << by & mask },
        )
    } else {
        binary([ty, Type::U32], move |a, by| {
            (ty.extend(a) >> by.min(bits)) as u64 & mask
        })
    })
}

fn bits(name: &str, m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    if name == "lop3" {
        let ty = m.one_of(|ty| ty == Type::B32)?;
        return Ok(quaternary([ty; 4], |[a, b, c, table]| {
            // Bit 4a + 2b + c of the table is the result for the bits a, b, c.
            let term = |i: u64| {
                let pick = |bit: u64, value: u64| if i & bit == 0 { !value } else { value };
                if table >> i & 1 == 1 {
                    pick(4, a) & pick(2, b) & pick(1, c)
                } else {
                    0
                }
            };
            (0..8).fold(0, |word, i| word | term(i)) & 0xffff_ffff
        }));
    }
    if name == "prmt" {
        let ty = m.one_of(|ty| ty == Type::B32)?;
        return Ok(ternary([ty, ty, ty], |a, b, selector| {
            let bytes = (b << 32 | a).to_le_bytes();
            (0..4).fold(0, |word, i| {
                let pick = (selector >> (4 * i)) as usize & 15;
                let byte = bytes[pick & 7];
                // The highest bit of a pick asks for the sign of the byte.
                let byte = if pick & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 };
                word | u64::from(byte) << (8 * i)
            })
        }));
    }
    let amount = m.take("shiftamt");
    let ty = m.one_of(|ty| ty.bytes() >= 4 && (ty.integer() || ty.untyped()))?;
    let (mask, width) = (ty.mask(), ty.bits());
    Ok(match name {
        "popc" => unary(ty, |a| u64::from(a.count_ones())),
        "clz" => unary(ty, move |a| u64::from(a.leading_zeros() - (64 - width))),
        "brev" => unary(ty, move |a| a.reverse_bits() >> (64 - width)),
        "bfind" => unary(ty, move |a| {
            // The highest bit that differs from the sign.
            let a = if ty.signed() && ty.extend(a) < 0 { !a & mask } else { a };
            match (a.checked_ilog2(), amount) {
                (None, _) => 0xffff_ffff,
                (Some(bit), false) => u64::from(bit),
                (Some(bit), true) => u64::from(width - 1 - bit),
            }
        }),
        "bfe" => ternary([ty, Type::U32, Type::U32], move |a, from, length| {
            let (from, length) = ((from & 255) as u32, (length & 255) as u32);
            if length == 0 {
                return 0;
            }
            // Bits past the end are copies of the sign, or zero.
            let end = (from + length).min(width);
            let sign = ty.signed() && a >> (end - 1) & 1 == 1;
            let taken = if from >= width {
                0
            } else {
                (a >> from) & !(u64::MAX.checked_shl(end - from).unwrap_or(0))
            };
            let fill = if sign {
                u64::MAX.checked_shl(end.saturating_sub(from)).unwrap_or(0)
            } else {
                0
            };
            (taken | fill) & mask
        }),
        _ => quaternary([ty, ty, Type::U32, Type::U32], move |[a, b, from, length]| {
            let (from, length) = ((from & 255) as u32, (length & 255) as u32);
            if length == 0 || from >= width {
                return b;
            }
            let field = !u64::MAX.checked_shl(length).unwrap_or(0) << from & mask;
            (b & !field) | (a << from & field)
        }),
    })
}

/// Sums of the products of four bytes, plus a 32-bit value.
fn dot(m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    let (a, b) = (m.ty()?, m.ty()?);
    if ![a, b].iter().all(|ty| matches!(ty, Type::S32 | Type::U32)) {
        return syntax("dp4a takes 32-bit types");
    }
    let byte = |ty: Type, value: u64, i: u32| {
        let byte = (value >> (8 * i)) as u8;
        if ty.signed() {
            i64::from(byte as i8)
        } else {
            i64::from(byte)
        }
    };
    Ok(ternary([a, b, Type::U32], move |x, y, z| {
        let sum: i64 = (0..4).map(|i| byte(a, x, i) * byte(b, y, i)).sum();
        (sum as u64).wrapping_add(z) & 0xffff_ffff
    }))
}

/// Takes an integer comparison.
fn comparison_of(m: &mut Modifiers<'_>, ty: Type) -> Result<fn(i128, i128) -> bool, Problem> {
    let signed = !matches!(ty, Type::U16 | Type::U32 | Type::U64);
    let test = m.find(|name| {
        let test: fn(i128, i128) -> bool = match name {
            "eq" => |a, b| a == b,
            "ne" => |a, b| a != b,
            "lt" => |a, b| a < b,
            "le" => |a, b| a <= b,
            "gt" => |a, b| a > b,
            "ge" => |a, b| a >= b,
            "lo" if !signed => |a, b| a < b,
            "ls" if !signed => |a, b| a <= b,
            "hi" if !signed => |a, b| a > b,
            "hs" if !signed => |a, b| a >= b,
            _ => return None,
        };
        Some(test)
    });
    match test {
        Some(test) => Ok(test),
        None => syntax("a comparison is missing"),
    }
}

/// Takes a comparison of this type and the type itself.
pub(super) fn comparison(m: &mut Modifiers<'_>, ty: Type) -> Result<Function, Problem> {
    let test = comparison_of(m, ty)?;
    m.ty()?;
    Ok(binary([ty, ty], move |a, b| u64::from(test(ty.extend(a), ty.extend(b)))).function)
}

/// The operations that `atom`, `red` and `redux` know.
pub(super) const ATOMICS: [&str; 10] = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];

/// What an atomic operation of this type leaves in memory.
pub(super) fn atomic(operation: &str, ty: Type) -> Result<Update, Problem> {
    let mask = ty.mask();
    if ty.bits() < 32 && operation != "cas" {
        return unsupported("an atomic operation of this type");
    }
    Ok(match operation {
        "add" => Box::new(move |old, a, _| old.wrapping_add(a) & mask),
        "min" => Box::new(move |old, a, _| if ty.extend(old) <= ty.extend(a) { old } else { a }),
        "max" => Box::new(move |old, a, _| if ty.extend(old) >= ty.extend(a) { old } else { a }),
        "and" => Box::new(|old, a, _| old & a),
        "or" => Box::new(|old, a, _| old | a),
        "xor" => Box::new(|old, a, _| old ^ a),
        "exch" => Box::new(|_, a, _| a),
        "cas" => Box::new(|old, a, b| if old == a { b } else { old }),
        "inc" => Box::new(|old, a, _| if old >= a { 0 } else { old + 1 }),
        _ => Box::new(|old, a, _| if old == 0 || old > a { a } else { old - 1 }),
    })
}
