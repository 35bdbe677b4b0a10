//! What every backend owes the cache (`vattn::backend`), checked on any of them, and here on all.

use vattn::backend::{Access, Backend, Caps, Frame, Request};
use vattn::cuda::CudaBackend;
use vattn::host::HostBackend;
use vattn::sim::SimBackend;

use crate::emulator::{Emulator, MODES};

/// One backend with a reservation of its own.
struct Bench<'a, B: Backend> {
    backend: &'a B,
    caps: Caps,
    base: usize,
    pages: usize,
}

impl<'a, B: Backend> Bench<'a, B> {
    fn new(backend: &'a B) -> Self {
        let (caps, pages) = (backend.caps(), 8);
        let base = backend.reserve(pages * caps.frame_bytes, caps.frame_bytes).unwrap();
        assert!(base.is_multiple_of(caps.frame_bytes));
        Self {
            backend,
            caps,
            base,
            pages,
        }
    }

    fn at(&self, frame: usize) -> usize {
        self.base + frame * self.caps.frame_bytes
    }

    fn create(&self, at: usize, count: usize) -> Vec<Frame> {
        let request = Request {
            count,
            address: self.at(at),
            room: self.pages - at,
            after: None,
            huge: false,
        };
        let mut frames = Vec::new();
        self.backend.create(&request, &mut frames).unwrap();
        assert_eq!(frames.len(), count);
        frames
    }

    /// Creates frames, maps them and sets them to zero.
    fn fresh(&self, at: usize, count: usize) -> Vec<Frame> {
        let frames = self.create(at, count);
        self.backend.map(self.at(at), &frames, Access::ReadWrite).unwrap();
        self.backend.zero(self.at(at), count * self.caps.frame_bytes).unwrap();
        self.backend.settle().unwrap();
        frames
    }

    fn byte(&self, at: usize) -> u8 {
        let mut byte = [0];
        self.backend.read(at, &mut byte).unwrap();
        byte[0]
    }

    fn set(&self, at: usize, value: u8) {
        self.backend.write(at, &[value]).unwrap();
    }

    fn gone(self, at: usize, mut frames: Vec<Frame>) {
        if !frames.is_empty() {
            self.backend.unmap(self.at(at), frames.len()).unwrap();
            self.backend.destroy(&mut frames).unwrap();
            assert!(frames.is_empty());
        }
        assert_eq!(self.backend.physical_bytes(), 0);
        self.backend.release(self.base, self.pages * self.caps.frame_bytes);
    }
}

/// Zeroed frames read as zero, writes stay where they were made, and memory is counted.
fn memory_is_exact<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let f = bench.caps.frame_bytes;
    assert_eq!(backend.physical_bytes(), 0);
    let mut frames = bench.fresh(1, 2);
    assert_eq!(backend.physical_bytes(), 2 * f);
    frames.extend(bench.fresh(3, 1));
    assert_eq!(backend.physical_bytes(), 3 * f);
    for at in [bench.at(1), bench.at(2) - 1, bench.at(2), bench.at(4) - 1] {
        assert_eq!(bench.byte(at), 0);
        bench.set(at, at as u8 | 1);
    }
    for at in [bench.at(1), bench.at(2) - 1, bench.at(2), bench.at(4) - 1] {
        assert_eq!(bench.byte(at), at as u8 | 1);
    }
    let across: Vec<u8> = (0..100).collect();
    backend.write(bench.at(2) - 50, &across).unwrap();
    let mut back = vec![0; 100];
    backend.read(bench.at(2) - 50, &mut back).unwrap();
    assert_eq!(back, across);
    bench.gone(1, frames);
}

/// A frame shows the same bytes at two addresses, keeps them while it is mapped anywhere, and changes its rights.
fn frames_are_shared<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let frames = bench.fresh(0, 2);
    bench.set(bench.at(0) + 7, 70);
    bench.set(bench.at(1) + 7, 71);
    let turned = [frames[1], frames[0]];
    backend.map(bench.at(4), &turned, Access::Read).unwrap();
    assert_eq!(backend.physical_bytes(), 2 * bench.caps.frame_bytes);
    assert_eq!((bench.byte(bench.at(4) + 7), bench.byte(bench.at(1) + 7)), (71, 71));
    backend.unmap(bench.at(0), 2).unwrap();
    backend.protect(bench.at(5), 1, Access::ReadWrite).unwrap();
    bench.set(bench.at(5) + 8, 72);
    let seen = [bench.at(4) + 7, bench.at(5) + 7, bench.at(5) + 8].map(|at| bench.byte(at));
    assert_eq!(seen, [71, 70, 72]);
    bench.gone(4, turned.to_vec());
}

