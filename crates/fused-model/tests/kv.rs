//! The three KV stores against each other, and their errors.

use fused_model::kv::{KvError, KvGeometry, KvStore, KvType, PagedKv, StaticKv, VirtualKv};
use fused_model::{
    CausalLm, Chunk, Gpt2, Gpt2Config, Logits, ModelError, Options, Params, Precision, Request, generate,
};
use proptest::prelude::*;

fn params() -> Params {
    Params::random(Gpt2Config::new(50, 64, 32, 2, 2), 3)
}

fn model(precision: Precision, threads: usize) -> Gpt2 {
    Gpt2::new(&params(), Options { precision, threads }).unwrap()
}

fn tiny() -> Gpt2 {
    model(Precision::F32, 2)
}

fn stores(geometry: &KvGeometry) -> Vec<Box<dyn KvStore>> {
    vec![
        Box::new(StaticKv::new(geometry).unwrap()),
        Box::new(PagedKv::new(geometry).unwrap()),
        Box::new(VirtualKv::new(geometry, 4096, 1 << 30).unwrap()),
    ]
}

/// The shape of a model's rows, kept in a type.
fn geometry(model: &Gpt2, sequences: usize, numbers: KvType) -> KvGeometry {
    KvGeometry {
        numbers,
        ..model.kv_geometry(sequences)
    }
}

fn kv_type() -> impl Strategy<Value = KvType> {
    prop::sample::select(vec![KvType::F32, KvType::F16])
}

