//! A backend over plain vectors, whose calls fail and whose count of memory lies on request.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use vattn::BackendError;
use vattn::backend::{Backend, HostMemory, Space};
use vattn::host::HostBackend;

/// Regions are vectors: what is mapped is their length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake(Arc<Control>);

#[derive(Debug, Default)]
struct Control {
    calls: AtomicUsize,
    fail_from: AtomicUsize,
    fail_until: AtomicUsize,
    failed: AtomicUsize,
    phantom_bytes: AtomicUsize,
}

impl Fake {
    /// Lets the calls in `range` fail, counted from the next call on.
    pub(crate) fn fail(&self, range: Range<usize>) {
        let now = self.0.calls.load(Relaxed);
        self.0.fail_from.store(now.saturating_add(range.start), Relaxed);
        self.0.fail_until.store(now.saturating_add(range.end), Relaxed);
    }

    /// Calls that failed so far.
    pub(crate) fn failed(&self) -> usize {
        self.0.failed.load(Relaxed)
    }

    /// Adds memory to the count that nobody mapped.
    pub(crate) fn leak(&self, bytes: usize) {
        self.0.phantom_bytes.store(bytes, Relaxed);
    }

    fn call(&self, name: &'static str, bytes: usize) -> Result<(), BackendError> {
        let call = self.0.calls.fetch_add(1, Relaxed);
        let (from, until) = (self.0.fail_from.load(Relaxed), self.0.fail_until.load(Relaxed));
        if (from..until).contains(&call) {
            self.0.failed.fetch_add(1, Relaxed);
            return Err(BackendError::new(
                name,
                bytes,
                "try again",
                io::ErrorKind::OutOfMemory.into(),
            ));
        }
        Ok(())
    }
}

impl Backend for Fake {
    type Space = FakeSpace;

    fn page_bytes(&self) -> usize {
        HostBackend.page_bytes()
    }

    fn reserve(&self, regions: usize, region_bytes: usize) -> Result<FakeSpace, BackendError> {
        self.call("reserve", regions * region_bytes)?;
        Ok(FakeSpace {
            control: self.clone(),
            regions: (0..regions).map(|_| Vec::with_capacity(region_bytes)).collect(),
            region_bytes,
        })
    }
}

#[derive(Debug)]
pub(crate) struct FakeSpace {
    control: Fake,
    regions: Vec<Vec<u8>>,
    region_bytes: usize,
}

impl Space for FakeSpace {
    fn address(&self, region: usize) -> usize {
        self.regions[region].as_ptr().addr()
    }

    fn mapped(&self, region: usize) -> usize {
        self.regions[region].len()
    }

    fn map(&mut self, region: usize, bytes: usize) -> Result<(), BackendError> {
        let memory = &mut self.regions[region];
        assert!(memory.len() < bytes && bytes <= self.region_bytes);
        assert!(bytes.is_multiple_of(self.control.page_bytes()));
        self.control.call("map", bytes - memory.len())?;
        memory.resize(bytes, 0);
        Ok(())
    }

    fn unmap(&mut self, region: usize, bytes: usize) -> Result<(), BackendError> {
        let memory = &mut self.regions[region];
        assert!(bytes < memory.len() && bytes.is_multiple_of(self.control.page_bytes()));
        // A refused call may lose the contents: the fake always does.
        memory[bytes..].fill(0);
        self.control.call("unmap", memory.len() - bytes)?;
        memory.truncate(bytes);
        Ok(())
    }

    fn physical_bytes(&self) -> usize {
        self.regions.iter().map(Vec::len).sum::<usize>() + self.control.0.phantom_bytes.load(Relaxed)
    }
}

impl HostMemory for FakeSpace {
    fn bytes(&self, region: usize, range: Range<usize>) -> &[u8] {
        &self.regions[region][range]
    }

    fn pair_mut(&mut self, first: usize, second: usize, range: Range<usize>) -> (&mut [u8], &mut [u8]) {
        let [first, second] = self.regions.get_disjoint_mut([first, second]).unwrap();
        (&mut first[range.clone()], &mut second[range])
    }
}
