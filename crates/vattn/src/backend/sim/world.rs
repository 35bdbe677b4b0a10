//! The state of the model and its rules.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;

use super::{Costs, Work};
use crate::backend::{Access, Caps, Frame, Request};
use crate::error::BackendError;

/// Addresses start here, so that no small number is one by accident.
const FIRST_ADDRESS: usize = 1 << 40;

/// What a frame holds.
#[derive(Debug, Default)]
struct Memory {
    bytes: Vec<u8>,
    /// Whether each byte may be read: it was written, or is zero from birth.
    known: Vec<bool>,
    mappings: usize,
    /// Whether it was mapped and is mapped nowhere now.
    left: bool,
    /// Whether `zero` or `copy` wrote it since the last `settle`.
    unsettled: bool,
    /// When the last work on the device that reads it ends, and the last that writes it.
    read_until: u64,
    written_until: u64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) caps: Caps,
    pub(super) now: u64,
    pub(super) capacity: usize,
    pub(super) costs: Costs,
    pub(super) contents: bool,
    work_until: u64,
    next_address: usize,
    next_frame: u64,
    reservations: BTreeMap<usize, usize>,
    frames: HashMap<Frame, Memory>,
    /// What is mapped at each address, in steps of a frame.
    table: BTreeMap<usize, (Frame, Access)>,
}

impl World {
    pub(super) fn new(caps: Caps) -> Self {
        Self {
            caps,
            now: 0,
            capacity: usize::MAX,
            costs: Costs::default(),
            contents: true,
            work_until: 0,
            next_address: FIRST_ADDRESS,
            next_frame: 0,
            reservations: BTreeMap::new(),
            frames: HashMap::new(),
            table: BTreeMap::new(),
        }
    }

    pub(super) fn frames(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn mappings(&self) -> usize {
        self.table.len()
    }

    pub(super) fn end_of_work(&self) -> u64 {
        self.work_until.max(self.now)
    }

    pub(super) fn reserve(&mut self, bytes: usize, align: usize) -> Result<usize, BackendError> {
        let address = self.next_address.next_multiple_of(align);
        let end = address.checked_add(bytes).filter(|&end| end < 1 << 62);
        let Some(end) = end else {
            let error = io::ErrorKind::OutOfMemory.into();
            return Err(BackendError::new("reserve", bytes, "reduce the shape", error));
        };
        // A gap behind it, so that running off the end is seen.
        self.next_address = end + align.max(self.caps.frame_bytes);
        self.reservations.insert(address, bytes);
        Ok(address)
    }

    pub(super) fn release(&mut self, address: usize, bytes: usize) {
        if std::thread::panicking() {
            // The first panic says what went wrong.
            return;
        }
        assert_eq!(self.reservations.remove(&address), Some(bytes), "no such reservation");
        let mapped = self.table.range(address..address + bytes).next();
        assert_eq!(mapped, None, "released address space is still mapped");
    }

    pub(super) fn create(&mut self, request: &Request, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        let Request { count, room, .. } = *request;
        assert!(count <= room, "{count} frames where {room} fit");
        if self.frames.len().saturating_add(count) > self.capacity {
            let bytes = count * self.caps.frame_bytes;
            let error = io::ErrorKind::OutOfMemory.into();
            let hint = "memory is exhausted: set a smaller budget";
            return Err(BackendError::new("create", bytes, hint, error).lacking_frames(count));
        }
        for _ in 0..count {
            let size = if self.contents { self.caps.frame_bytes } else { 0 };
            let memory = Memory {
                bytes: vec![if self.caps.zeroed { 0 } else { 0xdb }; size],
                known: vec![self.caps.zeroed; size],
                ..Memory::default()
            };
            self.frames.insert(Frame(self.next_frame), memory);
            frames.push(Frame(self.next_frame));
            self.next_frame += 1;
            self.now += self.costs.create_frame;
        }
        Ok(())
    }

    pub(super) fn destroy(&mut self, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            let memory = self
                .frames
                .remove(&frame)
                .unwrap_or_else(|| panic!("{frame:?} does not exist"));
            assert_eq!(memory.mappings, 0, "{frame:?} is destroyed and still mapped");
            self.now += self.costs.destroy_frame;
        }
    }