#[derive(Debug, Clone)]
enum Op {
    /// Feed each (place, tokens) in one pass, opening the place if it is empty.
    Pass(Vec<(usize, Vec<u32>)>),
    Free(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let ids = prop::collection::vec(0u32..50, 1..20);
    prop_oneof![
        4 => prop::collection::btree_map(0usize..4, ids, 1..4).prop_map(|map| Op::Pass(map.into_iter().collect())),
        1 => (0usize..4).prop_map(Op::Free),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any schedule of passes and frees gives the same bits whatever the store.
    #[test]
    fn logits_are_bit_identical(ops in prop::collection::vec(op(), 1..12), numbers in kv_type()) {
        let mut model = tiny();
        let mut transcripts = Vec::new();
        for mut kv in stores(&geometry(&model, 4, numbers)) {
            let mut places = [None; 4];
            let mut transcript: Vec<Vec<u32>> = Vec::new();
            for op in &ops {
                match op {
                    Op::Pass(parts) => {
                        let mut chunks = Vec::new();
                        for (place, ids) in parts {
                            let sequence = *places[*place].get_or_insert_with(|| kv.open().unwrap());
                            if kv.len(sequence).unwrap() + ids.len() <= 64 {
                                chunks.push(Chunk { sequence, ids });
                            }
                        }
                        if !chunks.is_empty() {
                            let logits = model.forward(kv.as_mut(), &chunks, Logits::All).unwrap();
                            transcript.push(logits.iter().map(|x| x.to_bits()).collect());
                        }
                    }
                    Op::Free(place) => {
                        if let Some(sequence) = places[*place].take() {
                            kv.free(sequence).unwrap();
                        }
                    }
                }
            }
            transcripts.push(transcript);
        }
        prop_assert_eq!(&transcripts[0], &transcripts[1], "static and paged");
        prop_assert_eq!(&transcripts[0], &transcripts[2], "static and virtual");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A token's logits have the same bits alone and in a batch, in one pass and in chunks, on one thread and on three.
    #[test]
    fn logits_do_not_depend_on_chunks_batch_or_threads(
        texts in prop::collection::vec(prop::collection::vec(0u32..50, 1..40), 1..4),
        cuts in prop::collection::vec(1usize..20, 4),
        precision in prop_oneof![Just(Precision::F32), Just(Precision::F16), Just(Precision::Int8)],
        numbers in kv_type(),
    ) {
        let bits = |logits: &[f32]| -> Vec<u32> { logits.iter().map(|x| x.to_bits()).collect() };
        // Each text alone, in one pass.
        let mut alone = model(precision, 1);
        let mut want = Vec::new();
        for ids in &texts {
            let mut kv = StaticKv::new(&geometry(&alone, 1, numbers)).unwrap();
            let sequence = kv.open().unwrap();
            want.push(bits(alone.forward(&mut kv, &[Chunk { sequence, ids }], Logits::All).unwrap()));
        }
        // All together, each in chunks of its own size.
        let mut together = model(precision, 3);
        let mut kv = VirtualKv::new(&geometry(&together, 4, numbers), 4096, 1 << 30).unwrap();
        let sequences: Vec<_> = texts.iter().map(|_| kv.open().unwrap()).collect();
        let mut got = vec![Vec::new(); texts.len()];
        loop {
            let mut chunks = Vec::new();
            for ((ids, &sequence), &cut) in texts.iter().zip(&sequences).zip(&cuts) {
                let start = kv.len(sequence).unwrap();
                if start < ids.len() {
                    chunks.push(Chunk { sequence, ids: &ids[start..ids.len().min(start + cut)] });
                }
            }
            if chunks.is_empty() {
                break;
            }
            let mut logits = together.forward(&mut kv, &chunks, Logits::All).unwrap();
            for chunk in &chunks {
                let (mine, rest) = logits.split_at(chunk.ids.len() * 50);
                logits = rest;
                let text = sequences.iter().position(|&sequence| sequence == chunk.sequence).unwrap();
                got[text].extend(bits(mine));
            }
        }
        prop_assert_eq!(got, want);
    }
}

#[test]
fn memory_is_what_each_store_promises() {
    // 2 layers of 32 numbers, in 4 or 2 bytes: 512 or 256 bytes a token; 64 tokens, 4 sequences.
    for (numbers, token) in [(KvType::F32, 512), (KvType::F16, 256)] {
        let geometry = KvGeometry {
            layers: 2,
            row_floats: 32,
            numbers,
            max_tokens: 64,
            max_sequences: 4,
        };
        assert_eq!(geometry.token_bytes(), token);
        for mut kv in stores(&geometry) {
            let name = kv.name();
            let static_bytes = 4 * 64 * token;
            let before = kv.memory();
            assert_eq!(
                before.physical_bytes,
                if name == "static" { static_bytes } else { 0 },
                "{name}"
            );
            let (a, b) = (kv.open().unwrap(), kv.open().unwrap());
            kv.grow(&[(a, 17), (b, 3)]).unwrap();
            let grown = kv.memory();
            assert_eq!(grown.used_bytes, 20 * token, "{name}");
            let want = match name {
                "static" => static_bytes,
                // Two blocks and one block of 16 tokens, whole pages of the system.
                "paged" => (3 * 16 * token).next_multiple_of(4096),
                // One page for each of 4 regions (17 rows of 128 bytes fit in one), for each sequence.
                _ => 2 * 4 * 4096,
            };
            assert_eq!(grown.physical_bytes, want, "{name}");
            kv.free(a).unwrap();
            kv.free(b).unwrap();
            let after = kv.memory();
            assert_eq!(after.used_bytes, 0, "{name}");
            assert_eq!(after.physical_bytes, if name == "virtual" { 0 } else { want }, "{name}");
        }
    }
}

#[test]
fn misuse_is_refused_and_changes_nothing() {
    let geometry = KvGeometry {
        layers: 2,
        row_floats: 32,
        numbers: KvType::F32,
        max_tokens: 64,
        max_sequences: 2,
    };
    for mut kv in stores(&geometry) {
        let name = kv.name();
        let (a, b) = (kv.open().unwrap(), kv.open().unwrap());
        assert!(matches!(kv.open(), Err(KvError::NoSlot { limit: 2 })), "{name}");
        kv.grow(&[(a, 5)]).unwrap();
        let error = kv.grow(&[(a, 6), (b, 65)]).unwrap_err();
        assert!(
            matches!(error, KvError::TooLong { tokens: 65, limit: 64 }),
            "{name}: {error}"
        );
        assert_eq!((kv.len(a).unwrap(), kv.len(b).unwrap()), (5, 0), "{name}");
        for (layer, tokens) in [(2, 0..1), (0, 5..6)] {
            let mut rows = 0;
            let error = kv.write(a, layer, tokens, &mut |_, _, _| rows += 1).unwrap_err();
            assert!(matches!(error, KvError::OutOfRange { .. }), "{name}: {error}");
            assert_eq!(rows, 0, "{name}");
        }
        kv.free(a).unwrap();
        assert!(matches!(kv.free(a), Err(KvError::NotOpen)), "{name}");
        let again = kv.open().unwrap();
        assert!(
            matches!(kv.len(a), Err(KvError::NotOpen)),
            "{name}: a reused place must not answer to an old id"
        );
        assert_eq!(kv.len(again).unwrap(), 0, "{name}");
    }
}

#[test]
fn a_small_budget_queues_and_one_too_small_is_an_error() {
    let mut model = tiny();
    let geometry = model.kv_geometry(4);
    let requests: Vec<Request> = (0..4).map(|i| Request::greedy(vec![i + 1; 8], 8)).collect();
    let mut roomy = VirtualKv::new(&geometry, 4096, 1 << 30).unwrap();
    let want = generate(&mut model, &mut roomy, &requests, 4, &mut |_| {}).unwrap();
    // A sequence takes one page in each of 4 regions here: room for two of them.
    let mut tight = VirtualKv::new(&geometry, 4096, 2 * 4 * 4096).unwrap();
    assert_eq!(
        generate(&mut model, &mut tight, &requests, 4, &mut |_| {}).unwrap(),
        want
    );
    assert_eq!(tight.memory().physical_bytes, 0);
    let mut none = VirtualKv::new(&geometry, 4096, 3 * 4096).unwrap();
    let error = generate(&mut model, &mut none, &requests, 4, &mut |_| {}).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::Kv(KvError::NeedMemory {
                need: 16384,
                free: 12288,
                ..
            })
        ),
        "{error}"
    );
    assert_eq!(none.memory().used_bytes, 0);
}

#[test]
fn requests_beyond_the_context_are_refused_before_anything_runs() {
    let mut model = tiny();
    let mut kv = StaticKv::new(&model.kv_geometry(1)).unwrap();
    let request = |prompt: usize, max_tokens| Request::greedy(vec![1; prompt], max_tokens);
    for bad in [request(0, 1), request(1, 0), request(64, 2), request(65, 1)] {
        let mut events = 0;
        let error = generate(&mut model, &mut kv, &[request(4, 4), bad], 2, &mut |_| events += 1).unwrap_err();
        assert!(matches!(error, ModelError::Request(_)), "{error}");
        assert_eq!(events, 0);
    }
    assert_eq!(
        generate(&mut model, &mut kv, &[request(64, 1)], 1, &mut |_| {}).unwrap()[0].len(),
        1
    );
    let sequence = kv.open().unwrap();
    let error = model
        .forward(&mut kv, &[Chunk { sequence, ids: &[50] }], Logits::Last)
        .unwrap_err();
    assert!(error.to_string().contains("50"), "{error}");
}
