//! Threads that open, grow, fork, cut, swap and free under a tight budget that changes, with every row known. The example
//! `soak` does it for as long as one likes.

use vattn::host::HostBackend;
use vattn::sim::SimBackend;
use vattn::testing::{Soak, soak};
use vattn::{Config, Geometry, KvCache, host};

fn geometry(frame_bytes: usize) -> Geometry {
    Geometry::builder()
        .layers(2)
        .row_bytes(frame_bytes * 5 / 16)
        .max_tokens(48)
        .max_sequences(24)
        .frame_bytes(frame_bytes)
        .build()
        .unwrap()
}

/// Room for a third of what the slots could hold; what grows gets two frames at once.
fn config(geometry: &Geometry) -> Config {
    Config::new(geometry.reserved_bytes() / 3)
        .warm_bytes(geometry.reserved_bytes() / 20)
        .growth_bytes(2 * geometry.frame_bytes())
}

#[test]
fn threads_lose_nothing_over_the_host() {
    let geometry = geometry(host::page_bytes());
    let backend = HostBackend::new(geometry.frame_bytes()).unwrap();
    let cache = KvCache::with_backend(backend, geometry, config(&geometry).mapper(true)).unwrap();
    let report = soak(cache, Soak::new(1500));
    assert!(report.operations == 6000 && report.refused > 10, "{report:?}");
}

#[test]
fn threads_lose_nothing_over_the_model() {
    for (mapper, memory) in [(true, SimBackend::new(64)), (false, SimBackend::new(64).like_files())] {
        let geometry = geometry(64);
        let cache = KvCache::with_backend(memory.clone(), geometry, config(&geometry).mapper(mapper)).unwrap();
        let report = soak(cache, Soak::new(1500));
        assert!(report.operations == 6000 && report.refused > 10, "{report:?}");
        assert_eq!(memory.frames(), 0);
    }
}
