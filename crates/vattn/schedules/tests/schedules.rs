//! The hand-over between the cache and its mapper thread under many schedules of the two.
//!
//! A scheduler takes the place of the threads of the system and decides at every lock, atomic and condition who goes on:
//! by chance, and so that few changes of the thread suffice to find a fault (Burckhardt et al., ASPLOS 2010). A deadlock
//! and a lost wake-up end a schedule with a panic, as do the model of memory at any wrong access and the audit.

use std::time::Duration;

use vattn_schedules::sim::{SimBackend, Work};
use vattn_schedules::testing::Faulty;
use vattn_schedules::{Config, Error, Geometry, KvCache, SeqId, Side};

const FRAME: usize = 16;
/// Bytes of a row: two frames hold three rows.
const ROW: usize = 10;
const SCHEDULES: usize = 2000;

type Cache = KvCache<Faulty<SimBackend>>;

fn geometry() -> Geometry {
    Geometry::builder()
        .layers(1)
        .row_bytes(ROW)
        .max_tokens(12)
        .max_sequences(3)
        .frame_bytes(FRAME)
        .build()
        .unwrap()
}

/// Plays a story under many schedules, and checks that nothing is left at the end of each.
fn under_all(story: fn(&mut Cache, &SimBackend)) {
    let play = move || {
        let sim = SimBackend::new(FRAME);
        let (backend, faults) = Faulty::new(sim.clone());
        let config = Config::new(20 * FRAME).warm_bytes(6 * FRAME).trim_after(Duration::MAX);
        let mut cache = KvCache::with_backend(backend, geometry(), config.mapper(true)).unwrap();
        story(&mut cache, &sim);
        cache.audit().unwrap();
        faults.fail(0..0);
        drop(cache);
        assert_eq!((sim.frames(), sim.mappings()), (0, 0));
    };
    shuttle::check_random(play, SCHEDULES);
    shuttle::check_pct(play, SCHEDULES, 3);
}

/// Writes the rows from `start` on.
fn write(cache: &mut Cache, seq: SeqId, start: usize, value: u8) {
    let len = cache.len(seq).unwrap();
    for side in [Side::K, Side::V] {
        cache
            .write_rows(seq, 0, side, start, &vec![value; (len - start) * ROW])
            .unwrap();
    }
}

/// Whether all rows from `start` to `end` hold a value.
fn check(cache: &Cache, seq: SeqId, (start, end): (usize, usize), value: u8) {
    for side in [Side::K, Side::V] {
        let mut rows = vec![0; (end - start) * ROW];
        cache.read_rows(seq, 0, side, start..end, &mut rows).unwrap();
        assert!(rows.iter().all(|&byte| byte == value), "{rows:?} instead of {value}");
    }
}

#[test]
fn growing_meets_memory_that_comes_ahead() {
    under_all(|cache, _| {
        let (a, b) = (cache.admit(1).unwrap(), cache.admit(2).unwrap());
        write(cache, a, 0, 1);
        write(cache, b, 0, 2);
        for step in 1..5 {
            let ticket = cache.plan_step(&[(a, 1 + step), (b, 2 + step)]).unwrap();
            write(cache, a, step, 1);
            write(cache, b, 1 + step, 2);
            drop(ticket);
        }
        check(cache, a, (0, 5), 1);
        check(cache, b, (0, 6), 2);
        cache.truncate(b, 1).unwrap();
        cache.grow_batch(&[(a, 6), (b, 4)]).unwrap();
        write(cache, b, 1, 3);
        check(cache, b, (0, 1), 2);
        check(cache, b, (1, 4), 3);
    });
}

#[test]
fn freeing_and_opening_meet_memory_that_goes() {
    under_all(|cache, _| {
        for round in 1..4 {
            let (a, b) = (cache.admit(3).unwrap(), cache.admit(1).unwrap());
            check(cache, a, (0, 3), 0);
            write(cache, a, 0, round);
            write(cache, b, 0, 9);
            cache.free(b).unwrap();
            cache.grow(a, 4).unwrap();
            check(cache, a, (0, 3), round);
            check(cache, a, (3, 4), 0);
            cache.free(a).unwrap();
        }
        cache.trim();
        assert_eq!(cache.stats().physical_bytes, 0);
    });
}

#[test]
fn a_full_budget_meets_memory_that_nobody_needs() {
    under_all(|cache, _| {
        // 20 frames: 8 tokens of one sequence take 10 of them, and what is ahead or warm is to be had.
        let a = cache.admit(8).unwrap();
        let b = cache.admit(5).unwrap();
        write(cache, a, 0, 7);
        assert!(matches!(cache.grow(b, 10), Err(Error::NeedFrames { .. })));
        cache.grow(b, 8).unwrap();
        check(cache, a, (0, 8), 7);
        cache.free(b).unwrap();
        let c = cache.admit(8).unwrap();
        cache.set_limit(10 * FRAME);
        cache.free(a).unwrap();
        assert!(matches!(cache.grow(c, 10), Err(Error::NeedFrames { .. })));
    });
}

#[test]
fn sharing_swapping_and_sleeping_meet_the_thread() {
    under_all(|cache, _| {
        let a = cache.admit(5).unwrap();
        write(cache, a, 0, 4);
        let fork = cache.fork(a).unwrap();
        cache.grow(a, 6).unwrap();
        write(cache, a, 5, 5);
        cache.swap_out(fork).unwrap();
        cache.swap_in(fork).unwrap();
        check(cache, fork, (0, 5), 4);
        cache.free(a).unwrap();
        cache.truncate(fork, 2).unwrap();
        cache.sleep().unwrap();
        cache.wake().unwrap();
        cache.grow(fork, 7).unwrap();
        check(cache, fork, (0, 2), 4);
    });
}

#[test]
fn a_device_that_works_meets_the_thread() {
    under_all(|cache, sim| {
        let seq = cache.open().unwrap();
        let ticket = cache.plan_step(&[(seq, 4)]).unwrap();
        let view = cache.view(seq, 0).unwrap();
        let fence = sim.launch(
            &[(view.k, 4 * ROW, Work::Write(3)), (view.v, 4 * ROW, Work::Write(3))],
            100,
        );
        cache.commit(ticket, fence);
        cache.free(seq).unwrap();
        let next = cache.admit(2).unwrap();
        sim.advance(100);
        check(cache, next, (0, 2), 0);
        cache.trim();
    });
}