    pub(super) fn map(&mut self, address: usize, frames: &[Frame], access: Access) {
        self.check_run(address, frames.len());
        self.now += self.costs.map_call + self.costs.map_frame * frames.len() as u64;
        for (&frame, at) in frames.iter().zip((address..).step_by(self.caps.frame_bytes)) {
            assert!(!self.table.contains_key(&at), "{at:#x} is mapped already");
            self.put(at, frame, access);
            let memory = self.frames.get_mut(&frame).expect("mapped frames exist");
            if std::mem::take(&mut memory.left) {
                // Whoever maps it next must not see what it held.
                memory.known.fill(false);
            }
        }
    }

    pub(super) fn replace(&mut self, address: usize, frame: Frame, access: Access) {
        self.check_run(address, 1);
        self.now += self.costs.map_call + self.costs.map_frame;
        self.remove(address);
        self.put(address, frame, access);
        // It was filled elsewhere in order to come here, and keeps its contents.
        self.frames.get_mut(&frame).expect("mapped frames exist").left = false;
    }

    pub(super) fn protect(&mut self, address: usize, frames: usize, access: Access) {
        self.check_run(address, frames);
        self.now += self.costs.map_call + self.costs.map_frame * frames as u64;
        for at in self.steps(address, frames) {
            let entry = self
                .table
                .get_mut(&at)
                .unwrap_or_else(|| panic!("{at:#x} is not mapped"));
            entry.1 = access;
            let frame = entry.0;
            let memory = &self.frames[&frame];
            let written = access == Access::Read && memory.written_until > self.now;
            assert!(!written, "{frame:?} is made read-only while the device writes it");
        }
    }

    pub(super) fn unmap(&mut self, address: usize, frames: usize) {
        self.check_run(address, frames);
        self.now += self.costs.unmap_call + self.costs.unmap_frame * frames as u64;
        for at in self.steps(address, frames) {
            self.remove(at);
        }
    }

    pub(super) fn zero(&mut self, address: usize, bytes: usize) {
        self.now += self.costs.kibibyte * bytes.div_ceil(1024) as u64;
        self.each_part(address, bytes, Access::ReadWrite, |memory, part, _| {
            memory.write(part, |_| 0);
            memory.unsettled = true;
        });
    }

    pub(super) fn copy(&mut self, to: usize, from: usize, bytes: usize) {
        self.now += self.costs.kibibyte * bytes.div_ceil(1024) as u64;
        let mut buffer = vec![0; bytes];
        self.read(from, &mut buffer);
        self.each_part(to, bytes, Access::ReadWrite, |memory, part, done| {
            memory.write(part, |i| buffer[done + i]);
            memory.unsettled = true;
        });
    }

    pub(super) fn settle(&mut self) {
        for memory in self.frames.values_mut() {
            memory.unsettled = false;
        }
    }

    pub(super) fn read(&mut self, from: usize, bytes: &mut [u8]) {
        self.each_part(from, bytes.len(), Access::Read, |memory, part, done| {
            memory.check_readable(&part);
            if let Some(found) = memory.bytes.get(part) {
                bytes[done..done + found.len()].copy_from_slice(found);
            }
        });
    }

    pub(super) fn write(&mut self, to: usize, bytes: &[u8]) {
        self.each_part(to, bytes.len(), Access::ReadWrite, |memory, part, done| {
            memory.write(part, |i| bytes[done + i]);
        });
    }

    pub(super) fn launch(&mut self, runs: &[(usize, usize, Work)], nanoseconds: u64) -> u64 {
        // One stream: work starts when the work before it has ended.
        let end = self.end_of_work() + nanoseconds;
        self.work_until = end;
        // The device comes later than everything that was launched before: only `now` must not stop it.
        for &(address, bytes, work) in runs {
            let access = match work {
                Work::Read => Access::Read,
                Work::Write(_) => Access::ReadWrite,
            };
            self.each_frame(address, bytes, access, |memory, part, _, _| match work {
                Work::Read => {
                    memory.check_readable(&part);
                    memory.read_until = end;
                }
                Work::Write(byte) => {
                    memory.write(part, |_| byte);
                    memory.written_until = end;
                }
            });
        }
        end
    }

