//! Random operations against a model that is too simple to be wrong: vectors of bytes. Over the model of memory in both
//! forms and over the host, each also with calls of the backend that fail.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use vattn::backend::Backend;
use vattn::host::{self, HostBackend};
use vattn::sim::SimBackend;
use vattn::testing::{Faults, Faulty};
use vattn::{Config, Error, Geometry, KvCache, PrefixId, SeqId, Side};

const MAX_TOKENS: usize = 11;

/// Sequences are chosen by a number, modulo how many there are.
#[derive(Debug, Clone)]
enum Op {
    Open,
    GrowBatch(Vec<(usize, usize)>),
    Truncate(usize, usize),
    Free(usize),
    Fork(usize),
    Publish(usize, usize),
    Attach,
    Evict,
    SwapOutAndIn(usize),
    SleepAndWake,
    /// Uses the id of a freed sequence in every way.
    UseStale(usize),
    /// Sets the budget, in eighths of a frame.
    Budget(usize),
    /// Lets calls of the backend fail.
    Fail(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let seq = || 0..1000_usize;
    let by = || 0..6_usize;
    prop_oneof![
        3 => Just(Op::Open),
        9 => vec((seq(), by()), 1..4).prop_map(Op::GrowBatch),
        3 => (seq(), by()).prop_map(|(seq, by)| Op::Truncate(seq, by)),
        2 => seq().prop_map(Op::Free),
        3 => seq().prop_map(Op::Fork),
        1 => (seq(), by()).prop_map(|(seq, by)| Op::Publish(seq, by)),
        2 => Just(Op::Attach),
        1 => Just(Op::Evict),
        1 => seq().prop_map(Op::SwapOutAndIn),
        1 => Just(Op::SleepAndWake),
        1 => seq().prop_map(Op::UseStale),
        1 => (0..600_usize).prop_map(Op::Budget),
        1 => (0..12_usize, 1..6_usize).prop_map(|(from, len)| Op::Fail(from, len)),
    ]
}

/// Rows far below, near and above a frame; frames of one and two pages.
fn geometry(page: usize) -> impl Strategy<Value = Geometry> {
    let row = prop_oneof![
        Just(1),
        Just(page / 6),
        Just(page * 3 / 4),
        Just(page - 1),
        Just(page),
        Just(2 * page + page / 5)
    ];
    (row, 1..3_usize, 1..3_usize).prop_map(move |(row, layers, frame)| {
        Geometry::builder()
            .layers(layers)
            .row_bytes(row)
            .max_tokens(MAX_TOKENS)
            .max_sequences(5)
            .frame_bytes(frame * page)
            .build()
            .unwrap()
    })
}

/// What a sequence or a prefix has: its length, and each region for the longest length. Bytes behind the length are those
/// that it had there once.
#[derive(Debug, Clone)]
struct Rows {
    len: usize,
    regions: Vec<Vec<u8>>,
}

struct Pair<B: Backend> {
    cache: KvCache<Faulty<B>>,
    faults: Faults,
    geometry: Geometry,
    live: Vec<(SeqId, Rows)>,
    prefix: Option<(PrefixId, Rows)>,
    dead: Vec<SeqId>,
    /// Most bytes that a region may have ahead of its rows; not known with a mapper thread.
    most_ahead: usize,
    /// Last stamp used: no two writes of a run have the same, until there were 255.
    stamp: u8,
}

impl<B: Backend> Pair<B> {
    /// Grows by at least `growth` frames, at least one.
    fn new(backend: B, geometry: Geometry, growth: usize) -> Self {
        let frame = geometry.frame_bytes();
        let config = Config::new(40 * frame).growth_bytes(growth * frame);
        Self::with_config(backend, geometry, config, (growth - 1) * frame)
    }

    /// With memory that freed sequences leave.
    fn with_warm(backend: B, geometry: Geometry, growth: usize) -> Self {
        let frame = geometry.frame_bytes();
        let config = Config::new(40 * frame)
            .warm_bytes(10 * frame)
            .growth_bytes(growth * frame);
        Self::with_config(backend, geometry, config, usize::MAX)
    }

    /// With memory ahead and warm, and the mapper thread at work.
    fn with_mapper(backend: B, geometry: Geometry, growth: usize) -> Self {
        let frame = geometry.frame_bytes();
        let config = Config::new(40 * frame)
            .warm_bytes(6 * frame)
            .growth_bytes(growth * frame);
        Self::with_config(backend, geometry, config.mapper(true), usize::MAX)
    }

