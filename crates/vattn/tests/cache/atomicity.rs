//! Every call of the backend fails once, over the model of memory and over the host, and nothing is left half done.

use vattn::backend::Backend;
use vattn::host::{self, HostBackend};
use vattn::sim::SimBackend;
use vattn::testing::{Faults, Faulty};
use vattn::{AuditError, Config, Error, Geometry, KvCache, Result, SeqId, Side};

/// Everything a caller can see of the sequences.
#[derive(Debug, PartialEq)]
struct Snapshot {
    lengths: Vec<Option<usize>>,
    rows: Vec<Option<Vec<u8>>>,
    used_bytes: usize,
    live_sequences: usize,
}

fn snapshot<B: Backend>(cache: &KvCache<B>, seqs: &[SeqId]) -> Snapshot {
    let stats = cache.stats();
    Snapshot {
        lengths: seqs.iter().map(|&seq| cache.len(seq).ok()).collect(),
        rows: seqs.iter().map(|&seq| read_all(cache, seq).ok()).collect(),
        used_bytes: stats.used_bytes,
        live_sequences: stats.live_sequences,
    }
}

/// All rows of a sequence.
fn read_all<B: Backend>(cache: &KvCache<B>, seq: SeqId) -> Result<Vec<u8>> {
    let len = cache.len(seq)?;
    let mut all = Vec::new();
    for layer in 0..cache.geometry().layers() {
        for side in [Side::K, Side::V] {
            let mut bytes = vec![0; len * cache.geometry().row_bytes()];
            cache.read_rows(seq, layer, side, 0..len, &mut bytes)?;
            all.extend(bytes);
        }
    }
    Ok(all)
}

/// Writes `value` into all rows of a sequence from `start` on.
fn fill<B: Backend>(cache: &mut KvCache<B>, seq: SeqId, start: usize, value: u8) {
    let len = cache.len(seq).unwrap();
    let bytes = vec![value; len.saturating_sub(start) * cache.geometry().row_bytes()];
    for layer in 0..cache.geometry().layers() {
        for side in [Side::K, Side::V] {
            cache.write_rows(seq, layer, side, start, &bytes).unwrap();
        }
    }
}

/// The sequences of the story, and what it has opened on the way.
struct Actors {
    seqs: Vec<SeqId>,
    prefix: Option<vattn::PrefixId>,
}

