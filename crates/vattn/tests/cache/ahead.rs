//! Memory that is not needed yet, or not any more: mapped ahead, left warm, waiting for the device.

use vattn::sim::{SimBackend, SimFence, Work};
use vattn::{Config, Error, Geometry, KvCache, Layout, SeqId, Side};

const FRAME: usize = 64;

/// Two regions in the layout `PerLayer`, one otherwise; rows of half a frame.
fn geometry(layout: Layout) -> Geometry {
    Geometry::builder()
        .layout(layout)
        .layers(1)
        .row_bytes(FRAME / 2)
        .max_tokens(32)
        .max_sequences(3)
        .frame_bytes(FRAME)
        .build()
        .unwrap()
}

fn cache(config: Config) -> (KvCache<SimBackend>, SimBackend) {
    let sim = SimBackend::new(FRAME);
    let cache = KvCache::with_backend(sim.clone(), geometry(Layout::PerLayer), config).unwrap();
    (cache, sim)
}

/// A sequence of 16 tokens, which the device reads for the next 1,000 nanoseconds.
fn sequence_in_use(cache: &mut KvCache<SimBackend>, sim: &SimBackend) -> SeqId {
    let seq = cache.open().unwrap();
    let ticket = cache.plan_step(&[(seq, 16)]).unwrap();
    let view = cache.view(seq, 0).unwrap();
    let run = (view.k, 16 * view.stride_bytes, Work::Read);
    cache.commit(ticket, sim.launch(&[run], 1000));
    seq
}

#[test]
fn growth_bytes_make_steps_rare_and_yield_to_the_budget() {
    let (mut cache, _) = cache(Config::new(14 * FRAME).growth_bytes(4 * FRAME));
    let seq = cache.open().unwrap();
    for len in 1..=8 {
        cache.grow(seq, len).unwrap();
        assert_eq!(cache.stats().sync_maps, 1, "{len} tokens are 4 frames");
        cache.audit().unwrap();
    }
    cache.grow(seq, 9).unwrap(); // 5 frames, and the budget has no 8 for each region
    assert_eq!((cache.stats().sync_maps, cache.stats().ahead_bytes), (2, 0));
    // What was mapped ahead goes to whoever needs it.
    cache.truncate(seq, 0).unwrap();
    cache.grow(seq, 1).unwrap();
    assert_eq!(cache.stats().ahead_bytes, 6 * FRAME);
    assert_eq!(cache.free_frames(), 12);
    let other = cache.admit(10).unwrap();
    assert_eq!(
        (cache.stats().ahead_bytes, cache.stats().mapped_bytes),
        (2 * FRAME, 14 * FRAME)
    );
    cache.audit().unwrap();
    cache.free(other).unwrap();
}

#[test]
fn a_warm_slot_is_wiped_and_the_best_fit_is_taken() {
    let (mut cache, sim) = cache(Config::new(usize::MAX).warm_bytes(100 * FRAME));
    let (small, large) = (cache.admit(4).unwrap(), cache.admit(12).unwrap());
    for (seq, len) in [(small, 4), (large, 12)] {
        let rows = vec![7; len * FRAME / 2];
        cache.write_rows(seq, 0, Side::K, 0, &rows).unwrap();
        cache.write_rows(seq, 0, Side::V, 0, &rows).unwrap();
        cache.free(seq).unwrap();
    }
    let frames = sim.frames();
    assert_eq!(cache.stats().warm_bytes, frames * FRAME);
    let next = cache.admit(3).unwrap();
    assert_eq!(next.slot(), small.slot());
    let longer = cache.admit(10).unwrap();
    assert_eq!(longer.slot(), large.slot());
    assert_eq!(
        (sim.frames(), cache.stats().sync_maps),
        (frames, 2),
        "nothing new was made"
    );
    for (seq, len) in [(next, 3), (longer, 10)] {
        let mut rows = vec![1; len * FRAME / 2];
        cache.read_rows(seq, 0, Side::V, 0..len, &mut rows).unwrap();
        assert!(rows.iter().all(|&byte| byte == 0));
    }
    cache.audit().unwrap();
    cache.free(longer).unwrap();
    // A lower limit takes what is warm at once, and what is in use when it is freed.
    cache.set_limit(0);
    assert_eq!(sim.frames(), 4);
    cache.free(next).unwrap();
    assert_eq!(sim.frames(), 0);
    cache.audit().unwrap();
}

