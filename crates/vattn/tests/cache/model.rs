//! Random operations against a model that is too simple to be wrong: vectors of bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use vattn::backend::{Backend, HostMemory};
use vattn::host::HostBackend;
use vattn::{Error, Geometry, KvCache, SeqId};

use crate::fake::Fake;

/// Sequences are chosen by a number, modulo how many there are.
#[derive(Debug, Clone)]
enum Op {
    Open,
    Grow(usize, usize),
    GrowBatch(Vec<(usize, usize)>),
    Truncate(usize, usize),
    Free(usize),
    /// Uses the id of a freed sequence in every way.
    UseStale(usize),
    /// Sets the budget, in eighths of a frame.
    Budget(usize),
    /// Lets calls of the backend fail, where it can.
    Fail(usize, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let seq = || 0..1000_usize;
    let by = || 0..6_usize;
    prop_oneof![
        3 => Just(Op::Open),
        6 => (seq(), by()).prop_map(|(seq, by)| Op::Grow(seq, by)),
        4 => vec((seq(), by()), 1..4).prop_map(Op::GrowBatch),
        3 => (seq(), by()).prop_map(|(seq, by)| Op::Truncate(seq, by)),
        2 => seq().prop_map(Op::Free),
        1 => seq().prop_map(Op::UseStale),
        1 => (0..600_usize).prop_map(Op::Budget),
        1 => (0..12_usize, 1..6_usize).prop_map(|(from, len)| Op::Fail(from, len)),
    ]
}

/// Rows far below, near and above a frame; frames of one and two pages.
fn geometry() -> impl Strategy<Value = Geometry> {
    let page = HostBackend.page_bytes();
    let row = prop_oneof![
        Just(1),
        Just(700),
        Just(3072),
        Just(page - 1),
        Just(page),
        Just(2 * page + 808)
    ];
    (row, 1..3_usize, 1..3_usize).prop_map(move |(row, layers, frame)| {
        Geometry::builder()
            .layers(layers)
            .row_bytes(row)
            .max_tokens(11)
            .max_sequences(3)
            .frame_bytes(frame * page)
            .build()
            .unwrap()
    })
}

struct Sequence {
    id: SeqId,
    len: usize,
    /// The bytes of each region that are backed: K and V of layer 0, and so on.
    regions: Vec<Vec<u8>>,
}

struct Model {
    geometry: Geometry,
    budget: usize,
    live: Vec<Sequence>,
    dead: Vec<SeqId>,
    /// Last stamp used: no two writes of a run have the same, until there were 255.
    stamp: u8,
}

impl Model {
    /// Bytes that back `len` rows of one region, counted in whole frames, one by one.
    fn backed(&self, len: usize) -> usize {
        let mut bytes = 0;
        while bytes < len * self.geometry.row_bytes() {
            bytes += self.geometry.frame_bytes();
        }
        bytes
    }

    fn mapped(&self) -> usize {
        self.live.iter().flat_map(|seq| &seq.regions).map(Vec::len).sum()
    }

    /// Frames of the growth and what the budget has left, or `None` when a length is above the limit.
    fn need(&self, growth: &[(usize, usize)]) -> Option<(usize, usize)> {
        let mut lengths: Vec<_> = self.live.iter().map(|seq| seq.len).collect();
        for &(seq, by) in growth {
            lengths[seq] += by;
            if lengths[seq] > self.geometry.max_tokens() {
                return None;
            }
        }
        let after: usize = lengths
            .iter()
            .map(|&len| 2 * self.geometry.layers() * self.backed(len))
            .sum();
        let frame = self.geometry.frame_bytes();
        let free = (self.budget / frame).saturating_sub(self.mapped() / frame);
        Some(((after - self.mapped()) / frame, free))
    }