/// Replacing a frame changes that frame only, and copies arrive.
fn frames_are_replaced_and_copied<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let mut frames = bench.fresh(0, 3);
    for index in 0..3 {
        bench.set(bench.at(index), 10 + index as u8);
    }
    let other = bench.fresh(5, 1);
    backend.copy(bench.at(5) + 1, bench.at(1), 1).unwrap();
    backend.settle().unwrap();
    assert_eq!((bench.byte(bench.at(5)), bench.byte(bench.at(5) + 1)), (0, 11));
    backend.replace(bench.at(1), other[0], Access::ReadWrite).unwrap();
    backend.unmap(bench.at(5), 1).unwrap();
    let seen = [bench.at(0), bench.at(1), bench.at(1) + 1, bench.at(2)].map(|at| bench.byte(at));
    assert_eq!(seen, [10, 0, 11, 12]);
    let mut old = vec![std::mem::replace(&mut frames[1], other[0])];
    backend.destroy(&mut old).unwrap();
    bench.gone(0, frames);
}

/// A fence with no work before it is done, now or when it is waited for.
fn fences_end<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let fence = backend.fence().unwrap();
    backend.wait(&fence);
    assert!(backend.done(&fence) && backend.done(&fence.clone()));
    bench.gone(0, Vec::new());
}

fn check<B: Backend>(backend: &B) {
    memory_is_exact(backend);
    if backend.caps().alias {
        frames_are_shared(backend);
        frames_are_replaced_and_copied(backend);
    }
    fences_end(backend);
}

#[test]
fn the_host_meets_them() {
    check(&HostBackend::new(1 << 16).unwrap());
}

#[test]
fn the_model_meets_them() {
    check(&SimBackend::new(4096));
    check(&SimBackend::new(4096).without_alias());
}

#[test]
fn the_device_meets_them_in_every_mode() {
    for mode in MODES {
        let emulator = Emulator::new(mode);
        check(&CudaBackend::open(0).unwrap());
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn each_call_of_the_backend_may_fail_over_the_device_in_every_mode() {
    for mode in MODES {
        let emulator = Emulator::new(mode);
        crate::atomicity::play_all(|| CudaBackend::open(0).unwrap(), crate::atomicity::tiny(8192));
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn a_device_without_read_only_access_shares_nothing() {
    let emulator = Emulator::new("granularity=8192,read_only=0");
    let backend = CudaBackend::open(0).unwrap();
    assert!(!backend.caps().alias);
    check(&backend);
    drop(backend);
    emulator.assert_no_leaks();
}

#[test]
fn creating_more_than_there_is_changes_nothing() {
    let emulator = Emulator::new("granularity=8192,capacity=32768");
    let backend = CudaBackend::open(0).unwrap();
    let bench = Bench::new(&backend);
    let mut frames = bench.fresh(0, 2);
    let request = Request {
        count: 3,
        address: bench.at(2),
        room: 6,
        after: None,
        huge: false,
    };
    let error = backend.create(&request, &mut frames).unwrap_err().to_string();
    assert!(
        error.contains("cuMemCreate of 24576 bytes") && error.contains("no memory left"),
        "{error}"
    );
    assert_eq!((frames.len(), backend.physical_bytes()), (2, 16_384));
    assert_eq!(emulator.findings().counts["used"], 16_384);
    bench.gone(0, frames);
    drop(backend);
    emulator.assert_no_leaks();
}

#[test]
fn memory_that_the_pool_holds_is_had_after_one_more_try() {
    for mode in MODES {
        let emulator = Emulator::new(&format!("{mode},capacity=32768"));
        let backend = CudaBackend::open(0).unwrap();
        let driver = backend.driver();
        let stream = driver.stream().unwrap();
        driver.set_pool_threshold(u64::MAX).unwrap();
        let memory = driver.allocate(stream.handle(), 30_000).unwrap();
        driver.free(stream.handle(), memory).unwrap();
        let bench = Bench::new(&backend);
        let frames = bench.fresh(0, 4);
        assert_eq!(emulator.findings().calls["cuMemPoolTrimTo"], 1);
        bench.gone(0, frames);
        drop((stream, backend));
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}
