//! What every backend owes the cache (the obligations of [`crate::backend`]), checked on any of them.

use crate::backend::{Access, Backend, Caps, Frame, Request};

/// Frames of address space that a check reserves.
const FRAMES: usize = 8;

/// Checks a backend that holds no memory: contents, counts, sharing, replacing, copying, fences, and that everything can be given
/// back. Accesses that must fault cannot be tried here: they end the process.
///
/// # Panics
///
/// When an obligation is not met.
pub fn check_backend<B: Backend>(backend: &B) {
    memory_is_exact(backend);
    frames_come_where_they_are_asked_for(backend);
    two_threads_do_not_disturb_each_other(backend);
    if backend.caps().alias {
        frames_are_shared(backend);
        frames_are_replaced_and_copied(backend);
    }
    fences_end(backend);
}

/// One backend with a reservation of its own.
struct Bench<'a, B: Backend> {
    backend: &'a B,
    caps: Caps,
    base: usize,
}

impl<'a, B: Backend> Bench<'a, B> {
    fn new(backend: &'a B) -> Self {
        let caps = backend.caps();
        let base = backend
            .reserve(FRAMES * caps.frame_bytes, caps.frame_bytes)
            .expect("a few frames of address space");
        assert!(base.is_multiple_of(caps.frame_bytes), "{base:#x} is not aligned");
        Self { backend, caps, base }
    }

    fn at(&self, frame: usize) -> usize {
        self.base + frame * self.caps.frame_bytes
    }

    fn create(&self, at: usize, count: usize, after: Option<Frame>) -> Vec<Frame> {
        let request = Request {
            count,
            address: self.at(at),
            room: FRAMES - at,
            after,
            huge: false,
        };
        let mut frames = Vec::new();
        self.backend.create(&request, &mut frames).expect("a few frames");
        assert_eq!(frames.len(), count);
        frames
    }

    /// Creates frames, maps them and sets them to zero if they are not.
    fn fresh(&self, at: usize, count: usize) -> Vec<Frame> {
        let frames = self.create(at, count, None);
        self.map(at, &frames, Access::ReadWrite);
        if !self.caps.zeroed {
            let bytes = count * self.caps.frame_bytes;
            self.backend.zero(self.at(at), bytes).expect("zeroing");
            self.backend.settle().expect("settling");
        }
        frames
    }

    fn map(&self, at: usize, frames: &[Frame], access: Access) {
        self.backend.map(self.at(at), frames, access).expect("mapping");
    }

    fn byte(&self, at: usize) -> u8 {
        let mut byte = [0];
        self.backend.read(at, &mut byte).expect("reading");
        byte[0]
    }

    fn set(&self, at: usize, value: u8) {
        self.backend.write(at, &[value]).expect("writing");
    }

    fn unmap(&self, at: usize, count: usize) {
        self.backend.unmap(self.at(at), count).expect("unmapping");
    }

    fn destroy(&self, mut frames: Vec<Frame>) {
        self.backend.destroy(&mut frames).expect("destroying");
        assert!(frames.is_empty());
    }

    fn release(self) {
        assert_eq!(self.backend.physical_bytes(), 0);
        self.backend.release(self.base, FRAMES * self.caps.frame_bytes);
    }
}

/// New frames read as zero, writes stay where they were made, and memory is counted from creating to destroying.
fn memory_is_exact<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let f = bench.caps.frame_bytes;
    assert_eq!(backend.physical_bytes(), 0);
    let mut frames = bench.fresh(1, 2);
    assert_eq!(backend.physical_bytes(), 2 * f);
    frames.extend(bench.fresh(3, 1));
    assert_eq!(backend.physical_bytes(), 3 * f);
    let places = [bench.at(1), bench.at(2) - 1, bench.at(2), bench.at(4) - 1];
    for at in places {
        assert_eq!(bench.byte(at), 0);
        bench.set(at, at as u8 | 1);
    }
    for at in places {
        assert_eq!(bench.byte(at), at as u8 | 1);
    }
    let across: Vec<u8> = (0..32).collect();
    backend.write(bench.at(2) - 16, &across).expect("writing");
    let mut back = vec![0; 32];
    backend.read(bench.at(2) - 16, &mut back).expect("reading");
    assert_eq!(back, across);
    bench.unmap(1, 3);
    assert_eq!(backend.physical_bytes(), 3 * f, "unmapped frames are still there");
    let last = frames.split_off(1);
    bench.destroy(frames);
    assert_eq!(backend.physical_bytes(), 2 * f);
    bench.destroy(last);
    bench.release();
}

