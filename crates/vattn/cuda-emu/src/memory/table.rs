//! The table of what is reserved, created and mapped, and the rules of the calls that change it.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::ops::Range;

use super::arena::Arena;
use super::{Access, Denied, DeviceMemory, Fault};
use crate::code::{Code, Outcome, Refusal};
use crate::knobs::Knobs;

/// A page of the host, to which reservations are aligned when nothing else is asked for.
const HOST_PAGE: u64 = 4096;
/// What new memory holds on a dirty device.
const GARBAGE: u8 = 0xA5;

/// Access rights of a mapping, `CUmemAccess_flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// No access: the state after mapping.
    None,
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl Rights {
    /// The rights with the number of the driver API.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Read),
            3 => Some(Self::ReadWrite),
            _ => None,
        }
    }

    /// The number of the driver API.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Read => 1,
            Self::ReadWrite => 3,
        }
    }

    fn allow(self, access: Access) -> bool {
        match access {
            Access::Read => self != Self::None,
            Access::Write => self == Self::ReadWrite,
        }
    }
}

/// Memory that was created: it lives while a reference to its handle or a mapping of it does.
#[derive(Debug)]
struct Physical {
    bytes: Box<[u8]>,
    references: u32,
    mappings: u32,
}

#[derive(Debug)]
struct Mapping {
    bytes: u64,
    handle: u64,
    rights: Rights,
    origin: Origin,
}

/// Which call made a mapping. The calls for virtual memory may touch their own only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Map,
    Alloc,
    Pool,
}

impl Mapping {
    fn is_allocation(&self) -> bool {
        self.origin != Origin::Map
    }
}

/// All memory of the device.
#[derive(Debug)]
pub struct Memory {
    arena: Arena,
    granularity: NonZero<u64>,
    capacity: u64,
    dirty: bool,
    read_only: bool,
    reservations: BTreeMap<u64, u64>,
    physical: HashMap<u64, Physical>,
    mappings: BTreeMap<u64, Mapping>,
    next_handle: u64,
    used: u64,
    peak: u64,
    /// Bytes allocated from the memory pool.
    pool_used: u64,
    /// Bytes that the memory pool holds beyond those; counted in `used`.
    pool_held: u64,
}

impl Memory {
    /// Memory of a device with these settings, nothing of it used.
    ///
    /// # Panics
    ///
    /// The process has no address space left, or the granularity is 0.
    #[must_use]
    pub fn new(knobs: &Knobs) -> Self {
        Self {
            arena: Arena::new(),
            granularity: NonZero::new(knobs.granularity).expect("granularity is checked where knobs are read"),
            capacity: knobs.capacity,
            dirty: knobs.dirty,
            read_only: knobs.read_only,
            reservations: BTreeMap::new(),
            physical: HashMap::new(),
            mappings: BTreeMap::new(),
            next_handle: 0x51,
            used: 0,
            peak: 0,
            pool_used: 0,
            pool_held: 0,
        }
    }

    /// `cuMemAddressReserve`: address space, aligned to what is asked and to no more.
    ///
    /// # Errors
    ///
    /// The size is no multiple of the granularity (stricter than the text, which asks for host pages), the alignment no
    /// power of two, the hint unaligned; or the addresses are used up.
    pub fn reserve(&mut self, bytes: u64, align: u64, hint: u64, flags: u64) -> Outcome<u64> {
        if flags != 0 {
            return Err(Refusal::invalid(format!(
                "flags of a reservation must be 0, not {flags}"
            )));
        }
        if bytes == 0 || !bytes.is_multiple_of(self.granularity.get()) {
            return Err(Refusal::invalid(format!(
                "a reservation of {bytes} bytes is no multiple of the granularity of {}",
                self.granularity
            )));
        }
        if align != 0 && !align.is_power_of_two() || !hint.is_multiple_of(HOST_PAGE) {
            return Err(Refusal::invalid(format!(
                "alignment {align}, hint {hint:#x}: not aligned themselves"
            )));
        }
        let align = NonZero::new(align.max(HOST_PAGE)).expect("a page is not 0");
        let address = self
            .arena
            .take(bytes, align)
            .ok_or_else(|| Refusal::new(Code::OutOfMemory, "no addresses left"))?;
        self.reservations.insert(address, bytes);
        Ok(address)
    }

