//! The mapper thread: what it does before a step needs it and behind its back, and what it must not do.

use std::thread;
use std::time::{Duration, Instant};

use vattn::backend::Backend;
use vattn::host::{self, HostBackend};
use vattn::sim::{SimBackend, Work};
use vattn::testing::{Faults, Faulty};
use vattn::{Config, Error, Geometry, KvCache, SeqId, Side};

use crate::small;

const FRAME: usize = 64;

/// Two regions, rows of half a frame.
fn geometry(max_tokens: usize, max_sequences: usize) -> Geometry {
    Geometry::builder()
        .layers(1)
        .row_bytes(FRAME / 2)
        .max_tokens(max_tokens)
        .max_sequences(max_sequences)
        .frame_bytes(FRAME)
        .build()
        .unwrap()
}

/// Nothing is trimmed unless a test says so.
fn config(frames: usize) -> Config {
    Config::new(frames.saturating_mul(FRAME))
        .mapper(true)
        .trim_after(Duration::MAX)
}

fn cache(config: Config) -> (KvCache<Faulty<SimBackend>>, SimBackend, Faults) {
    let sim = SimBackend::new(FRAME);
    let (backend, faults) = Faulty::new(sim.clone());
    let cache = KvCache::with_backend(backend, geometry(64, 4), config).unwrap();
    (cache, sim, faults)
}

/// Waits, but not for ever, until something holds.
#[track_caller]
fn eventually(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "it does not come to hold");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Writes one row of a sequence.
fn write<B: Backend>(cache: &mut KvCache<B>, seq: SeqId, token: usize, value: u8) {
    let row = vec![value; cache.geometry().row_bytes()];
    for layer in 0..cache.geometry().layers() {
        cache.write_rows(seq, layer, Side::K, token, &row).unwrap();
        cache.write_rows(seq, layer, Side::V, token, &row).unwrap();
    }
}

/// Decodes four sequences to the end; the mapper thread has the time it needs between two steps. Gives how many waited.
fn decode<B: Backend>(backend: B, geometry: Geometry, config: Config) -> u64 {
    let mut cache = KvCache::with_backend(backend, geometry, config).unwrap();
    let prompt = 5;
    let seqs: Vec<_> = (0..4).map(|_| cache.admit(prompt).unwrap()).collect();
    let warm = cache.stats().sync_maps;
    for len in prompt + 1..=geometry.max_tokens() {
        let batch: Vec<_> = seqs.iter().map(|&seq| (seq, len)).collect();
        let ticket = cache.plan_step(&batch).unwrap();
        for (value, &seq) in (1..).zip(&seqs) {
            write(&mut cache, seq, len - 1, value);
        }
        let _ = ticket;
        cache.settle();
    }
    for (value, &seq) in (1..).zip(&seqs) {
        let mut rows = vec![0; (geometry.max_tokens() - prompt) * geometry.row_bytes()];
        let tokens = prompt..geometry.max_tokens();
        cache.read_rows(seq, 0, Side::V, tokens, &mut rows).unwrap();
        assert!(rows.iter().all(|&byte| byte == value));
    }
    cache.audit().unwrap();
    let stats = cache.stats();
    assert!(stats.background_maps > 0 || !config.mapper);
    stats.sync_maps - warm
}

#[test]
fn no_step_of_steady_decode_waits_for_memory() {
    let unlimited = Config::new(usize::MAX);
    for mapper in [true, false] {
        let config = unlimited.mapper(mapper);
        let waits = [
            decode(SimBackend::new(FRAME), geometry(64, 4), config),
            decode(SimBackend::new(FRAME).like_files(), geometry(64, 4), config),
            decode(HostBackend::new(host::page_bytes()).unwrap(), small(2, 64, 4), config),
        ];
        match mapper {
            true => assert_eq!(waits, [0, 0, 0]),
            false => assert!(waits.iter().all(|&waits| waits > 100), "{waits:?}"),
        }
    }
}

