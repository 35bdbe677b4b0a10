//! A cache on the device, from its first sequence to its last, with work of the program on a stream of its own; and what
//! becomes of it when calls of the driver fail, are forgotten or are made twice.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use vattn::cuda::CudaBackend;
use vattn::cuda::driver::{Stream, StreamHandle};
use vattn::{Config, Error, Geometry, KvCache, SeqId, Side};

use crate::emulator::{Action, Emulator, MODES};

const ROW: usize = 5000;
const LAYERS: usize = 2;

/// The cache, the stream the program works on, and what every row should hold.
struct Story {
    backend: CudaBackend,
    cache: KvCache<CudaBackend>,
    stream: Stream,
    rows: Vec<(SeqId, Vec<u8>)>,
}

/// Tries until it works: a planned failure must not be the end of anything. Gives the tries that were refused.
#[track_caller]
fn insist<T, E: Debug>(what: &str, mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let mut last = None;
    for _ in 0..4 {
        match attempt() {
            Ok(value) => return value,
            Err(error) => last = Some(error),
        }
    }
    panic!("{what} is refused though nothing fails any more: {:?}", last.unwrap());
}

impl Story {
    fn new() -> Self {
        let backend = insist("opening the device", || CudaBackend::open(0));
        let frame_bytes = insist("caps", || {
            Ok::<_, ()>(vattn::backend::Backend::caps(&backend).frame_bytes)
        });
        let geometry = Geometry::builder()
            .layers(LAYERS)
            .row_bytes(ROW)
            .max_tokens(20)
            .max_sequences(5)
            .frame_bytes(frame_bytes)
            .build()
            .unwrap();
        let config = Config::new(1 << 20);
        let cache = insist("making the cache", || {
            KvCache::with_backend(backend.clone(), geometry, config)
        });
        let stream = insist("making a stream", || backend.driver().stream());
        Self {
            backend,
            cache,
            stream,
            rows: Vec::new(),
        }
    }

    /// A step of the cache, tried until it works. A try that fails has changed nothing.
    #[track_caller]
    fn step<T>(&mut self, what: &str, mut step: impl FnMut(&mut KvCache<CudaBackend>) -> Result<T, Error>) -> T {
        insist(what, || {
            let outcome = step(&mut self.cache);
            self.cache
                .audit()
                .unwrap_or_else(|error| panic!("after {what}: {error}"));
            if let Err(error) = &outcome {
                assert!(
                    matches!(error, Error::Backend(_) | Error::NeedFrames { .. }),
                    "{what}: {error}"
                );
                for (seq, rows) in &self.rows {
                    assert_eq!(
                        self.cache.len(*seq).unwrap(),
                        rows.len(),
                        "{what} failed and changed a length"
                    );
                }
            }
            outcome
        })
    }

    /// What the rows of a sequence should hold, one value for each.
    fn rows(&mut self, seq: SeqId) -> &mut Vec<u8> {
        let found = self.rows.iter_mut().find(|(other, _)| *other == seq);
        &mut found.expect("a sequence of the story").1
    }

    fn open(&mut self) -> SeqId {
        let seq = self.step("open", KvCache::open);
        self.rows.push((seq, Vec::new()));
        seq
    }

    /// Grows sequences by some rows and lets the device write them, as a step of a model does. It is not waited for.
    fn decode(&mut self, grow: &[(SeqId, usize)], value: u8) {
        let batch: Vec<_> = grow
            .iter()
            .map(|&(seq, tokens)| (seq, self.rows(seq).len() + tokens))
            .collect();
        let ticket = self.step("plan_step", |cache| cache.plan_step(&batch));
        let (driver, stream) = (Arc::clone(self.backend.driver()), self.stream.handle());
        for &(seq, len) in &batch {
            let before = self.rows(seq).len();
            for layer in 0..LAYERS {
                let view = self.cache.view(seq, layer).unwrap();
                for at in [view.k, view.v] {
                    // The new rows must be zero before they are written, and the kernel's work is a fill here.
                    let from = (at + before * view.stride_bytes) as u64;
                    let bytes = (len - before) * view.stride_bytes;
                    insist("a kernel", || driver.fill(stream, from, value, bytes));
                }
            }
            self.rows(seq).resize(len, value);
        }
        let fence = insist("a fence", || self.backend.fence_on(&[stream]));
        self.cache.commit(ticket, fence);
    }

