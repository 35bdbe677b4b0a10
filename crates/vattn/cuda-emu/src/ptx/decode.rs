//! From opcodes to operations: data movement, control flow and what lanes do together. Arithmetic is in
//! [`integer`](super::integer), [`float`](super::float) and [`convert`](super::convert).
//!
//! Every modifier of an instruction must be asked for by the code that decodes it: what is left over makes the instruction
//! unsupported. Nothing is ignored that could change a result.

use super::instruction::{Address, Combine, Fixed, Function, Op, Shuffle, Together, Vote};
use super::operand::{Arg, Names, Problem, syntax, unsupported};
use super::types::{LOCAL_WINDOW, SHARED_WINDOW, Space, Type};
use super::{convert, float, integer};

/// The parts of an opcode after its first dot.
pub(super) struct Modifiers<'a>(Vec<&'a str>);

impl<'a> Modifiers<'a> {
    /// Takes this modifier if it is there.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let found = self.0.iter().position(|modifier| *modifier == name);
        found.map(|i| self.0.remove(i)).is_some()
    }

    /// Takes the first modifier that `read` understands.
    pub(super) fn find<T>(&mut self, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (i, value) = self
            .0
            .iter()
            .enumerate()
            .find_map(|(i, modifier)| Some((i, read(modifier)?)))?;
        self.0.remove(i);
        Some(value)
    }

    /// Takes the first type.
    pub(super) fn ty(&mut self) -> Result<Type, Problem> {
        match self.find(Type::parse) {
            Some(ty) => Ok(ty),
            None => syntax("the instruction has no type"),
        }
    }

    /// Takes the first type, which must be one of these.
    pub(super) fn one_of(&mut self, allowed: fn(Type) -> bool) -> Result<Type, Problem> {
        let ty = self.ty()?;
        if allowed(ty) {
            Ok(ty)
        } else {
            unsupported(format!("the type {ty:?}"))
        }
    }

    fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some(modifier) => unsupported(format!("the modifier .{modifier}")),
        }
    }
}

/// What an arithmetic opcode means: the types of its sources and the function.
pub(super) struct Computation {
    pub(super) sources: Vec<Type>,
    pub(super) function: Function,
}

/// Decodes one instruction.
pub(super) fn decode(opcode: &str, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    let mut parts = opcode.split('.');
    let name = parts.next().unwrap_or("");
    let mut modifiers = Modifiers(parts.collect());
    let m = &mut modifiers;
    let op = match name {
        "mov" => mov(m, args, names)?,
        "ld" | "ldu" => load(m, args, names)?,
        "st" => store(m, args, names)?,
        "atom" | "red" => atomic(name, m, args, names)?,
        "setp" => compare(m, args, names)?,
        "bra" | "brx" => branch(name, m, args, names)?,
        "ret" | "exit" => {
            m.take("uni");
            count(args, 0)?;
            Op::Exit
        }
        "trap" => Op::Trap,
        "call" if mentions(args, "__assertfail") => {
            m.take("uni");
            Op::Assert
        }
        "call" => return unsupported("function calls"),
        "bar" | "barrier" => barrier(name, m, args, names)?,
        "shfl" | "vote" | "redux" => together(name, m, args, names)?,
        "activemask" => {
            m.one_of(|ty| ty == Type::B32)?;
            count(args, 1)?;
            Op::ActiveMask(names.register(&args[0])?)
        }
        "membar" | "fence" | "nanosleep" | "prefetch" | "prefetchu" | "discard" => {
            // All of them only say when other threads see what this one wrote, or how fast.
            m.0.clear();
            Op::Nothing
        }
        _ => {
            let Some(Computation { sources, function }) = computation(name, m)? else {
                return unsupported(format!("the opcode {name}"));
            };
            count(args, 1 + sources.len())?;
            let mut operands = [names.fix(Fixed::Constant(0)); 4];
            for ((operand, arg), ty) in operands.iter_mut().zip(&args[1..]).zip(sources) {
                *operand = names.value(arg, ty)?;
            }
            Op::Compute {
                function,
                sources: operands,
                destination: names.register(&args[0])?,
            }
        }
    };
    modifiers.finish()?;
    Ok(op)
}