    /// `cuMemAddressFree`: gives a reservation back.
    ///
    /// # Errors
    ///
    /// Address and size are not exactly those of a reservation, or something is mapped in it.
    pub fn free_reservation(&mut self, address: u64, bytes: u64) -> Outcome {
        if self.reservations.get(&address) != Some(&bytes) {
            return Err(Refusal::invalid(format!(
                "{address:#x}+{bytes} is not exactly one reservation"
            )));
        }
        if let Some((at, _)) = self.mappings.range(address..address + bytes).next() {
            return Err(Refusal::invalid(format!(
                "reservation {address:#x}+{bytes} still has a mapping at {at:#x}"
            )));
        }
        self.reservations.remove(&address);
        Ok(())
    }

    /// `cuMemCreate`: physical memory, mapped nowhere. Returns its handle, with one reference.
    ///
    /// # Errors
    ///
    /// The size is no multiple of the granularity, or the device has not so much left.
    pub fn create(&mut self, bytes: u64, flags: u64) -> Outcome<u64> {
        if flags != 0 || bytes == 0 || !bytes.is_multiple_of(self.granularity.get()) {
            return Err(Refusal::invalid(format!(
                "cannot create {bytes} bytes (flags {flags}): the granularity is {}",
                self.granularity
            )));
        }
        self.new_physical(bytes, 1)
    }

    /// `cuMemRelease`: drops a reference of a handle. The memory lives on while it is mapped.
    ///
    /// # Errors
    ///
    /// The handle has no reference left: it was released as often as it was made.
    pub fn release(&mut self, handle: u64) -> Outcome {
        self.referenced(handle)?.references -= 1;
        self.drop_unused(handle);
        Ok(())
    }

    /// `cuMemRetainAllocationHandle`: another reference to the memory mapped at an address.
    ///
    /// # Errors
    ///
    /// Nothing of a handle is mapped there.
    pub fn retain(&mut self, address: u64) -> Outcome<u64> {
        let handle = match self.mapping_at(address) {
            Some((_, mapping)) if !mapping.is_allocation() => mapping.handle,
            _ => return Err(Refusal::invalid(format!("no mapping of a handle at {address:#x}"))),
        };
        self.physical_of(handle).references += 1;
        Ok(handle)
    }

    /// `cuMemMap`: puts the memory of a handle behind reserved addresses. It cannot be accessed yet.
    ///
    /// # Errors
    ///
    /// The offset is not 0; address or size are no multiples of the granularity, the size is above the handle's, the
    /// handle is dead, the range is not inside one reservation, or a part of it is mapped.
    pub fn map(&mut self, address: u64, bytes: u64, offset: u64, handle: u64, flags: u64) -> Outcome {
        if flags != 0 || offset != 0 {
            return Err(Refusal::invalid(format!("offset {offset} and flags {flags} must be 0")));
        }
        if bytes == 0 || !(address | bytes).is_multiple_of(self.granularity.get()) {
            return Err(Refusal::invalid(format!(
                "cannot map {address:#x}+{bytes}: the granularity is {}",
                self.granularity
            )));
        }
        let size = self.referenced(handle)?.bytes.len() as u64;
        if bytes > size {
            return Err(Refusal::invalid(format!(
                "cannot map {bytes} bytes of a handle of {size}"
            )));
        }
        let reserved = self.reservations.range(..=address).next_back();
        if !reserved.is_some_and(|(start, size)| address - start <= *size && bytes <= size - (address - start)) {
            return Err(Refusal::invalid(format!(
                "{address:#x}+{bytes} is not inside one reservation"
            )));
        }
        if let Some((at, mapping)) = self.mappings.range(..address + bytes).next_back()
            && at + mapping.bytes > address
        {
            return Err(Refusal::invalid(format!(
                "{address:#x}+{bytes} is mapped already, at {at:#x}"
            )));
        }
        self.physical_of(handle).mappings += 1;
        let mapping = Mapping {
            bytes,
            handle,
            rights: Rights::None,
            origin: Origin::Map,
        };
        self.mappings.insert(address, mapping);
        Ok(())
    }

