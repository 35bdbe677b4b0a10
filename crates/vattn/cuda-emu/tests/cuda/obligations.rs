//! The suites that every backend goes through (`vattn::testing`, and those of the cache), over the device.

use vattn::backend::{Access, Backend, Request};
use vattn::cuda::CudaBackend;
use vattn::testing::{Soak, check_backend, soak};
use vattn::{Config, Geometry, KvCache};

use crate::atomicity;
use crate::emulator::{Emulator, MODES};

#[test]
fn the_device_meets_its_obligations_in_every_mode() {
    for mode in MODES {
        let emulator = Emulator::new(mode);
        check_backend(&CudaBackend::open(0).unwrap());
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn each_call_of_the_backend_may_fail_over_the_device() {
    for mode in [MODES[0], MODES[3]] {
        let emulator = Emulator::new(mode);
        atomicity::play_all(|| CudaBackend::open(0).unwrap(), atomicity::tiny(8192));
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn threads_lose_nothing_over_the_device_in_every_mode() {
    for mode in MODES {
        let emulator = Emulator::new(mode);
        let geometry = Geometry::builder()
            .layers(2)
            .row_bytes(8192 * 5 / 16)
            .max_tokens(24)
            .max_sequences(12)
            .frame_bytes(8192)
            .build()
            .unwrap();
        let config = Config::new(geometry.reserved_bytes() / 3).warm_bytes(geometry.reserved_bytes() / 20);
        let backend = CudaBackend::open(0).unwrap();
        let cache = KvCache::with_backend(backend, geometry, config.mapper(true)).unwrap();
        let report = soak(cache, Soak::new(150));
        assert_eq!(report.operations, 600, "{report:?}");
        emulator.assert_no_leaks();
        emulator.assert_no_refusals();
    }
}

#[test]
fn a_device_without_read_only_access_shares_nothing() {
    let emulator = Emulator::new("granularity=8192,read_only=0");
    let backend = CudaBackend::open(0).unwrap();
    assert!(!backend.caps().alias);
    check_backend(&backend);
    drop(backend);
    emulator.assert_no_leaks();
}

#[test]
fn creating_more_than_there_is_changes_nothing() {
    let emulator = Emulator::new("granularity=8192,capacity=32768");
    let backend = CudaBackend::open(0).unwrap();
    let base = backend.reserve(8 * 8192, 8192).unwrap();
    let ask = |count, frames: &mut Vec<_>| {
        let request = Request {
            count,
            address: base,
            room: 8,
            after: None,
            huge: false,
        };
        backend.create(&request, frames)
    };
    let mut frames = Vec::new();
    ask(2, &mut frames).unwrap();
    backend.map(base, &frames, Access::ReadWrite).unwrap();
    let error = ask(3, &mut frames).unwrap_err().to_string();
    assert!(
        error.contains("cuMemCreate of 24576 bytes") && error.contains("no memory left"),
        "{error}"
    );
    assert_eq!((frames.len(), backend.physical_bytes()), (2, 16_384));
    assert_eq!(emulator.findings().counts["used"], 16_384);
    backend.unmap(base, 2).unwrap();
    backend.destroy(&mut frames).unwrap();
    backend.release(base, 8 * 8192);
    drop(backend);
    emulator.assert_no_leaks();
}
