//! Memory of the machine, by way of Linux memory files.
//!
//! A frame is a piece of one sparse memory file. Creating frames allocates and zeroes pages of the file (`fallocate`),
//! mapping them is one `mmap` for each run of consecutive frames, and destroying them punches holes. A frame mapped at
//! two addresses is the same pages twice. `docs/kv-cache.md` has the protocol in full.

use std::fs;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use self::file::MemoryFile;
use self::offsets::{FILE_BYTES, Offsets, runs};
use self::reservation::Reservation;
use super::{Access, Backend, Caps, Frame, HostMemory, Request};
use crate::error::BackendError;

mod arena;
mod bytes;
mod export;
mod file;
mod offsets;
mod reservation;
#[cfg(test)]
mod tests;

pub use self::arena::Arena;
pub use self::export::{ExportedPrefix, Extent, ImportedPrefix};

/// Bytes of a huge page, which `MADV_COLLAPSE` makes: 2 MiB with base pages of 4 KiB, on x86-64 and on aarch64.
const HUGE_BYTES: usize = 2 << 20;

/// Bytes of a page of the processor: frames are a multiple of it.
#[must_use]
#[allow(unsafe_code)]
pub fn page_bytes() -> usize {
    // SAFETY: it reads a number that the C library knows. (`rustix` would read it where valgrind does not follow.)
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every system has a size of pages")
}

/// The backend over the memory of the machine.
#[derive(Debug)]
pub struct HostBackend {
    caps: Caps,
    file: MemoryFile,
    offsets: Mutex<Offsets>,
    reservations: RwLock<Vec<Arc<Reservation>>>,
}

impl HostBackend {
    /// A backend whose frames are `frame_bytes` large, a power of two.
    ///
    /// # Errors
    ///
    /// The frame is not a power of two of at least a page, or the kernel refuses the memory file.
    pub fn new(frame_bytes: usize) -> Result<Self, BackendError> {
        let page = page_bytes();
        if !frame_bytes.is_power_of_two() || frame_bytes < page {
            return Err(invalid("frame", frame_bytes, "use a power of two of at least a page"));
        }
        let huge_bytes = if page == 4096 { HUGE_BYTES } else { 0 };
        Ok(Self {
            caps: Caps {
                huge_bytes,
                zeroed: true,
                runs: true,
                max_mappings: max_mappings(),
                ..Caps::new(frame_bytes, page)
            },
            file: MemoryFile::new(FILE_BYTES)?,
            offsets: Mutex::new(Offsets::new(frame_bytes, huge_bytes)),
            reservations: RwLock::new(Vec::new()),
        })
    }

    fn offsets(&self) -> MutexGuard<'_, Offsets> {
        // Every change of the offsets is complete before anything could panic.
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reservation that holds a run of addresses, and the run in it.
    fn locate(&self, address: usize, bytes: usize) -> (Arc<Reservation>, Range<usize>) {
        let reservations = self.reservations.read().unwrap_or_else(PoisonError::into_inner);
        let found = reservations.iter().find_map(|reservation| {
            let start = address.checked_sub(reservation.base().addr())?;
            let end = start.checked_add(bytes).filter(|&end| end <= reservation.bytes())?;
            Some((Arc::clone(reservation), start..end))
        });
        found.unwrap_or_else(|| panic!("{bytes} bytes at {address:#x} are not reserved"))
    }

    fn frames_at(&self, address: usize, frames: usize) -> (Arc<Reservation>, Range<usize>) {
        self.locate(address, frames * self.caps.frame_bytes)
    }

    /// Bytes of the file behind frames.
    fn file_run(&self, frames: &Range<u64>) -> Range<u64> {
        let bytes = self.caps.frame_bytes as u64;
        frames.start * bytes..frames.end * bytes
    }

    /// Allocates frames with huge pages where whole ones fit, and falls back to base pages.
    fn allocate_huge(&self, run: Range<u64>) -> Result<(), BackendError> {
        let huge = HUGE_BYTES as u64;
        let (first, last) = (run.start.next_multiple_of(huge), run.end / huge * huge);
        if first >= last {
            return self.file.allocate(run);
        }
        self.file.allocate(run.start..first)?;
        self.file.allocate(last..run.end)?;
        // Pages become huge through a mapping: a window of its own, because the frames are mapped nowhere yet.
        let bytes = (last - first) as usize;
        let window = Reservation::new(bytes, HUGE_BYTES)?;
        window.map(0..bytes, &self.file, first, Access::ReadWrite, false)?;
        for (start, page) in (first..last).step_by(HUGE_BYTES).zip((0..bytes).step_by(HUGE_BYTES)) {
            self.file.allocate(start..start + self.caps.page_bytes as u64)?;
            if !window.collapse(page..page + HUGE_BYTES) {
                self.file.allocate(start..start + huge)?;
            }
        }
        Ok(())
    }
}

impl Backend for HostBackend {
    type Fence = ();

    fn caps(&self) -> Caps {
        self.caps
    }

    fn reserve(&self, bytes: usize, align: usize) -> Result<usize, BackendError> {
        if bytes == 0 || !bytes.is_multiple_of(self.caps.page_bytes) || !align.is_power_of_two() {
            return Err(invalid(
                "reservation",
                bytes,
                "use whole pages and a power of two as alignment",
            ));
        }
        let reservation = Arc::new(Reservation::new(bytes, align)?);
        // Exposed, because views hand addresses to kernels that turn them into pointers again.
        let address = reservation.base().expose_provenance();
        self.reservations
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(reservation);
        Ok(address)
    }