    /// `cuMemUnmap`: takes the memory away from exactly the range of one `map`. It does not wait for work of the device.
    ///
    /// # Errors
    ///
    /// The range is not exactly that of one mapping. (The text leaves open whether one call may span several mappings;
    /// drivers differ.)
    pub fn unmap(&mut self, address: u64, bytes: u64) -> Outcome {
        let handle = match self.mappings.get(&address) {
            Some(mapping) if mapping.bytes == bytes && !mapping.is_allocation() => mapping.handle,
            _ => {
                return Err(Refusal::invalid(format!(
                    "{address:#x}+{bytes} is not exactly one mapping"
                )));
            }
        };
        self.mappings.remove(&address);
        self.physical_of(handle).mappings -= 1;
        self.drop_unused(handle);
        Ok(())
    }

    /// `cuMemSetAccess`: sets the rights of a range that is mapped without holes, in whole mappings.
    ///
    /// # Errors
    ///
    /// A part of the range is not mapped, or it begins or ends inside a mapping; or read-only access is not supported.
    pub fn set_access(&mut self, address: u64, bytes: u64, rights: Rights) -> Outcome {
        if rights == Rights::Read && !self.read_only {
            return Err(Refusal::new(
                Code::NotSupported,
                "this device does not support read-only access",
            ));
        }
        let end = address.checked_add(bytes).filter(|_| bytes > 0);
        let end = end.ok_or_else(|| Refusal::invalid(format!("{address:#x}+{bytes} is no range")))?;
        let mut at = address;
        while at < end {
            match self.mappings.get(&at) {
                Some(mapping) if !mapping.is_allocation() => at += mapping.bytes,
                _ => {
                    return Err(Refusal::invalid(format!(
                        "access of {address:#x}+{bytes}: no mapping begins at {at:#x}"
                    )));
                }
            }
        }
        if at != end {
            return Err(Refusal::invalid(format!(
                "access of {address:#x}+{bytes}: it ends inside a mapping"
            )));
        }
        for (_, mapping) in self.mappings.range_mut(address..end) {
            mapping.rights = rights;
        }
        Ok(())
    }

    /// `cuMemGetAccess`: the rights at an address.
    ///
    /// # Errors
    ///
    /// Nothing is mapped there.
    pub fn access_at(&self, address: u64) -> Outcome<Rights> {
        let mapping = self.mapping_at(address).map(|(_, mapping)| mapping.rights);
        mapping.ok_or_else(|| Refusal::invalid(format!("nothing is mapped at {address:#x}")))
    }

    /// `cuMemAlloc` and, with `pooled`, `cuMemAllocAsync`: memory with its own addresses and full access. What the pool
    /// holds unused goes first.
    ///
    /// # Errors
    ///
    /// The size is 0, or the device has not so much left.
    pub fn allocate(&mut self, bytes: u64, pooled: bool) -> Outcome<u64> {
        if bytes == 0 {
            return Err(Refusal::invalid("cannot allocate 0 bytes"));
        }
        let from_pool = if pooled { self.pool_held.min(bytes) } else { 0 };
        self.set_pool_held(self.pool_held - from_pool);
        let handle = self.new_physical(bytes, 0).inspect_err(|_| {
            self.pool_held += from_pool;
            self.used += from_pool;
        })?;
        let align = NonZero::new(256).expect("256 is not 0");
        let Some(address) = self.arena.take(bytes, align) else {
            self.drop_unused(handle);
            return Err(Refusal::new(Code::OutOfMemory, "no addresses left"));
        };
        self.physical_of(handle).mappings = 1;
        let mapping = Mapping {
            bytes,
            handle,
            rights: Rights::ReadWrite,
            origin: if pooled { Origin::Pool } else { Origin::Alloc },
        };
        self.mappings.insert(address, mapping);
        self.pool_used += if pooled { bytes } else { 0 };
        Ok(address)
    }