    fn with_config(backend: B, geometry: Geometry, config: Config, most_ahead: usize) -> Self {
        let (backend, faults) = Faulty::new(backend);
        Self {
            cache: KvCache::with_backend(backend, geometry, config).unwrap(),
            faults,
            geometry,
            live: Vec::new(),
            prefix: None,
            dead: Vec::new(),
            most_ahead,
            stamp: 0,
        }
    }

    /// The first `len` tokens of some rows, as another sequence gets them: nothing behind them.
    fn copy(&self, rows: &Rows, len: usize) -> Rows {
        let mut rows = rows.clone();
        rows.len = len;
        for region in &mut rows.regions {
            region[len * self.geometry.row_bytes()..].fill(0);
        }
        rows
    }

    fn empty(&self) -> Rows {
        let region = vec![0; MAX_TOKENS * self.geometry.row_bytes()];
        Rows {
            len: 0,
            regions: vec![region; 2 * self.geometry.layers()],
        }
    }

    /// A refusal must have a reason: no place, no memory within the budget, or a call that was told to fail.
    fn refused(&self, error: &Error, failed_before: usize) {
        let failed = self.faults.failed() > failed_before;
        match error {
            Error::NoSlot { .. } => {
                let slots = self.live.len() + usize::from(self.prefix.is_some());
                let draining = self.cache.stats().draining_bytes > 0;
                // A slot that is still warm could not be emptied, or one that the thread was to empty.
                assert!(slots == self.geometry.max_sequences() || draining || failed);
            }
            Error::NeedFrames { need, free } => assert!(need > free),
            Error::Backend(_) => assert!(failed, "{error}"),
            error => panic!("{error}"),
        }
    }

    fn apply(&mut self, op: &Op) {
        self.apply_only(op);
        self.compare();
    }

    fn apply_only(&mut self, op: &Op) {
        let (sequences, failed) = (self.live.len(), self.faults.failed());
        match op {
            Op::Open => match self.cache.open() {
                Ok(id) => {
                    assert!(self.live.iter().all(|(seq, _)| *seq != id) && !self.dead.contains(&id));
                    self.live.push((id, self.empty()));
                }
                Err(error) => self.refused(&error, failed),
            },
            Op::Budget(eighths) => self.cache.set_limit(eighths * self.geometry.frame_bytes() / 8),
            Op::Fail(from, len) => self.faults.fail(*from..from + len),
            Op::Evict => {
                if let Some((id, _)) = self.prefix.take() {
                    self.cache.evict_prefix(id).unwrap();
                }
            }
            Op::Attach => {
                if let Some((id, rows)) = self.prefix.clone() {
                    match self.cache.attach_prefix(id) {
                        Ok(seq) => self.live.push((seq, rows)),
                        Err(error) => self.refused(&error, failed),
                    }
                }
            }
            Op::SleepAndWake => {
                if let Err(error) = self.cache.sleep() {
                    self.refused(&error, failed);
                }
                // What sleeps cannot be read, so the test waits until it is awake.
                self.faults.fail(0..0);
                self.cache.set_limit(1000 * self.geometry.frame_bytes());
                self.cache.wake().unwrap();
            }
            Op::UseStale(index) if !self.dead.is_empty() => {
                let id = self.dead[index % self.dead.len()];
                assert!(matches!(self.cache.len(id), Err(Error::NotOpen { .. })));
                assert!(matches!(self.cache.free(id), Err(Error::NotOpen { .. })));
                assert!(matches!(self.cache.truncate(id, 0), Err(Error::NotOpen { .. })));
                assert!(matches!(self.cache.fork(id), Err(Error::NotOpen { .. })));
                // Also after other entries of a batch were fine.
                let mut batch: Vec<_> = self.live.iter().map(|(seq, rows)| (*seq, rows.len)).collect();
                batch.push((id, 1));
                assert!(matches!(self.cache.grow_batch(&batch), Err(Error::NotOpen { .. })));
            }
            _ if sequences == 0 => {}
            Op::GrowBatch(batch) => {
                let batch: Vec<_> = batch.iter().map(|(index, by)| (index % sequences, *by)).collect();
                self.grow(&batch);
            }
            Op::Truncate(index, by) => {
                let (id, rows) = &mut self.live[index % sequences];
                let error = self.cache.truncate(*id, rows.len + 1);
                assert!(matches!(error, Err(Error::TruncatesForward { .. })));
                let len = rows.len.saturating_sub(*by);
                self.cache.truncate(*id, len).unwrap();
                rows.len = len;
            }
            Op::Free(index) => {
                let (id, _) = self.live.swap_remove(index % sequences);
                self.cache.free(id).unwrap();
                self.dead.push(id);
            }
            Op::Fork(index) => {
                let (id, rows) = &self.live[index % sequences];
                let copy = self.copy(rows, rows.len);
                match self.cache.fork(*id) {
                    Ok(seq) => self.live.push((seq, copy)),
                    Err(error) => self.refused(&error, failed),
                }
            }
            Op::Publish(index, by) => {
                if self.prefix.is_none() {
                    let (id, rows) = &self.live[index % sequences];
                    let len = rows.len.saturating_sub(*by);
                    if len > 0 {
                        let copy = self.copy(rows, len);
                        match self.cache.publish_prefix(*id, len) {
                            Ok(prefix) => self.prefix = Some((prefix, copy)),
                            Err(error) => self.refused(&error, failed),
                        }
                    }
                }
            }
            Op::SwapOutAndIn(index) => {
                let id = self.live[index % sequences].0;
                match self.cache.swap_out(id) {
                    Ok(()) => {
                        self.faults.fail(0..0);
                        self.cache.set_limit(1000 * self.geometry.frame_bytes());
                        self.cache.swap_in(id).unwrap();
                    }
                    Err(error) => self.refused(&error, failed),
                }
            }
            Op::UseStale(_) => {}
        }
    }