    /// Reads every row of every sequence, after the device is done.
    fn check(&mut self) {
        insist("waiting", || self.backend.driver().synchronize());
        for (seq, rows) in &self.rows {
            for layer in 0..LAYERS {
                for side in [Side::K, Side::V] {
                    let mut bytes = vec![0; rows.len() * ROW];
                    insist("reading", || {
                        self.cache.read_rows(*seq, layer, side, 0..rows.len(), &mut bytes)
                    });
                    for (row, value) in bytes.chunks(ROW).zip(rows) {
                        let wrong = row.iter().position(|byte| byte != value);
                        assert_eq!(wrong, None, "{seq} layer {layer} {side:?}: a row holds {:?}", row[0]);
                    }
                }
            }
        }
    }

    /// Grows a sequence without writing: what it then reads is nobody's rows.
    fn grow_and_read_zeros(&mut self, seq: SeqId, tokens: usize) {
        let len = self.rows(seq).len() + tokens;
        self.step("grow", |cache| cache.grow(seq, len));
        self.rows(seq).resize(len, 0);
        self.check();
    }

    fn free(&mut self, seq: SeqId) {
        self.step("free", |cache| cache.free(seq));
        self.rows.retain(|(other, _)| *other != seq);
    }

    fn fork(&mut self, seq: SeqId) -> SeqId {
        let child = self.step("fork", |cache| cache.fork(seq));
        let rows = self.rows(seq).clone();
        self.rows.push((child, rows));
        child
    }

    fn truncate(&mut self, seq: SeqId, len: usize) {
        self.step("truncate", |cache| cache.truncate(seq, len));
        self.rows(seq).truncate(len);
    }
}

/// Plays the story over a new device, and gives how often each function of the driver was called.
fn play() {
    let mut story = Story::new();
    let a = story.open();
    let b = story.open();
    story.decode(&[(a, 3), (b, 1)], 1);
    story.decode(&[(a, 4), (b, 2)], 2);
    // Freed while the device works on it.
    story.free(b);
    story.check();
    let c = story.open();
    story.grow_and_read_zeros(c, 6);
    let d = story.fork(a);
    story.decode(&[(a, 2), (d, 5)], 3);
    story.check();
    // Below the rows that a and d share.
    story.truncate(d, 2);
    story.decode(&[(d, 3)], 4);
    story.check();
    story.free(a);
    story.decode(&[(c, 1), (d, 1)], 5);
    story.step("trim", |cache| {
        cache.trim();
        Ok(())
    });
    story.check();
    story.free(c);
    story.decode(&[(d, 9)], 6);
    story.free(d);
}

/// What there is to say about the story on a device in this mode, where these calls go wrong: nothing, when all is well.
fn diagnosis(mode: &str, plans: &[(&str, u64, u64, Action)]) -> (Vec<String>, BTreeMap<String, u64>) {
    let emulator = Emulator::new(mode);
    for &(function, before, count, action) in plans {
        emulator.plan(function, before, count, action);
    }
    let ended = panic::catch_unwind(AssertUnwindSafe(play));
    let findings = emulator.findings();
    let mut found = findings.refusals;
    if let Err(payload) = ended {
        let text = payload.downcast_ref::<String>().cloned();
        found.push(text.unwrap_or_else(|| "a panic".to_owned()));
    }
    let live = findings.live.into_iter().filter(|(_, count)| *count > 0);
    found.extend(live.map(|(what, count)| format!("leaked {count} {what}")));
    (found, findings.calls)
}

#[test]
fn the_story_ends_well_in_every_mode() {
    for mode in MODES {
        let (found, calls) = diagnosis(mode, &[]);
        assert!(found.is_empty(), "{mode}: {found:#?}");
        // The run of a step gets its rights in one call, however many frames it has.
        assert!(calls["cuMemSetAccess"] < calls["cuMemMap"], "{calls:?}");
    }
}

#[test]
fn each_call_may_fail_once() {
    const OUT_OF_MEMORY: u32 = 2;
    const UNKNOWN: u32 = 999;
    let mut runs = 0;
    for mode in [MODES[0], MODES[3]] {
        let (_, calls) = diagnosis(mode, &[]);
        for (function, &count) in &calls {
            let code = if function == "cuMemCreate" {
                OUT_OF_MEMORY
            } else {
                UNKNOWN
            };
            // Functions that are called often fail at a few places spread over the story.
            let step = count.div_ceil(24).max(1) as usize;
            for nth in (0..count).step_by(step) {
                let (found, _) = diagnosis(mode, &[(function, nth, 1, Action::Fail(code))]);
                assert!(found.is_empty(), "{mode}: call {nth} of {function} failed: {found:#?}");
                runs += 1;
            }
        }
    }
    assert!(runs > 300, "{runs} runs");
}