    /// `cuMemFree` and `cuMemFreeAsync`: gives an allocation back, to the pool if it came from there, or to the device.
    ///
    /// # Errors
    ///
    /// The address is not that of an allocation; one of mapped handles is none.
    pub fn free(&mut self, address: u64) -> Outcome {
        let (handle, bytes, origin) = match self.mappings.get(&address) {
            Some(mapping) if mapping.is_allocation() => (mapping.handle, mapping.bytes, mapping.origin),
            _ => {
                return Err(Refusal::invalid(format!(
                    "{address:#x} is not the start of an allocation"
                )));
            }
        };
        self.mappings.remove(&address);
        self.physical_of(handle).mappings = 0;
        self.drop_unused(handle);
        if origin == Origin::Pool {
            self.pool_used -= bytes;
            self.set_pool_held(self.pool_held + bytes);
        }
        Ok(())
    }

    /// Whether an allocation begins at an address.
    #[must_use]
    pub fn is_allocation(&self, address: u64) -> bool {
        self.mappings
            .get(&address)
            .is_some_and(|mapping| mapping.is_allocation())
    }

    /// `cuMemPoolTrimTo`: the pool gives back what it holds unused, but keeps `bytes` in all.
    pub fn trim_pool(&mut self, bytes: u64) {
        self.set_pool_held(self.pool_held.min(bytes.saturating_sub(self.pool_used)));
    }

    /// Bytes that the pool has from the device, and those of them that are allocated.
    #[must_use]
    pub fn pool(&self) -> (u64, u64) {
        (self.pool_used + self.pool_held, self.pool_used)
    }

    /// Bytes in use and the most that ever were.
    #[must_use]
    pub fn used_and_peak(&self) -> (u64, u64) {
        (self.used, self.peak)
    }

    /// Bytes of the device.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes of the smallest physical allocation.
    #[must_use]
    pub fn granularity(&self) -> u64 {
        self.granularity.get()
    }

