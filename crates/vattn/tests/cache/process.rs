//! What the operating system sees: mappings, files and pages of this process.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use vattn::{Geometry, KvCache};

use crate::small;

/// Address range and inode of every mapping of this process.
fn mappings() -> Vec<(Range<usize>, u64)> {
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
        Some((range, fields.nth(3)?.parse().ok()?))
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().map(|line| parse(line).unwrap()).collect()
}

fn mappings_within(range: &Range<usize>) -> usize {
    let read = || -> Vec<_> {
        let all = mappings().into_iter().map(|(mapping, _)| mapping);
        all.filter(|m| m.start < range.end && range.start < m.end).collect()
    };
    // The kernel writes the list in pieces while other tests map and unmap: what it says counts when it says it twice.
    let mut last = read();
    loop {
        let now = read();
        if now == last {
            return now.len();
        }
        last = now;
    }
}

/// Whether each open file of this process with the given inode is closed on exec.
fn open_files(inode: u64) -> Vec<bool> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let close_on_exec = |entry: fs::DirEntry| {
        // A file that another test has closed meanwhile is none.
        if fs::metadata(entry.path()).ok()?.ino() != inode {
            return None;
        }
        let info = fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        Some(u32::from_str_radix(flags.trim(), 8).ok()? & O_CLOEXEC != 0)
    };
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    entries.filter_map(|entry| close_on_exec(entry.ok()?)).collect()
}

#[test]
fn a_growing_region_is_one_accessible_mapping() {
    let geometry = small(1, 64, 4);
    let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
    let seqs: Vec<_> = (0..4).map(|_| cache.open().unwrap()).collect();
    let base = cache.view(seqs[0], 0).unwrap().k;
    for len in 1..=64 {
        for &seq in &seqs {
            cache.grow(seq, len).unwrap();
            let view = cache.view(seq, 0).unwrap();
            for start in [view.k, view.v] {
                let region = start..start + geometry.region_bytes();
                assert_eq!(
                    mappings_within(&(start..start + view.mapped_bytes)),
                    1,
                    "at {len} tokens"
                );
                assert!(mappings_within(&region) <= 3, "at {len} tokens");
            }
        }
    }
    // Freed regions merge with the reservation around them.
    for seq in seqs {
        cache.free(seq).unwrap();
    }
    let all = base..base + geometry.reserved_bytes();
    assert_eq!(mappings_within(&all), 1);
}

#[test]
fn dropping_the_cache_leaves_nothing_behind() {
    let mut cache = KvCache::new(small(2, 32, 2), usize::MAX).unwrap();
    let (a, b) = (cache.open().unwrap(), cache.open().unwrap());
    cache.grow_batch(&[(a, 20), (b, 7)]).unwrap();
    let address = cache.view(a, 0).unwrap().k;
    let inode_at = |address| {
        mappings()
            .into_iter()
            .find(|(range, _)| range.contains(&address))
            .map(|(_, inode)| inode)
    };
    let inode = inode_at(address).unwrap();
    assert_eq!(open_files(inode), [true], "one file, closed on exec");

    cache.free(a).unwrap();
    assert!(cache.stats().physical_bytes > 0);
    cache.free(b).unwrap();
    assert_eq!(cache.stats().physical_bytes, 0);

    let c = cache.open().unwrap();
    cache.grow(c, 32).unwrap();
    drop(cache); // with a live sequence
    assert_eq!(open_files(inode), []);
    assert!(mappings().iter().all(|&(_, other)| other != inode));
}

#[test]
fn reserving_costs_no_memory() {
    // A tebibyte of address space, more than any machine that runs this test has memory.
    let geometry = Geometry::builder()
        .layers(16)
        .row_bytes(1 << 16)
        .max_tokens(1 << 14)
        .max_sequences(32)
        .build()
        .unwrap();
    assert_eq!(geometry.reserved_bytes(), 1 << 40);
    let mut cache = KvCache::new(geometry, usize::MAX).unwrap();
    assert_eq!(cache.stats().physical_bytes, 0);
    let seq = cache.open().unwrap();
    cache.grow(seq, 3).unwrap();
    assert_eq!(cache.stats().physical_bytes, 3 * 32 * 65536);
    let stats = cache.stats();
    assert_eq!((stats.used_bytes, stats.reserved_bytes), (stats.mapped_bytes, 1 << 40));
    assert_eq!((stats.map_calls, stats.unmap_calls), (32, 0));
}
