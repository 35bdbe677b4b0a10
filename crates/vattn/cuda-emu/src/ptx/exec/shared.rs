//! Shared memory of a block, and the races in it.
//!
//! Two accesses of one byte by different threads, one of them a write, need a barrier of the block between them, or, inside
//! a warp, a `bar.warp.sync` that both threads take part in. Each byte remembers its last write and the reads since. A
//! barrier of the block makes all of that past by counting an epoch up. Syncs of a warp are logged, and the log is followed
//! from the earlier access to see whether it reaches the later one. Two atomic accesses never race.
//!
//! Of the reads of a byte by one warp, only the time of the latest is kept, and readers that synced since are forgotten:
//! where a warp syncs in parts, a race of a write with an older read by another part may be missed. Nothing is reported that
//! is not a race.

use super::super::error::FaultKind;

/// What a thread does to a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    Write,
    Atomic,
}

/// The past of one byte.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    /// The epoch that the rest is from; older accesses are ordered before everything now.
    epoch: u64,
    /// The last thread that wrote, plus one, and the syncs that its warp had done then.
    writer: u32,
    write_time: u32,
    write_atomic: bool,
    /// The warp that read since, plus one, its lanes, and the syncs that it had done at its last read.
    reader: u32,
    read_lanes: u32,
    read_time: u32,
    /// A reader of yet another warp.
    other_reader: u32,
}

/// Shared memory of the running block.
pub(super) struct Shared {
    pub(super) bytes: Vec<u8>,
    past: Vec<Past>,
    epoch: u64,
    /// For each warp the lanes of each of its syncs in this epoch.
    syncs: [Vec<u32>; 32],
}

impl Shared {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes],
            past: vec![Past::default(); bytes],
            epoch: 0,
            syncs: Default::default(),
        }
    }

    /// A new block: memory holds garbage, all bits set, a NaN as a float.
    pub(super) fn start(&mut self) {
        self.bytes.fill(0xff);
        self.barrier();
    }

    /// A barrier of the block.
    pub(super) fn barrier(&mut self) {
        self.epoch += 1;
        self.syncs.iter_mut().for_each(Vec::clear);
    }

    /// A barrier of lanes of a warp.
    pub(super) fn warp_barrier(&mut self, warp: u32, lanes: u32) {
        self.syncs[warp as usize].push(lanes);
    }

    /// Notes an access of one thread; an error is the byte, what was done to it before, and by which thread.
    pub(super) fn access(
        &mut self,
        thread: u32,
        range: std::ops::Range<usize>,
        action: Action,
    ) -> Result<(), (usize, Action, u32)> {
        for at in range {
            let mut past = self.past[at];
            if past.epoch != self.epoch {
                past = Past {
                    epoch: self.epoch,
                    ..Past::default()
                };
            }
            self.check(&past, thread, action)
                .map_err(|(before, other)| (at, before, other))?;
            self.note(&mut past, thread, action);
            self.past[at] = past;
        }
        Ok(())
    }

    fn check(&self, past: &Past, thread: u32, action: Action) -> Result<(), (Action, u32)> {
        let both_atomic = past.write_atomic && action == Action::Atomic;
        if past.writer != 0 && !both_atomic && !self.ordered(past.writer - 1, past.write_time, thread) {
            return Err((Action::Write, past.writer - 1));
        }
        if action == Action::Read || past.reader == 0 {
            return Ok(());
        }
        if past.other_reader != 0 && (past.other_reader - 1) / 32 != thread / 32 {
            return Err((Action::Read, past.other_reader - 1));
        }
        for lane in super::warp::lanes(past.read_lanes) {
            let reader = 32 * (past.reader - 1) + lane;
            if !self.ordered(reader, past.read_time, thread) {
                return Err((Action::Read, reader));
            }
        }
        Ok(())
    }

    fn note(&self, past: &mut Past, thread: u32, action: Action) {
        let (warp, lane) = (thread / 32, thread % 32);
        let time = self.syncs[warp as usize].len() as u32;
        if action == Action::Read {
            if past.reader == 0 || past.reader == warp + 1 {
                let since = if past.reader == 0 {
                    &[]
                } else {
                    &self.syncs[warp as usize][past.read_time as usize..]
                };
                past.read_lanes = since.iter().fold(past.read_lanes, |left, lanes| left & !lanes) | 1 << lane;
                past.reader = warp + 1;
                past.read_time = time;
            } else {
                past.other_reader = thread + 1;
            }
            return;
        }
        past.writer = thread + 1;
        past.write_time = time;
        past.write_atomic = action == Action::Atomic;
        past.reader = 0;
        past.read_lanes = 0;
        past.other_reader = 0;
    }

    /// Whether an access of `earlier`, made when its warp had done `time` syncs, is ordered before what `later` does now.
    fn ordered(&self, earlier: u32, time: u32, later: u32) -> bool {
        if earlier == later {
            return true;
        }
        if earlier / 32 != later / 32 {
            return false;
        }
        let mut reached = 1 << (earlier % 32);
        for lanes in &self.syncs[earlier as usize / 32][time as usize..] {
            if lanes & reached != 0 {
                reached |= lanes;
            }
        }
        reached >> (later % 32) & 1 == 1
    }
}

/// The fault for a race that [`Shared::access`] found.
pub(super) fn race(address: usize, action: Action, before: Action, other: [u32; 3]) -> FaultKind {
    FaultKind::Race {
        address: address as u64,
        access: if action == Action::Read { "reads" } else { "writes" },
        before: if before == Action::Read { "read" } else { "wrote" },
        other,
    }
}