    fn grow(&mut self, growth: &[(usize, usize)]) {
        let mut lengths: Vec<_> = self.live.iter().map(|(_, rows)| rows.len).collect();
        let mut batch = Vec::new();
        for &(index, by) in growth {
            lengths[index] += by;
            batch.push((self.live[index].0, lengths[index]));
        }
        let failed = self.faults.failed();
        match self.cache.grow_batch(&batch) {
            Ok(()) => {
                assert!(lengths.iter().all(|&len| len <= MAX_TOKENS));
                for (index, &len) in lengths.iter().enumerate() {
                    self.check_new_rows(index, len);
                    self.write(index, len);
                }
            }
            Err(Error::TooLong { max, .. }) => {
                assert!(max == MAX_TOKENS && lengths.iter().any(|&len| len > MAX_TOKENS));
            }
            Err(error) => self.refused(&error, failed),
        }
    }

    /// Rows that have just come into being are zero, or what the sequence itself had there before it was cut.
    fn check_new_rows(&self, index: usize, len: usize) {
        let (id, rows) = &self.live[index];
        let row = self.geometry.row_bytes();
        for (region, had) in rows.regions.iter().enumerate() {
            let found = self.region(*id, region, rows.len..len);
            for (&found, &had) in found.iter().zip(&had[rows.len * row..]) {
                assert!(found == 0 || found == had, "{found}, which is neither 0 nor {had}");
            }
        }
    }

    /// Stamps the rows up to `len`, which becomes the length.
    fn write(&mut self, index: usize, len: usize) {
        let row = self.geometry.row_bytes();
        let (id, rows) = &mut self.live[index];
        let new = rows.len * row..len * row;
        for (region, bytes) in rows.regions.iter_mut().enumerate() {
            self.stamp = self.stamp.checked_add(1).unwrap_or(1);
            bytes[new.clone()].fill(self.stamp);
            let side = [Side::K, Side::V][region % 2];
            self.cache
                .write_rows(*id, region / 2, side, rows.len, &bytes[new.clone()])
                .unwrap();
        }
        rows.len = len;
    }

    fn region(&self, id: SeqId, region: usize, tokens: std::ops::Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; tokens.len() * self.geometry.row_bytes()];
        let side = [Side::K, Side::V][region % 2];
        self.cache.read_rows(id, region / 2, side, tokens, &mut bytes).unwrap();
        bytes
    }