#[test]
fn memory_mapped_ahead_is_bounded_and_goes_to_whoever_needs_it() {
    let (mut cache, sim, _) = cache(config(24));
    let a = cache.admit(8).unwrap(); // 4 full frames in each region
    cache.settle();
    let ahead = cache.stats().ahead_bytes / FRAME;
    assert!((2..=16).contains(&ahead), "{ahead} frames");
    assert_eq!(cache.free_frames(), 24 - 8);
    // Another one takes all that the first does not need.
    let b = cache.admit(16).unwrap();
    cache.settle();
    assert_eq!((sim.frames(), cache.stats().ahead_bytes), (24, 0));
    // There is nothing ahead any more, and no room: it is refused in every step, without a call of the mapper thread.
    for _ in 0..3 {
        let error = cache.grow(a, 9).unwrap_err();
        assert!(matches!(error, Error::NeedFrames { need: 2, free: 0 }), "{error}");
    }
    cache.audit().unwrap();
    cache.free(b).unwrap();
    cache.grow(a, 10).unwrap();
    cache.settle();
    assert!(cache.stats().ahead_bytes > 0, "room came back, so it maps ahead again");
    cache.audit().unwrap();
}

#[test]
fn what_ends_is_given_back_in_the_background() {
    let (mut cache, sim, _) = cache(config(1000));
    let (a, b) = (cache.admit(20).unwrap(), cache.admit(8).unwrap());
    cache.free(a).unwrap();
    cache.truncate(b, 2).unwrap();
    cache.settle();
    let stats = cache.stats();
    assert_eq!(stats.draining_bytes, 0);
    assert_eq!(stats.physical_bytes, 2 * FRAME + stats.ahead_bytes);
    cache.free(b).unwrap();
    cache.settle();
    assert_eq!((sim.frames(), sim.mappings()), (0, 0));
    cache.audit().unwrap();
    // All slots can be opened again at once, whether or not the thread has come to them.
    for round in 0..50 {
        let seqs: Vec<_> = (0..4).map(|_| cache.admit(1 + round % 8).unwrap()).collect();
        for seq in seqs {
            cache.free(seq).unwrap();
        }
    }
    cache.settle();
    assert_eq!(sim.frames(), 0);
}

#[test]
fn nothing_is_taken_before_its_fence_is_done() {
    let sim = SimBackend::new(FRAME);
    let mut cache = KvCache::with_backend(sim.clone(), geometry(64, 4), config(1000)).unwrap();
    let seq = cache.open().unwrap();
    let ticket = cache.plan_step(&[(seq, 8)]).unwrap();
    let view = cache.view(seq, 0).unwrap();
    let bytes = 8 * view.stride_bytes;
    // The model panics if any of this is unmapped, wiped or destroyed within the next 1,000 nanoseconds.
    let fence = sim.launch(&[(view.k, bytes, Work::Write(3)), (view.v, bytes, Work::Read)], 1000);
    cache.commit(ticket, fence);
    cache.free(seq).unwrap();
    cache.settle();
    thread::sleep(Duration::from_millis(5)); // several looks at the fence
    assert!(sim.frames() >= 8);
    sim.advance(1000);
    // Nobody calls the cache: the thread looks by itself.
    eventually(|| sim.frames() == 0);
    cache.audit().unwrap();
}

#[test]
fn warm_slots_are_filled_and_wiped_beforehand_and_trimmed_when_idle() {
    let config = config(1000)
        .warm_bytes(32 * FRAME)
        .trim_after(Duration::from_millis(50));
    let (mut cache, sim, _) = cache(config);
    let first = cache.admit(8).unwrap(); // tells the thread how sequences begin
    for token in 0..8 {
        write(&mut cache, first, token, 9);
    }
    cache.settle();
    let calls = cache.stats().sync_maps;
    let second = cache.admit(8).unwrap();
    assert_eq!(cache.stats().sync_maps, calls, "its memory was there");
    cache.free(first).unwrap();
    cache.settle();
    assert!(cache.stats().warm_bytes > 0 && cache.stats().warm_bytes <= 32 * FRAME);
    let third = cache.admit(8).unwrap();
    for seq in [second, third] {
        let mut rows = [1; 8 * FRAME / 2];
        cache.read_rows(seq, 0, Side::K, 0..8, &mut rows).unwrap();
        assert!(rows.iter().all(|&byte| byte == 0));
        cache.free(seq).unwrap();
    }
    cache.audit().unwrap();
    eventually(|| sim.frames() == 0);
    cache.audit().unwrap();
}