fn computation(name: &str, m: &mut Modifiers<'_>) -> Result<Option<Computation>, Problem> {
    if matches!(name, "cvt" | "cvta") {
        return Ok(Some(if name == "cvt" { convert::decode(m)? } else { window(m)? }));
    }
    // One name serves integers and floats; the first type tells which.
    let ty = m.0.iter().find_map(|modifier| Type::parse(modifier));
    match ty {
        // Selections move bits, whatever their type.
        _ if matches!(name, "selp" | "set" | "slct") => integer::decode(name, m),
        Some(ty) if ty.float() || ty.half().is_some() => float::decode(name, m),
        _ => integer::decode(name, m),
    }
}

/// `cvta`: between the addresses of a space and generic addresses.
fn window(m: &mut Modifiers<'_>) -> Result<Computation, Problem> {
    let to = m.take("to");
    let Some(space) = m.find(space) else {
        return syntax("cvta without a space");
    };
    let ty = m.one_of(|ty| ty == Type::U64)?;
    let base = match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Global => 0,
        _ => return unsupported("this space"),
    };
    let base = if to { base.wrapping_neg() } else { base };
    Ok(integer::unary(ty, move |address| address.wrapping_add(base)))
}

pub(super) fn count(args: &[Arg<'_>], expected: usize) -> Result<(), Problem> {
    if args.len() == expected {
        return Ok(());
    }
    syntax(format!("{} operands where {expected} belong", args.len()))
}

fn mentions(args: &[Arg<'_>], name: &str) -> bool {
    args.iter()
        .any(|arg| matches!(arg, Arg::Word { text, .. } if *text == name))
}

fn space(name: &str) -> Option<Space> {
    Some(match name {
        "global" | "const" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}

fn mov(m: &mut Modifiers<'_>, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    let ty = m.ty()?;
    count(args, 2)?;
    if let Arg::Vector(parts) = &args[1] {
        return Ok(Op::Pack {
            bits: part_bits(ty, parts.len())?,
            sources: names.values(&args[1], ty)?,
            destination: names.register(&args[0])?,
        });
    }
    let source = names.value(&args[1], ty)?;
    if let Arg::Vector(parts) = &args[0] {
        return Ok(Op::Unpack {
            bits: part_bits(ty, parts.len())?,
            source,
            destinations: names.destinations(&args[0])?,
        });
    }
    Ok(Op::Compute {
        function: integer::unary(ty, |value| value).function,
        sources: [source; 4],
        destination: names.register(&args[0])?,
    })
}

fn part_bits(ty: Type, parts: usize) -> Result<u32, Problem> {
    match (ty, parts) {
        (Type::B16 | Type::B32 | Type::B64, 2 | 4) if ty.bits() / parts as u32 >= 8 => Ok(ty.bits() / parts as u32),
        _ => syntax(format!("{parts} parts of a {ty:?}")),
    }
}

/// Takes how many elements an access moves, its type, and what says only how caches should be used.
fn access(m: &mut Modifiers<'_>) -> Result<(Type, usize), Problem> {
    let vector = m.find(|name| match name {
        "v2" => Some(2),
        "v4" => Some(4),
        _ => None,
    });
    for hint in ["ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc"] {
        m.take(hint);
    }
    m.find(|name| name.starts_with("L1::").then_some(()));
    m.find(|name| (name.starts_with("L2::") && !name.contains("cache_hint")).then_some(()));
    order(m);
    let ty = m.one_of(|ty| ty != Type::Pred && ty.half().is_none())?;
    Ok((ty, vector.unwrap_or(1)))
}

/// Takes what says when other threads see an access. Threads run one after another here, so all see it at once.
fn order(m: &mut Modifiers<'_>) {
    for order in ["volatile", "weak", "relaxed", "acquire", "release", "acq_rel"] {
        m.take(order);
    }
    for scope in ["cta", "cluster", "gpu", "sys"] {
        m.take(scope);
    }
}

fn load(m: &mut Modifiers<'_>, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    let space = m.find(space).unwrap_or(Space::Generic);
    let (ty, vector) = access(m)?;
    count(args, 2)?;
    let destinations = names.destinations(&args[0])?;
    same_length(destinations.len(), vector)?;
    Ok(Op::Load {
        ty,
        address: names.memory(&args[1], space)?,
        destinations,
    })
}

fn store(m: &mut Modifiers<'_>, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    let space = m.find(space).unwrap_or(Space::Generic);
    let (ty, vector) = access(m)?;
    count(args, 2)?;
    let sources = names.values(&args[1], ty)?;
    same_length(sources.len(), vector)?;
    let address = names.memory(&args[0], space)?;
    if address.space == Space::Param {
        return syntax("the parameters of a kernel cannot be written");
    }
    Ok(Op::Store { ty, address, sources })
}

fn same_length(found: usize, expected: usize) -> Result<(), Problem> {
    if found == expected {
        return Ok(());
    }
    syntax(format!("{found} registers where {expected} belong"))
}

fn atomic(name: &str, m: &mut Modifiers<'_>, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    let space = m.find(space).unwrap_or(Space::Generic);
    order(m);
    let Some(operation) = m.find(|name| integer::ATOMICS.iter().copied().find(|atomic| *atomic == name)) else {
        return unsupported("the operation");
    };
    let ty = m.ty()?;
    let update = if ty.float() {
        float::atomic(operation, m, ty)?
    } else {
        integer::atomic(operation, ty)?
    };
    let answers = usize::from(name == "atom");
    let values = if operation == "cas" { 2 } else { 1 };
    count(args, answers + 1 + values)?;
    let mut sources = [names.fix(Fixed::Constant(0)); 2];
    for (source, arg) in sources.iter_mut().zip(&args[answers + 1..]) {
        *source = names.value(arg, ty)?;
    }
    Ok(Op::Atomic {
        ty,
        address: writable(names.memory(&args[answers], space)?)?,
        update,
        sources,
        destination: if answers == 1 {
            names.destination(&args[0])?
        } else {
            None
        },
    })
}

fn writable(address: Address) -> Result<Address, Problem> {
    match address.space {
        Space::Generic | Space::Global | Space::Shared => Ok(address),
        other => syntax(format!("an atomic operation on {other} memory")),
    }
}

fn compare(m: &mut Modifiers<'_>, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    let combine = m.find(|name| match name {
        "and" => Some(Combine::And),
        "or" => Some(Combine::Or),
        "xor" => Some(Combine::Xor),
        _ => None,
    });
    let (test, ty) = comparison(m)?;
    count(args, 3 + usize::from(combine.is_some()))?;
    let destinations = match &args[0] {
        Arg::Pair(yes, no) => {
            let register = |text| names.destination(&Arg::Word { minus: false, text });
            [register(yes)?, register(no)?]
        }
        one => [names.destination(one)?, None],
    };
    let combine = match combine {
        Some(combine) => Some((combine, names.condition(&args[3])?)),
        None => None,
    };
    Ok(Op::Compare {
        test,
        sources: [names.value(&args[1], ty)?, names.value(&args[2], ty)?],
        combine,
        destinations,
    })
}

/// Takes a comparison and the type of what it compares.
pub(super) fn comparison(m: &mut Modifiers<'_>) -> Result<(Function, Type), Problem> {
    // `set` has two types: the one compared comes last.
    let ty = m.0.iter().rev().find_map(|modifier| Type::parse(modifier));
    match ty {
        Some(ty) if ty.float() => Ok((float::comparison(m)?, ty)),
        Some(ty) if ty.integer() || ty.untyped() => Ok((integer::comparison(m, ty)?, ty)),
        Some(ty) => unsupported(format!("the type {ty:?}")),
        None => syntax("the instruction has no type"),
    }
}

fn branch(name: &str, m: &mut Modifiers<'_>, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    m.take("uni");
    if name == "bra" {
        count(args, 1)?;
        return Ok(Op::Branch(0));
    }
    if !m.take("idx") {
        return unsupported("this form");
    }
    count(args, 2)?;
    Ok(Op::BranchTable {
        index: names.value(&args[0], Type::U32)?,
        labels: Vec::new(),
    })
}

fn barrier(name: &str, m: &mut Modifiers<'_>, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    m.take("cta");
    if m.take("warp") {
        if !m.take("sync") {
            return unsupported("this form");
        }
        count(args, 1)?;
        return Ok(Op::Together {
            members: names.value(&args[0], Type::B32)?,
            what: Together::Barrier,
        });
    }
    if !m.take("sync") {
        return unsupported("a barrier other than sync");
    }
    if args.len() != 1 {
        return unsupported("a barrier of a part of the block");
    }
    // `bar.sync` is `barrier.sync.aligned` (PTX ISA 8.0, section 9.7.12.1).
    let aligned = m.take("aligned") || name == "bar";
    Ok(Op::Barrier {
        id: names.value(&args[0], Type::U32)?,
        aligned,
    })
}

fn together(name: &str, m: &mut Modifiers<'_>, args: &[Arg<'_>], names: &mut Names<'_>) -> Result<Op, Problem> {
    if !m.take("sync") {
        return unsupported("a warp operation without .sync");
    }
    let (members, what) = match name {
        "shfl" => {
            let mode = m.find(|name| match name {
                "up" => Some(Shuffle::Up),
                "down" => Some(Shuffle::Down),
                "bfly" => Some(Shuffle::Butterfly),
                "idx" => Some(Shuffle::Index),
                _ => None,
            });
            let Some(mode) = mode else {
                return syntax("a shuffle has a mode");
            };
            let ty = m.one_of(|ty| ty == Type::B32)?;
            count(args, 5)?;
            let (destination, valid) = match &args[0] {
                Arg::Pair(value, valid) => {
                    let register = |text| names.destination(&Arg::Word { minus: false, text });
                    (register(value)?, register(valid)?)
                }
                one => (names.destination(one)?, None),
            };
            let what = Together::Shuffle {
                mode,
                source: names.value(&args[1], ty)?,
                lane: names.value(&args[2], Type::B32)?,
                clamp: names.value(&args[3], Type::B32)?,
                destination,
                valid,
            };
            (4, what)
        }
        "vote" => {
            let mode = m.find(|name| match name {
                "all" => Some(Vote::All),
                "any" => Some(Vote::Any),
                "uni" => Some(Vote::Uniform),
                "ballot" => Some(Vote::Ballot),
                _ => None,
            });
            let Some(mode) = mode else {
                return syntax("a vote has a mode");
            };
            m.ty()?;
            count(args, 3)?;
            let what = Together::Vote {
                mode,
                source: names.condition(&args[1])?,
                destination: names.register(&args[0])?,
            };
            (2, what)
        }
        _ => {
            let Some(operation) = m.find(|name| integer::ATOMICS.iter().copied().find(|atomic| *atomic == name)) else {
                return unsupported("the operation");
            };
            let ty = m.one_of(|ty| ty.bits() == 32 && !ty.float())?;
            count(args, 3)?;
            let what = Together::Reduce {
                update: integer::atomic(operation, ty)?,
                source: names.value(&args[1], ty)?,
                destination: names.register(&args[0])?,
            };
            (2, what)
        }
    };
    Ok(Op::Together {
        members: names.value(&args[members], Type::B32)?,
        what,
    })
}