    /// What lives: reservations, handles with a reference, mappings of handles, allocations.
    #[must_use]
    pub fn live(&self) -> [(&'static str, u64); 4] {
        let allocations = self.mappings.values().filter(|mapping| mapping.is_allocation()).count();
        let handles = self
            .physical
            .values()
            .filter(|physical| physical.references > 0)
            .count();
        [
            ("reservations", self.reservations.len() as u64),
            ("handles", handles as u64),
            ("mappings", (self.mappings.len() - allocations) as u64),
            ("allocations", allocations as u64),
        ]
    }

    /// Checks an access without making it.
    ///
    /// # Errors
    ///
    /// A part of the range may not be accessed so.
    pub fn check(&self, address: u64, bytes: u64, access: Access) -> Result<(), Fault> {
        self.pieces(address, bytes, access, |_, _| ())
    }

    /// Handle and range in it of an access that is allowed and lies in one mapping.
    fn within_one(&self, address: u64, bytes: usize, access: Access) -> Option<(u64, Range<usize>)> {
        let (start, mapping) = self.mapping_at(address)?;
        let offset = address - start;
        let fits = mapping.rights.allow(access) && bytes as u64 <= mapping.bytes - offset;
        fits.then(|| (mapping.handle, offset as usize..offset as usize + bytes))
    }

    /// Walks the pieces of an access, one for each mapping, as handle and range in it.
    fn pieces(
        &self,
        address: u64,
        bytes: u64,
        access: Access,
        mut piece: impl FnMut(u64, Range<usize>),
    ) -> Result<(), Fault> {
        let fault = |at, why| Fault {
            address,
            bytes,
            access,
            at,
            why,
        };
        let mut at = address;
        let mut left = bytes;
        while left > 0 {
            let (start, mapping) = self.mapping_at(at).ok_or_else(|| fault(at, Denied::Unmapped))?;
            if !mapping.rights.allow(access) {
                return Err(fault(at, Denied::Rights));
            }
            let offset = at - start;
            let length = left.min(mapping.bytes - offset);
            piece(mapping.handle, offset as usize..(offset + length) as usize);
            at += length;
            left -= length;
        }
        Ok(())
    }

    fn mapping_at(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (&start, mapping) = self.mappings.range(..=address).next_back()?;
        (address - start < mapping.bytes).then_some((start, mapping))
    }

    fn new_physical(&mut self, bytes: u64, references: u32) -> Outcome<u64> {
        let free = self.capacity.saturating_sub(self.used);
        if bytes > free {
            return Err(Refusal::new(
                Code::OutOfMemory,
                format!("{bytes} bytes asked for, {free} free"),
            ));
        }
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        let fill = if self.dirty { GARBAGE } else { 0 };
        let handle = self.next_handle;
        self.next_handle += 2;
        let physical = Physical {
            bytes: vec![fill; bytes as usize].into_boxed_slice(),
            references,
            mappings: 0,
        };
        self.physical.insert(handle, physical);
        Ok(handle)
    }

    fn drop_unused(&mut self, handle: u64) {
        let physical = self.physical_of(handle);
        if physical.references == 0 && physical.mappings == 0 {
            self.used -= physical.bytes.len() as u64;
            self.physical.remove(&handle);
        }
    }

    fn set_pool_held(&mut self, bytes: u64) {
        self.used = self.used - self.pool_held + bytes;
        self.pool_held = bytes;
    }

    fn referenced(&mut self, handle: u64) -> Outcome<&mut Physical> {
        let live = self
            .physical
            .get_mut(&handle)
            .filter(|physical| physical.references > 0);
        live.ok_or_else(|| Refusal::invalid(format!("handle {handle:#x} has no reference left, or never existed")))
    }

    /// The memory of a handle that a mapping or the caller has just been seen to hold.
    fn physical_of(&mut self, handle: u64) -> &mut Physical {
        self.physical
            .get_mut(&handle)
            .expect("memory lives while it is mapped or referenced")
    }
}

impl DeviceMemory for Memory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        // Kernels read a few bytes at a time, nearly always inside one mapping.
        if let Some((handle, range)) = self.within_one(address, bytes.len(), Access::Read) {
            bytes.copy_from_slice(&self.physical[&handle].bytes[range]);
            return Ok(());
        }
        self.check(address, bytes.len() as u64, Access::Read)?;
        let mut done = 0;
        self.pieces(address, bytes.len() as u64, Access::Read, |handle, range| {
            let length = range.len();
            bytes[done..done + length].copy_from_slice(&self.physical[&handle].bytes[range]);
            done += length;
        })
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        if let Some((handle, range)) = self.within_one(address, bytes.len(), Access::Write) {
            self.physical_of(handle).bytes[range].copy_from_slice(bytes);
            return Ok(());
        }
        let mut pieces = Vec::new();
        self.pieces(address, bytes.len() as u64, Access::Write, |handle, range| {
            pieces.push((handle, range))
        })?;
        let mut done = 0;
        for (handle, range) in pieces {
            let length = range.len();
            self.physical_of(handle).bytes[range].copy_from_slice(&bytes[done..done + length]);
            done += length;
        }
        Ok(())
    }
}
