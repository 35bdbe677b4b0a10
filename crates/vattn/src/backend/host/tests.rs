//! What only raw memory accesses can show: where the mapping ends.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::{env, fs};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::{HostBackend, page_bytes};
use crate::backend::{Backend, Space};
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
const READS: [(&str, Prepare, bool); 8] = [
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
        "a growth that the budget refused",
        |c, s| {
            c.set_budget(2 * page_bytes());
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
        assert!(run_child("a_refusal_of_the_kernel_changes_nothing", "exhaust the mappings").success());
        return;
    }
    let page = page_bytes();
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
    assert_eq!(cache.stats().mapped_bytes, grown.len() * 128 * page);
    assert_eq!(cache.stats().draining_bytes, 0);
    cache.audit().unwrap();
    // As the message says: free a sequence, and the growth succeeds.
    assert!(error.to_string().contains("free sequences"), "{error}");
    cache.free(grown.pop().unwrap()).unwrap();
    cache.grow(refused, 1).unwrap();
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
fn a_growth_that_fails_half_way_is_undone() {
    let page = page_bytes();
    let mut space = HostBackend.reserve(1, 4 * page).unwrap();
    space.map(0, page).unwrap();
    // An empty file in place of the third page: the page before it can be backed, this one cannot.
    let empty = memfd_create("empty", MemfdFlags::CLOEXEC).unwrap();
    let third = space.mapping.base().wrapping_add(2 * page);
    // SAFETY: the page lies in the reservation of `space`, is not mapped yet, and no slice of it exists.
    let replaced = unsafe {
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        mmap(third.cast(), page, ProtFlags::empty(), flags, &empty, 0)
    };
    assert_eq!(replaced.unwrap().cast(), third);

    let error = space.map(0, 4 * page).unwrap_err();
    assert!(error.to_string().contains("MADV_POPULATE_WRITE"), "{error}");
    assert_eq!((space.mapped(0), space.physical_bytes()), (page, page));
    let second = format!("{:x}-", space.address(0) + page);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.starts_with(&second)).unwrap();
    assert!(line.contains("---s"), "the second page is not accessible: {line}");

    // Up to the page that cannot be backed, growth still works.
    space.map(0, 2 * page).unwrap();
    assert_eq!(space.physical_bytes(), 2 * page);
}
