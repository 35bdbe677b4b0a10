//! Loads, stores and atomic operations: every access of every lane is checked.

use super::super::error::FaultKind;
use super::super::instruction::{Address, Register, Update};
use super::super::types::{LOCAL_WINDOW, SHARED_WINDOW, Space, Type, WINDOW_BYTES};
use super::Context;
use super::shared::{Action, race};
use super::warp::{Warp, lanes};
use std::ops::Range;

/// Most bytes of one access: `.v4` of 32 bits, or `.v2` of 64.
const MOST: usize = 16;

impl Warp {
    pub(super) fn load(
        &mut self,
        context: &mut Context<'_>,
        active: u32,
        ty: Type,
        address: &Address,
        destinations: &[Option<Register>],
    ) -> Result<(), (u32, FaultKind)> {
        let size = ty.bytes() * destinations.len();
        let mut loaded = [0; 32 * MOST];
        let mut rest = active;
        while rest != 0 {
            let first = rest.trailing_zeros();
            let (space, at) = self.locate(address, first, size)?;
            // Lanes that read neighbouring addresses of global memory are served by one access.
            let run = if space == Space::Global {
                self.run_of_lanes(address, first, rest, at, size)
            } else {
                1
            };
            let bytes = &mut loaded[first as usize * MOST..][..run as usize * size];
            match self.read(context, first, space, at, bytes) {
                Ok(()) => {}
                Err(_) if run > 1 => {
                    // Find the lane at fault, and read up to it as hardware may have.
                    for lane in first..first + run {
                        let (_, at) = self.locate(address, lane, size)?;
                        self.read(context, lane, space, at, &mut [0; MOST][..size])?;
                    }
                }
                Err(kind) => return Err(kind),
            }
            if run > 1 {
                for i in (1..run as usize).rev() {
                    let from = first as usize * MOST + i * size;
                    loaded.copy_within(from..from + size, (first as usize + i) * MOST);
                }
            }
            rest &= !(run_mask(run) << first);
        }
        for (i, destination) in destinations.iter().enumerate() {
            let Some(destination) = destination else { continue };
            let values = std::array::from_fn(|lane| {
                let value = little_endian(&loaded[lane * MOST + i * ty.bytes()..][..ty.bytes()]);
                // A register wider than the type is filled with the sign or with zeros.
                ty.extend(value) as u64
            });
            self.write(context.launch.code, *destination, active, &values);
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        context: &mut Context<'_>,
        active: u32,
        ty: Type,
        address: &Address,
        sources: &[Register],
    ) -> Result<(), (u32, FaultKind)> {
        let size = ty.bytes() * sources.len();
        for lane in lanes(active) {
            let (space, at) = self.locate(address, lane, size)?;
            let mut bytes = [0; MOST];
            for (part, source) in bytes.chunks_exact_mut(ty.bytes()).zip(sources) {
                part.copy_from_slice(&self.registers[*source as usize][lane as usize].to_le_bytes()[..ty.bytes()]);
            }
            let bytes = &bytes[..size];
            match space {
                Space::Global => context.memory.write(at, bytes).map_err(|fault| (lane, fault.into()))?,
                Space::Shared => {
                    let range = self.shared(context, lane, at, size, Action::Write)?;
                    context.shared.bytes[range].copy_from_slice(bytes);
                }
                _ => {
                    let range = self.local(context, lane, at, size)?;
                    self.local[range].copy_from_slice(bytes);
                }
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one instruction")]
    pub(super) fn atomic(
        &mut self,
        context: &mut Context<'_>,
        active: u32,
        ty: Type,
        address: &Address,
        update: &Update,
        sources: [Register; 2],
        destination: Option<Register>,
    ) -> Result<(), (u32, FaultKind)> {
        let size = ty.bytes();
        let mut before = [0; 32];
        for lane in lanes(active) {
            let (space, at) = self.locate(address, lane, size)?;
            let [a, b] = sources.map(|source| self.registers[source as usize][lane as usize]);
            let mut bytes = [0; 8];
            let bytes = &mut bytes[..size];
            match space {
                Space::Global => {
                    let fault = |fault: crate::memory::Fault| (lane, fault.into());
                    context.memory.read(at, bytes).map_err(fault)?;
                    let new = update(little_endian(bytes), a, b).to_le_bytes();
                    context.memory.write(at, &new[..size]).map_err(fault)?;
                }
                Space::Shared => {
                    let range = self.shared(context, lane, at, size, Action::Atomic)?;
                    let memory = &mut context.shared.bytes[range];
                    bytes.copy_from_slice(memory);
                    memory.copy_from_slice(&update(little_endian(bytes), a, b).to_le_bytes()[..size]);
                }
                other => return Err((lane, FaultKind::bounds(other, at, size, 0))),
            }
            before[lane as usize] = little_endian(bytes);
        }
        if let Some(destination) = destination {
            self.write(context.launch.code, destination, active, &before);
        }
        Ok(())
    }

    fn read(
        &self,
        context: &mut Context<'_>,
        lane: u32,
        space: Space,
        at: u64,
        bytes: &mut [u8],
    ) -> Result<(), (u32, FaultKind)> {
        match space {
            Space::Global => context.memory.read(at, bytes).map_err(|fault| (lane, fault.into()))?,
            Space::Shared => {
                let range = self.shared(context, lane, at, bytes.len(), Action::Read)?;
                bytes.copy_from_slice(&context.shared.bytes[range]);
            }
            Space::Param => {
                let parameters = context.launch.parameters;
                let range = inside(space, at, bytes.len(), parameters.len()).map_err(|kind| (lane, kind))?;
                bytes.copy_from_slice(&parameters[range]);
            }
            Space::Local | Space::Generic => {
                let range = self.local(context, lane, at, bytes.len())?;
                bytes.copy_from_slice(&self.local[range]);
            }
        }
        Ok(())
    }

    /// The space and the address in it that a lane accesses. A generic address belongs to the window it lies in.
    fn locate(&self, address: &Address, lane: u32, size: usize) -> Result<(Space, u64), (u32, FaultKind)> {
        let at = self.registers[address.base as usize][lane as usize].wrapping_add(address.offset);
        if !at.is_multiple_of(size as u64) {
            let (address, bytes) = (at, size as u64);
            return Err((lane, FaultKind::Misaligned { address, bytes }));
        }
        let within = |window: u64| (window..window + WINDOW_BYTES).contains(&at);
        Ok(match address.space {
            Space::Generic if within(SHARED_WINDOW) => (Space::Shared, at - SHARED_WINDOW),
            Space::Generic if within(LOCAL_WINDOW) => (Space::Local, at - LOCAL_WINDOW),
            Space::Generic => (Space::Global, at),
            space => (space, at),
        })
    }

    /// How many lanes from `first` on access one address after the other.
    fn run_of_lanes(&self, address: &Address, first: u32, active: u32, at: u64, size: usize) -> u32 {
        let base = &self.registers[address.base as usize];
        let follows = |lane: &u32| {
            let expected = at.wrapping_add(u64::from(lane - first) * size as u64);
            active >> lane & 1 == 1 && base[*lane as usize].wrapping_add(address.offset) == expected
        };
        1 + (first + 1..32).take_while(follows).count() as u32
    }

    /// Checks an access of shared memory: its bounds, and that it races with none before it.
    fn shared(
        &self,
        context: &mut Context<'_>,
        lane: u32,
        at: u64,
        size: usize,
        action: Action,
    ) -> Result<Range<usize>, (u32, FaultKind)> {
        let range = inside(Space::Shared, at, size, context.shared.bytes.len()).map_err(|kind| (lane, kind))?;
        let thread = 32 * self.index + lane;
        context
            .shared
            .access(thread, range.clone(), action)
            .map_err(|(at, before, other)| {
                let other = context.launch.thread(other);
                (lane, race(at, action, before, other))
            })?;
        Ok(range)
    }

    /// Where in the local memory of the warp a lane's access lies.
    fn local(&self, context: &Context<'_>, lane: u32, at: u64, size: usize) -> Result<Range<usize>, (u32, FaultKind)> {
        let bytes = context.launch.code.local_bytes;
        let range = inside(Space::Local, at, size, bytes).map_err(|kind| (lane, kind))?;
        let start = lane as usize * bytes;
        Ok(start + range.start..start + range.end)
    }
}

fn inside(space: Space, at: u64, size: usize, available: usize) -> Result<Range<usize>, FaultKind> {
    match usize::try_from(at)
        .ok()
        .and_then(|start| Some(start..start.checked_add(size)?))
    {
        Some(range) if range.end <= available => Ok(range),
        _ => Err(FaultKind::bounds(space, at, size, available)),
    }
}

fn run_mask(lanes: u32) -> u32 {
    u32::MAX >> (32 - lanes)
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
