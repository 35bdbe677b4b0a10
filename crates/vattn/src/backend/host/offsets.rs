//! Which parts of the memory file are in use.

use std::collections::HashSet;
use std::ops::Range;

use crate::backend::{Frame, Request};

/// Bytes of the file: far more than memory, so that offsets are used once and never searched for.
pub(super) const FILE_BYTES: u64 = 1 << 62;

/// Frames that exist, by number: frame `n` is the bytes from `n * frame_bytes` on.
///
/// A region gets an **extent** of offsets as long as itself when it gets its first frame, and takes its later frames
/// from there: consecutive offsets at consecutive addresses are one mapping for the kernel. A second extent is needed where
/// the next offset is taken by a sequence that shares the extent.
#[derive(Debug)]
pub(super) struct Offsets {
    frame_bytes: u64,
    /// Offsets and addresses agree modulo this, so that huge pages fit both.
    align: u64,
    /// First offset that no extent has.
    next: u64,
    live: HashSet<u64>,
}

impl Offsets {
    pub(super) fn new(frame_bytes: usize, huge_bytes: usize) -> Self {
        Self {
            frame_bytes: frame_bytes as u64,
            align: frame_bytes.max(huge_bytes) as u64,
            next: 0,
            live: HashSet::new(),
        }
    }

    /// Frames for a request, not yet noted as existing; `None` when all offsets were given out.
    pub(super) fn find(&mut self, request: &Request) -> Option<Range<u64>> {
        let count = request.count as u64;
        if let Some(Frame(last)) = request.after {
            let run = last + 1..last + 1 + count;
            if run.clone().all(|frame| !self.live.contains(&frame)) {
                return Some(run);
            }
        }
        let phase = request.address as u64 % self.align;
        let base = self.next.next_multiple_of(self.align) + phase;
        let end = base.checked_add(request.room as u64 * self.frame_bytes)?;
        if end > FILE_BYTES {
            return None;
        }
        self.next = end;
        let first = base / self.frame_bytes;
        Some(first..first + count)
    }

    /// Notes that frames exist.
    pub(super) fn insert(&mut self, run: Range<u64>) {
        self.live.extend(run);
    }

    /// Forgets frames, which must exist.
    pub(super) fn remove(&mut self, run: Range<u64>) {
        for frame in run {
            assert!(self.live.remove(&frame), "frame {frame} does not exist");
        }
    }
}

/// Divides frames into runs of consecutive numbers: positions in `frames`.
pub(super) fn runs(frames: &[Frame]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = frames.get(start)?.0;
        let more = frames[start..]
            .iter()
            .zip(first..)
            .take_while(|(frame, n)| frame.0 == *n);
        let run = start..start + more.count();
        start = run.end;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(address: usize, count: usize, room: usize, after: Option<u64>) -> Request {
        Request {
            count,
            address,
            room,
            after: after.map(Frame),
            huge: false,
        }
    }

    #[test]
    fn a_region_grows_in_its_extent_and_leaves_it_where_the_next_offset_is_taken() {
        let mut offsets = Offsets::new(4096, 1 << 16);
        let a = offsets.find(&request(0x3000, 2, 10, None)).unwrap();
        assert_eq!(a, 3..5, "congruent to the address");
        offsets.insert(a);
        let b = offsets.find(&request(0x10_0000, 1, 10, None)).unwrap();
        assert_eq!(b, 16..17, "the first extent keeps its room");
        offsets.insert(b);
        let more = offsets.find(&request(0x5000, 3, 8, Some(4))).unwrap();
        assert_eq!(more, 5..8);
        offsets.insert(more);
        // Whoever shares frames 3 and 4 cannot go on at 5.
        let other = offsets.find(&request(0x20_5000, 1, 8, Some(4))).unwrap();
        assert_eq!(other, 37..38);
        // A gap that was given back is used again.
        offsets.remove(6..8);
        assert_eq!(offsets.find(&request(0x6000, 2, 7, Some(5))), Some(6..8));
    }

    #[test]
    fn offsets_end_without_overflow() {
        let mut offsets = Offsets::new(4096, 0);
        offsets.next = FILE_BYTES - 8192;
        assert_eq!(offsets.find(&request(0, 1, 3, None)), None);
        assert!(offsets.find(&request(0, 1, 2, None)).is_some());
        assert_eq!(offsets.find(&request(0, 1, 1, None)), None);
    }

    #[test]
    fn runs_are_maximal() {
        let frames: Vec<_> = [7, 8, 9, 3, 5, 6].map(Frame).to_vec();
        assert_eq!(runs(&frames).collect::<Vec<_>>(), [0..3, 3..4, 4..6]);
        assert_eq!(runs(&[]).count(), 0);
    }
}
