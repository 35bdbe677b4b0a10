//! Memory of a CUDA device, managed with the virtual memory functions of its driver.
//!
//! Reservations are addresses of the device, a frame is one allocation of physical memory (`cuMemCreate`) of the smallest size
//! that the device gives, 2 MiB on the cards of today. The rules of the driver that shape this backend:
//!
//! * A handle is mapped whole and unmapped as it was mapped: one handle for each frame. Rights are given to a whole run in one
//!   call, which is the expensive one.
//! * New memory holds anything, also rows of somebody else: frames are set to zero on a stream of the backend's own, and
//!   [`Backend::settle`] waits for it.
//! * Unmapping does not wait for kernels. A [`CudaFence`] is an event on each stream that uses the rows, and the cache unmaps
//!   behind it.
//! * When memory is out, candle's stream-ordered pool may hold it: the backend waits for the device, trims the pool and asks
//!   once more before it gives up.
//!
//! The driver does not say how much memory one process holds, so [`Backend::physical_bytes`] is the number of live handles
//! times their size. Memory of the device cannot be read by the processor: use [`Backend::read`] and [`Backend::write`], or
//! kernels at the addresses of [`KvView`](crate::KvView).
//!
//! `docs/cuda.md` says what of this has met a real card.

pub mod driver;
mod error;
mod leftover;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::driver::{Driver, Event, Rights, Stream, StreamHandle};
pub use self::error::{DriverError, NotAvailable, Result};
use self::leftover::{Leftover, Leftovers};
use super::{Access, Backend, Caps, Frame, Request};
use crate::error::BackendError;

/// The backend over the memory of one device. Handles are clones of each other: give one to the cache and keep one for fences
/// and for the device.
#[derive(Debug, Clone)]
pub struct CudaBackend(Arc<State>);

#[derive(Debug)]
struct State {
    driver: Arc<Driver>,
    /// Zeroing and copying, and nothing else.
    stream: Stream,
    caps: Caps,
    /// What is mapped, by address, so that a refused call can be undone.
    mapped: Mutex<BTreeMap<usize, (Frame, Access)>>,
    /// Frames that exist.
    frames: Mutex<BTreeSet<Frame>>,
    leftovers: Leftovers,
}

/// Work on the device up to one point in time: an event on each stream that it covers.
#[derive(Debug, Clone)]
pub struct CudaFence(Arc<[Event]>);

impl CudaBackend {
    /// Opens device `ordinal`. Frames have the smallest size it gives.
    ///
    /// # Errors
    ///
    /// [`NotAvailable`] when there is no driver, no such device, or a device that does not manage virtual memory.
    pub fn open(ordinal: i32) -> Result<Self, NotAvailable> {
        let driver = Driver::open(ordinal)?;
        let state = State::new(driver).map_err(|error| NotAvailable { why: error.to_string() })?;
        Ok(Self(Arc::new(state)))
    }

    /// The device, for kernels over the rows.
    #[must_use]
    pub fn driver(&self) -> &Arc<Driver> {
        &self.0.driver
    }

    /// A fence for all work so far of these streams. [`Backend::fence`] covers the legacy default stream and with it every
    /// stream that waits for it: those of candle, and those made without `CU_STREAM_NON_BLOCKING`.
    ///
    /// # Errors
    ///
    /// The driver refused.
    pub fn fence_on(&self, streams: &[StreamHandle]) -> Result<CudaFence, BackendError> {
        let events = streams.iter().map(|&stream| self.0.driver.record(stream));
        let events = events.collect::<Result<Vec<_>>>().map_err(refused(0))?;
        Ok(CudaFence(events.into()))
    }
}

impl State {
    fn new(driver: Arc<Driver>) -> Result<Self> {
        let frame_bytes = driver.granularity(false)?;
        let mut state = Self {
            stream: driver.stream()?,
            driver,
            caps: Caps::new(frame_bytes, frame_bytes),
            mapped: Mutex::default(),
            frames: Mutex::default(),
            leftovers: Leftovers::default(),
        };
        state.caps.alias = state.read_only_works()?;
        Ok(state)
    }

