//! One warp: 32 lanes with program counters of their own.
//!
//! Lanes with the same program counter run together. Where they differ, the group that is furthest behind runs first, so
//! that groups meet again where the paths of the program do. Nothing depends on this for its result: lanes that must meet
//! say so (`.sync`), and wait.

use super::super::error::FaultKind;
use super::super::instruction::{Code, Combine, Fixed, Op, Predicate, Register, Special, Together};
use super::super::types::Lanes;
use super::{Context, Launch};

/// More instructions than a kernel of a test should need in one warp.
const MOST_STEPS: u64 = 1 << 25;

/// Where a launch stopped.
#[derive(Debug)]
pub(super) struct Stop {
    /// Number of the thread in its block.
    pub(super) thread: u32,
    /// Index of the instruction.
    pub(super) at: usize,
    pub(super) kind: FaultKind,
}

/// Lanes at one instruction.
#[derive(Debug, Clone, Copy)]
struct Group {
    at: usize,
    lanes: u32,
}

/// Lanes that wait for others of their warp.
#[derive(Debug, Clone, Copy)]
struct Parked {
    at: usize,
    members: u32,
    arrived: u32,
}

/// Lanes that wait at a barrier of the block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) at: usize,
    lanes: u32,
    pub(super) id: u64,
    pub(super) aligned: bool,
    /// One of their threads.
    pub(super) thread: u32,
}

/// A warp of a block. It is used again for the next block.
pub(super) struct Warp {
    /// Number of the warp in its block.
    pub(super) index: u32,
    /// Lanes that are threads of the block.
    all: u32,
    /// Lanes that have not left the kernel.
    live: u32,
    /// Lanes that can run: the furthest behind last.
    groups: Vec<Group>,
    parked: Vec<Parked>,
    waiting: Vec<Waiting>,
    pub(super) registers: Vec<Lanes>,
    /// Local memory, lane after lane.
    pub(super) local: Vec<u8>,
    steps: u64,
}

/// The set lanes, lowest first.
pub(super) fn lanes(mut set: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lane = set.trailing_zeros();
        set &= set.checked_sub(1)?;
        Some(lane)
    })
}

impl Warp {
    pub(super) fn new(launch: &Launch<'_>, index: u32) -> Self {
        let threads: u32 = launch.block.iter().product();
        let all = u32::MAX >> (32 - (threads - 32 * index).min(32));
        Self {
            index,
            all,
            live: 0,
            groups: Vec::new(),
            parked: Vec::new(),
            waiting: Vec::new(),
            registers: vec![[0; 32]; launch.code.registers.len()],
            local: vec![0; 32 * launch.code.local_bytes],
            steps: 0,
        }
    }

    /// Puts all threads at the first instruction. Registers and local memory hold garbage: all bits set, a NaN as a float.
    pub(super) fn start(&mut self, context: &Context<'_>) {
        let code = context.launch.code;
        self.live = self.all;
        self.groups.clear();
        self.groups.push(Group { at: 0, lanes: self.all });
        self.steps = 0;
        for (register, mask) in self.registers.iter_mut().zip(&code.registers) {
            register.fill(*mask);
        }
        self.local.fill(0xff);
        for (register, fixed) in &code.fixed {
            self.registers[*register as usize] = self.fixed(context, *fixed);
        }
    }

    fn fixed(&self, context: &Context<'_>, fixed: Fixed) -> Lanes {
        let launch = context.launch;
        let special = match fixed {
            Fixed::Constant(value) => return [value; 32],
            // A variable without an address is not mapped anywhere.
            Fixed::Global(index, offset) => return [launch.globals[index].unwrap_or(0).wrapping_add(offset); 32],
            Fixed::Special(special) => special,
        };
        std::array::from_fn(|lane| {
            let lane = lane as u32;
            let value = match special {
                Special::Thread(axis) => launch.thread(32 * self.index + lane)[axis],
                Special::Threads(axis) => launch.block[axis],
                Special::Block(axis) => context.block[axis],
                Special::Blocks(axis) => launch.grid[axis],
                Special::Lane => lane,
                Special::Warp => self.index,
                Special::Warps => launch.block.iter().product::<u32>().div_ceil(32),
                Special::LanesEqual => 1 << lane,
                Special::LanesBelow => (1 << lane) - 1,
                Special::LanesUpTo => u32::MAX >> (31 - lane),
                Special::LanesAbove => !(u32::MAX >> (31 - lane)),
                Special::LanesFrom => u32::MAX << lane,
                Special::Multiprocessor => 0,
                Special::DynamicShared => launch.dynamic_shared as u32,
            };
            u64::from(value)
        })
    }

