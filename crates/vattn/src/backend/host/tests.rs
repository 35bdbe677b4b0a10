//! What only raw memory accesses can show: where the mapping ends.

// Accesses that must fault cannot be made in safe Rust.
#![allow(unsafe_code)]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::{env, fs};

use super::{HostBackend, page_bytes};
use crate::backend::{Access, Backend, Frame, Request};
use crate::{Error, Geometry, KvCache, SeqId};

/// Tells the test process that it is the child, and what to do.
const CASE: &str = "VATTN_TEST_CASE";
const SIGSEGV: i32 = 11;

/// Runs one test of this file again, in a process of its own, with `case` in the environment.
fn run_child(test: &str, case: &str) -> ExitStatus {
    let exe = env::current_exe().unwrap();
    let name = format!("backend::host::tests::{test}");
    let output = Command::new(exe)
        .args(["--exact", &name])
        .env(CASE, case)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "{name} was not found: {text}");
    output.status
}

/// Two slots of one layer; a region is two pages and a row is half of one.
fn two_pages() -> (KvCache, SeqId) {
    let page = page_bytes();
    let geometry = Geometry::builder()
        .layers(1)
        .row_bytes(page / 2)
        .max_tokens(4)
        .max_sequences(2)
        .frame_bytes(page)
        .build()
        .unwrap();
    let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
    let seq = cache.open().unwrap();
    (cache, seq)
}

/// Prepares a sequence and gives the distance from the start of its K rows to the byte that is read.
type Prepare = fn(&mut KvCache, SeqId) -> usize;

/// Reads, and whether they are allowed.
const READS: [(&str, Prepare, bool); 9] = [
    (
        "the last mapped byte, past the rows",
        |c, s| {
            c.grow(s, 1).unwrap();
            page_bytes() - 1
        },
        true,
    ),
    (
        "the last byte of a full region",
        |c, s| {
            c.grow(s, 4).unwrap();
            2 * page_bytes() - 1
        },
        true,
    ),
    ("an empty sequence", |_, _| 0, false),
    (
        "the first byte past the mapped end",
        |c, s| {
            c.grow(s, 2).unwrap();
            page_bytes()
        },
        false,
    ),
    (
        "past a full region, where the V region of the sequence is next",
        |c, s| {
            c.grow(s, 4).unwrap();
            2 * page_bytes()
        },
        false,
    ),
    (
        "past a truncated end",
        |c, s| {
            c.grow(s, 4).unwrap();
            c.truncate(s, 2).unwrap();
            page_bytes()
        },
        false,
    ),
    (
        "a freed sequence",
        |c, s| {
            c.grow(s, 4).unwrap();
            c.free(s).unwrap();
            0
        },
        false,
    ),
    (
        "writing is not reading: the rows of a fork may be read",
        |c, s| {
            c.grow(s, 4).unwrap();
            c.fork(s).unwrap();
            page_bytes()
        },
        true,
    ),
    (
        "a growth that the budget refused",
        |c, s| {
            c.set_limit(2 * page_bytes());
            c.grow(s, 2).unwrap();
            assert!(matches!(c.grow(s, 3), Err(Error::NeedFrames { need: 2, free: 0 })));
            page_bytes()
        },
        false,
    ),
];

#[test]
fn an_access_past_the_mapped_end_faults() {
    if let Ok(case) = env::var(CASE) {
        let (_, prepare, _) = READS.iter().find(|(name, ..)| *name == case).unwrap();
        let (mut cache, seq) = two_pages();
        let base = cache.view(seq, 0).unwrap().k_ptr();
        let distance = prepare(&mut cache, seq);
        // SAFETY: either the byte is mapped, or the read faults, which is what the parent process waits for. It lies in
        // the reservation of `cache`, so it can be nobody else's.
        let byte = unsafe { base.add(distance).read_volatile() };
        assert_eq!(byte, 0);
        return;
    }
    for (case, _, readable) in READS {
        let status = run_child("an_access_past_the_mapped_end_faults", case);
        let expected = if readable { None } else { Some(SIGSEGV) };
        assert_eq!(status.signal(), expected, "{case}: {status}");
        assert_eq!(status.success(), readable, "{case}: {status}");
    }
}