    fn release(&self, address: usize, bytes: usize) {
        let mut reservations = self.reservations.write().unwrap_or_else(PoisonError::into_inner);
        let found = reservations
            .iter()
            .position(|reservation| (reservation.base().addr(), reservation.bytes()) == (address, bytes));
        reservations.swap_remove(found.unwrap_or_else(|| panic!("{bytes} bytes at {address:#x} are no reservation")));
    }

    fn create(&self, request: &Request, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        let mut offsets = self.offsets();
        let Some(run) = offsets.find(request) else {
            return Err(invalid(
                "offset",
                request.room,
                "make a new cache: this one has used up its file",
            ));
        };
        offsets.insert(run.clone());
        drop(offsets);
        let bytes = self.file_run(&run);
        let allocated = match request.huge {
            true => self.allocate_huge(bytes.clone()),
            false => self.file.allocate(bytes.clone()),
        };
        if let Err(error) = allocated {
            // Part of the run may be backed. The offsets stay taken if that cannot be undone.
            if self.file.punch(bytes).is_ok() {
                self.offsets().remove(run);
            }
            return Err(match error.is_exhaustion() {
                true => error.lacking_frames(request.count),
                false => error,
            });
        }
        frames.extend(run.map(Frame));
        Ok(())
    }

    fn destroy(&self, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        frames.sort_unstable();
        while let Some(run) = runs(frames).last() {
            let numbers = frames[run.start].0..frames[run.end - 1].0 + 1;
            self.file.punch(self.file_run(&numbers))?;
            self.offsets().remove(numbers);
            frames.truncate(run.start);
        }
        Ok(())
    }

    fn map(&self, address: usize, frames: &[Frame], access: Access) -> Result<(), BackendError> {
        let (reservation, whole) = self.frames_at(address, frames.len());
        let bytes = self.caps.frame_bytes;
        for run in runs(frames) {
            let (from, to) = (whole.start + run.start * bytes, whole.start + run.end * bytes);
            let offset = frames[run.start].0 * bytes as u64;
            // What is shared may be long and was read before; what is written is short and about to be.
            let resident = access == Access::ReadWrite;
            if let Err(error) = reservation.map(from..to, &self.file, offset, access, resident) {
                if from > whole.start {
                    let _ = reservation.unmap(whole.start..from);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn replace(&self, address: usize, frame: Frame, access: Access) -> Result<(), BackendError> {
        let (reservation, run) = self.frames_at(address, 1);
        let offset = frame.0 * self.caps.frame_bytes as u64;
        reservation.map(run, &self.file, offset, access, true)
    }

    fn protect(&self, address: usize, frames: usize, access: Access) -> Result<(), BackendError> {
        let (reservation, run) = self.frames_at(address, frames);
        reservation.protect(run, access)
    }

    fn unmap(&self, address: usize, frames: usize) -> Result<(), BackendError> {
        let (reservation, run) = self.frames_at(address, frames);
        reservation.unmap(run)
    }

    fn zero(&self, address: usize, bytes: usize) -> Result<(), BackendError> {
        let (reservation, run) = self.locate(address, bytes);
        bytes::zero(&reservation, run);
        Ok(())
    }

    fn copy(&self, to: usize, from: usize, bytes: usize) -> Result<(), BackendError> {
        let (to, from) = (self.locate(to, bytes), self.locate(from, bytes));
        bytes::copy((&to.0, to.1), (&from.0, from.1));
        Ok(())
    }

    fn settle(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn read(&self, from: usize, bytes: &mut [u8]) -> Result<(), BackendError> {
        let (reservation, run) = self.locate(from, bytes.len());
        bytes::read(&reservation, run, bytes);
        Ok(())
    }

    fn write(&self, to: usize, bytes: &[u8]) -> Result<(), BackendError> {
        let (reservation, run) = self.locate(to, bytes.len());
        bytes::write(&reservation, run, bytes);
        Ok(())
    }

    fn fence(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn done(&self, (): &()) -> bool {
        true
    }

    fn wait(&self, (): &()) {}

    fn collapse(&self, address: usize, frames: usize) -> bool {
        let (reservation, run) = self.frames_at(address, frames);
        let whole = run.start.is_multiple_of(HUGE_BYTES) && run.end.is_multiple_of(HUGE_BYTES);
        self.caps.huge_bytes > 0 && whole && reservation.collapse(run)
    }

    fn physical_bytes(&self) -> usize {
        self.file.physical_bytes()
    }
}

// SAFETY: a mapped byte belongs to a page of the memory file, which is zero or written. The file has no name and its
// descriptor does not leave this module, so nobody else reaches it, and its length is sealed. `map` and `unmap` are the only
// functions that change what lies at an address.
#[allow(unsafe_code)]
unsafe impl HostMemory for HostBackend {}

fn invalid(what: &'static str, value: usize, hint: &'static str) -> BackendError {
    BackendError::new(what, value, hint, io::ErrorKind::InvalidInput.into())
}

/// Most mappings of a process, as the kernel is set.
fn max_mappings() -> usize {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530)
}
