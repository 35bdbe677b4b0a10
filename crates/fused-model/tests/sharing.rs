//! Forks and cuts: sequences that share memory hold their own rows all the same.

use fused_model::kv::{KvError, KvGeometry, KvId, KvStore, KvType, PagedKv, StaticKv, VirtualKv};
use proptest::prelude::*;

/// Sizes that make sharing visible: 40 rows are two and a half blocks, and more than two pages in each region.
const SHARED: KvGeometry = KvGeometry {
    layers: 2,
    row_floats: 64,
    numbers: KvType::F32,
    max_tokens: 80,
    max_sequences: 5,
};

#[derive(Debug, Clone)]
enum Cut {
    /// Grow the sequence at a place by so many rows of this value, opening it if it is not there.
    Grow(usize, usize, u16),
    /// Cut a sequence to a share of its length.
    Truncate(usize, f64),
    /// Fork the first share of one place's rows into another, which is freed first.
    Fork(usize, f64, usize),
    Free(usize),
}

fn cut() -> impl Strategy<Value = Cut> {
    let places = 0..SHARED.max_sequences;
    prop_oneof![
        4 => (places.clone(), 1usize..30, 0u16..256).prop_map(|(place, rows, value)| Cut::Grow(place, rows, value)),
        2 => (places.clone(), 0.0f64..=1.0).prop_map(|(place, share)| Cut::Truncate(place, share)),
        3 => (places.clone(), 0.0f64..=1.0, places.clone()).prop_map(|(from, share, to)| Cut::Fork(from, share, to)),
        1 => places.prop_map(Cut::Free),
    ]
}

fn stores(numbers: KvType, budget: usize) -> [Box<dyn KvStore>; 3] {
    let geometry = KvGeometry { numbers, ..SHARED };
    [
        Box::new(StaticKv::new(&geometry).unwrap()),
        Box::new(PagedKv::with_budget(&geometry, budget).unwrap()),
        Box::new(VirtualKv::new(&geometry, 4096, budget).unwrap()),
    ]
}

/// What a row holds, by the value it was written with: the same number in every type of a store, for values below 256.
fn row_of(value: u16, layer: usize, part: usize) -> [f32; 64] {
    [f32::from(value) + 0.25 * layer as f32 + 0.125 * part as f32; 64]
}

