//! A backend whose calls fail on request.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::backend::{Access, Backend, Caps, Frame, Request};
use crate::error::BackendError;

/// Which calls fail. Handles are clones of each other.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Control>);

#[derive(Debug, Default)]
struct Control {
    calls: AtomicUsize,
    fail_from: AtomicUsize,
    fail_until: AtomicUsize,
    failed: AtomicUsize,
    phantom_bytes: AtomicUsize,
}

impl Faults {
    /// Lets the calls in `range` fail, counted from the next call on.
    pub fn fail(&self, range: Range<usize>) {
        let now = self.calls();
        self.0.fail_from.store(now.saturating_add(range.start), Relaxed);
        self.0.fail_until.store(now.saturating_add(range.end), Relaxed);
    }

    /// Calls that may fail, made so far.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.0.calls.load(Relaxed)
    }

    /// Calls that failed so far.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.0.failed.load(Relaxed)
    }

    /// Adds memory to the count that nobody created.
    pub fn leak(&self, bytes: usize) {
        self.0.phantom_bytes.store(bytes, Relaxed);
    }

    fn call(&self, name: &'static str, bytes: usize) -> Result<(), BackendError> {
        let call = self.0.calls.fetch_add(1, Relaxed);
        let (from, until) = (self.0.fail_from.load(Relaxed), self.0.fail_until.load(Relaxed));
        if (from..until).contains(&call) {
            self.0.failed.fetch_add(1, Relaxed);
            let error = io::ErrorKind::OutOfMemory.into();
            return Err(BackendError::new(name, bytes, "try again", error));
        }
        Ok(())
    }
}

/// Passes calls on to another backend, except those that are told to fail.
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    faults: Faults,
}

impl<B: Backend> Faulty<B> {
    /// Wraps a backend, and gives the handle that lets its calls fail.
    pub fn new(inner: B) -> (Self, Faults) {
        let faults = Faults::default();
        let backend = Self {
            inner,
            faults: faults.clone(),
        };
        (backend, faults)
    }

    fn call(&self, name: &'static str, frames: usize) -> Result<(), BackendError> {
        self.faults.call(name, frames * self.inner.caps().frame_bytes)
    }
}

impl<B: Backend> Backend for Faulty<B> {
    type Fence = B::Fence;

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    fn reserve(&self, bytes: usize, align: usize) -> Result<usize, BackendError> {
        self.faults.call("reserve", bytes)?;
        self.inner.reserve(bytes, align)
    }

    fn release(&self, address: usize, bytes: usize) {
        self.inner.release(address, bytes);
    }

    fn create(&self, request: &Request, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        self.call("create", request.count)?;
        self.inner.create(request, frames)
    }

    fn destroy(&self, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        if let Err(error) = self.call("destroy", frames.len()) {
            // As bad as it may get: half of them are gone.
            let mut gone = frames.split_off(frames.len() / 2);
            self.inner.destroy(&mut gone)?;
            frames.append(&mut gone);
            return Err(error);
        }
        self.inner.destroy(frames)
    }

    fn map(&self, address: usize, frames: &[Frame], access: Access) -> Result<(), BackendError> {
        self.call("map", frames.len())?;
        self.inner.map(address, frames, access)
    }

    fn replace(&self, address: usize, frame: Frame, access: Access) -> Result<(), BackendError> {
        self.call("replace", 1)?;
        self.inner.replace(address, frame, access)
    }

    fn protect(&self, address: usize, frames: usize, access: Access) -> Result<(), BackendError> {
        self.call("protect", frames)?;
        self.inner.protect(address, frames, access)
    }

    fn unmap(&self, address: usize, frames: usize) -> Result<(), BackendError> {
        self.call("unmap", frames)?;
        self.inner.unmap(address, frames)
    }

    fn zero(&self, address: usize, bytes: usize) -> Result<(), BackendError> {
        self.faults.call("zero", bytes)?;
        self.inner.zero(address, bytes)
    }

    fn copy(&self, to: usize, from: usize, bytes: usize) -> Result<(), BackendError> {
        self.faults.call("copy", bytes)?;
        self.inner.copy(to, from, bytes)
    }

    fn settle(&self) -> Result<(), BackendError> {
        self.faults.call("settle", 0)?;
        self.inner.settle()
    }

    fn read(&self, from: usize, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.inner.read(from, bytes)
    }

    fn write(&self, to: usize, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write(to, bytes)
    }

    fn fence(&self) -> Result<B::Fence, BackendError> {
        self.inner.fence()
    }

    fn done(&self, fence: &B::Fence) -> bool {
        self.inner.done(fence)
    }

    fn wait(&self, fence: &B::Fence) {
        self.inner.wait(fence);
    }

    fn collapse(&self, address: usize, frames: usize) -> bool {
        self.call("collapse", frames).is_ok() && self.inner.collapse(address, frames)
    }

    fn physical_bytes(&self) -> usize {
        self.inner.physical_bytes() + self.faults.0.phantom_bytes.load(Relaxed)
    }
}