    /// As `each_frame`, for the program, which may not touch what the device uses.
    fn each_part(
        &mut self,
        address: usize,
        bytes: usize,
        access: Access,
        mut action: impl FnMut(&mut Memory, Range<usize>, usize),
    ) {
        let now = self.now;
        self.each_frame(address, bytes, access, |memory, part, done, at| {
            assert!(
                memory.written_until <= now,
                "{at:#x} is touched while the device writes it"
            );
            let read = access == Access::ReadWrite && memory.read_until > now;
            assert!(!read, "{at:#x} is written while the device reads it");
            action(memory, part, done);
        });
    }

    /// Gives the memory behind a run of bytes part by part, one frame after the other: the bytes of the frame, how many
    /// bytes came before, and the address.
    fn each_frame(
        &mut self,
        address: usize,
        bytes: usize,
        access: Access,
        mut action: impl FnMut(&mut Memory, Range<usize>, usize, usize),
    ) {
        let size = self.caps.frame_bytes;
        let mut done = 0;
        while done < bytes {
            let at = address + done;
            let start = at % size;
            let part = start..size.min(start + bytes - done);
            let &(frame, mapped) = self
                .table
                .get(&(at - start))
                .unwrap_or_else(|| panic!("fault: {at:#x} is not mapped"));
            let memory = self.frames.get_mut(&frame).expect("mapped frames exist");
            if access == Access::ReadWrite {
                assert_eq!(mapped, Access::ReadWrite, "fault: {at:#x} is read-only");
                assert_eq!(memory.mappings, 1, "{frame:?} is written and mapped elsewhere too");
            }
            let length = part.len();
            action(memory, part, done, at);
            done += length;
        }
    }

    fn put(&mut self, address: usize, frame: Frame, access: Access) {
        let memory = self
            .frames
            .get_mut(&frame)
            .unwrap_or_else(|| panic!("{frame:?} does not exist"));
        memory.mappings += 1;
        assert!(self.caps.alias || memory.mappings == 1, "{frame:?} is mapped twice");
        self.table.insert(address, (frame, access));
    }

    fn remove(&mut self, address: usize) {
        let Some((frame, _)) = self.table.remove(&address) else {
            panic!("{address:#x} is not mapped");
        };
        let memory = self.frames.get_mut(&frame).expect("mapped frames exist");
        let used = memory.read_until.max(memory.written_until) > self.now;
        assert!(!used, "{frame:?} is unmapped while the device uses it");
        memory.mappings -= 1;
        memory.left = memory.mappings == 0;
    }

    fn steps(&self, address: usize, frames: usize) -> impl Iterator<Item = usize> + use<> {
        (address..).step_by(self.caps.frame_bytes).take(frames)
    }

    /// A run of frames must lie within one reservation, at a multiple of the frame.
    fn check_run(&self, address: usize, frames: usize) {
        let bytes = frames * self.caps.frame_bytes;
        assert!(
            address.is_multiple_of(self.caps.frame_bytes),
            "{address:#x} is not aligned"
        );
        let reserved = self.reservations.range(..=address).next_back();
        let within = reserved.is_some_and(|(start, size)| address + bytes <= start + size);
        assert!(within, "{bytes} bytes at {address:#x} are not reserved");
    }
}

impl Memory {
    fn write(&mut self, part: Range<usize>, byte: impl Fn(usize) -> u8) {
        if self.bytes.is_empty() {
            return;
        }
        self.known[part.clone()].fill(true);
        for (i, at) in part.enumerate() {
            self.bytes[at] = byte(i);
        }
    }

    fn check_readable(&self, part: &Range<usize>) {
        assert!(
            !self.unsettled,
            "memory is read that was wiped or copied and not settled"
        );
        let stale = self.known.get(part.clone()).is_some_and(|known| known.contains(&false));
        assert!(
            !stale,
            "stale memory is read: bytes {part:?} of a frame were never written"
        );
    }
}
