//! From tokens to modules: directives, declarations and the bodies of kernels.

use super::decode;
use super::error::Error;
use super::instruction::{Code, Instruction, Op, Parameter};
use super::lexer::{Token, tokens};
use super::operand::{Arg, Names, Problem, Symbol, integer};
use super::types::{Space, Type};
use std::collections::{HashMap, HashSet};

/// A variable of the module in global or constant memory. The driver gives it an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// Its name.
    pub name: String,
    /// Its alignment in bytes.
    pub align: usize,
    /// What it holds when the module is loaded: its size in bytes.
    pub initial: Vec<u8>,
}

/// What the text of a module declares.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) version: (u32, u32),
    pub(super) target: u32,
    pub(super) globals: Vec<Global>,
    /// Kernels in the order of the text; one with an instruction that is not supported is the error that says so.
    pub(super) kernels: Vec<(String, Result<Code, Error>)>,
}

/// Reads a module. O(n) in bytes.
pub(super) fn parse(text: &str) -> Result<Parsed, Error> {
    let tokens = tokens(text)?;
    let mut parser = Parser {
        text,
        tokens: &tokens,
        at: 0,
    };
    let mut module = Parsed::default();
    let mut symbols = HashMap::new();
    while let Some(token) = parser.peek() {
        match token.text {
            ".version" => module.version = parser.version()?,
            ".target" => module.target = parser.target()?,
            ".address_size" => {
                parser.at += 1;
                if parser.number()? != 64 {
                    return parser.fail("only addresses of 64 bits are supported");
                }
            }
            ".visible" | ".weak" | ".extern" | ".common" => parser.at += 1,
            ".file" => parser.skip_line(),
            ".section" | ".func" | ".pragma" => parser.skip_item()?,
            ".global" | ".const" | ".shared" => {
                let space = parser.next()?.text;
                let variable = parser.variable()?;
                parser.expect(";")?;
                let symbol = if space == ".shared" {
                    ModuleSymbol::Shared(variable.bytes, variable.align)
                } else {
                    let mut initial = variable.initial;
                    initial.resize(variable.bytes.unwrap_or(initial.len()), 0);
                    module.globals.push(Global {
                        name: variable.name.into(),
                        align: variable.align,
                        initial,
                    });
                    ModuleSymbol::Global(module.globals.len() - 1)
                };
                symbols.insert(variable.name, symbol);
            }
            ".entry" => {
                parser.at += 1;
                let (name, code) = parser.kernel(&symbols)?;
                module.kernels.push((name.into(), code));
            }
            other => return parser.fail(format!("{other} where a directive belongs")),
        }
    }
    if module.version == (0, 0) || module.target == 0 {
        let what = "a module begins with .version and .target".into();
        return Err(Error::Syntax { line: 1, what });
    }
    Ok(module)
}

/// A variable outside the kernels.
#[derive(Debug, Clone, Copy)]
enum ModuleSymbol {
    Global(usize),
    /// Its bytes, or none if the launch decides, and its alignment.
    Shared(Option<usize>, usize),
}

/// A declared variable: `[.align n] .type name[n]... [= values]`
struct Variable<'a> {
    name: &'a str,
    /// None for an array without a length.
    bytes: Option<usize>,
    align: usize,
    initial: Vec<u8>,
}

struct Parser<'a, 't> {
    text: &'a str,
    tokens: &'t [Token<'a>],
    at: usize,
}

