//! The seam under the state machine: what a cache asks of memory.
//!
//! A [`Backend`] knows two things: **address space**, which is reserved once and costs nothing, and **frames**, pieces of
//! physical memory of one size, which are created, mapped into the address space and destroyed. Which frame lies where,
//! who may see it and when it may be used again is decided by the cache alone, the same for all backends.
//!
//! # Obligations
//!
//! The cache builds on these. `vattn::testing::Faulty` (feature `testing`) wraps any backend so that its calls fail on
//! request.
//!
//! 1. **Err means unchanged.** A call that returns an error has left mappings, contents and frames as they were.
//!    [`Backend::destroy`] is the exception, and says which frames are left.
//! 2. Frames are distinct pieces of memory. One frame may be mapped at several addresses ([`Caps::alias`]), which then show the same
//!    bytes.
//! 3. A new frame reads as zero if [`Caps::zeroed`] says so, and holds anything otherwise.
//! 4. An access of reserved address space that is not mapped, or a write through a read-only mapping, faults. It reaches
//!    no memory.
//! 5. [`Backend::physical_bytes`] is the number of frames created and not destroyed times their size, taken from the
//!    owner of the memory and not from a counter here.
//! 6. Calls may come from two threads at once, for different addresses and frames.
//!
//! # Order
//!
//! A device works while the program runs on. [`Backend::zero`] and [`Backend::copy`] may therefore return before they are
//! done; [`Backend::settle`] waits until their effect can be seen through every mapping by everything that is
//! started later. A [`Backend::Fence`] stands for work that the program has started on the device; the cache neither unmaps,
//! nor destroys, nor wipes a frame before the fences of its sequence are done. Backends without a device have nothing to
//! wait for.
//!
//! Addresses and frames that the backend never gave out are errors of the program: calls panic on them where they see
//! it.

use std::fmt;

use crate::error::BackendError;

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod host;
pub mod sim;

/// A piece of physical memory of one backend, [`Caps::frame_bytes`] large. The number means something to its backend only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame(pub u64);

/// What may be done through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading; a write faults.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// What a backend can do, fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// Bytes of a frame, a multiple of `page_bytes`.
    pub frame_bytes: usize,
    /// The smallest unit of address space that can be mapped: a power of two.
    pub page_bytes: usize,
    /// Alignment of address space and frames at which the backend can use large pages; 0 when it has none.
    pub huge_bytes: usize,
    /// Whether a new frame reads as zero.
    pub zeroed: bool,
    /// Whether frames with consecutive numbers at consecutive addresses are cheaper to map and to keep. The cache then
    /// asks for new frames where they will lie ([`Request::after`]) and keeps no frame that is not mapped.
    pub runs: bool,
    /// Whether a frame may be mapped at several addresses. Without it nothing is shared.
    pub alias: bool,
    /// Most mappings that the system allows, `usize::MAX` where it does not count them.
    pub max_mappings: usize,
}

impl Caps {
    /// Capabilities of the plainest backend: frames of `frame_bytes` that hold anything when new, lie anywhere and may be
    /// mapped several times.
    #[must_use]
    pub fn new(frame_bytes: usize, page_bytes: usize) -> Self {
        Self {
            frame_bytes,
            page_bytes,
            huge_bytes: 0,
            zeroed: false,
            runs: false,
            alias: true,
            max_mappings: usize::MAX,
        }
    }
}

/// New frames that are wanted, and where they will be mapped.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Number of frames.
    pub count: usize,
    /// Address at which the first of them will lie.
    pub address: usize,
    /// Frames from `address` to the end of the region, at least `count`: the frames after these will be asked for later.
    pub room: usize,
    /// The frame that lies just before `address`, when there is one.
    pub after: Option<Frame>,
    /// Use large pages where `address` allows it. This may take milliseconds, so it is asked for in the background only.
    pub huge: bool,
}