    /// Whether memory can be mapped read-only. Where it cannot, nothing is shared, because a write into shared rows would
    /// not fault.
    fn read_only_works(&self) -> Result<bool> {
        let bytes = self.caps.frame_bytes;
        let address = self.driver.reserve(bytes, bytes)?;
        let tried = self.driver.create(bytes).and_then(|handle| {
            let mapped = self.driver.map(address, bytes, handle);
            self.leftovers.give_back(&self.driver, Leftover::Handle(handle));
            mapped?;
            let given = self.driver.set_access(address, bytes, Rights::Read);
            self.leftovers
                .give_back(&self.driver, Leftover::Mapping(address, bytes));
            match given {
                Err(error) if error.is_unsupported() => Ok(false),
                other => other.map(|()| true),
            }
        });
        self.leftovers
            .give_back(&self.driver, Leftover::Addresses(address, bytes));
        tried
    }

    fn frames(&self) -> MutexGuard<'_, BTreeSet<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mapped(&self) -> MutexGuard<'_, BTreeMap<usize, (Frame, Access)>> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps frames and gives rights to the run in one call, or leaves nothing mapped.
    fn map_run(&self, address: usize, frames: &[Frame], access: Access) -> Result {
        let bytes = self.caps.frame_bytes;
        let at = |index: usize| (address + index * bytes) as u64;
        let mut done = 0;
        let mapped = frames
            .iter()
            .try_for_each(|frame| {
                self.driver.map(at(done), bytes, frame.0)?;
                done += 1;
                Ok(())
            })
            .and_then(|()| self.driver.set_access(at(0), frames.len() * bytes, rights(access)));
        if mapped.is_err() {
            for index in 0..done {
                self.leftovers
                    .give_back(&self.driver, Leftover::Mapping(at(index), bytes));
            }
        }
        mapped
    }

    /// Unmaps frames one by one, as they were mapped. Returns how many are unmapped when the driver refuses the next.
    fn unmap_run(&self, address: usize, frames: usize) -> Result<(), (usize, DriverError)> {
        // Zeroing that was started in a call that then failed may still be under way in these frames.
        self.driver
            .wait_stream(self.stream.handle())
            .map_err(|error| (0, error))?;
        let bytes = self.caps.frame_bytes;
        (0..frames).try_for_each(|index| {
            let unmapped = self.driver.unmap((address + index * bytes) as u64, bytes);
            unmapped.map_err(|error| (index, error))
        })
    }

    /// Handles and rights of `frames` frames mapped from `address` on.
    fn mapped_run(&self, address: usize, frames: usize) -> Vec<(Frame, Access)> {
        let mapped = self.mapped();
        let run: Vec<_> = mapped.range(address..).take(frames).map(|(_, entry)| *entry).collect();
        let end = address + frames.saturating_sub(1) * self.caps.frame_bytes;
        assert!(
            run.len() == frames && (frames == 0 || mapped.contains_key(&address) && mapped.contains_key(&end)),
            "{frames} frames at {address:#x} are not all mapped"
        );
        run
    }

    /// Unmaps frames for good, later if not now.
    fn give_back_mappings(&self, addresses: &[usize]) {
        for &address in addresses {
            let mapping = Leftover::Mapping(address as u64, self.caps.frame_bytes);
            self.leftovers.give_back(&self.driver, mapping);
        }
    }

    /// Maps again what an undone call had unmapped. A driver that refuses this too has lost its context.
    fn put_back(&self, address: usize, run: &[(Frame, Access)]) {
        for (index, &(frame, access)) in run.iter().enumerate() {
            let at = address + index * self.caps.frame_bytes;
            let again = || self.map_run(at, &[frame], access);
            if again().or_else(|_| again()).is_err() {
                self.mapped().remove(&at);
            }
        }
    }