/// A mistake in the program, the call that it is about, and what must be said of it.
struct Mutant {
    name: &'static str,
    function: &'static str,
    before: u64,
    count: u64,
    action: Action,
    caught_by: &'static str,
}

const ALWAYS: u64 = u64::MAX;

const MUTANTS: [Mutant; 12] = [
    Mutant {
        name: "no wait for zeroing",
        function: "cuStreamSynchronize",
        before: 0,
        count: ALWAYS,
        action: Action::Skip,
        caught_by: "a row holds 0",
    },
    Mutant {
        name: "fences are done at once",
        function: "cuEventQuery",
        before: 0,
        count: ALWAYS,
        action: Action::Skip,
        caught_by: "queued earlier",
    },
    Mutant {
        name: "fences are recorded nowhere",
        function: "cuEventRecord",
        before: 0,
        count: ALWAYS,
        action: Action::Skip,
        caught_by: "queued earlier",
    },
    Mutant {
        name: "no zeroing",
        function: "cuMemsetD8Async",
        before: 0,
        count: ALWAYS,
        action: Action::Skip,
        caught_by: "a row holds 165",
    },
    Mutant {
        name: "a frame is released twice",
        function: "cuMemRelease",
        before: 3,
        count: 1,
        action: Action::Repeat,
        caught_by: "no reference left",
    },
    Mutant {
        name: "a frame is not released",
        function: "cuMemRelease",
        before: 3,
        count: 1,
        action: Action::Skip,
        caught_by: "leaked 1 handles",
    },
    Mutant {
        name: "a frame is mapped twice",
        function: "cuMemMap",
        before: 3,
        count: 1,
        action: Action::Repeat,
        caught_by: "is mapped already",
    },
    Mutant {
        name: "a frame is not mapped",
        function: "cuMemMap",
        before: 3,
        count: 1,
        action: Action::Skip,
        caught_by: "no mapping begins",
    },
    Mutant {
        name: "no right is given",
        function: "cuMemSetAccess",
        before: 3,
        count: 1,
        action: Action::Skip,
        caught_by: "without the right",
    },
    Mutant {
        name: "a frame is not unmapped",
        function: "cuMemUnmap",
        before: 3,
        count: 1,
        action: Action::Skip,
        caught_by: "is mapped already",
    },
    Mutant {
        name: "a frame is unmapped twice",
        function: "cuMemUnmap",
        before: 3,
        count: 1,
        action: Action::Repeat,
        caught_by: "not exactly one mapping",
    },
    Mutant {
        name: "addresses are not given back",
        function: "cuMemAddressFree",
        before: 1,
        count: 1,
        action: Action::Skip,
        caught_by: "leaked 1 reservations",
    },
];

#[test]
fn mutants_are_caught_by_name() {
    for mutant in &MUTANTS {
        let plan = (mutant.function, mutant.before, mutant.count, mutant.action);
        let found: Vec<_> = MODES.iter().flat_map(|mode| diagnosis(mode, &[plan]).0).collect();
        let caught = found.iter().find(|text| text.contains(mutant.caught_by));
        assert!(caught.is_some(), "mutant '{}' is not caught: {found:#?}", mutant.name);
        println!("mutant '{}' is caught: {}", mutant.name, caught.unwrap());
    }
}

#[test]
fn a_fence_on_no_stream_is_done() {
    let emulator = Emulator::new(MODES[3]);
    let backend = CudaBackend::open(0).unwrap();
    let fence = backend.fence_on(&[]).unwrap();
    assert!(vattn::backend::Backend::done(&backend, &fence));
    let fence = backend.fence_on(&[StreamHandle::LEGACY]).unwrap();
    assert!(!vattn::backend::Backend::done(&backend, &fence));
    vattn::backend::Backend::wait(&backend, &fence);
    assert!(vattn::backend::Backend::done(&backend, &fence));
    drop((fence, backend));
    emulator.assert_no_leaks();
}