#[test]
fn a_write_through_a_shared_row_faults() {
    if env::var(CASE).is_ok() {
        let (mut cache, seq) = two_pages();
        cache.grow(seq, 3).unwrap();
        let (k, _) = cache.rows_mut(seq, 0, 0..3).unwrap();
        k.fill(1);
        let fork = cache.fork(seq).unwrap();
        for id in [seq, fork] {
            assert!(matches!(
                cache.rows_mut(id, 0, 1..3),
                Err(Error::Shared { shared: 2, .. })
            ));
            // The row after the border is its own.
            cache.rows_mut(id, 0, 2..3).unwrap().0.fill(2);
        }
        let view = cache.view(fork, 0).unwrap();
        // SAFETY: the write faults, which is what the parent process waits for; no slice of the rows is alive.
        unsafe { view.k_ptr().write_volatile(9) };
        return;
    }
    let status = run_child("a_write_through_a_shared_row_faults", "write");
    assert_eq!(status.signal(), Some(SIGSEGV), "{status}");
}

#[test]
fn a_refusal_of_the_kernel_changes_nothing() {
    let limit: usize = fs::read_to_string("/proc/sys/vm/max_map_count")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if limit > 100_000 {
        eprintln!("skipped: vm.max_map_count is {limit}, reaching it would take too long");
        return;
    }
    if env::var(CASE).is_err() {
        // In a process of its own, because it leaves no mapping for anybody else.
        for case in ["exhaust the mappings", "exhaust them with one more"] {
            assert!(run_child("a_refusal_of_the_kernel_changes_nothing", case).success());
        }
        return;
    }
    let page = page_bytes();
    // The kernel counts the mappings of the whole process; what it still allows at its limit depends on whether their
    // number is odd.
    let _more =
        (env::var(CASE).as_deref() == Ok("exhaust them with one more")).then(|| super::Arena::new(page).unwrap());
    let geometry = Geometry::builder()
        .layers(64)
        .row_bytes(page)
        .max_tokens(2)
        .max_sequences(limit / 128)
        .frame_bytes(page)
        .build()
        .unwrap();
    let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
    let mut grown = Vec::new();
    let (refused, error) = loop {
        let seq = cache.open().unwrap();
        match cache.grow(seq, 1) {
            Ok(()) => grown.push(seq),
            Err(error) => break (seq, error),
        }
    };
    assert!(matches!(error, Error::Backend(_)), "{error}");
    assert_eq!(cache.len(refused).unwrap(), 0);
    let stats = cache.stats();
    assert_eq!(
        (stats.mapped_bytes, stats.draining_bytes),
        (grown.len() * 128 * page, 0)
    );
    assert_eq!(stats.physical_bytes, stats.mapped_bytes);
    cache.audit().unwrap();
    // As the message says: free a sequence, and the growth succeeds.
    assert!(error.to_string().contains("free sequences"), "{error}");
    cache.free(grown.pop().unwrap()).unwrap();
    cache.grow(refused, 1).unwrap();
    assert_eq!(cache.stats().mapped_bytes, (grown.len() + 1) * 128 * page);
    cache.audit().unwrap();
}