/// A step of the story: changes the cache.
type Step<B> = (&'static str, fn(&mut KvCache<B>, &mut Actors) -> Result<()>);

fn story<B: Backend>() -> Vec<Step<B>> {
    vec![
        ("grow a", |c, s| c.grow(s.seqs[0], 3)),
        ("grow a and b", |c, s| c.grow_batch(&[(s.seqs[0], 5), (s.seqs[1], 7)])),
        ("write a and b", |c, s| {
            fill(c, s.seqs[0], 0, 11);
            fill(c, s.seqs[1], 0, 12);
            Ok(())
        }),
        ("grow b within its frame", |c, s| c.grow(s.seqs[1], 8)),
        ("fork b to d", |c, s| {
            let d = c.fork(s.seqs[1])?;
            s.seqs.push(d);
            Ok(())
        }),
        ("grow b and d", |c, s| c.grow_batch(&[(s.seqs[1], 9), (s.seqs[3], 9)])),
        ("write the new rows", |c, s| {
            fill(c, s.seqs[1], 8, 13);
            fill(c, s.seqs[3], 8, 14);
            Ok(())
        }),
        ("publish a prefix of d", |c, s| {
            s.prefix = Some(c.publish_prefix(s.seqs[3], 6)?);
            Ok(())
        }),
        ("cut d within what it shares", |c, s| c.truncate(s.seqs[3], 2)),
        ("grow d again, which copies a frame", |c, s| c.grow(s.seqs[3], 4)),
        ("attach e to the prefix", |c, s| {
            let e = c.attach_prefix(s.prefix.unwrap())?;
            s.seqs.push(e);
            Ok(())
        }),
        ("evict the prefix", |c, s| c.evict_prefix(s.prefix.take().unwrap())),
        ("truncate a", |c, s| c.truncate(s.seqs[0], 1)),
        ("grow a again and start c", |c, s| {
            c.grow_batch(&[(s.seqs[0], 6), (s.seqs[2], 2), (s.seqs[0], 7)])
        }),
        ("swap e out", |c, s| c.swap_out(s.seqs[4])),
        ("free b", |c, s| c.free(s.seqs[1])),
        ("swap e in", |c, s| c.swap_in(s.seqs[4])),
        ("sleep", |c, _| c.sleep()),
        ("wake", |c, _| c.wake()),
        ("grow e, which has the frames of the prefix for itself", |c, s| {
            c.truncate(s.seqs[4], 3)?;
            c.grow(s.seqs[4], 9)
        }),
        ("open and grow f where b was", |c, _| {
            let seq = c.admit(4)?;
            c.free(seq)
        }),
        ("grow c", |c, s| c.grow(s.seqs[2], 9)),
        ("truncate c to nothing", |c, s| c.truncate(s.seqs[2], 0)),
        ("free a", |c, s| c.free(s.seqs[0])),
        ("free c", |c, s| c.free(s.seqs[2])),
        ("free d", |c, s| c.free(s.seqs[3])),
        ("free e", |c, s| c.free(s.seqs[4])),
    ]
}

fn setup<B: Backend>(backend: B, geometry: Geometry) -> (KvCache<Faulty<B>>, Faults) {
    let (backend, faults) = Faulty::new(backend);
    let cache = KvCache::with_backend(backend, geometry, Config::new(1000 * geometry.frame_bytes())).unwrap();
    (cache, faults)
}

/// Plays the story and lets `fails` calls fail from the `nth` on. Every step that is refused is checked to have changed
/// nothing, and is then taken again. Returns how many calls were made and how many of them failed.
fn play<B: Backend>(backend: B, geometry: Geometry, nth: usize, fails: usize) -> (usize, usize) {
    let (mut cache, faults) = setup(backend, geometry);
    let mut actors = Actors {
        seqs: (0..3).map(|_| cache.open().unwrap()).collect(),
        prefix: None,
    };
    let start = faults.calls();
    faults.fail(nth..nth + fails);
    for (name, step) in story() {
        let mut tries = 0;
        loop {
            let before = snapshot(&cache, &actors.seqs);
            let outcome = step(&mut cache, &mut actors);
            cache
                .audit()
                .unwrap_or_else(|error| panic!("{name}, call {nth} failed: {error}"));
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    // A slot that cannot be emptied is not there.
                    assert!(
                        matches!(error, Error::Backend(_) | Error::NoSlot { .. }),
                        "{name}: {error}"
                    );
                    let same = snapshot(&cache, &actors.seqs) == before || name.starts_with("grow e, which");
                    assert!(same, "{name}, call {nth} failed");
                }
            }
            tries += 1;
            assert!(tries <= fails, "{name} is refused though no call fails any more");
        }
    }
    let calls = faults.calls() - start;
    // Whatever the last steps could not give back goes with the next call.
    faults.fail(0..0);
    let last = cache.open().unwrap();
    cache.free(last).unwrap();
    let stats = cache.stats();
    assert_eq!(
        (stats.physical_bytes, stats.mapped_bytes, stats.draining_bytes),
        (0, 0, 0)
    );
    assert_eq!((stats.live_sequences, stats.prefixes), (0, 0));
    cache.audit().unwrap();
    (calls, faults.failed())
}

/// Every call of the story fails once, and then it and some that follow.
pub(crate) fn play_all<B: Backend>(backend: impl Fn() -> B, geometry: Geometry) {
    let (calls, failed) = play(backend(), geometry, 0, 0);
    assert!(calls > 100 && failed == 0, "{calls} calls, {failed} failed");
    for nth in 0..calls {
        let (_, failed) = play(backend(), geometry, nth, 1);
        assert_eq!(failed, 1, "call {nth} of {calls}");
    }
    assert_eq!(play(backend(), geometry, calls, 1), (calls, 0));
    for (nth, fails) in (0..calls).flat_map(|nth| [2, 3, 7].map(|fails| (nth, fails))) {
        let (_, failed) = play(backend(), geometry, nth, fails);
        assert!((1..=fails).contains(&failed), "from call {nth}: {failed} failed");
    }
}

