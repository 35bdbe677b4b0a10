//! Memory that exists only as a model: exact to the byte, with a clock of its own, and without mercy.
//!
//! [`SimBackend`] keeps every promise of a [`Backend`] and checks that its user keeps the other side. It **panics** where
//! a real device would silently give wrong bytes:
//!
//! * an access of address space that is not mapped, or a write through a read-only mapping;
//! * a read of bytes that were never written since the frame was created, or since it was last mapped nowhere (stale
//!   memory of somebody else);
//! * a write to a frame that is mapped at another address too;
//! * a read of what [`Backend::zero`] or [`Backend::copy`] wrote before [`Backend::settle`];
//! * unmapping, replacing, wiping or destroying a frame that work on the device still uses, and touching what the device
//!   is still writing;
//! * mapping over a mapping, destroying a mapped frame, giving back address space that is in use.
//!
//! Work on the device is started with [`SimBackend::launch`] and ends when the clock says so. Every call may take time
//! ([`Costs`]), so a run on the model can be planned for machines that are not there; [`SimBackend::without_contents`]
//! leaves the bytes out, for models of many gigabytes.
//!
//! Handles are clones of each other: a test keeps one and gives one to the cache.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::world::World;
use super::{Access, Backend, Caps, Frame, Request};
use crate::error::BackendError;

mod world;

/// What calls take on the virtual clock, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    /// Creating one frame.
    pub create_frame: u64,
    /// Destroying one frame.
    pub destroy_frame: u64,
    /// A call that maps, replaces or protects.
    pub map_call: u64,
    /// Each frame of such a call.
    pub map_frame: u64,
    /// A call that unmaps.
    pub unmap_call: u64,
    /// Each frame of such a call.
    pub unmap_frame: u64,
    /// Wiping or copying 1,024 bytes.
    pub kibibyte: u64,
}

/// What work on the device does to a run of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Reads them.
    Read,
    /// Writes this byte to all of them.
    Write(u8),
}

/// A moment of the virtual clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimFence(u64);

/// The backend over a model of memory.
#[derive(Debug, Clone)]
pub struct SimBackend(Arc<Mutex<World>>);

impl SimBackend {
    /// A backend with frames of `frame_bytes`, any power of two. New frames hold anything, which is to say that reading
    /// them before they are written panics.
    ///
    /// # Panics
    ///
    /// When `frame_bytes` is not a power of two.
    #[must_use]
    pub fn new(frame_bytes: usize) -> Self {
        assert!(frame_bytes.is_power_of_two(), "frames of {frame_bytes} bytes");
        Self(Arc::new(Mutex::new(World::new(Caps::new(frame_bytes, frame_bytes)))))
    }

    /// Lets the backend behave like memory files: new frames are zero, and consecutive ones are preferred.
    #[must_use]
    pub fn like_files(self) -> Self {
        let mut world = self.world();
        (world.caps.zeroed, world.caps.runs) = (true, true);
        drop(world);
        self
    }

    /// Lets the backend refuse to map a frame twice.
    #[must_use]
    pub fn without_alias(self) -> Self {
        self.world().caps.alias = false;
        self
    }

    /// Lets at most `frames` frames exist at a time: creating more is refused, as by a machine that is full.
    #[must_use]
    pub fn with_capacity(self, frames: usize) -> Self {
        self.world().capacity = frames;
        self
    }

    /// Lets calls take time.
    #[must_use]
    pub fn with_costs(self, costs: Costs) -> Self {
        self.world().costs = costs;
        self
    }

    /// Keeps mappings and counts only: reads give zeros, and stale bytes are not found.
    #[must_use]
    pub fn without_contents(self) -> Self {
        self.world().contents = false;
        self
    }

    /// The virtual clock, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.world().now
    }

    /// Lets time pass.
    pub fn advance(&self, nanoseconds: u64) {
        self.world().now += nanoseconds;
    }

    /// Starts work on the device that takes `nanoseconds` and touches runs of bytes, given as address and length. The
    /// fence is done when the work and all work before it are.
    ///
    /// # Panics
    ///
    /// When a run may not be touched in that way.
    pub fn launch(&self, runs: &[(usize, usize, Work)], nanoseconds: u64) -> SimFence {
        SimFence(self.world().launch(runs, nanoseconds))
    }

    /// Frames that exist.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.world().frames()
    }

    /// Frames that are mapped, one that is mapped twice counted twice.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.world().mappings()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        // After a panic, which is how the model reports, everything else may only be looked at.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for SimBackend {
    type Fence = SimFence;

    fn caps(&self) -> Caps {
        self.world().caps
    }

    fn reserve(&self, bytes: usize, align: usize) -> Result<usize, BackendError> {
        self.world().reserve(bytes, align)
    }

    fn release(&self, address: usize, bytes: usize) {
        self.world().release(address, bytes);
    }

    fn create(&self, request: &Request, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        self.world().create(request, frames)
    }

    fn destroy(&self, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        self.world().destroy(frames);
        Ok(())
    }

    fn map(&self, address: usize, frames: &[Frame], access: Access) -> Result<(), BackendError> {
        self.world().map(address, frames, access);
        Ok(())
    }

    fn replace(&self, address: usize, frame: Frame, access: Access) -> Result<(), BackendError> {
        self.world().replace(address, frame, access);
        Ok(())
    }

    fn protect(&self, address: usize, frames: usize, access: Access) -> Result<(), BackendError> {
        self.world().protect(address, frames, access);
        Ok(())
    }

    fn unmap(&self, address: usize, frames: usize) -> Result<(), BackendError> {
        self.world().unmap(address, frames);
        Ok(())
    }

    fn zero(&self, address: usize, bytes: usize) -> Result<(), BackendError> {
        self.world().zero(address, bytes);
        Ok(())
    }

    fn copy(&self, to: usize, from: usize, bytes: usize) -> Result<(), BackendError> {
        self.world().copy(to, from, bytes);
        Ok(())
    }

    fn settle(&self) -> Result<(), BackendError> {
        self.world().settle();
        Ok(())
    }

    fn read(&self, from: usize, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.world().read(from, bytes);
        Ok(())
    }

    fn write(&self, to: usize, bytes: &[u8]) -> Result<(), BackendError> {
        self.world().write(to, bytes);
        Ok(())
    }

    fn fence(&self) -> Result<SimFence, BackendError> {
        Ok(SimFence(self.world().end_of_work()))
    }

    fn done(&self, fence: &SimFence) -> bool {
        fence.0 <= self.world().now
    }

    fn wait(&self, fence: &SimFence) {
        let mut world = self.world();
        world.now = world.now.max(fence.0);
    }

    fn physical_bytes(&self) -> usize {
        let world = self.world();
        world.frames() * world.caps.frame_bytes
    }
}
