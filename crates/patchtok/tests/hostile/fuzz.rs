//! The fuzz targets on good files with random damage, a bounded number of times.

use std::fs;

use crate::targets::{TARGETS, Target, fixture};
use crate::{Random, measured};

/// Damaged files for each target; `PATCHTOK_FUZZ` asks for another number.
const CASES: usize = 150;

/// Memory that no damage of these files, all below 100 KB, may take. The `parquet` crate reserves
/// the size that a page header names, which is not bounded by the file.
const MEMORY: usize = 64 << 20;

/// Good bytes for a target.
fn seed(target: &Target) -> Vec<u8> {
    fs::read(fixture(target.seed)).unwrap()
}

/// Changes, cuts, repeats and inserts some bytes.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len().max(1));
        let length = random.below(9).min(bytes.len() - at.min(bytes.len()));
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..at + length)),
            2 => {
                let part = bytes[at..at + length].to_vec();
                let to = random.below(bytes.len().max(1));
                bytes.splice(to..to, part);
            }
            3 => bytes.splice(at..at, [0xff; 9].into_iter().take(length)).for_each(drop),
            _ if bytes.is_empty() => bytes.push(random.below(256) as u8),
            4 => bytes[at] ^= 1 << random.below(8),
            5 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            _ => bytes[at] = random.below(256) as u8,
        }
    }
}

#[test]
fn no_target_panics_or_takes_much_memory() {
    let cases = std::env::var("PATCHTOK_FUZZ").map_or(CASES, |cases| cases.parse().unwrap());
    for (number, target) in TARGETS.iter().enumerate() {
        let seed = seed(target);
        assert!((target.run)(&seed), "{} is a good file", target.name);
        let mut random = Random(0x9e37_79b9 + number as u64);
        for case in 0..cases {
            let mut bytes = seed.clone();
            damage(&mut bytes, &mut random);
            if target.name == "patch_tokenizer.bin" && case % 2 == 0 {
                mend_header(&mut bytes);
            }
            let (_, memory) = measured(|| (target.run)(&bytes));
            let bounded = memory < MEMORY || target.name.ends_with("parquet");
            assert!(bounded, "{} case {case}: {memory} bytes of memory", target.name);
        }
    }
}

/// Makes length and checksum fit, so that damage reaches the payload.
fn mend_header(bytes: &mut [u8]) {
    if let Some((header, payload)) = bytes.split_at_mut_checked(24) {
        header[12..20].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[20..24].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    }
}
