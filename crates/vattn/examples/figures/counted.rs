//! A backend that counts the calls it passes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, ThreadId};

use vattn::BackendError;
use vattn::backend::{Access, Backend, Caps, Frame, Request};
use vattn_policies::Calls;

/// The counts, which stay in the hands of the program when the backend goes into a cache.
///
/// Calls of the thread that made this value count as critical, because the model waits for them; calls of all other threads
/// count as background.
#[derive(Debug)]
pub(crate) struct Counter {
    owner: ThreadId,
    critical: PerCall,
    background: PerCall,
}

#[derive(Debug, Default)]
struct PerCall {
    create: AtomicU64,
    map: AtomicU64,
    access: AtomicU64,
    unmap: AtomicU64,
    release: AtomicU64,
    fill: AtomicU64,
}

impl PerCall {
    fn calls(&self) -> Calls {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Calls {
            create: get(&self.create),
            map: get(&self.map),
            access: get(&self.access),
            unmap: get(&self.unmap),
            release: get(&self.release),
            fill: get(&self.fill),
        }
    }
}

impl Counter {
    /// Nothing counted yet.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            owner: thread::current().id(),
            critical: PerCall::default(),
            background: PerCall::default(),
        })
    }

    /// Calls that the model waited for.
    pub(crate) fn critical(&self) -> Calls {
        self.critical.calls()
    }

    /// Calls that it did not wait for.
    pub(crate) fn background(&self) -> Calls {
        self.background.calls()
    }

    fn count(&self, field: fn(&PerCall) -> &AtomicU64) {
        let critical = thread::current().id() == self.owner;
        let per_call = if critical { &self.critical } else { &self.background };
        field(per_call).fetch_add(1, Ordering::Relaxed);
    }
}

/// The backend.
#[derive(Debug)]
pub(crate) struct Counted<B> {
    inner: B,
    counter: Arc<Counter>,
}

impl<B> Counted<B> {
    /// Counts the calls that go to `inner`.
    pub(crate) fn new(inner: B, counter: Arc<Counter>) -> Self {
        Self { inner, counter }
    }
}

impl<B: Backend> Backend for Counted<B> {
    type Fence = B::Fence;

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    fn reserve(&self, bytes: usize, align: usize) -> Result<usize, BackendError> {
        self.inner.reserve(bytes, align)
    }

    fn release(&self, address: usize, bytes: usize) {
        self.inner.release(address, bytes);
    }

    fn create(&self, request: &Request, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        self.counter.count(|c| &c.create);
        self.inner.create(request, frames)
    }

    fn destroy(&self, frames: &mut Vec<Frame>) -> Result<(), BackendError> {
        self.counter.count(|c| &c.release);
        self.inner.destroy(frames)
    }

    fn map(&self, address: usize, frames: &[Frame], access: Access) -> Result<(), BackendError> {
        self.counter.count(|c| &c.map);
        self.inner.map(address, frames, access)
    }

    fn replace(&self, address: usize, frame: Frame, access: Access) -> Result<(), BackendError> {
        self.counter.count(|c| &c.map);
        self.inner.replace(address, frame, access)
    }

    fn protect(&self, address: usize, frames: usize, access: Access) -> Result<(), BackendError> {
        self.counter.count(|c| &c.access);
        self.inner.protect(address, frames, access)
    }

    fn unmap(&self, address: usize, frames: usize) -> Result<(), BackendError> {
        self.counter.count(|c| &c.unmap);
        self.inner.unmap(address, frames)
    }

    fn zero(&self, address: usize, bytes: usize) -> Result<(), BackendError> {
        self.counter.count(|c| &c.fill);
        self.inner.zero(address, bytes)
    }

    fn copy(&self, to: usize, from: usize, bytes: usize) -> Result<(), BackendError> {
        self.counter.count(|c| &c.fill);
        self.inner.copy(to, from, bytes)
    }

    fn settle(&self) -> Result<(), BackendError> {
        self.inner.settle()
    }

    fn read(&self, from: usize, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.inner.read(from, bytes)
    }

    fn write(&self, to: usize, bytes: &[u8]) -> Result<(), BackendError> {
        self.inner.write(to, bytes)
    }

    fn fence(&self) -> Result<Self::Fence, BackendError> {
        self.inner.fence()
    }

    fn done(&self, fence: &Self::Fence) -> bool {
        self.inner.done(fence)
    }

    fn wait(&self, fence: &Self::Fence) {
        self.inner.wait(fence);
    }

    fn collapse(&self, address: usize, frames: usize) -> bool {
        self.counter.count(|c| &c.map);
        self.inner.collapse(address, frames)
    }

    fn physical_bytes(&self) -> usize {
        self.inner.physical_bytes()
    }
}