/// A region that grows frame by frame can be unmapped in one piece, and in parts.
fn frames_come_where_they_are_asked_for<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let mut frames: Vec<Frame> = Vec::new();
    for at in 0..FRAMES {
        let new = bench.create(at, 1, frames.last().copied());
        assert!(!frames.contains(&new[0]), "a frame was given out twice");
        bench.map(at, &new, Access::ReadWrite);
        bench.set(bench.at(at), at as u8);
        frames.extend(new);
    }
    bench.unmap(3, 2);
    for at in [0, 2, 5, 7] {
        assert_eq!(bench.byte(bench.at(at)), at as u8);
    }
    bench.map(3, &frames[3..5], Access::ReadWrite);
    backend.zero(bench.at(3), 2 * bench.caps.frame_bytes).expect("zeroing");
    backend.settle().expect("settling");
    assert_eq!((bench.byte(bench.at(3)), bench.byte(bench.at(4))), (0, 0));
    bench.unmap(0, FRAMES);
    bench.destroy(frames);
    bench.release();
}

/// Calls for different addresses and frames may come from two threads at once.
fn two_threads_do_not_disturb_each_other<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    std::thread::scope(|scope| {
        for half in [0, FRAMES / 2] {
            let bench = &bench;
            scope.spawn(move || {
                for round in 0..50_u8 {
                    let frames = bench.fresh(half, FRAMES / 2);
                    bench.set(bench.at(half) + 1, round);
                    assert_eq!(bench.byte(bench.at(half) + 1), round);
                    bench.unmap(half, FRAMES / 2);
                    bench.destroy(frames);
                }
            });
        }
    });
    bench.release();
}

/// A frame shows the same bytes at two addresses, keeps them while it is mapped anywhere, and changes its rights.
fn frames_are_shared<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let frames = bench.fresh(0, 2);
    bench.set(bench.at(0) + 7, 70);
    bench.set(bench.at(1) + 7, 71);
    backend.protect(bench.at(0), 2, Access::Read).expect("protecting");
    let turned = [frames[1], frames[0]];
    bench.map(4, &turned, Access::Read);
    assert_eq!(backend.physical_bytes(), 2 * bench.caps.frame_bytes);
    assert_eq!((bench.byte(bench.at(4) + 7), bench.byte(bench.at(1) + 7)), (71, 71));
    bench.unmap(0, 2);
    backend.protect(bench.at(5), 1, Access::ReadWrite).expect("protecting");
    bench.set(bench.at(5) + 8, 72);
    let seen = [bench.at(4) + 7, bench.at(5) + 7, bench.at(5) + 8].map(|at| bench.byte(at));
    assert_eq!(seen, [71, 70, 72]);
    bench.unmap(4, 2);
    bench.destroy(frames);
    bench.release();
}

/// Replacing a frame changes that frame only, and copies arrive.
fn frames_are_replaced_and_copied<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let mut frames = bench.fresh(0, 3);
    for index in 0..3 {
        bench.set(bench.at(index), 10 + index as u8);
    }
    let other = bench.fresh(5, 1);
    backend.copy(bench.at(5) + 1, bench.at(1), 1).expect("copying");
    backend.settle().expect("settling");
    assert_eq!((bench.byte(bench.at(5)), bench.byte(bench.at(5) + 1)), (0, 11));
    bench.unmap(5, 1);
    backend
        .replace(bench.at(1), other[0], Access::ReadWrite)
        .expect("replacing");
    let old = std::mem::replace(&mut frames[1], other[0]);
    bench.destroy(vec![old]);
    let seen = [bench.at(0), bench.at(2)].map(|at| bench.byte(at));
    assert_eq!(seen, [10, 12]);
    bench.unmap(0, 3);
    bench.destroy(frames);
    bench.release();
}

/// A fence with no work before it is done, now or when it is waited for.
fn fences_end<B: Backend>(backend: &B) {
    let bench = Bench::new(backend);
    let fence = backend.fence().expect("a fence");
    backend.wait(&fence);
    assert!(backend.done(&fence) && backend.done(&fence.clone()));
    bench.release();
}