    fn resize(&mut self, seq: usize, len: usize) {
        let backed = self.backed(len);
        self.live[seq].len = len;
        for region in &mut self.live[seq].regions {
            region.resize(backed, 0);
        }
    }
}

/// The cache and its model, driven together.
struct Pair<B: Backend> {
    cache: KvCache<B>,
    model: Model,
    fake: Option<Fake>,
}

impl<B: Backend<Space: HostMemory>> Pair<B> {
    fn new(backend: B, fake: Option<Fake>, geometry: Geometry) -> Self {
        let budget = 40 * geometry.frame_bytes();
        Self {
            cache: KvCache::with_backend(backend, geometry, budget).unwrap(),
            model: Model {
                geometry,
                budget,
                live: Vec::new(),
                dead: Vec::new(),
                stamp: 0,
            },
            fake,
        }
    }

    fn apply(&mut self, op: &Op) {
        let sequences = self.model.live.len();
        match op {
            Op::Open => match self.cache.open() {
                Ok(id) => {
                    assert!(self.model.live.iter().all(|seq| seq.id != id) && !self.model.dead.contains(&id));
                    let regions = vec![Vec::new(); 2 * self.model.geometry.layers()];
                    self.model.live.push(Sequence { id, len: 0, regions });
                }
                Err(Error::NoSlot { limit }) => {
                    let draining = self.cache.stats().draining_bytes > 0;
                    assert!(sequences == limit || draining, "{sequences} of {limit}");
                }
                Err(error) => panic!("{error}"),
            },
            Op::Budget(eighths) => {
                self.model.budget = eighths * self.model.geometry.frame_bytes() / 8;
                self.cache.set_budget(self.model.budget);
            }
            Op::Fail(from, len) => {
                if let Some(fake) = &self.fake {
                    fake.fail(*from..from + len);
                }
            }
            Op::UseStale(index) if !self.model.dead.is_empty() => {
                let id = self.model.dead[index % self.model.dead.len()];
                assert!(matches!(self.cache.len(id), Err(Error::NotOpen { .. })));
                assert!(matches!(self.cache.free(id), Err(Error::NotOpen { .. })));
                assert!(matches!(self.cache.truncate(id, 0), Err(Error::NotOpen { .. })));
                assert!(matches!(self.cache.grow(id, 1), Err(Error::NotOpen { .. })));
                assert!(matches!(self.cache.k(id, 0), Err(Error::NotOpen { .. })));
                // Also after other entries of a batch were fine.
                if let Some(seq) = self.model.live.first() {
                    let batch = [(seq.id, seq.len), (id, 1)];
                    assert!(matches!(self.cache.grow_batch(&batch), Err(Error::NotOpen { .. })));
                }
            }
            _ if sequences == 0 => {}
            Op::Grow(index, by) => self.grow(&[(index % sequences, *by)]),
            Op::GrowBatch(batch) => {
                let batch: Vec<_> = batch.iter().map(|(index, by)| (index % sequences, *by)).collect();
                self.grow(&batch);
            }
            Op::Truncate(index, by) => {
                let seq = index % sequences;
                let (id, len) = (self.model.live[seq].id, self.model.live[seq].len);
                assert!(matches!(
                    self.cache.truncate(id, len + 1),
                    Err(Error::TruncatesForward { .. })
                ));
                self.cache.truncate(id, len.saturating_sub(*by)).unwrap();
                self.model.resize(seq, len.saturating_sub(*by));
            }
            Op::Free(index) => {
                let seq = self.model.live.swap_remove(index % sequences);
                self.cache.free(seq.id).unwrap();
                self.model.dead.push(seq.id);
            }
            Op::UseStale(_) => {}
        }
        self.compare();
    }

    fn grow(&mut self, growth: &[(usize, usize)]) {
        let mut lengths: Vec<_> = self.model.live.iter().map(|seq| seq.len).collect();
        let mut batch = Vec::new();
        for &(seq, by) in growth {
            lengths[seq] += by;
            batch.push((self.model.live[seq].id, lengths[seq]));
        }
        let failures = self.fake.as_ref().map_or(0, Fake::failed);
        let outcome = self.cache.grow_batch(&batch);
        let failed = self.fake.as_ref().map_or(0, Fake::failed) > failures;
        match (self.model.need(growth), outcome) {
            (Some((need, free)), Ok(())) => {
                assert!(need == 0 || need <= free || failed, "{need} of {free} were given");
                for (seq, &len) in lengths.iter().enumerate() {
                    let old = self.model.live[seq].len;
                    self.model.resize(seq, len);
                    self.compare_new_rows(seq, old);
                    self.write(seq, old);
                }
            }
            (Some((need, free)), Err(Error::NeedFrames { need: n, free: f })) => {
                assert!(
                    (n, f) == (need, free) || self.fake.is_some(),
                    "{n} of {f}, not {need} of {free}"
                );
                assert!(n > f);
            }
            (None, Err(Error::TooLong { max, .. })) => {
                assert_eq!(max, self.model.geometry.max_tokens())
            }
            (_, Err(Error::Backend(_))) => assert!(failed),
            (need, outcome) => panic!("{outcome:?} for {need:?}"),
        }
    }

