//! A long run of a cache under a tight budget, by several threads, in which every row is known.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::{Error, KvCache, PrefixId, SeqId, Side};

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Soak {
    /// Threads, each with sequences of its own.
    pub threads: usize,
    /// Operations of each thread, unless the time is up before.
    pub operations: u64,
    /// Time after which the threads stop.
    pub time: Duration,
    /// What the operations are chosen from.
    pub seed: u64,
}

impl Soak {
    /// A run of four threads with so many operations each.
    #[must_use]
    pub fn new(operations: u64) -> Self {
        Self {
            threads: 4,
            operations,
            time: Duration::MAX,
            seed: 1,
        }
    }

    /// Sets [`Soak::time`].
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Sets [`Soak::threads`].
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }
}

/// What a run has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SoakReport {
    /// Operations that were done.
    pub operations: u64,
    /// Operations that were refused for want of memory or of a slot.
    pub refused: u64,
    /// Rows that were compared.
    pub rows: u64,
}

/// Lets threads open, grow, fork, cut, swap and free sequences and change the limit, and compares their rows with what they wrote.
/// At the end everything is freed, and nothing must be left.
///
/// # Panics
///
/// When a row is wrong, an invariant does not hold, or memory is left.
pub fn soak<B: Backend>(cache: KvCache<B>, plan: Soak) -> SoakReport {
    let budget = cache.stats().budget_bytes;
    let cache = Mutex::new(cache);
    let end = Instant::now().checked_add(plan.time);
    let reports: Vec<SoakReport> = thread::scope(|scope| {
        let threads = (0..plan.threads).map(|index| {
            let mut actor = Actor::new(&cache, budget, plan.seed.wrapping_add(index as u64));
            scope.spawn(move || actor.play(plan.operations, end))
        });
        let threads: Vec<_> = threads.collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread found a defect"));
        joined.collect()
    });
    let mut cache = cache.into_inner().unwrap_or_else(PoisonError::into_inner);
    cache.set_limit(budget);
    cache.trim();
    cache.settle();
    cache.audit().expect("the invariants hold");
    let stats = cache.stats();
    assert_eq!((stats.live_sequences, stats.prefixes), (0, 0));
    assert_eq!(
        (stats.mapped_bytes, stats.physical_bytes),
        (0, 0),
        "memory is left after everything was freed"
    );
    reports
        .into_iter()
        .fold(SoakReport::default(), |sum, report| SoakReport {
            operations: sum.operations + report.operations,
            refused: sum.refused + report.refused,
            rows: sum.rows + report.rows,
        })
}

/// A sequence and the stamp of each of its rows.
type Known = (SeqId, Vec<u64>);

/// One thread with its sequences.
struct Actor<'a, B: Backend> {
    cache: &'a Mutex<KvCache<B>>,
    budget: usize,
    random: u64,
    sequences: Vec<Known>,
    prefix: Option<(PrefixId, Vec<u64>)>,
    stamp: u64,
    report: SoakReport,
}

impl<'a, B: Backend> Actor<'a, B> {
    fn new(cache: &'a Mutex<KvCache<B>>, budget: usize, seed: u64) -> Self {
        Self {
            cache,
            budget,
            random: seed,
            sequences: Vec::new(),
            prefix: None,
            stamp: seed << 40,
            report: SoakReport::default(),
        }
    }

