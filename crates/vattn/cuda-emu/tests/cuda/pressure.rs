//! Memory of the device that is out though the budget of the cache is not.

use vattn::cuda::CudaBackend;
use vattn::cuda::driver::StreamHandle;
use vattn::{Config, Error, Geometry, KvCache};

use crate::emulator::{Action, Emulator};

const FRAME: usize = 8192;
/// A device of 16 frames.
const KNOBS: &str = "granularity=8192,capacity=131072";

/// A token is a frame of keys and a frame of values.
fn cache(backend: &CudaBackend) -> KvCache<CudaBackend> {
    let geometry = Geometry::builder()
        .layers(1)
        .row_bytes(FRAME)
        .max_tokens(16)
        .max_sequences(4)
        .frame_bytes(FRAME)
        .build()
        .unwrap();
    KvCache::with_backend(backend.clone(), geometry, Config::new(usize::MAX)).unwrap()
}

#[test]
fn what_a_pool_holds_unused_is_had() {
    for mode in ["lazy=0,dirty=0", "lazy=1,dirty=1"] {
        let emulator = Emulator::new(&format!("{KNOBS},{mode}"));
        let backend = CudaBackend::open(0).unwrap();
        let driver = backend.driver();
        driver.set_pool_threshold(u64::MAX).unwrap();
        let tensor = driver.allocate(StreamHandle::LEGACY, 12 * FRAME).unwrap();
        driver.free(StreamHandle::LEGACY, tensor).unwrap();

        let mut cache = cache(&backend);
        let seq = cache.admit(2).unwrap();
        assert!(!emulator.findings().calls.contains_key("cuMemPoolTrimTo"));
        cache.grow(seq, 8).unwrap();
        assert_eq!(emulator.findings().calls["cuMemPoolTrimTo"], 1);
        drop(cache);
        drop(backend);
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn a_device_without_memory_is_a_lack_of_frames() {
    for mode in ["lazy=0,dirty=0", "lazy=1,dirty=1"] {
        let emulator = Emulator::new(&format!("{KNOBS},{mode}"));
        let backend = CudaBackend::open(0).unwrap();
        let mut cache = cache(&backend);
        let (a, b) = (cache.admit(3).unwrap(), cache.admit(3).unwrap());
        let refused = cache.grow_batch(&[(a, 4), (b, 6)]);
        assert!(
            matches!(refused, Err(Error::NeedFrames { need: 8, free: 0 })),
            "{refused:?}"
        );
        let calls = emulator.findings().calls;
        assert!(
            calls["cuCtxSynchronize"] >= 1 && calls["cuMemPoolTrimTo"] >= 1,
            "{calls:?}"
        );
        assert_eq!((cache.len(a).unwrap(), cache.len(b).unwrap()), (3, 3));
        assert_eq!(cache.stats().physical_bytes, 12 * FRAME);
        cache.audit().unwrap();
        cache.grow_batch(&[(a, 4), (b, 4)]).unwrap();
        let refused = cache.fork(a).and_then(|fork| cache.grow(fork, 5));
        assert!(matches!(refused, Err(Error::NeedFrames { free: 0, .. })), "{refused:?}");
        cache.audit().unwrap();
        drop(cache);
        drop(backend);
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn memory_is_asked_for_again_once() {
    let emulator = Emulator::new(KNOBS);
    let backend = CudaBackend::open(0).unwrap();
    let mut cache = cache(&backend);
    let seq = cache.open().unwrap();
    emulator.plan("cuMemCreate", 0, 1, Action::Fail(2));
    cache.grow(seq, 1).unwrap();
    // The call and its repetition are refused; then the cache has given back what it can, and both are made once more.
    emulator.plan("cuMemCreate", 0, 3, Action::Fail(2));
    cache.grow(seq, 2).unwrap();
    emulator.plan("cuMemCreate", 0, 4, Action::Fail(2));
    assert!(matches!(
        cache.grow(seq, 3),
        Err(Error::NeedFrames { need: 2, free: 0 })
    ));
    cache.grow(seq, 3).unwrap();
    drop(cache);
    drop(backend);
    emulator.assert_no_leaks();
}