fn assert_rows(kv: &dyn KvStore, id: KvId, values: &[u16]) {
    for layer in 0..SHARED.layers {
        let (k, v) = kv.rows(id, layer).unwrap();
        for (part, rows) in [k, v].into_iter().enumerate() {
            let got = rows.to_vec();
            let want: Vec<f32> = values.iter().flat_map(|&value| row_of(value, layer, part)).collect();
            assert!(got == want, "{}: layer {layer}, part {part}", kv.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Forked, truncated and grown in any order, every sequence has exactly its own rows, and all memory comes back.
    #[test]
    fn forks_are_copies_that_share(
        cuts in prop::collection::vec(cut(), 1..40),
        budget in 3usize..20,
        numbers in prop::sample::select(vec![KvType::F32, KvType::F16]),
    ) {
        let bytes = budget * 16 * SHARED.token_bytes();
        for mut kv in stores(numbers, bytes) {
            let free = kv.free_bytes();
            let mut model: Vec<Option<(KvId, Vec<u16>)>> = vec![None; SHARED.max_sequences];
            for cut in &cuts {
                match *cut {
                    Cut::Grow(place, rows, value) => {
                        let (id, values) = model[place].get_or_insert_with(|| (kv.open().unwrap(), Vec::new()));
                        let (start, len) = (values.len(), (values.len() + rows).min(SHARED.max_tokens));
                        match kv.grow(&[(*id, len)]) {
                            Ok(()) => {}
                            Err(KvError::NeedMemory { need, free, .. }) => {
                                prop_assert!(need > free && free == kv.free_bytes());
                                continue;
                            }
                            Err(error) => panic!("{error}"),
                        }
                        for layer in 0..SHARED.layers {
                            kv.write(*id, layer, start..len, &mut |_, k, v| {
                                k.copy_from_slice(&row_of(value, layer, 0));
                                v.copy_from_slice(&row_of(value, layer, 1));
                            })
                            .unwrap();
                        }
                        values.resize(len, value);
                    }
                    Cut::Truncate(place, share) => {
                        let Some((id, values)) = &mut model[place] else { continue };
                        let len = (values.len() as f64 * share) as usize;
                        match kv.truncate(*id, len) {
                            Ok(()) => values.truncate(len),
                            Err(KvError::NeedMemory { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    Cut::Fork(from, share, to) if from != to => {
                        if let Some((id, _)) = model[to].take() {
                            kv.free(id).unwrap();
                        }
                        let Some((id, values)) = &model[from] else { continue };
                        let len = (values.len() as f64 * share) as usize;
                        match kv.fork(*id, len) {
                            Ok(fork) => model[to] = Some((fork, values[..len].to_vec())),
                            Err(KvError::NeedMemory { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    Cut::Fork(..) => {}
                    Cut::Free(place) => {
                        if let Some((id, _)) = model[place].take() {
                            kv.free(id).unwrap();
                        }
                    }
                }
                for (id, values) in model.iter().flatten() {
                    prop_assert_eq!(kv.len(*id).unwrap(), values.len());
                    assert_rows(kv.as_ref(), *id, values);
                }
            }
            for (id, _) in model.into_iter().flatten() {
                kv.free(id).unwrap();
            }
            prop_assert_eq!((kv.free_bytes(), kv.memory().used_bytes), (free, 0), "{}", kv.name());
        }
    }
}

#[test]
fn paged_forks_share_full_blocks() {
    let mut kv = PagedKv::new(&SHARED).unwrap();
    let block = 16 * SHARED.token_bytes();
    let first = kv.open().unwrap();
    kv.grow(&[(first, 40)]).unwrap();
    let free = kv.free_bytes();
    let fork = kv.fork(first, 40).unwrap();
    assert_eq!(
        free - kv.free_bytes(),
        block,
        "two blocks are shared, the third is copied"
    );
    let error = kv.write(fork, 0, 30..33, &mut |_, _, _| panic!("written")).unwrap_err();
    assert!(matches!(error, KvError::Shared { row: 30 }), "{error}");
    kv.free(first).unwrap();
    assert_eq!(free - kv.free_bytes(), 0, "what a fork shares outlives its origin");
    kv.write(fork, 0, 30..33, &mut |_, _, _| {}).unwrap();
}

#[test]
fn cuts_beyond_the_end_are_refused() {
    for mut kv in stores(KvType::F32, usize::MAX / 2) {
        let name = kv.name();
        let ids: Vec<_> = (0..SHARED.max_sequences).map(|_| kv.open().unwrap()).collect();
        kv.grow(&[(ids[0], 5)]).unwrap();
        for cut in [kv.truncate(ids[0], 6), kv.fork(ids[0], 6).map(drop)] {
            let error = cut.unwrap_err();
            assert!(
                matches!(error, KvError::TooShort { tokens: 6, len: 5 }),
                "{name}: {error}"
            );
        }
        assert!(
            matches!(kv.fork(ids[0], 3), Err(KvError::NoSlot { limit: 5 })),
            "{name}"
        );
        kv.free(ids[0]).unwrap();
        for gone in [kv.truncate(ids[0], 0), kv.fork(ids[0], 0).map(drop)] {
            assert!(matches!(gone, Err(KvError::NotOpen)), "{name}");
        }
    }
}

#[test]
fn virtual_forks_share_whole_frames() {
    let mut kv = VirtualKv::new(&SHARED, 4096, 1 << 30).unwrap();
    let first = kv.open().unwrap();
    // Rows of 256 bytes: 40 of them are two frames and a half in each of 4 regions.
    kv.grow(&[(first, 40)]).unwrap();
    assert_eq!(kv.memory().physical_bytes, 3 * 4 * 4096);
    let fork = kv.fork(first, 40).unwrap();
    assert_eq!(
        kv.memory().physical_bytes,
        (3 + 1) * 4 * 4096,
        "only the third frame is copied"
    );
    let error = kv.write(fork, 0, 30..33, &mut |_, _, _| panic!("written")).unwrap_err();
    assert!(matches!(error, KvError::Shared { row: 30 }), "{error}");
    kv.free(first).unwrap();
    assert_eq!(
        kv.memory().physical_bytes,
        3 * 4 * 4096,
        "what a fork shares outlives its origin"
    );
    kv.free(fork).unwrap();
    assert_eq!(kv.memory().physical_bytes, 0);
}
