//! Every call of the backend fails once, and nothing is left half done.

use vattn::backend::{Backend, HostMemory};
use vattn::{AuditError, Error, KvCache, Result, SeqId};

use crate::fake::Fake;
use crate::small;

/// Everything a caller can see of the sequences, and the memory behind them.
#[derive(Debug, PartialEq)]
struct Snapshot {
    lengths: Vec<Option<usize>>,
    rows: Vec<Option<Vec<u8>>>,
    /// Without what the backend has refused to take back.
    mapped_bytes: usize,
    used_bytes: usize,
    live_sequences: usize,
}

fn snapshot<B: Backend<Space: HostMemory>>(cache: &KvCache<B>, seqs: &[SeqId]) -> Snapshot {
    let rows = |&seq: &SeqId| {
        let layers = 0..cache.geometry().layers();
        let both = layers.flat_map(|layer| [cache.k(seq, layer), cache.v(seq, layer)]);
        both.map(|bytes| bytes.ok().map(<[u8]>::to_vec))
            .collect::<Option<Vec<_>>>()
            .map(|all| all.concat())
    };
    let stats = cache.stats();
    Snapshot {
        lengths: seqs.iter().map(|&seq| cache.len(seq).ok()).collect(),
        rows: seqs.iter().map(rows).collect(),
        mapped_bytes: stats.mapped_bytes - stats.draining_bytes,
        used_bytes: stats.used_bytes,
        live_sequences: stats.live_sequences,
    }
}

/// Writes `value` into all rows of a sequence.
fn fill<B: Backend<Space: HostMemory>>(cache: &mut KvCache<B>, seq: SeqId, value: u8) {
    let len = cache.len(seq).unwrap();
    for layer in 0..cache.geometry().layers() {
        let (k, v) = cache.rows_mut(seq, layer, 0..len).unwrap();
        k.fill(value);
        v.fill(value);
    }
}

/// A step of the story: changes the cache, given the sequences a, b and c.
type Step = (&'static str, fn(&mut KvCache<Fake>, &[SeqId]) -> Result<()>);

const STORY: [Step; 11] = [
    ("grow a", |c, s| c.grow(s[0], 3)),
    ("grow a and b", |c, s| c.grow_batch(&[(s[0], 5), (s[1], 7)])),
    ("grow b within its frame", |c, s| c.grow(s[1], 8)),
    ("truncate a", |c, s| c.truncate(s[0], 1)),
    ("grow a again and start c", |c, s| {
        c.grow_batch(&[(s[0], 6), (s[2], 2), (s[0], 7)])
    }),
    ("free b", |c, s| c.free(s[1])),
    ("open and grow d where b was", |c, _| {
        let seq = c.open()?;
        let grown = c.grow(seq, 4);
        c.free(seq)?;
        grown
    }),
    ("grow c", |c, s| c.grow(s[2], 9)),
    ("truncate c to nothing", |c, s| c.truncate(s[2], 0)),
    ("free a", |c, s| c.free(s[0])),
    ("free c", |c, s| c.free(s[2])),
];

/// Plays the story and lets `fails` calls fail from the `nth` on. Every step that is refused is checked to have changed
/// nothing, and is then taken again. Returns how many calls were made and how many of them failed.
fn play(nth: usize, fails: usize) -> (u64, usize) {
    let fake = Fake::default();
    let geometry = small(2, 9, 4);
    let mut cache = KvCache::with_backend(fake.clone(), geometry, 1000 * geometry.frame_bytes()).unwrap();
    let seqs: Vec<_> = (0..3).map(|_| cache.open().unwrap()).collect();
    fake.fail(nth..nth + fails);
    for (name, step) in STORY {
        let mut tries = 0;
        loop {
            for (value, &seq) in (1..).zip(&seqs) {
                if cache.len(seq).is_ok() {
                    fill(&mut cache, seq, value);
                }
            }
            let before = snapshot(&cache, &seqs);
            let outcome = step(&mut cache, &seqs);
            cache
                .audit()
                .unwrap_or_else(|error| panic!("{name}, call {nth} failed: {error}"));
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    assert!(matches!(error, Error::Backend(_)), "{name}: {error}");
                    assert_eq!(snapshot(&cache, &seqs), before, "{name}, call {nth} failed");
                    assert!(fails > 1 || cache.stats().draining_bytes == 0);
                }
            }
            tries += 1;
            assert!(tries <= fails, "{name} is refused though no call fails any more");
        }
    }
    // Whatever the last steps could not give back goes with the next call.
    fake.fail(0..0);
    let last = cache.open().unwrap();
    cache.free(last).unwrap();
    let stats = cache.stats();
    assert_eq!(
        (stats.physical_bytes, stats.mapped_bytes, stats.draining_bytes),
        (0, 0, 0)
    );
    assert_eq!(stats.live_sequences, 0);
    cache.audit().unwrap();
    (stats.map_calls + stats.unmap_calls, fake.failed())
}