    /// Creates a frame. When memory is out, it waits for the device, so that the default pool has what was freed, lets the
    /// pool give it back, and asks once more.
    fn create_frame(&self) -> Result<Frame> {
        let bytes = self.caps.frame_bytes;
        let created = self.driver.create(bytes).or_else(|error| {
            if !error.is_out_of_memory() {
                return Err(error);
            }
            self.driver.synchronize()?;
            // A device without pools has none that could hold memory.
            let _ = self.driver.trim_pool();
            self.driver.create(bytes)
        });
        created.map(Frame)
    }

    fn run_bytes(&self, frames: usize) -> usize {
        frames * self.caps.frame_bytes
    }
}

fn rights(access: Access) -> Rights {
    match access {
        Access::Read => Rights::Read,
        Access::ReadWrite => Rights::ReadWrite,
    }
}

fn refused(bytes: usize) -> impl FnOnce(DriverError) -> BackendError {
    move |error| {
        let (kind, hint) = if error.is_out_of_memory() {
            let hint = "the device has no memory left: free sequences, or set a smaller budget";
            (io::ErrorKind::OutOfMemory, hint)
        } else {
            (
                io::ErrorKind::Other,
                "the driver refused, see the code; a lost context needs a new process",
            )
        };
        BackendError::new(error.call, bytes, hint, io::Error::new(kind, error))
    }
}

/// As [`refused`], for a call that gets memory: that there is none is for the cache to answer.
fn not_got(frames: usize, frame_bytes: usize) -> impl FnOnce(DriverError) -> BackendError {
    move |error| {
        let refusal = refused(frames * frame_bytes)(error);
        match error.is_out_of_memory() {
            true => refusal.lacking_frames(frames),
            false => refusal,
        }
    }
}

impl Backend for CudaBackend {
    type Fence = CudaFence;

    fn caps(&self) -> Caps {
        self.0.caps
    }

    fn reserve(&self, bytes: usize, align: usize) -> Result<usize, BackendError> {
        let align = align.max(self.0.caps.page_bytes);
        let reserved = self.0.driver.reserve(bytes, align).map_err(refused(bytes))?;
        Ok(reserved as usize)
    }

    fn release(&self, address: usize, bytes: usize) {
        // Only what the driver refused to unmap is still mapped.
        let mut mapped = self.0.mapped();
        let left: Vec<_> = mapped.range(address..address + bytes).map(|(at, _)| *at).collect();
        mapped.retain(|at, _| !left.contains(at));
        drop(mapped);
        self.0.give_back_mappings(&left);
        let addresses = Leftover::Addresses(address as u64, bytes);
        self.0.leftovers.give_back(&self.0.driver, addresses);
    }

    fn create(&self, request: &Request, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        self.0.leftovers.retry(&self.0.driver);
        let before = frames.len();
        for _ in 0..request.count {
            match self.0.create_frame() {
                Ok(frame) => frames.push(frame),
                Err(error) => {
                    for frame in frames.drain(before..) {
                        self.0.leftovers.give_back(&self.0.driver, Leftover::Handle(frame.0));
                    }
                    return Err(not_got(request.count, self.0.caps.frame_bytes)(error));
                }
            }
        }
        self.0.frames().extend(&frames[before..]);
        Ok(())
    }

    fn destroy(&self, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        while let Some(frame) = frames.last() {
            self.0
                .driver
                .release(frame.0)
                .map_err(refused(self.0.run_bytes(frames.len())))?;
            self.0.frames().remove(frame);
            frames.pop();
        }
        Ok(())
    }

    fn map(&self, address: usize, frames: &[Frame], access: Access) -> Result<(), BackendError> {
        if frames.is_empty() {
            return Ok(());
        }
        self.0.leftovers.retry(&self.0.driver);
        self.0
            .map_run(address, frames, access)
            .map_err(not_got(frames.len(), self.0.caps.frame_bytes))?;
        let addresses = (address..).step_by(self.0.caps.frame_bytes);
        self.0
            .mapped()
            .extend(addresses.zip(frames.iter().map(|&frame| (frame, access))));
        Ok(())
    }

