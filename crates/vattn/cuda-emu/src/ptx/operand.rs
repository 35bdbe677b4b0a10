//! Operands as they stand in the text, and the names they may use.

use super::instruction::{Address, Fixed, Predicate, Register, Special};
use super::types::{Space, Type};
use std::collections::HashMap;

/// Why an instruction cannot be decoded.
#[derive(Debug)]
pub(super) enum Problem {
    /// It is not PTX.
    Syntax(String),
    /// It is PTX that is not run here.
    Unsupported(String),
}

pub(super) fn syntax<T>(what: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Syntax(what.into()))
}

pub(super) fn unsupported<T>(what: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Unsupported(what.into()))
}

/// An operand before its names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arg<'a> {
    /// A name or a number, negated with a minus sign or not.
    Word { minus: bool, text: &'a str },
    /// A name plus a number of bytes.
    Sum { text: &'a str, offset: u64 },
    /// `!name`
    Not(&'a str),
    /// `[name + offset]`
    Memory { text: &'a str, offset: u64 },
    /// `{a, b}`
    Vector(Vec<Arg<'a>>),
    /// `a|b`
    Pair(&'a str, &'a str),
    /// `(a, b)`
    List(Vec<Arg<'a>>),
}

/// A variable that the names of a kernel can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbol {
    /// At an offset of its space.
    At(Space, u64),
    /// Variable of the module, by its index.
    Global(usize),
}

/// Registers by name, innermost block of braces last, and variables.
#[derive(Debug, Default)]
pub(super) struct Names<'a> {
    scopes: Vec<HashMap<&'a str, (Register, Option<u32>)>>,
    /// The bits that each register holds.
    pub(super) registers: Vec<u64>,
    symbols: HashMap<&'a str, Symbol>,
    fixed: HashMap<Fixed, Register>,
}

impl<'a> Names<'a> {
    pub(super) fn enter(&mut self) {
        self.scopes.push(HashMap::new());
    }

    /// Leaves a block; says whether there was one.
    pub(super) fn leave(&mut self) -> bool {
        self.scopes.pop().is_some()
    }

    /// Declares a register, or with a count the registers `name0 .. name{count - 1}`.
    pub(super) fn declare(&mut self, name: &'a str, count: Option<u32>, ty: Type) {
        let first = self.registers.len() as Register;
        let length = self.registers.len() + count.unwrap_or(1) as usize;
        self.registers.resize(length, ty.mask());
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, (first, count));
        }
    }

    pub(super) fn define(&mut self, name: &'a str, symbol: Symbol) {
        self.symbols.insert(name, symbol);
    }

    pub(super) fn symbol(&self, name: &str) -> Option<Symbol> {
        self.symbols.get(name).copied()
    }

    fn find(&self, name: &str) -> Option<Register> {
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        self.scopes.iter().rev().find_map(|scope| {
            if let Some((register, None)) = scope.get(name) {
                return Some(*register);
            }
            // "%r10" may be number 10 of "%r", or number 0 of "%r1".
            (1..=digits).find_map(|n| {
                let (prefix, number) = name.split_at(name.len() - n);
                let (first, Some(count)) = scope.get(prefix)? else {
                    return None;
                };
                let canonical = number.len() == 1 || !number.starts_with('0');
                let number: u32 = number.parse().ok()?;
                (canonical && number < *count).then(|| first + number)
            })
        })
    }

    /// A register to write to; `_` throws the value away.
    pub(super) fn destination(&self, arg: &Arg<'_>) -> Result<Option<Register>, Problem> {
        match arg {
            Arg::Word {
                minus: false,
                text: "_",
            } => Ok(None),
            Arg::Word { minus: false, text } => match self.find(text) {
                Some(register) => Ok(Some(register)),
                None => syntax(format!("{text} is not a register")),
            },
            other => syntax(format!("{other:?} is not a register")),
        }
    }

    /// A register that must be written.
    pub(super) fn register(&self, arg: &Arg<'_>) -> Result<Register, Problem> {
        match self.destination(arg)? {
            Some(register) => Ok(register),
            None => unsupported("a destination of _"),
        }
    }

    /// A predicate register, by name.
    pub(super) fn predicate(&self, name: &str, value: bool) -> Result<Predicate, Problem> {
        match self.find(name) {
            Some(register) if self.registers[register as usize] == 1 => Ok(Predicate { register, value }),
            _ => syntax(format!("{name} is not a predicate")),
        }
    }

    /// A predicate operand, negated or not.
    pub(super) fn condition(&self, arg: &Arg<'_>) -> Result<Predicate, Problem> {
        match arg {
            Arg::Word { minus: false, text } => self.predicate(text, true),
            Arg::Not(text) => self.predicate(text, false),
            other => syntax(format!("{other:?} where a predicate belongs")),
        }
    }

    /// The register that holds a value from the start.
    pub(super) fn fix(&mut self, value: Fixed) -> Register {
        *self.fixed.entry(value).or_insert_with(|| {
            self.registers.push(u64::MAX);
            self.registers.len() as Register - 1
        })
    }

    /// All registers: the bits they hold, and those that hold something from the start.
    pub(super) fn finish(self) -> (Vec<u64>, Vec<(Register, Fixed)>) {
        let mut fixed: Vec<_> = self
            .fixed
            .into_iter()
            .map(|(value, register)| (register, value))
            .collect();
        fixed.sort_unstable_by_key(|(register, _)| *register);
        (self.registers, fixed)
    }

    /// A value of this type.
    pub(super) fn value(&mut self, arg: &Arg<'_>, ty: Type) -> Result<Register, Problem> {
        match arg {
            Arg::Word { minus, text } => {
                if let (false, Some(register)) = (minus, self.find(text)) {
                    return Ok(register);
                }
                if text.starts_with(|c: char| c.is_ascii_digit()) {
                    return Ok(self.fix(Fixed::Constant(literal(*minus, text, ty)?)));
                }
                self.address_of(text, 0)
            }
            Arg::Sum { text, offset } => self.address_of(text, *offset),
            other => syntax(format!("{other:?} where a value belongs")),
        }
    }

    fn address_of(&mut self, name: &str, offset: u64) -> Result<Register, Problem> {
        let value = match (self.symbol(name), Special::parse(name)) {
            (Some(Symbol::At(_, at)), _) => Fixed::Constant(at.wrapping_add(offset)),
            (Some(Symbol::Global(index)), _) => Fixed::Global(index, offset),
            (None, Some(special)) => Fixed::Special(special),
            (None, None) if name == "WARP_SZ" => Fixed::Constant(32),
            (None, None) if special_like(name) => return unsupported(format!("the special register {name}")),
            (None, None) => return syntax(format!("{name} is not declared")),
        };
        Ok(self.fix(value))
    }

    /// A memory operand.
    pub(super) fn memory(&mut self, arg: &Arg<'_>, space: Space) -> Result<Address, Problem> {
        let Arg::Memory { text, offset } = arg else {
            return syntax(format!("{arg:?} where an address belongs"));
        };
        let base = self.value(&Arg::Word { minus: false, text }, Type::U64)?;
        // A variable may be named without its space: `ld.u32 r, [variable]` reads where the variable lies.
        let space = match (space, self.symbol(text)) {
            (Space::Generic, Some(Symbol::At(at, _))) => at,
            // Parameters of a call lie in local memory.
            (Space::Param, Some(Symbol::At(at, _))) => at,
            (space, _) => space,
        };
        Ok(Address {
            space,
            base,
            offset: *offset,
        })
    }

    /// The values of a vector operand, or the one value of another.
    pub(super) fn values(&mut self, arg: &Arg<'_>, ty: Type) -> Result<Vec<Register>, Problem> {
        match arg {
            Arg::Vector(parts) => parts.iter().map(|part| self.value(part, ty)).collect(),
            one => Ok(vec![self.value(one, ty)?]),
        }
    }

    /// The registers of a vector operand, or the one register of another.
    pub(super) fn destinations(&self, arg: &Arg<'_>) -> Result<Vec<Option<Register>>, Problem> {
        match arg {
            Arg::Vector(parts) => parts.iter().map(|part| self.destination(part)).collect(),
            one => Ok(vec![self.destination(one)?]),
        }
    }
}

/// Names that PTX gives to special registers, as opposed to registers that were not declared.
fn special_like(name: &str) -> bool {
    [
        "%envreg",
        "%pm",
        "%globaltimer",
        "%gridid",
        "%nsmid",
        "%clock",
        "%total_smem",
        "%cluster",
        "%is_explicit",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

/// Reads an integer: decimal, octal, hexadecimal or binary, with or without the suffix U.
pub(super) fn integer(text: &str) -> Option<u64> {
    let text = text.strip_suffix('U').unwrap_or(text);
    match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => u64::from_str_radix(&text[2..], 16).ok(),
        [b'0', b'b' | b'B', ..] => u64::from_str_radix(&text[2..], 2).ok(),
        [b'0', _, ..] => u64::from_str_radix(&text[1..], 8).ok(),
        _ => text.parse().ok(),
    }
}

/// The bits of a number in an instruction of type `ty`.
fn literal(minus: bool, text: &str, ty: Type) -> Result<u64, Problem> {
    let float = match text.as_bytes() {
        [b'0', b'f' | b'F', hex @ ..] if hex.len() == 8 => u32::from_str_radix(&text[2..], 16)
            .ok()
            .map(|bits| f64::from(f32::from_bits(bits))),
        [b'0', b'd' | b'D', hex @ ..] if hex.len() == 16 => {
            u64::from_str_radix(&text[2..], 16).ok().map(f64::from_bits)
        }
        _ => None,
    };
    if let Some(value) = float {
        let value = if minus { -value } else { value };
        return match ty {
            Type::F32 | Type::B32 => {
                // A 0f literal keeps its bits, NaNs too: the way over f64 would make them quiet.
                let sign = u64::from(minus) << 31;
                match text.len() {
                    10 => Ok(integer(&format!("0x{}", &text[2..])).unwrap_or(0) ^ sign),
                    _ => Ok(u64::from((value as f32).to_bits())),
                }
            }
            Type::F64 | Type::B64 => Ok(value.to_bits()),
            other => unsupported(format!("the float {text} in an instruction of type {other:?}")),
        };
    }
    let Some(value) = integer(text) else {
        return syntax(format!("{text} is not a number"));
    };
    if ty.float() && !matches!(ty, Type::F16 | Type::Bf16) {
        return unsupported(format!("the integer {text} in an instruction of type {ty:?}"));
    }
    let value = if minus { value.wrapping_neg() } else { value };
    Ok(value & ty.mask())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Arg<'_> {
        Arg::Word { minus: false, text }
    }

    #[test]
    fn registers_are_found_by_prefix_and_number_innermost_first() {
        let mut names = Names::default();
        names.enter();
        names.declare("%r", Some(12), Type::B32);
        names.declare("%r1", Some(1), Type::B64);
        names.declare("tmp", None, Type::Pred);
        let find = |names: &Names<'_>, name| names.destination(&word(name)).ok().flatten();
        assert_eq!(find(&names, "%r0"), Some(0));
        assert_eq!(find(&names, "%r11"), Some(11));
        assert_eq!(find(&names, "%r12"), None);
        assert_eq!(find(&names, "%r011"), None);
        assert_eq!(find(&names, "tmp"), Some(13));
        assert!(names.predicate("tmp", true).is_ok() && names.predicate("%r1", true).is_err());
        names.enter();
        names.declare("tmp", None, Type::F32);
        assert_eq!(find(&names, "tmp"), Some(14));
        assert!(names.leave());
        assert_eq!(find(&names, "tmp"), Some(13));
        assert!(names.leave() && !names.leave());
    }

    #[test]
    fn numbers_become_the_bits_of_the_type() {
        let bits = |minus, text, ty| literal(minus, text, ty).unwrap();
        assert_eq!(bits(false, "0f3F800000", Type::F32), 0x3f80_0000);
        assert_eq!(bits(true, "0f3F800000", Type::F32), 0xbf80_0000);
        assert_eq!(bits(false, "0fFFA00001", Type::F32), 0xffa0_0001);
        assert_eq!(bits(false, "0f3F800000", Type::F64), 1f64.to_bits());
        assert_eq!(bits(false, "0d3FF0000000000000", Type::F32), u64::from(1f32.to_bits()));
        assert_eq!(bits(true, "1", Type::S16), 0xffff);
        assert_eq!(bits(false, "0x1F", Type::U8), 0x1f);
        assert_eq!(bits(false, "017", Type::B32), 15);
        assert_eq!(bits(false, "0b101", Type::B64), 5);
        assert_eq!(bits(false, "4294967295U", Type::U32), 0xffff_ffff);
        for (text, ty) in [
            ("1", Type::F32),
            ("1x", Type::U32),
            ("0f3F800000", Type::U16),
            ("1.5", Type::F32),
        ] {
            assert!(literal(false, text, ty).is_err(), "{text}");
        }
    }
}
