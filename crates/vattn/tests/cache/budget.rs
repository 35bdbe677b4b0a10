//! The budget is a hard limit, and its errors carry numbers a scheduler can act on.

use vattn::sim::SimBackend;
use vattn::{Config, Error, Geometry, KvCache};

use crate::small;

/// Two layers: four regions a sequence. Rows of five eighths of a frame.
fn cache(frames: usize) -> KvCache {
    let geometry = small(2, 16, 4);
    KvCache::new(geometry, frames * geometry.frame_bytes()).unwrap()
}

/// Two regions a sequence in frames of 64 bytes, on a machine that has only so many, with no limit but that.
fn small_machine(row_bytes: usize, frames: usize) -> KvCache<SimBackend> {
    let geometry = Geometry::builder()
        .layers(1)
        .row_bytes(row_bytes)
        .max_tokens(8)
        .max_sequences(4)
        .frame_bytes(64)
        .build()
        .unwrap();
    let config = Config::new(usize::MAX).warm_bytes(usize::MAX);
    KvCache::with_backend(SimBackend::new(64).with_capacity(frames), geometry, config).unwrap()
}

#[test]
fn growth_stops_exactly_at_the_budget() {
    let mut cache = cache(12);
    let seq = cache.open().unwrap();
    cache.grow(seq, 4).unwrap(); // 2.5 frames a region
    assert_eq!(cache.free_frames(), 0);
    // The region of three frames still has room for no whole row more: 5 rows are 3.125 frames.
    assert!(matches!(
        cache.grow(seq, 5),
        Err(Error::NeedFrames { need: 4, free: 0 })
    ));
    assert_eq!(cache.len(seq).unwrap(), 4);
    cache.truncate(seq, 3).unwrap(); // 1.875 frames
    assert_eq!(cache.free_frames(), 4);
    // Within the last frame a full budget is no obstacle.
    let other = cache.open().unwrap();
    cache.grow(other, 1).unwrap();
    assert_eq!(cache.free_frames(), 0);
    cache.grow(other, 1).unwrap();
    assert_eq!(cache.stats().physical_bytes, cache.stats().budget_bytes);
    cache.audit().unwrap();
}

#[test]
fn a_batch_is_admitted_or_refused_as_a_whole() {
    let mut cache = cache(8);
    let (a, b) = (cache.open().unwrap(), cache.open().unwrap());
    let before = cache.stats();
    assert!(matches!(
        cache.grow_batch(&[(a, 1), (b, 2)]),
        Err(Error::NeedFrames { need: 12, free: 8 })
    ));
    assert_eq!(cache.stats(), before);
    cache.grow_batch(&[(a, 1), (b, 1)]).unwrap();
    assert_eq!(cache.free_frames(), 0);
    assert_eq!((cache.len(a).unwrap(), cache.len(b).unwrap()), (1, 1));
}

#[test]
fn a_batch_may_name_a_sequence_twice() {
    let mut cache = cache(12);
    let seq = cache.open().unwrap();
    cache.grow_batch(&[(seq, 1), (seq, 4)]).unwrap();
    assert_eq!((cache.len(seq).unwrap(), cache.free_frames()), (4, 0));
    assert!(matches!(
        cache.grow_batch(&[(seq, 4), (seq, 5), (seq, 6)]),
        Err(Error::NeedFrames { need: 4, free: 0 })
    ));
    assert_eq!(cache.len(seq).unwrap(), 4);
    assert!(matches!(
        cache.grow_batch(&[(seq, 4), (seq, 3)]),
        Err(Error::GrowsBackward { len: 4, new_len: 3, .. })
    ));
    cache.audit().unwrap();
}

#[test]
fn a_budget_below_what_is_mapped_only_stops_growth() {
    let mut cache = cache(100);
    let (a, b) = (cache.open().unwrap(), cache.open().unwrap());
    cache.grow_batch(&[(a, 4), (b, 1)]).unwrap();
    cache.set_limit(0);
    assert_eq!(
        (cache.free_frames(), cache.stats().mapped_bytes),
        (0, 16 * cache.geometry().frame_bytes())
    );
    cache.grow(a, 4).unwrap();
    assert!(matches!(cache.grow(b, 2), Err(Error::NeedFrames { need: 4, free: 0 })));
    // Not a whole frame more than four sequences' worth.
    cache.set_limit(9 * cache.geometry().frame_bytes() - 1);
    cache.free(a).unwrap();
    assert_eq!(cache.free_frames(), 4);
    cache.grow(b, 2).unwrap();
    cache.audit().unwrap();
}

#[test]
fn the_budget_may_be_anything() {
    for budget in [0, 1, usize::MAX] {
        let mut cache = KvCache::new(small(1, 4, 1), budget).unwrap();
        let seq = cache.open().unwrap();
        assert_eq!(cache.grow(seq, 1).is_ok(), budget == usize::MAX);
        assert_eq!(cache.stats().budget_bytes, budget);
    }
}

#[test]
fn a_machine_with_less_than_the_budget_is_a_lack_of_frames() {
    let mut cache = small_machine(64, 12);
    let (a, b) = (cache.admit(2).unwrap(), cache.admit(2).unwrap());
    let before = (cache.stats(), cache.len(a).unwrap());
    let refused = cache.grow_batch(&[(a, 3), (b, 6)]);
    assert!(
        matches!(refused, Err(Error::NeedFrames { need: 10, free: 0 })),
        "{refused:?}"
    );
    assert_eq!(
        (cache.stats().used_bytes, cache.len(a).unwrap()),
        (before.0.used_bytes, before.1)
    );
    assert!(matches!(cache.admit(3), Err(Error::NeedFrames { need: 6, free: 0 })));
    cache.audit().unwrap();
    // What a freed sequence left mapped is had again, though another slot needs it.
    cache.free(a).unwrap();
    cache.grow(b, 6).unwrap();
    assert!(matches!(cache.grow(b, 7), Err(Error::NeedFrames { need: 2, free: 0 })));
    assert_eq!((cache.len(b).unwrap(), cache.stats().physical_bytes), (6, 12 * 64));
    cache.audit().unwrap();
}

#[test]
fn what_a_freed_sequence_left_is_had_again_by_forks_and_by_what_comes_back_from_the_swap() {
    let mut cache = small_machine(40, 8);
    // Two frames in each of two regions, the second of them not full.
    let (a, b) = (cache.admit(3).unwrap(), cache.admit(3).unwrap());
    assert!(matches!(cache.fork(a), Err(Error::NeedFrames { .. })));
    assert_eq!(
        (cache.stats().live_sequences, cache.stats().physical_bytes),
        (2, 8 * 64)
    );
    cache.audit().unwrap();
    cache.free(b).unwrap();
    let fork = cache.fork(a).unwrap();
    cache.audit().unwrap();

    // What was swapped out, but for the two frames that it shares, comes back over what a third sequence has left.
    cache.free(fork).unwrap();
    cache.swap_out(a).unwrap();
    let (c, d) = (cache.admit(3).unwrap(), cache.admit(1).unwrap());
    assert!(matches!(cache.swap_in(a), Err(Error::NeedFrames { .. })));
    cache.free(c).unwrap();
    cache.swap_in(a).unwrap();
    assert_eq!((cache.len(a).unwrap(), cache.len(d).unwrap()), (3, 1));
    cache.audit().unwrap();
}