#[test]
fn each_call_may_fail_once() {
    let (calls, failed) = play(0, 0);
    assert_eq!((calls, failed), (48, 0));
    for nth in 0..48 {
        let (calls, failed) = play(nth, 1);
        assert!(calls > 48 && failed == 1, "call {nth}: {calls} calls, {failed} failed");
    }
    assert_eq!(play(48, 1), (48, 0));
}

#[test]
fn undoing_may_fail_too() {
    for (nth, fails) in (0..48).flat_map(|nth| [2, 3, 7].map(|fails| (nth, fails))) {
        let (_, failed) = play(nth, fails);
        assert!((1..=fails).contains(&failed), "from call {nth}: {failed} failed");
    }
}

#[test]
fn a_reservation_may_fail() {
    let fake = Fake::default();
    fake.fail(0..1);
    let error = KvCache::with_backend(fake, small(1, 1, 1), 0).unwrap_err();
    assert!(matches!(error, Error::Backend(_)));
}

#[test]
fn free_succeeds_and_keeps_the_slot_until_its_memory_is_gone() {
    let fake = Fake::default();
    let geometry = small(1, 4, 1);
    let mut cache = KvCache::with_backend(fake.clone(), geometry, usize::MAX).unwrap();
    let seq = cache.open().unwrap();
    cache.grow(seq, 4).unwrap();
    let mapped = cache.stats().mapped_bytes;

    fake.fail(0..4); // two regions, and the same two again
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
    let fake = Fake::default();
    let geometry = small(1, 8, 1);
    let mut cache = KvCache::with_backend(fake.clone(), geometry, 10 * geometry.frame_bytes()).unwrap();
    let seq = cache.open().unwrap();
    cache.grow(seq, 8).unwrap(); // 5 frames in each of 2 regions
    assert_eq!(cache.free_frames(), 0);

    fake.fail(0..4);
    cache.truncate(seq, 1).unwrap();
    assert_eq!((cache.len(seq).unwrap(), cache.free_frames()), (1, 0));
    assert_eq!(cache.stats().draining_bytes, 8 * geometry.frame_bytes());
    let calls = cache.stats().map_calls;
    cache.grow(seq, 8).unwrap();
    assert_eq!((cache.stats().map_calls, cache.stats().draining_bytes), (calls, 0));
    cache.audit().unwrap();
    cache.free(seq).unwrap();
    assert_eq!(cache.stats().physical_bytes, 0);
}

#[test]
fn the_audit_sees_memory_that_nobody_mapped() {
    let fake = Fake::default();
    let mut cache = KvCache::with_backend(fake.clone(), small(1, 4, 1), usize::MAX).unwrap();
    let seq = cache.open().unwrap();
    cache.grow(seq, 1).unwrap();
    cache.audit().unwrap();
    fake.leak(512);
    let mapped = cache.stats().mapped_bytes;
    assert_eq!(
        cache.audit(),
        Err(AuditError::Physical {
            physical: mapped + 512,
            mapped
        })
    );
}