    /// Lanes that wait at barriers of the block.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Waiting> {
        self.waiting.iter().copied()
    }

    /// Lets the lanes that wait at a barrier go on.
    pub(super) fn release(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.join(waiting.at + 1, waiting.lanes);
        }
    }

    /// Runs until no lane can go on.
    pub(super) fn run(&mut self, context: &mut Context<'_>) -> Result<(), Stop> {
        while let Some(group) = self.groups.last().copied() {
            self.steps += 1;
            let stepped = if self.steps > MOST_STEPS {
                Err((group.lanes.trailing_zeros(), FaultKind::Endless(MOST_STEPS)))
            } else {
                self.step(context, group)
            };
            stepped.map_err(|(lane, kind)| Stop {
                thread: 32 * self.index + lane,
                at: group.at,
                kind,
            })?;
        }
        match self.parked.first() {
            None => Ok(()),
            Some(parked) => Err(Stop {
                thread: 32 * self.index + parked.arrived.trailing_zeros(),
                at: parked.at,
                kind: FaultKind::MissingLanes {
                    members: parked.members,
                    missing: parked.members & self.live & !parked.arrived,
                },
            }),
        }
    }

    /// Runs one instruction of the group that is furthest behind.
    fn step(&mut self, context: &mut Context<'_>, group: Group) -> Result<(), (u32, FaultKind)> {
        let code: &Code = context.launch.code;
        let instruction = &code.instructions[group.at];
        let active = match instruction.guard {
            None => group.lanes,
            Some(guard) => group.lanes & self.predicate(guard),
        };
        if active == 0 {
            self.advance();
            return Ok(());
        }
        let first = active.trailing_zeros();
        match &instruction.op {
            Op::Compute {
                function,
                sources,
                destination,
            } => {
                let values = function(sources.map(|source| &self.registers[source as usize]));
                self.write(code, *destination, active, &values);
            }
            Op::Compare {
                test,
                sources: [a, b],
                combine,
                destinations: [yes, no],
            } => {
                let [a, b] = [a, b].map(|source| &self.registers[*source as usize]);
                let result = mask(&test([a, b, b, b]));
                for (destination, result) in [(yes, result), (no, !result)] {
                    let Some(destination) = destination else { continue };
                    let result = match combine {
                        None => result,
                        Some((Combine::And, other)) => result & self.predicate(*other),
                        Some((Combine::Or, other)) => result | self.predicate(*other),
                        Some((Combine::Xor, other)) => result ^ self.predicate(*other),
                    };
                    self.write(code, *destination, active, &spread(result));
                }
            }
            Op::Pack {
                bits,
                sources,
                destination,
            } => {
                let mut values = [0; 32];
                for (i, source) in sources.iter().enumerate() {
                    let part = &self.registers[*source as usize];
                    for (value, part) in values.iter_mut().zip(part) {
                        *value |= (part & (u64::MAX >> (64 - bits))) << (*bits * i as u32);
                    }
                }
                self.write(code, *destination, active, &values);
            }
            Op::Unpack {
                bits,
                source,
                destinations,
            } => {
                let whole = self.registers[*source as usize];
                for (i, destination) in destinations.iter().enumerate() {
                    let part = whole.map(|value| value >> (*bits * i as u32) & (u64::MAX >> (64 - bits)));
                    if let Some(destination) = destination {
                        self.write(code, *destination, active, &part);
                    }
                }
            }
            Op::Load {
                ty,
                address,
                destinations,
            } => self.load(context, active, *ty, address, destinations)?,
            Op::Store { ty, address, sources } => self.store(context, active, *ty, address, sources)?,
            Op::Atomic {
                ty,
                address,
                update,
                sources,
                destination,
            } => self.atomic(context, active, *ty, address, update, *sources, *destination)?,
            Op::ActiveMask(destination) => self.write(code, *destination, active, &[u64::from(active); 32]),
            Op::Nothing => {}
            Op::Trap => return Err((first, FaultKind::Trap)),
            Op::Assert => return Err((first, FaultKind::Assert)),
            Op::Branch(target) => {
                self.leave(group, active);
                self.join(*target, active);
                return Ok(());
            }
            Op::BranchTable { index, labels } => {
                self.leave(group, active);
                for lane in lanes(active) {
                    let index = self.registers[*index as usize][lane as usize];
                    let Some(target) = labels.get(index as usize) else {
                        let labels = labels.len();
                        return Err((lane, FaultKind::BranchIndex { index, labels }));
                    };
                    self.join(*target, 1 << lane);
                }
                return Ok(());
            }
            Op::Exit => {
                self.leave(group, active);
                self.live &= !active;
                // Nobody waits for a lane that has left.
                for i in (0..self.parked.len()).rev() {
                    let parked = self.parked[i];
                    if parked.arrived == parked.members & self.live {
                        self.parked.remove(i);
                        let Op::Together { what, .. } = &code.instructions[parked.at].op else {
                            continue;
                        };
                        self.together(context, parked.arrived, parked.members, what)?;
                        self.join(parked.at + 1, parked.arrived);
                    }
                }
                return Ok(());
            }
            Op::Barrier { id, aligned } => {
                self.leave(group, active);
                self.waiting.push(Waiting {
                    at: group.at,
                    lanes: active,
                    id: self.registers[*id as usize][first as usize],
                    aligned: *aligned,
                    thread: 32 * self.index + first,
                });
                return Ok(());
            }
            Op::Together { members, what } => return self.meet(context, group, active, *members, what),
        }
        self.advance();
        Ok(())
    }

    /// Lanes come to an operation that they do together with others.
    fn meet(
        &mut self,
        context: &mut Context<'_>,
        group: Group,
        active: u32,
        members: Register,
        what: &Together,
    ) -> Result<(), (u32, FaultKind)> {
        let named = self.registers[members as usize];
        let first = active.trailing_zeros();
        let members = named[first as usize] as u32;
        if active == members & self.live && lanes(active).all(|lane| named[lane as usize] as u32 == members) {
            self.together(context, active, members, what)?;
            if active == group.lanes {
                self.advance();
            } else {
                self.leave(group, active);
                self.join(group.at + 1, active);
            }
            return Ok(());
        }
        self.leave(group, active);
        for lane in lanes(active) {
            let members = named[lane as usize] as u32;
            if members >> lane & 1 == 0 {
                return Err((lane, FaultKind::NotMember { members }));
            }
            let same = |parked: &Parked| parked.at == group.at && parked.members == members;
            let i = self.parked.iter().position(same).unwrap_or_else(|| {
                self.parked.push(Parked {
                    at: group.at,
                    members,
                    arrived: 0,
                });
                self.parked.len() - 1
            });
            self.parked[i].arrived |= 1 << lane;
            let arrived = self.parked[i].arrived;
            if arrived == members & self.live {
                self.parked.remove(i);
                self.together(context, arrived, members, what)?;
                self.join(group.at + 1, arrived);
            }
        }
        Ok(())
    }

    /// The lanes in which a predicate is true.
    pub(super) fn predicate(&self, predicate: Predicate) -> u32 {
        let set = mask(&self.registers[predicate.register as usize]);
        if predicate.value { set } else { !set }
    }

    /// Writes a register in the active lanes.
    pub(super) fn write(&mut self, code: &Code, destination: Register, active: u32, values: &Lanes) {
        let bits = code.registers[destination as usize];
        let register = &mut self.registers[destination as usize];
        if active == u32::MAX {
            for (old, new) in register.iter_mut().zip(values) {
                *old = new & bits;
            }
            return;
        }
        for lane in lanes(active) {
            register[lane as usize] = values[lane as usize] & bits;
        }
    }

    /// The running group goes to its next instruction.
    fn advance(&mut self) {
        let Some(group) = self.groups.last_mut() else { return };
        group.at += 1;
        let Group { at, lanes } = *group;
        if self.groups.len() > 1 && self.groups[self.groups.len() - 2].at == at {
            self.groups.pop();
            self.join(at, lanes);
        }
    }

    /// These lanes leave the running group, and the rest of it goes on.
    fn leave(&mut self, group: Group, leaving: u32) {
        self.groups.pop();
        self.join(group.at + 1, group.lanes & !leaving);
    }

    /// Lanes come to an instruction.
    fn join(&mut self, at: usize, lanes: u32) {
        if lanes == 0 {
            return;
        }
        let i = self.groups.partition_point(|group| group.at > at);
        match self.groups.get_mut(i) {
            Some(group) if group.at == at => group.lanes |= lanes,
            _ => self.groups.insert(i, Group { at, lanes }),
        }
    }
}

/// The lanes whose lowest bit is set.
fn mask(values: &Lanes) -> u32 {
    values
        .iter()
        .enumerate()
        .fold(0, |mask, (lane, value)| mask | ((*value as u32 & 1) << lane))
}

/// 1 in the lanes of the set, 0 in others.
fn spread(set: u32) -> Lanes {
    std::array::from_fn(|lane| u64::from(set >> lane & 1))
}