    /// Rows that have just come into being: exactly those of the model, or zero where a refused call lost them.
    fn compare_new_rows(&self, seq: usize, old: usize) {
        let row = self.model.geometry.row_bytes();
        let sequence = &self.model.live[seq];
        for (index, region) in sequence.regions.iter().enumerate() {
            let rows = self.region(sequence.id, index);
            for (&found, &expected) in rows[old * row..].iter().zip(&region[old * row..]) {
                assert!(
                    found == expected || (found == 0 && self.fake.is_some()),
                    "{found}, not {expected}"
                );
            }
        }
    }

    /// Stamps the rows from `old` on.
    fn write(&mut self, seq: usize, old: usize) {
        let row = self.model.geometry.row_bytes();
        let sequence = &mut self.model.live[seq];
        for layer in 0..self.model.geometry.layers() {
            let (k, v) = self.cache.rows_mut(sequence.id, layer, old..sequence.len).unwrap();
            for (side, rows) in [k, v].into_iter().enumerate() {
                self.model.stamp = self.model.stamp.checked_add(1).unwrap_or(1);
                rows.fill(self.model.stamp);
                sequence.regions[2 * layer + side][old * row..sequence.len * row].fill(self.model.stamp);
            }
        }
    }

    fn region(&self, id: SeqId, index: usize) -> &[u8] {
        match index % 2 {
            0 => self.cache.k(id, index / 2).unwrap(),
            _ => self.cache.v(id, index / 2).unwrap(),
        }
    }

    /// Every row of every sequence, the numbers, and the audit.
    fn compare(&self) {
        let (model, stats) = (&self.model, self.cache.stats());
        let row = model.geometry.row_bytes();
        for seq in &model.live {
            assert_eq!(self.cache.len(seq.id).unwrap(), seq.len);
            for (index, region) in seq.regions.iter().enumerate() {
                assert!(
                    self.region(seq.id, index) == &region[..seq.len * row],
                    "rows of region {index}"
                );
            }
        }
        let tokens: usize = model.live.iter().map(|seq| seq.len).sum();
        assert_eq!(stats.used_bytes, tokens * 2 * model.geometry.layers() * row);
        assert_eq!(stats.mapped_bytes, model.mapped() + stats.draining_bytes);
        assert_eq!(stats.physical_bytes, stats.mapped_bytes);
        assert_eq!(
            (stats.budget_bytes, stats.live_sequences),
            (model.budget, model.live.len())
        );
        assert!(self.fake.is_some() || stats.draining_bytes == 0);
        self.cache.audit().unwrap();
    }

    fn finish(mut self) {
        if let Some(fake) = &self.fake {
            fake.fail(0..0);
        }
        while !self.model.live.is_empty() {
            self.apply(&Op::Free(0));
        }
        self.apply(&Op::Open);
        assert_eq!(self.cache.stats().physical_bytes, 0);
    }
}

fn run<B: Backend<Space: HostMemory>>(mut pair: Pair<B>, ops: &[Op]) {
    for op in ops {
        pair.apply(op);
    }
    pair.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_host_backend_behaves_like_the_model(geometry in geometry(), ops in vec(op(), 1..80)) {
        run(Pair::new(HostBackend, None, geometry), &ops);
    }

    #[test]
    fn the_state_machine_behaves_like_the_model_when_calls_fail(geometry in geometry(), ops in vec(op(), 1..80)) {
        let fake = Fake::default();
        run(Pair::new(fake.clone(), Some(fake), geometry), &ops);
    }
}