#[test]
fn what_a_sequence_inherited_is_taken_back_when_its_batch_needs_room() {
    let (mut cache, _) = cache(Config::new(14 * FRAME).warm_bytes(100 * FRAME));
    let long = cache.admit(12).unwrap();
    cache.free(long).unwrap();
    // It gets 6 frames in each region and needs 1.
    let heir = cache.admit(2).unwrap();
    assert_eq!((heir.slot(), cache.stats().ahead_bytes), (long.slot(), 10 * FRAME));
    let other = cache.admit(2).unwrap();
    // 4 and 1 frames more for each region; the budget has 5, and the rest is with the heir, of the same batch.
    cache.grow_batch(&[(heir, 3), (other, 10)]).unwrap();
    assert_eq!((cache.stats().mapped_bytes, cache.stats().ahead_bytes), (14 * FRAME, 0));
    cache.audit().unwrap();
}

#[test]
fn what_is_warm_never_adds_to_the_most_that_was_needed() {
    let (mut cache, sim) = cache(Config::new(usize::MAX).warm_bytes(100 * FRAME));
    let (long, short) = (cache.admit(16).unwrap(), cache.admit(4).unwrap());
    assert_eq!(sim.frames(), 20);
    cache.free(long).unwrap();
    assert_eq!(sim.frames(), 20);
    // A sequence that grows takes the place of what the other has left, no more than it needs.
    for len in (6..=20).step_by(2) {
        cache.grow(short, len).unwrap();
        assert_eq!(
            (sim.frames(), cache.stats().warm_bytes),
            (20, (20 - len) * FRAME),
            "{len} tokens"
        );
        cache.audit().unwrap();
    }
    cache.grow(short, 22).unwrap();
    assert_eq!(sim.frames(), 22);
    // So does one that inherits: what is beyond its rows goes to the other.
    cache.free(short).unwrap();
    let (heir, other) = (cache.admit(2).unwrap(), cache.open().unwrap());
    assert_eq!(cache.stats().ahead_bytes, 20 * FRAME);
    cache.grow(other, 10).unwrap();
    assert_eq!((sim.frames(), cache.stats().ahead_bytes), (22, 10 * FRAME));
    let calls = cache.stats().map_calls;
    cache.grow(heir, 12).unwrap();
    assert_eq!((sim.frames(), cache.stats().map_calls), (22, calls));
    cache.audit().unwrap();
}

#[test]
fn trim_keeps_what_sequences_need() {
    let config = Config::new(usize::MAX).warm_bytes(100 * FRAME).growth_bytes(8 * FRAME);
    let (mut cache, sim) = cache(config);
    let (a, b) = (cache.admit(5).unwrap(), cache.admit(5).unwrap());
    cache.free(b).unwrap();
    cache.grow(a, 9).unwrap(); // no call, so nobody has told the state
    cache.trim();
    assert_eq!(sim.frames(), 10);
    cache.audit().unwrap();
}

#[test]
fn nothing_is_taken_from_the_device_before_it_is_done() {
    let (mut cache, sim) = cache(Config::new(usize::MAX));
    let seq = cache.open().unwrap();
    let ticket = cache.plan_step(&[(seq, 8)]).unwrap();
    let view = cache.view(seq, 0).unwrap();
    let bytes = 8 * view.stride_bytes;
    // The model panics if any of this is unmapped, wiped or destroyed within the next 1,000 nanoseconds.
    let fence: SimFence = sim.launch(
        &[(view.k, bytes, Work::Write(3)), (view.v, bytes, Work::Write(4))],
        1000,
    );
    cache.commit(ticket, fence);
    cache.truncate(seq, 2).unwrap();
    assert_eq!(cache.stats().draining_bytes, 6 * FRAME);
    cache.free(seq).unwrap();
    assert!(matches!(cache.len(seq), Err(Error::NotOpen { .. })));
    cache.trim();
    assert_eq!(sim.frames(), 8);
    let other = cache.admit(2).unwrap();
    assert_ne!(other.slot(), seq.slot());
    cache.audit().unwrap();
    sim.advance(1000);
    cache.trim();
    assert_eq!(sim.frames(), 2);
    cache.audit().unwrap();

    // Forking waits: the rows are there when it returns.
    let ticket = cache.plan_step(&[(other, 3)]).unwrap();
    let view = cache.view(other, 0).unwrap();
    let runs = [(view.k, 3 * 32, Work::Write(5)), (view.v, 3 * 32, Work::Write(6))];
    cache.commit(ticket, sim.launch(&runs, 500));
    let fork = cache.fork(other).unwrap();
    let mut rows = [0; 3 * 32];
    cache.read_rows(fork, 0, Side::K, 0..3, &mut rows).unwrap();
    assert_eq!(rows, [5; 3 * 32]);
}