    fn replace(&self, address: usize, frame: Frame, access: Access) -> Result<(), BackendError> {
        let (old, old_access) = self.0.mapped_run(address, 1)[0];
        let refused = refused(self.0.caps.frame_bytes);
        if let Err((_, error)) = self.0.unmap_run(address, 1) {
            return Err(refused(error));
        }
        match self.0.map_run(address, &[frame], access) {
            Ok(()) => {
                self.0.mapped().insert(address, (frame, access));
                Ok(())
            }
            Err(error) => {
                self.0.put_back(address, &[(old, old_access)]);
                Err(refused(error))
            }
        }
    }

    fn protect(&self, address: usize, frames: usize, access: Access) -> Result<(), BackendError> {
        let bytes = self.0.run_bytes(frames);
        if frames == 0 {
            return Ok(());
        }
        self.0.mapped_run(address, frames);
        self.0
            .driver
            .set_access(address as u64, bytes, rights(access))
            .map_err(refused(bytes))?;
        for (_, entry) in self.0.mapped().range_mut(address..address + bytes) {
            entry.1 = access;
        }
        Ok(())
    }

    fn unmap(&self, address: usize, frames: usize) -> Result<(), BackendError> {
        let run = self.0.mapped_run(address, frames);
        if let Err((done, error)) = self.0.unmap_run(address, frames) {
            self.0.put_back(address, &run[..done]);
            return Err(refused(self.0.run_bytes(frames))(error));
        }
        let mut mapped = self.0.mapped();
        for index in 0..frames {
            mapped.remove(&(address + index * self.0.caps.frame_bytes));
        }
        Ok(())
    }

    fn zero(&self, address: usize, bytes: usize) -> Result<(), BackendError> {
        self.0
            .driver
            .fill(self.0.stream.handle(), address as u64, 0, bytes)
            .map_err(refused(bytes))
    }

    fn copy(&self, to: usize, from: usize, bytes: usize) -> Result<(), BackendError> {
        self.0
            .driver
            .copy(self.0.stream.handle(), to as u64, from as u64, bytes)
            .map_err(refused(bytes))
    }

    fn settle(&self) -> Result<(), BackendError> {
        self.0.driver.wait_stream(self.0.stream.handle()).map_err(refused(0))
    }

    fn read(&self, from: usize, bytes: &mut [u8]) -> Result<(), BackendError> {
        let refused = refused(bytes.len());
        self.0
            .driver
            .read(self.0.stream.handle(), from as u64, bytes)
            .map_err(refused)
    }

    fn write(&self, to: usize, bytes: &[u8]) -> Result<(), BackendError> {
        self.0
            .driver
            .write(self.0.stream.handle(), to as u64, bytes)
            .map_err(refused(bytes.len()))
    }

    fn fence(&self) -> Result<CudaFence, BackendError> {
        self.fence_on(&[StreamHandle::LEGACY])
    }

    fn done(&self, fence: &CudaFence) -> bool {
        // A query that fails says nothing about the work, so it is not taken for done.
        fence.0.iter().all(|event| event.is_done() == Ok(true))
    }

    fn wait(&self, fence: &CudaFence) {
        for event in fence.0.iter() {
            if event.wait().is_err() {
                // A wait that is refused though the device works is made up for by waiting for everything. In a lost
                // context nothing runs any more, and there is nothing to wait for.
                let _ = self.0.driver.synchronize();
            }
        }
    }

    fn physical_bytes(&self) -> usize {
        self.0.run_bytes(self.0.frames().len())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // A cache gives everything back when it is dropped. What the driver refused to take then is offered once more.
        let _ = self.driver.synchronize();
        let mapped: Vec<_> = std::mem::take(&mut *self.mapped()).into_keys().collect();
        self.give_back_mappings(&mapped);
        for frame in std::mem::take(&mut *self.frames()) {
            self.leftovers.give_back(&self.driver, Leftover::Handle(frame.0));
        }
        self.leftovers.retry(&self.driver);
    }
}