/// Rows of five eighths of a frame of one page.
pub(crate) fn tiny(page: usize) -> Geometry {
    Geometry::builder()
        .layers(1)
        .row_bytes(page * 5 / 8)
        .max_tokens(9)
        .max_sequences(8)
        .frame_bytes(page)
        .build()
        .unwrap()
}

#[test]
fn each_call_may_fail_on_the_model() {
    play_all(|| SimBackend::new(64), tiny(64));
}

#[test]
fn each_call_may_fail_on_a_model_like_files() {
    play_all(|| SimBackend::new(64).like_files(), tiny(64));
}

#[test]
fn each_call_may_fail_on_the_host() {
    play_all(
        || HostBackend::new(host::page_bytes()).unwrap(),
        tiny(host::page_bytes()),
    );
}

#[test]
fn a_reservation_may_fail() {
    let (backend, faults) = Faulty::new(SimBackend::new(64));
    faults.fail(0..1);
    let error = KvCache::with_backend(backend, tiny(64), Config::new(0)).unwrap_err();
    assert!(matches!(error, Error::Backend(_)));
}

#[test]
fn free_succeeds_and_keeps_the_slot_until_its_memory_is_gone() {
    let geometry = Geometry::builder()
        .layers(1)
        .row_bytes(40)
        .max_tokens(4)
        .max_sequences(1)
        .frame_bytes(64)
        .build()
        .unwrap();
    let (mut cache, faults) = setup(SimBackend::new(64), geometry);
    let seq = cache.open().unwrap();
    cache.grow(seq, 4).unwrap();
    let mapped = cache.stats().mapped_bytes;

    faults.fail(0..4); // two regions, and the same two again
    cache.free(seq).unwrap();
    assert!(matches!(cache.free(seq), Err(Error::NotOpen { .. })));
    let stats = cache.stats();
    assert_eq!((stats.live_sequences, stats.used_bytes), (0, 0));
    assert_eq!(
        (stats.mapped_bytes, stats.draining_bytes, stats.physical_bytes),
        (mapped, mapped, mapped)
    );
    cache.audit().unwrap();
    assert!(
        matches!(cache.open(), Err(Error::NoSlot { limit: 1 })),
        "the slot still has rows of the freed sequence"
    );

    let next = cache.open().unwrap();
    assert_eq!(next.slot(), seq.slot());
    assert_eq!(cache.stats().physical_bytes, 0);
    cache.audit().unwrap();
}

#[test]
fn memory_that_a_live_sequence_could_not_give_back_is_used_when_it_grows_again() {
    let geometry = tiny(64);
    let (mut cache, faults) = setup(SimBackend::new(64), geometry);
    cache.set_limit(10 * geometry.frame_bytes());
    let seq = cache.open().unwrap();
    cache.grow(seq, 8).unwrap(); // 5 frames in each of 2 regions
    assert_eq!(cache.free_frames(), 0);

    faults.fail(0..4);
    cache.truncate(seq, 1).unwrap();
    // It will be offered again before anybody is refused.
    assert_eq!((cache.len(seq).unwrap(), cache.free_frames()), (1, 8));
    assert_eq!(cache.stats().draining_bytes, 8 * geometry.frame_bytes());
    let calls = cache.stats().map_calls;
    cache.grow(seq, 8).unwrap();
    assert_eq!((cache.stats().map_calls, cache.stats().draining_bytes), (calls, 0));
    cache.audit().unwrap();
    cache.free(seq).unwrap();
    assert_eq!(cache.stats().physical_bytes, 0);
}

#[test]
fn the_audit_sees_memory_that_nobody_made() {
    let (mut cache, faults) = setup(SimBackend::new(64), tiny(64));
    let seq = cache.open().unwrap();
    cache.grow(seq, 1).unwrap();
    cache.audit().unwrap();
    faults.leak(512);
    let counted = cache.stats().mapped_bytes;
    assert_eq!(
        cache.audit(),
        Err(AuditError::Physical {
            physical: counted + 512,
            counted
        })
    );
}