    /// A number below `bound` (splitmix64, Steele et al. 2014).
    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound.max(1) as u64) as usize
    }

    fn lock(&self) -> MutexGuard<'a, KvCache<B>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn play(&mut self, operations: u64, end: Option<Instant>) -> SoakReport {
        while self.report.operations < operations && end.is_none_or(|end| Instant::now() < end) {
            self.report.operations += 1;
            if let Err(error) = self.operation() {
                let expected = matches!(error, Error::NeedFrames { .. } | Error::NoSlot { .. });
                assert!(expected, "{error}");
                self.report.refused += 1;
                // Whoever is refused makes room.
                self.free_one();
            }
            if self.report.operations.is_multiple_of(256) {
                self.lock().audit().expect("the invariants hold");
            }
        }
        while !self.sequences.is_empty() {
            self.free_one();
        }
        self.forget_prefix();
        self.report
    }

    fn operation(&mut self) -> Result<(), Error> {
        let (count, choice) = (self.sequences.len(), self.below(100));
        match choice {
            _ if count == 0 => self.open(),
            0..10 => self.open(),
            10..60 => self.grow(),
            60..70 => self.fork(),
            70..76 => self.publish(),
            76..84 => self.attach(),
            84..90 => self.cut(),
            90..94 => self.swap(),
            94..97 => {
                let limit = self.budget / 2 + self.below(self.budget / 2);
                self.lock().set_limit(limit);
                Ok(())
            }
            _ => {
                self.free_one();
                Ok(())
            }
        }
    }

    fn pick(&mut self) -> usize {
        let count = self.sequences.len();
        self.below(count)
    }

    fn open(&mut self) -> Result<(), Error> {
        let seq = self.lock().open()?;
        self.sequences.push((seq, Vec::new()));
        Ok(())
    }

    fn grow(&mut self) -> Result<(), Error> {
        let (index, mut by) = (self.pick(), 1 + self.below(4));
        if self.below(8) == 0 {
            by += self.below(40);
        }
        let mut cache = self.lock();
        let (seq, stamps) = &mut self.sequences[index];
        let old_len = stamps.len();
        let len = cache.geometry().max_tokens().min(old_len + by);
        let ticket = cache.plan_step(&[(*seq, len)])?;
        for token in old_len..len {
            self.stamp += 1;
            stamps.push(self.stamp);
            write(&mut cache, *seq, token, self.stamp)?;
        }
        let fence = cache.shared.space.backend.fence()?;
        cache.commit(ticket, fence);
        drop(cache);
        self.check(index)
    }

    /// Compares two rows of a sequence, one of them the last.
    fn check(&mut self, index: usize) -> Result<(), Error> {
        let len = self.sequences[index].1.len();
        if len == 0 {
            return Ok(());
        }
        for token in [self.below(len), len - 1] {
            let (seq, stamps) = &self.sequences[index];
            compare(&self.lock(), *seq, token, stamps[token])?;
            self.report.rows += 1;
        }
        Ok(())
    }

    fn fork(&mut self) -> Result<(), Error> {
        let index = self.pick();
        let (seq, stamps) = self.sequences[index].clone();
        let fork = self.lock().fork(seq)?;
        self.sequences.push((fork, stamps));
        self.check(self.sequences.len() - 1)
    }

    fn publish(&mut self) -> Result<(), Error> {
        self.forget_prefix();
        let index = self.pick();
        let (seq, stamps) = self.sequences[index].clone();
        let len = self.below(stamps.len() + 1);
        if len > 0 {
            let prefix = self.lock().publish_prefix(seq, len)?;
            self.prefix = Some((prefix, stamps[..len].to_vec()));
        }
        Ok(())
    }

    fn attach(&mut self) -> Result<(), Error> {
        if let Some((prefix, stamps)) = self.prefix.clone() {
            let seq = self.lock().attach_prefix(prefix)?;
            self.sequences.push((seq, stamps));
            self.check(self.sequences.len() - 1)?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Error> {
        let index = self.pick();
        let len = self.sequences[index].1.len();
        let new_len = len - self.below(len + 1).min(self.below(20));
        self.lock().truncate(self.sequences[index].0, new_len)?;
        self.sequences[index].1.truncate(new_len);
        self.check(index)
    }

    fn swap(&mut self) -> Result<(), Error> {
        let index = self.pick();
        let seq = self.sequences[index].0;
        self.lock().swap_out(seq)?;
        let back = self.lock().swap_in(seq);
        if let Err(error) = back {
            let (seq, _) = self.sequences.swap_remove(index);
            self.lock().free(seq)?;
            return Err(error);
        }
        self.check(index)
    }

    fn free_one(&mut self) {
        if self.sequences.is_empty() {
            return self.forget_prefix();
        }
        let index = self.pick();
        let (seq, _) = self.sequences.swap_remove(index);
        self.lock().free(seq).expect("a live sequence can be freed");
    }

    fn forget_prefix(&mut self) {
        if let Some((prefix, _)) = self.prefix.take() {
            self.lock().evict_prefix(prefix).expect("a prefix can be evicted");
        }
    }
}

/// The row that belongs to a stamp in one layer and side.
fn row(stamp: u64, layer: usize, side: Side, bytes: usize) -> Vec<u8> {
    let value = stamp ^ (layer as u64) << 32 ^ u64::from(side == Side::V) << 48;
    value.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

fn write<B: Backend>(cache: &mut KvCache<B>, seq: SeqId, token: usize, stamp: u64) -> Result<(), Error> {
    let bytes = cache.geometry().row_bytes();
    for layer in 0..cache.geometry().layers() {
        for side in [Side::K, Side::V] {
            cache.write_rows(seq, layer, side, token, &row(stamp, layer, side, bytes))?;
        }
    }
    Ok(())
}

fn compare<B: Backend>(cache: &KvCache<B>, seq: SeqId, token: usize, stamp: u64) -> Result<(), Error> {
    let bytes = cache.geometry().row_bytes();
    let mut found = vec![0; bytes];
    for layer in 0..cache.geometry().layers() {
        for side in [Side::K, Side::V] {
            cache.read_rows(seq, layer, side, token..token + 1, &mut found)?;
            assert_eq!(
                found,
                row(stamp, layer, side, bytes),
                "token {token} of layer {layer}, {side:?}"
            );
        }
    }
    Ok(())
}