impl<'a> Parser<'a, '_> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn sees(&self, text: &str) -> bool {
        self.peek().is_some_and(|token| token.text == text)
    }

    fn accept(&mut self, text: &str) -> bool {
        let seen = self.sees(text);
        self.at += usize::from(seen);
        seen
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T, Error> {
        let last = self.tokens.get(self.at).or(self.tokens.last());
        let (line, what) = (last.map_or(1, |token| token.line), what.into());
        Err(Error::Syntax { line, what })
    }

    fn next(&mut self) -> Result<Token<'a>, Error> {
        match self.peek() {
            Some(token) => {
                self.at += 1;
                Ok(token)
            }
            None => self.fail("the text ends in the middle of a statement"),
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), Error> {
        if self.accept(text) {
            return Ok(());
        }
        match self.peek() {
            Some(token) => self.fail(format!("{} where {text} belongs", token.text)),
            None => self.fail(format!("the text ends where {text} belongs")),
        }
    }

    fn word(&mut self) -> Result<&'a str, Error> {
        let token = self.next()?;
        if !token.is_word() {
            self.at -= 1;
            return self.fail(format!("{} where a name belongs", token.text));
        }
        Ok(token.text)
    }

    fn number(&mut self) -> Result<u64, Error> {
        let word = self.word()?;
        match integer(word) {
            Some(number) => Ok(number),
            None => self.fail(format!("{word} where a number belongs")),
        }
    }

    /// A number that counts things: bytes, registers, threads.
    fn count(&mut self) -> Result<u32, Error> {
        match u32::try_from(self.number()?) {
            Ok(count) if count <= 1 << 24 => Ok(count),
            _ => self.fail("a count of more than 2^24"),
        }
    }

    fn version(&mut self) -> Result<(u32, u32), Error> {
        self.at += 1;
        let word = self.word()?;
        match word.split_once('.').map(|(a, b)| (a.parse(), b.parse())) {
            Some((Ok(major), Ok(minor))) => Ok((major, minor)),
            _ => self.fail(format!("{word} is not a version")),
        }
    }

    fn target(&mut self) -> Result<u32, Error> {
        self.at += 1;
        let word = self.word()?;
        let digits = word
            .strip_prefix("sm_")
            .unwrap_or("")
            .trim_end_matches(|c: char| c.is_ascii_lowercase());
        let Ok(target) = digits.parse() else {
            return self.fail(format!("{word} is not a target"));
        };
        while self.accept(",") {
            self.word()?;
        }
        Ok(target)
    }

    fn skip_line(&mut self) {
        let line = self.peek().map(|token| token.line);
        while self.peek().map(|token| token.line) == line && self.at < self.tokens.len() {
            self.at += 1;
        }
    }

    /// Passes over an item that ends with its closing brace, or without braces with a semicolon.
    fn skip_item(&mut self) -> Result<(), Error> {
        let mut depth = 0;
        loop {
            match self.next()?.text {
                "{" => depth += 1,
                "}" if depth <= 1 => return Ok(()),
                "}" => depth -= 1,
                ";" if depth == 0 => return Ok(()),
                _ => {}
            }
        }
    }

    /// The type of a declaration, with the attributes around it that change nothing here.
    fn variable(&mut self) -> Result<Variable<'a>, Error> {
        let (mut align, mut ty, mut vector) = (None, None, 1);
        let name = loop {
            let word = self.word()?;
            match word.strip_prefix('.') {
                None => break word,
                Some("align") => align = Some(self.count()? as usize),
                Some("v2") => vector = 2,
                Some("v4") => vector = 4,
                Some("ptr" | "global" | "const" | "shared" | "local") => {}
                Some(name) => match Type::parse(name) {
                    Some(found) => {
                        // The alignment before the type is that of the variable, the one after it that of a pointee.
                        ty = Some((found, align));
                        align = None;
                    }
                    None => return self.fail(format!("{word} in a declaration")),
                },
            }
        };
        let Some((ty, align)) = ty else {
            return self.fail(format!("{name} has no type"));
        };
        let mut count: Option<usize> = Some(vector);
        while self.accept("[") {
            count = if self.sees("]") {
                None
            } else {
                let length = self.count()? as usize;
                count
                    .and_then(|count| count.checked_mul(length))
                    .filter(|count| *count <= 1 << 32)
            };
            self.expect("]")?;
        }
        let align = align.unwrap_or(ty.bytes() * vector).max(1);
        if !align.is_power_of_two() {
            return self.fail(format!("an alignment of {align}"));
        }
        let mut initial = Vec::new();
        if self.accept("=") {
            loop {
                let token = self.next()?;
                match token.text {
                    "{" | "}" | "," => {}
                    "-" => {
                        let value = self.number()?.wrapping_neg();
                        initial.extend_from_slice(&value.to_le_bytes()[..ty.bytes()]);
                    }
                    ";" => {
                        self.at -= 1;
                        break;
                    }
                    text => match initial_value(text, ty) {
                        Some(value) => initial.extend_from_slice(&value.to_le_bytes()[..ty.bytes()]),
                        None => return self.fail(format!("{text} as an initial value")),
                    },
                }
            }
        }
        Ok(Variable {
            name,
            bytes: count.map(|count| count * ty.bytes()),
            align,
            initial,
        })
    }

    /// A kernel after `.entry`. Inner errors are of instructions that are not supported.
    fn kernel(&mut self, symbols: &HashMap<&'a str, ModuleSymbol>) -> Result<(&'a str, Result<Code, Error>), Error> {
        let name = self.word()?;
        let mut names = Names::default();
        let mut code = Code {
            name: name.into(),
            parameters: Vec::new(),
            parameter_bytes: 0,
            shared_bytes: 0,
            local_bytes: 0,
            registers: Vec::new(),
            fixed: Vec::new(),
            max_threads: None,
            required_threads: None,
            instructions: Vec::new(),
        };
        if self.accept("(") {
            while !self.accept(")") {
                if self.word()? != ".param" {
                    return self.fail("a parameter begins with .param");
                }
                let Variable { name, bytes, align, .. } = self.variable()?;
                let Some(bytes) = bytes else {
                    return self.fail(format!("parameter {name} has no size"));
                };
                let offset = place(&mut code.parameter_bytes, bytes, align);
                names.define(name, Symbol::At(Space::Param, offset as u64));
                code.parameters.push(Parameter { offset, bytes, align });
                self.accept(",");
            }
        }
        while !self.sees("{") {
            match self.word()? {
                ".maxntid" => code.max_threads = Some(self.threads()?.iter().product()),
                ".reqntid" => code.required_threads = Some(self.threads()?),
                ".minnctapersm" | ".maxnreg" => _ = self.count()?,
                other => return self.fail(format!("the directive {other} is not supported")),
            }
        }
        self.shared_memory(symbols, &mut names, &mut code)?;
        let problem = self.body(&mut names, &mut code)?;
        (code.registers, code.fixed) = names.finish();
        Ok((name, problem.map_or(Ok(code), Err)))
    }

    fn threads(&mut self) -> Result<[u32; 3], Error> {
        let mut threads = [1; 3];
        threads[0] = self.count()?.min(1024);
        for axis in &mut threads[1..] {
            if self.accept(",") {
                *axis = self.count()?.min(1024);
            }
        }
        Ok(threads)
    }

    /// Places the shared variables of the module that the body names, and names the global ones.
    fn shared_memory(
        &self,
        symbols: &HashMap<&'a str, ModuleSymbol>,
        names: &mut Names<'a>,
        code: &mut Code,
    ) -> Result<(), Error> {
        let end = self.end_of_body()?;
        let used: HashSet<_> = self.tokens[self.at..end].iter().map(|token| token.text).collect();
        let mut dynamic = Vec::new();
        let mut placed: Vec<_> = symbols.iter().filter(|(name, _)| used.contains(*name)).collect();
        placed.sort_unstable_by_key(|(name, _)| **name);
        for (name, symbol) in placed {
            match symbol {
                ModuleSymbol::Global(index) => names.define(name, Symbol::Global(*index)),
                ModuleSymbol::Shared(None, _) => dynamic.push(*name),
                ModuleSymbol::Shared(Some(bytes), align) => {
                    let offset = place(&mut code.shared_bytes, *bytes, *align);
                    names.define(name, Symbol::At(Space::Shared, offset as u64));
                }
            }
        }
        // Shared variables of the body come before the dynamic ones, which begin where all others end.
        let mut ahead = Parser {
            text: self.text,
            tokens: &self.tokens[..end],
            at: self.at,
        };
        while let Some(token) = ahead.peek() {
            ahead.at += 1;
            if token.text == ".shared" {
                let Variable { name, bytes, align, .. } = ahead.variable()?;
                let offset = place(&mut code.shared_bytes, bytes.unwrap_or(0), align);
                names.define(name, Symbol::At(Space::Shared, offset as u64));
            }
        }
        let offset = super::instruction::dynamic_shared(code.shared_bytes) as u64;
        for name in dynamic {
            names.define(name, Symbol::At(Space::Shared, offset));
        }
        Ok(())
    }

    /// Index of the brace that closes the body that opens here.
    fn end_of_body(&self) -> Result<usize, Error> {
        let mut depth = 0;
        for (i, token) in self.tokens.iter().enumerate().skip(self.at) {
            match token.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(i);
            }
        }
        self.fail("the body has no end")
    }

    /// The statements of a kernel. Returns the first instruction that is not supported.
    fn body(&mut self, names: &mut Names<'a>, code: &mut Code) -> Result<Option<Error>, Error> {
        let mut labels = HashMap::new();
        let mut tables = HashMap::new();
        let mut jumps = Vec::new();
        let mut problem = None;
        self.expect("{")?;
        names.enter();
        let mut depth = 1;
        while depth > 0 {
            let token = self.next()?;
            match token.text {
                "{" => {
                    names.enter();
                    depth += 1;
                }
                "}" => {
                    names.leave();
                    depth -= 1;
                }
                ";" => {}
                ".loc" | ".file" => {
                    self.at -= 1;
                    self.skip_line();
                }
                ".pragma" => self.skip_item()?,
                ".reg" => self.registers(names)?,
                ".shared" => {
                    // Already placed.
                    self.variable()?;
                }
                ".local" | ".param" => {
                    let Variable { name, bytes, align, .. } = self.variable()?;
                    let offset = place(&mut code.local_bytes, bytes.unwrap_or(0), align);
                    names.define(name, Symbol::At(Space::Local, offset as u64));
                }
                label if token.is_word() && self.sees(":") => {
                    self.at += 1;
                    if self.accept(".branchtargets") {
                        tables.insert(label, self.targets()?);
                    } else if labels.insert(label, code.instructions.len()).is_some() {
                        return self.fail(format!("the label {label} stands twice"));
                    }
                }
                _ => {
                    self.at -= 1;
                    self.instruction(names, code, &mut jumps, &mut problem)?;
                }
            }
        }
        // A kernel may end without `ret`.
        code.instructions.push(Instruction {
            guard: None,
            op: Op::Exit,
            text: "}".into(),
            line: self.tokens[self.at - 1].line,
        });
        for (at, line, name) in jumps {
            let label = |name| match labels.get(name) {
                Some(label) => Ok(*label),
                None => Err(Error::Syntax {
                    line,
                    what: format!("the label {name} does not exist"),
                }),
            };
            match &mut code.instructions[at].op {
                Op::BranchTable { labels, .. } => {
                    let names: &Vec<&str> = tables.get(name).ok_or_else(|| Error::Syntax {
                        line,
                        what: format!("the table {name} does not exist"),
                    })?;
                    *labels = names.iter().map(|name| label(*name)).collect::<Result<_, _>>()?;
                }
                op => *op = Op::Branch(label(name)?),
            }
        }
        Ok(problem)
    }

    fn targets(&mut self) -> Result<Vec<&'a str>, Error> {
        let mut names = vec![self.word()?];
        while self.accept(",") {
            names.push(self.word()?);
        }
        self.expect(";")?;
        Ok(names)
    }

    fn registers(&mut self, names: &mut Names<'a>) -> Result<(), Error> {
        let word = self.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Type::parse) else {
            return self.fail(format!("{word} where the type of a register belongs"));
        };
        loop {
            let name = self.word()?;
            let count = if self.accept("<") {
                let count = self.count()?;
                self.expect(">")?;
                Some(count)
            } else {
                None
            };
            if names.registers.len() > 1 << 20 {
                return self.fail("more than 2^20 registers");
            }
            names.declare(name, count, ty);
            if !self.accept(",") {
                break;
            }
        }
        self.expect(";")
    }

    fn instruction(
        &mut self,
        names: &mut Names<'a>,
        code: &mut Code,
        jumps: &mut Vec<(usize, u32, &'a str)>,
        problem: &mut Option<Error>,
    ) -> Result<(), Error> {
        let first = self.next()?;
        let line = first.line;
        let mut guard = None;
        if first.text == "@" {
            let value = !self.accept("!");
            let name = self.word()?;
            guard = Some(
                names
                    .predicate(name, value)
                    .or_else(|_| self.fail(format!("{name} is not a predicate")))?,
            );
        } else {
            self.at -= 1;
        }
        let opcode = self.word()?;
        let mut args = Vec::new();
        while !self.accept(";") {
            args.push(self.arg()?);
            if !self.accept(",") {
                self.expect(";")?;
                break;
            }
        }
        let last = self.tokens[self.at - 1];
        let text = self.text[first.start..last.start]
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let op = match decode::decode(opcode, &args, names) {
            Ok(op) => op,
            Err(Problem::Syntax(what)) => {
                let what = format!("{what}, in `{text}`");
                return Err(Error::Syntax { line, what });
            }
            Err(Problem::Unsupported(why)) => {
                problem.get_or_insert_with(|| Error::Unsupported {
                    kernel: code.name.clone(),
                    line,
                    text: text.clone(),
                    why,
                });
                // Never run: the kernel is refused.
                Op::Trap
            }
        };
        if let (Op::Branch(_) | Op::BranchTable { .. }, Some(Arg::Word { text: label, .. })) = (&op, args.last()) {
            jumps.push((code.instructions.len(), line, label));
        }
        code.instructions.push(Instruction { guard, op, text, line });
        Ok(())
    }

    fn arg(&mut self) -> Result<Arg<'a>, Error> {
        let token = self.next()?;
        match token.text {
            "[" => {
                let text = self.word()?;
                let offset = self.offset()?;
                self.expect("]")?;
                Ok(Arg::Memory { text, offset })
            }
            "{" => Ok(Arg::Vector(self.args("}")?)),
            "(" => Ok(Arg::List(self.args(")")?)),
            "!" => Ok(Arg::Not(self.word()?)),
            "-" => {
                let text = self.word()?;
                Ok(Arg::Word { minus: true, text })
            }
            text if token.is_word() => {
                if self.accept("|") {
                    return Ok(Arg::Pair(text, self.word()?));
                }
                if self.sees("+") || self.sees("-") {
                    let offset = self.offset()?;
                    return Ok(Arg::Sum { text, offset });
                }
                Ok(Arg::Word { minus: false, text })
            }
            other => {
                self.at -= 1;
                self.fail(format!("{other} where an operand belongs"))
            }
        }
    }

    fn args(&mut self, end: &str) -> Result<Vec<Arg<'a>>, Error> {
        let mut args = Vec::new();
        while !self.accept(end) {
            args.push(self.arg()?);
            if !self.accept(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(args)
    }

    /// `+ 8`, `+ -8`, `- 8` or nothing.
    fn offset(&mut self) -> Result<u64, Error> {
        let minus = if self.accept("+") {
            self.accept("-")
        } else if self.accept("-") {
            true
        } else {
            return Ok(0);
        };
        let number = self.number()?;
        Ok(if minus { number.wrapping_neg() } else { number })
    }
}

/// Gives a variable the next aligned offset.
fn place(end: &mut usize, bytes: usize, align: usize) -> usize {
    let offset = end.next_multiple_of(align);
    *end = offset + bytes;
    offset
}

fn initial_value(text: &str, ty: Type) -> Option<u64> {
    let hex = |prefix: &str, digits| {
        let rest = text.strip_prefix(prefix)?;
        (rest.len() == digits).then(|| u64::from_str_radix(rest, 16).ok())?
    };
    match ty {
        Type::F32 => hex("0f", 8).or_else(|| hex("0F", 8)),
        Type::F64 => hex("0d", 16).or_else(|| hex("0D", 16)),
        _ => integer(text),
    }
}