#[test]
fn a_refusal_in_the_background_is_kept_and_harms_nobody() {
    let (mut cache, _, faults) = cache(config(1000));
    let seq = cache.admit(1).unwrap();
    cache.settle();
    let covered = |cache: &KvCache<_>| cache.view(seq, 0).unwrap().mapped_bytes * 2 / FRAME;
    // Up to the last row that is mapped; asking for what follows is refused, on whatever call.
    faults.fail(0..usize::MAX);
    let end = covered(&cache);
    for len in 2..=end {
        cache.grow(seq, len).unwrap();
        cache.settle();
        write(&mut cache, seq, len - 1, 5);
    }
    assert_eq!(covered(&cache), end);
    let error = cache.take_background_error().unwrap().to_string();
    assert!(error.contains("create"), "{error}");
    assert!(cache.take_background_error().is_none());
    assert!(cache.stats().background_refusals > 0);
    // The step that needs it says so itself, and succeeds when it can.
    assert!(matches!(cache.grow(seq, end + 1), Err(Error::Backend(_))));
    faults.fail(0..0);
    cache.grow(seq, end + 1).unwrap();
    cache.audit().unwrap();
    // What could not be given back is offered again by the thread.
    faults.fail(0..usize::MAX);
    cache.free(seq).unwrap();
    cache.settle();
    assert!(cache.stats().draining_bytes > 0);
    cache.audit().unwrap();
    faults.fail(0..0);
    eventually(|| cache.stats().physical_bytes == 0);
    cache.audit().unwrap();
}

#[test]
fn a_lower_limit_is_obeyed_by_the_thread_too() {
    let (mut cache, sim, _) = cache(config(1000).warm_bytes(100 * FRAME).growth_bytes(4 * FRAME));
    let (a, b) = (cache.admit(9).unwrap(), cache.admit(9).unwrap());
    cache.settle();
    assert!(sim.frames() > 20);
    cache.set_limit(21 * FRAME);
    assert!(sim.frames() <= 21);
    cache.settle();
    assert!(sim.frames() <= 21, "nothing is filled up beyond it");
    cache.free(a).unwrap();
    cache.set_limit(10 * FRAME);
    cache.settle();
    assert_eq!((sim.frames(), cache.stats().used_bytes), (10, 9 * FRAME));
    cache.trim();
    cache.settle();
    assert_eq!(sim.frames(), 10);
    cache.audit().unwrap();
    cache.free(b).unwrap();
}

#[test]
fn sleep_swap_and_sharing_go_with_it() {
    let (mut cache, sim, _) = cache(config(1000).warm_bytes(20 * FRAME));
    let seq = cache.admit(11).unwrap();
    for token in 0..11 {
        write(&mut cache, seq, token, 1 + token as u8);
    }
    let prefix = cache.publish_prefix(seq, 9).unwrap();
    let fork = cache.admit_with_prefix(prefix, 12).unwrap();
    cache.swap_out(seq).unwrap();
    cache.sleep().unwrap();
    cache.settle();
    assert_eq!(sim.frames(), 0);
    cache.wake().unwrap();
    cache.swap_in(seq).unwrap();
    cache.settle();
    for (id, len) in [(seq, 11), (fork, 9)] {
        for token in 0..len {
            let mut row = [0; FRAME / 2];
            cache.read_rows(id, 0, Side::K, token..token + 1, &mut row).unwrap();
            assert_eq!(row, [1 + token as u8; FRAME / 2]);
        }
    }
    cache.audit().unwrap();
}