#[test]
fn rows_behind_what_drains_get_memory_of_their_own() {
    let (mut cache, sim) = cache(Config::new(usize::MAX).growth_bytes(4 * FRAME));
    let seq = sequence_in_use(&mut cache, &sim);
    // All but one frame waits for the device; growing keeps two of them, mapped generously or not.
    cache.truncate(seq, 2).unwrap();
    cache.grow(seq, 4).unwrap();
    cache.grow(seq, 8).unwrap();
    sim.advance(1000);
    // Whoever comes next takes what waited. The rows stay.
    cache.admit(1).unwrap();
    for side in [Side::K, Side::V] {
        cache.write_rows(seq, 0, side, 6, &[7; FRAME]).unwrap();
    }
    cache.grow(seq, 16).unwrap();
    for side in [Side::K, Side::V] {
        cache.write_rows(seq, 0, side, 8, &[8; 4 * FRAME]).unwrap();
    }
    cache.audit().unwrap();
}

#[test]
fn what_was_freed_can_be_had_as_soon_as_the_device_is_done() {
    for mapper in [false, true] {
        let (mut cache, sim) = cache(Config::new(16 * FRAME).mapper(mapper));
        let seq = sequence_in_use(&mut cache, &sim);
        cache.free(seq).unwrap();
        cache.settle();
        assert_eq!(cache.free_frames(), 0);
        sim.advance(1000);
        cache.settle();
        assert_eq!(cache.free_frames(), 16);
        cache.admit(16).unwrap();
    }
}

#[test]
fn a_step_that_was_not_started_is_taken_back() {
    let (mut cache, sim) = cache(Config::new(usize::MAX));
    let seq = cache.admit(2).unwrap();
    let ticket = cache.plan_step(&[(seq, 3), (seq, 8)]).unwrap();
    cache.cancel(ticket);
    assert_eq!((cache.len(seq).unwrap(), sim.frames()), (2, 2));
    cache.audit().unwrap();
}

#[test]
fn every_layout_reads_what_it_wrote() {
    for layout in [Layout::PerLayer, Layout::FusedKv, Layout::Sliced] {
        let shape = Geometry::builder()
            .layout(layout)
            .layers(2)
            .row_bytes(24)
            .max_tokens(16)
            .max_sequences(2);
        let shape = shape.frame_bytes(FRAME).build().unwrap();
        let mut cache = KvCache::with_backend(SimBackend::new(FRAME), shape, Config::new(usize::MAX)).unwrap();
        let seq = cache.admit(7).unwrap();
        let places = [(0, Side::K), (0, Side::V), (1, Side::K), (1, Side::V)];
        for (value, (layer, side)) in (1..).zip(places) {
            cache.write_rows(seq, layer, side, 0, &[value; 7 * 24]).unwrap();
        }
        let fork = cache.fork(seq).unwrap();
        cache.grow_batch(&[(seq, 9), (fork, 8)]).unwrap();
        for (value, (layer, side)) in (1..).zip(places) {
            cache.write_rows(fork, layer, side, 7, &[10 * value; 24]).unwrap();
            cache.write_rows(seq, layer, side, 7, &[20 * value; 2 * 24]).unwrap();
        }
        for (value, (layer, side)) in (1..).zip(places) {
            for (id, len, last) in [(seq, 9, 20), (fork, 8, 10)] {
                let mut rows = vec![0; len * 24];
                cache.read_rows(id, layer, side, 0..len, &mut rows).unwrap();
                assert!(rows[..7 * 24].iter().all(|&byte| byte == value), "{layout:?}");
                assert!(rows[7 * 24..].iter().all(|&byte| byte == last * value), "{layout:?}");
            }
        }
        cache.audit().unwrap();
    }
}