/// Where memory comes from. The module documentation has the obligations.
///
/// Addresses are numbers, lengths in `frames` are whole frames, and runs lie within one reservation.
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    /// Work that was started on the device, up to one point in time.
    type Fence: fmt::Debug + Clone + Send + Sync + 'static;

    /// What this backend can do.
    fn caps(&self) -> Caps;

    /// Reserves `bytes` bytes of address space (whole pages) aligned to `align` (a power of two), nothing of it mapped.
    ///
    /// # Errors
    ///
    /// The address space cannot be had.
    fn reserve(&self, bytes: usize, align: usize) -> Result<usize, BackendError>;

    /// Gives a reservation back, of which nothing is mapped.
    fn release(&self, address: usize, bytes: usize);

    /// Creates frames and appends them to `frames`. They hold memory from now on, mapped or not.
    ///
    /// # Errors
    ///
    /// Memory is exhausted; `frames` is as it was.
    fn create(&self, request: &Request, frames: &mut Vec<Frame>) -> Result<(), BackendError>;

    /// Gives the memory of frames back that are mapped nowhere, and removes them from `frames`.
    ///
    /// # Errors
    ///
    /// The call was refused. The frames that still exist are left in `frames`; what they hold is lost.
    fn destroy(&self, frames: &mut Vec<Frame>) -> Result<(), BackendError>;

    /// Maps frames one behind the other from `address` on, where nothing is mapped.
    ///
    /// # Errors
    ///
    /// Mappings are exhausted.
    fn map(&self, address: usize, frames: &[Frame], access: Access) -> Result<(), BackendError>;

    /// Puts another frame in the place of one mapped frame, in one step.
    ///
    /// # Errors
    ///
    /// Refused; the old frame is still mapped.
    fn replace(&self, address: usize, frame: Frame, access: Access) -> Result<(), BackendError>;

    /// Changes the access of `frames` mapped frames.
    ///
    /// # Errors
    ///
    /// Refused, for example because it would divide a mapping and mappings are exhausted.
    fn protect(&self, address: usize, frames: usize, access: Access) -> Result<(), BackendError>;

    /// Takes `frames` mapped frames out of the address space. They keep existing.
    ///
    /// # Errors
    ///
    /// Refused, for example because it would divide a mapping and mappings are exhausted.
    fn unmap(&self, address: usize, frames: usize) -> Result<(), BackendError>;

    /// Sets mapped, writable bytes to zero.
    ///
    /// # Errors
    ///
    /// The device refused.
    fn zero(&self, address: usize, bytes: usize) -> Result<(), BackendError>;

    /// Copies mapped bytes to mapped, writable bytes of other frames.
    ///
    /// # Errors
    ///
    /// The device refused.
    fn copy(&self, to: usize, from: usize, bytes: usize) -> Result<(), BackendError>;

    /// Waits until every earlier [`Backend::zero`] and [`Backend::copy`] can be seen by all work that starts later.
    ///
    /// # Errors
    ///
    /// The device refused.
    fn settle(&self) -> Result<(), BackendError>;

    /// Reads mapped bytes into memory of the program.
    ///
    /// # Errors
    ///
    /// The device refused.
    fn read(&self, from: usize, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Writes memory of the program to mapped, writable bytes. Done when it returns.
    ///
    /// # Errors
    ///
    /// The device refused.
    fn write(&self, to: usize, bytes: &[u8]) -> Result<(), BackendError>;

    /// A fence for all work started on the device so far.
    ///
    /// # Errors
    ///
    /// The device refused.
    fn fence(&self) -> Result<Self::Fence, BackendError>;

    /// Whether the work before a fence is done. It never waits.
    fn done(&self, fence: &Self::Fence) -> bool;

    /// Waits until the work before a fence is done.
    fn wait(&self, fence: &Self::Fence);

    /// Tries to put large pages behind mapped frames that are aligned to [`Caps::huge_bytes`], and returns whether they
    /// are there now. Contents, and the count of memory, stay. It may take milliseconds.
    fn collapse(&self, address: usize, frames: usize) -> bool {
        let _ = (address, frames);
        false
    }

    /// Bytes of physical memory held, as their owner counts them.
    fn physical_bytes(&self) -> usize;
}

/// A backend whose mapped bytes the processor can read and write at their address, as memory of the program.
///
/// # Safety
///
/// Mapped bytes are initialised memory that nobody outside this backend changes, at the address for which the cache asked, from
/// the return of [`Backend::map`] to the call of [`Backend::unmap`].
#[allow(unsafe_code)]
pub unsafe trait HostMemory: Backend {}