#[test]
fn whole_frames_are_zero_when_another_sequence_had_them() {
    let (mut cache, first) = two_pages();
    cache.grow(first, 4).unwrap();
    let (k, v) = cache.rows_mut(first, 0, 0..4).unwrap();
    k.fill(0xa5);
    v.fill(0x5a);
    let before = cache.view(first, 0).unwrap();
    cache.free(first).unwrap();

    let second = cache.open().unwrap();
    cache.grow(second, 1).unwrap();
    let view = cache.view(second, 0).unwrap();
    assert_eq!((view.k, view.v), (before.k, before.v), "the slot is used again");
    for start in [view.k_ptr(), view.v_ptr()] {
        // SAFETY: `mapped_bytes` bytes are mapped behind both addresses while the sequence lives, and nobody writes.
        let bytes = unsafe { std::slice::from_raw_parts(start, view.mapped_bytes) };
        assert_eq!(bytes.len(), page_bytes());
        assert!(bytes.iter().all(|&byte| byte == 0));
    }
}

#[test]
fn a_frame_mapped_twice_is_the_same_memory_and_counts_once() {
    let page = page_bytes();
    let host = HostBackend::new(page).unwrap();
    let base = host.reserve(8 * page, page).unwrap();
    let request = |address, count, after: Option<Frame>| Request {
        count,
        address,
        room: count,
        after,
        huge: false,
    };
    let mut frames = Vec::new();
    host.create(&request(base, 3, None), &mut frames).unwrap();
    assert_eq!(host.physical_bytes(), 3 * page);
    host.map(base, &frames, Access::ReadWrite).unwrap();
    // Out of order and with a gap: three runs.
    host.map(base + 4 * page, &[frames[2], frames[0]], Access::Read)
        .unwrap();
    host.write(base, &[7]).unwrap();
    host.write(base + 2 * page, &[9]).unwrap();
    let mut bytes = [0; 1];
    for (at, expected) in [(4, 9), (5, 7)] {
        host.read(base + at * page, &mut bytes).unwrap();
        assert_eq!(bytes[0], expected);
    }
    assert_eq!(host.physical_bytes(), 3 * page);

    host.create(&request(base + 6 * page, 1, None), &mut frames).unwrap();
    host.replace(base + 4 * page, frames[3], Access::ReadWrite).unwrap();
    host.read(base + 4 * page, &mut bytes).unwrap();
    assert_eq!((bytes[0], host.physical_bytes()), (0, 4 * page));

    host.unmap(base, 3).unwrap();
    host.unmap(base + 4 * page, 2).unwrap();
    host.destroy(&mut frames).unwrap();
    assert_eq!((frames.len(), host.physical_bytes()), (0, 0));
    host.release(base, 8 * page);
}

#[test]
fn huge_frames_are_counted_to_the_page_and_hold_zeros() {
    let frame = 64 << 10;
    let host = HostBackend::new(frame).unwrap();
    let bytes = 6 << 20;
    let base = host.reserve(bytes, 2 << 20).unwrap();
    let mut frames = Vec::new();
    let request = Request {
        count: bytes / frame - 1,
        address: base,
        room: bytes / frame,
        after: None,
        huge: true,
    };
    host.create(&request, &mut frames).unwrap();
    assert_eq!(host.physical_bytes(), bytes - frame);
    host.map(base, &frames, Access::ReadWrite).unwrap();
    let mut contents = vec![1; bytes - frame];
    host.read(base, &mut contents).unwrap();
    assert!(contents.iter().all(|&byte| byte == 0));
    // The second huge page stays one, or becomes one now, or the kernel has none; the count and the bytes do not care.
    host.write(base + (3 << 20), &[5]).unwrap();
    host.collapse(base + (2 << 20), (2 << 20) / frame);
    host.read(base + (3 << 20), &mut contents[..1]).unwrap();
    assert_eq!((contents[0], host.physical_bytes()), (5, bytes - frame));
    host.unmap(base, frames.len()).unwrap();
    // From the middle of a huge page.
    let mut part = frames.split_off(40);
    host.destroy(&mut part).unwrap();
    assert_eq!(host.physical_bytes(), 40 * frame);
    host.destroy(&mut frames).unwrap();
    assert_eq!(host.physical_bytes(), 0);
    host.release(base, bytes);
}