#[test]
fn a_prefix_is_admitted_whole_or_not_at_all() {
    let (mut cache, sim, _) = cache(Config::new(30 * FRAME));
    let seq = cache.admit(9).unwrap();
    let prefix = cache.publish_prefix(seq, 9).unwrap();
    let (frames, live) = (sim.frames(), cache.stats().live_sequences);
    let refused = |cache: &mut KvCache<_>, tokens| cache.admit_with_prefix(prefix, tokens).unwrap_err();
    assert!(matches!(refused(&mut cache, 64), Error::NeedFrames { .. }));
    assert!(matches!(refused(&mut cache, 65), Error::TooLong { len: 65, max: 64 }));
    assert!(matches!(
        refused(&mut cache, 8),
        Error::GrowsBackward { len: 9, new_len: 8, .. }
    ));
    assert_eq!((sim.frames(), cache.stats().live_sequences), (frames, live));
    cache.audit().unwrap();
    let next = cache.admit_with_prefix(prefix, 12).unwrap();
    assert_eq!(cache.len(next).unwrap(), 12);
    cache.evict_prefix(prefix).unwrap();
    assert!(matches!(
        cache.admit_with_prefix(prefix, 12),
        Err(Error::NotPublished { .. })
    ));
}

#[test]
fn long_sequences_get_huge_pages_and_keep_their_bytes() {
    // Regions of 4 MiB, frames of 64 KiB: a huge page is 32 of them.
    let geometry = Geometry::builder()
        .layers(1)
        .row_bytes(4096)
        .max_tokens(1024)
        .max_sequences(2)
        .build()
        .unwrap();
    let mut cache = KvCache::with_config(geometry, Config::new(64 << 20).mapper(true)).unwrap();
    let seq = cache.admit(700).unwrap();
    let (k, v) = cache.rows_mut(seq, 0, 0..700).unwrap();
    for (token, (k, v)) in k.chunks_mut(4096).zip(v.chunks_mut(4096)).enumerate() {
        k.fill(token as u8);
        v.fill(!token as u8);
    }
    cache.settle();
    for (token, (k, v)) in (cache.k(seq, 0).unwrap().chunks(4096))
        .zip(cache.v(seq, 0).unwrap().chunks(4096))
        .enumerate()
    {
        assert!(k.iter().all(|&byte| byte == token as u8) && v.iter().all(|&byte| byte == !token as u8));
    }
    let stats = cache.stats();
    assert_eq!(stats.physical_bytes, stats.mapped_bytes);
    cache.audit().unwrap();
    // Cut within a huge page, shared, and grown again.
    cache.truncate(seq, 300).unwrap();
    let fork = cache.fork(seq).unwrap();
    cache.grow_batch(&[(seq, 900), (fork, 600)]).unwrap();
    cache.settle();
    assert!(cache.k(fork, 0).unwrap()[..300 * 4096] == cache.k(seq, 0).unwrap()[..300 * 4096]);
    assert!(cache.k(fork, 0).unwrap()[300 * 4096..].iter().all(|&byte| byte == 0));
    cache.audit().unwrap();
    cache.free(seq).unwrap();
    cache.free(fork).unwrap();
    cache.settle();
    assert_eq!(cache.stats().physical_bytes, 0);
}

#[test]
fn the_thread_ends_with_the_cache_and_leaves_nothing() {
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "vattn-mapper").count()
    };
    let (mut cache, sim, _) = cache(config(1000).warm_bytes(20 * FRAME));
    cache.settle();
    assert!(threads() > 0);
    let (a, b) = (cache.admit(10).unwrap(), cache.admit(10).unwrap());
    cache.free(a).unwrap();
    cache.grow(b, 11).unwrap();
    drop(cache); // with work to do
    assert_eq!((sim.frames(), sim.mappings()), (0, 0));
}

#[test]
fn a_backend_that_panics_in_the_background_is_not_overlooked() {
    let sim = SimBackend::new(FRAME);
    let mut cache = KvCache::with_backend(sim.clone(), geometry(64, 4), config(1000)).unwrap();
    let seq = cache.admit(3).unwrap();
    let view = cache.view(seq, 0).unwrap();
    // Nobody tells the cache of this work, so the thread takes memory that the device uses: the model panics.
    sim.launch(&[(view.k, 96, Work::Read)], 1000);
    cache.free(seq).unwrap();
    let dropped = thread::spawn(move || drop(cache)).join();
    let panic = dropped.unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("while the device uses it"), "{text}");
}