    /// Every row of every sequence, the numbers, and the audit.
    fn compare(&self) {
        let (row, frame) = (self.geometry.row_bytes(), self.geometry.frame_bytes());
        let mut most = 0;
        for (id, rows) in &self.live {
            assert_eq!(self.cache.len(*id).unwrap(), rows.len);
            for (region, bytes) in rows.regions.iter().enumerate() {
                let found = self.region(*id, region, 0..rows.len);
                assert!(found == bytes[..rows.len * row], "rows of region {region}");
            }
            most += (rows.len * row).div_ceil(frame);
        }
        if let Some((id, rows)) = &self.prefix {
            assert_eq!(self.cache.prefix_len(*id).unwrap(), rows.len);
            most += (rows.len * row).div_ceil(frame);
        }
        self.cache.settle();
        let stats = self.cache.stats();
        let tokens: usize = self.live.iter().map(|(_, rows)| rows.len).sum();
        let prefix = self.prefix.as_ref().map_or(0, |(_, rows)| rows.len);
        let regions = 2 * self.geometry.layers();
        assert!(
            [tokens, tokens + prefix]
                .map(|tokens| tokens * regions * row)
                .contains(&stats.used_bytes)
        );
        assert_eq!(stats.physical_bytes, stats.mapped_bytes);
        assert!(stats.ahead_bytes <= self.most_ahead.saturating_mul(self.live.len() * regions));
        let unneeded = stats.draining_bytes + stats.ahead_bytes + stats.warm_bytes;
        assert!(stats.mapped_bytes <= most * regions * frame + unneeded);
        assert_eq!(stats.live_sequences, self.live.len());
        self.cache.audit().unwrap();
    }

    fn run(mut self, ops: &[Op]) {
        for op in ops {
            self.apply(op);
        }
        self.finish();
    }

    fn finish(mut self) {
        self.faults.fail(0..0);
        self.apply(&Op::Evict);
        while !self.live.is_empty() {
            self.apply(&Op::Free(0));
        }
        self.apply(&Op::Open);
        self.cache.trim();
        assert_eq!(self.cache.stats().physical_bytes, 0);
    }
}

/// 100,000 operations, always the same ones. Rows are compared after every `rows`th of them and the invariants, with the
/// count of memory, after every `audit`th.
fn endure<B: Backend>(mut pair: Pair<B>, rows: usize, audit: usize) {
    let mut runner = TestRunner::deterministic();
    let ops = op();
    for n in 1..=100_000 {
        let op = ops.new_tree(&mut runner).unwrap().current();
        pair.apply_only(&op);
        if n % rows == 0 {
            pair.compare();
        } else if n % audit == 0 {
            pair.cache.audit().unwrap();
        }
    }
    pair.finish();
}

/// One layer, rows of five eighths of a frame.
fn plain(frame_bytes: usize) -> Geometry {
    Geometry::builder()
        .layers(1)
        .row_bytes(frame_bytes * 5 / 8)
        .max_tokens(MAX_TOKENS)
        .max_sequences(5)
        .frame_bytes(frame_bytes)
        .build()
        .unwrap()
}

#[test]
fn a_hundred_thousand_operations_over_the_model_of_memory_lose_no_byte() {
    endure(Pair::new(SimBackend::new(PAGE), plain(PAGE), 3), 16, 1);
    endure(
        Pair::with_warm(SimBackend::new(PAGE).like_files(), plain(PAGE), 1),
        64,
        4,
    );
    endure(Pair::with_mapper(SimBackend::new(PAGE), plain(PAGE), 2), 64, 16);
}

#[test]
fn a_hundred_thousand_operations_over_the_host_lose_no_byte() {
    let geometry = plain(host::page_bytes());
    endure(
        Pair::new(HostBackend::new(geometry.frame_bytes()).unwrap(), geometry, 1),
        64,
        4,
    );
}

/// A page of the model of memory.
const PAGE: usize = 64;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_over_the_model_of_memory_behaves_like_vectors(
        geometry in geometry(PAGE),
        like_files in any::<bool>(),
        growth in 1..5_usize,
        ops in vec(op(), 1..80),
    ) {
        let memory = SimBackend::new(geometry.frame_bytes());
        let memory = if like_files { memory.like_files() } else { memory };
        Pair::new(memory.clone(), geometry, growth).run(&ops);
        Pair::with_warm(memory, geometry, growth).run(&ops);
    }

    #[test]
    fn the_cache_over_the_host_behaves_like_vectors(
        geometry in geometry(host::page_bytes()),
        growth in 1..5_usize,
        ops in vec(op(), 1..80),
    ) {
        Pair::new(HostBackend::new(geometry.frame_bytes()).unwrap(), geometry, growth).run(&ops);
    }

    #[test]
    fn the_cache_with_its_mapper_thread_behaves_like_vectors(
        sim in geometry(PAGE),
        host in geometry(host::page_bytes()),
        growth in 1..5_usize,
        ops in vec(op(), 1..80),
    ) {
        Pair::with_mapper(SimBackend::new(sim.frame_bytes()), sim, growth).run(&ops);
        Pair::with_mapper(HostBackend::new(host.frame_bytes()).unwrap(), host, growth).run(&ops);
    }
}
