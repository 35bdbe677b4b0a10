//! Keys and values in half precision: what is lost, and what is not.

use std::path::{Path, PathBuf};

use fused_model::kv::{KvGeometry, KvStore, KvType, PagedKv, StaticKv, VirtualKv};
use fused_model::{
    CausalLm, Chunk, Gpt2, Logits, Options, Precision, ReferenceGpt2, Request, Score, generate, load, score_model,
};
use half::f16;
use patchtok::{Corpus, PatchTokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/demo")
}

fn geometry(model: &dyn CausalLm, sequences: usize, numbers: KvType) -> KvGeometry {
    KvGeometry {
        numbers,
        ..model.kv_geometry(sequences)
    }
}

fn stores(geometry: &KvGeometry) -> [Box<dyn KvStore>; 3] {
    [
        Box::new(StaticKv::new(geometry).unwrap()),
        Box::new(PagedKv::new(geometry).unwrap()),
        Box::new(VirtualKv::new(geometry, 4096, 1 << 30).unwrap()),
    ]
}

/// Logits of all places of a text.
fn logits(model: &mut dyn CausalLm, kv: &mut dyn KvStore, ids: &[u32]) -> Vec<f32> {
    let sequence = kv.open().unwrap();
    let logits = model.forward(kv, &[Chunk { sequence, ids }], Logits::All).unwrap();
    let logits = logits.to_vec();
    kv.free(sequence).unwrap();
    logits
}

#[test]
fn numbers_are_rounded_to_nearest_and_large_ones_become_the_largest() {
    let geometry = KvGeometry {
        layers: 1,
        row_floats: 8,
        numbers: KvType::F16,
        max_tokens: 4,
        max_sequences: 1,
    };
    let wild = [0.1, -1e6, f32::INFINITY, 1e-9, 65_520.0, -0.0, f32::NAN, 2049.0];
    let kept = [0.1, -65_504.0, 65_504.0, 1e-9, 65_504.0, -0.0, f32::NAN, 2049.0].map(|x| f16::from_f32(x).to_f32());
    for mut kv in stores(&geometry) {
        let id = kv.open().unwrap();
        kv.grow(&[(id, 2)]).unwrap();
        kv.write(id, 0, 0..2, &mut |token, k, v| {
            k.copy_from_slice(&wild);
            v.fill(token as f32);
        })
        .unwrap();
        let (k, v) = kv.rows(id, 0).unwrap();
        let bits = |rows: &[f32]| rows.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(
            (k.len(), bits(&k.to_vec())),
            (2, bits(&[kept, kept].concat())),
            "{}",
            kv.name()
        );
        assert_eq!(v.to_vec(), [[0.0; 8], [1.0; 8]].concat(), "{}", kv.name());
    }
}

/// Logits stay within five thousandths of the largest of those over rows in `f32`, for both architectures, and have the same
/// bits in every store; the reference stays near too.
#[test]
fn logits_stay_near_those_over_rows_in_full() {
    for name in ["gpt2-tiny", "llama-tiny/grouped", "llama-tiny/stretched"] {
        let options = Options {
            threads: 1,
            ..Options::default()
        };
        let mut model = load(&fixture(name), options).unwrap();
        let ids: Vec<u32> = (0..60).map(|i| i * 7 % model.vocab_size() as u32).collect();
        let mut full = StaticKv::new(&model.kv_geometry(1)).unwrap();
        let want = logits(model.as_mut(), &mut full, &ids);
        let spread = want.iter().fold(0.0f32, |top, x| top.max(x.abs()));
        let mut first: Option<Vec<f32>> = None;
        for mut kv in stores(&geometry(model.as_ref(), 1, KvType::F16)) {
            let got = logits(model.as_mut(), kv.as_mut(), &ids);
            let error = got
                .iter()
                .zip(&want)
                .fold(0.0f32, |top, (got, want)| top.max((got - want).abs()));
            eprintln!("{name}, {}: error {error} of {spread}", kv.name());
            assert!(
                error > 0.0 && error < 5e-3 * spread,
                "{name}: error {error} of {spread}"
            );
            assert!(
                first.get_or_insert_with(|| got.clone()) == &got,
                "{name}, {}",
                kv.name()
            );
        }
    }
    let mut reference = ReferenceGpt2::load(&fixture("gpt2-tiny")).unwrap();
    let mut model = Gpt2::load(&fixture("gpt2-tiny"), Options::default()).unwrap();
    let ids: Vec<u32> = (0..60).collect();
    let both = [&mut reference as &mut dyn CausalLm, &mut model].map(|model| {
        let mut kv = StaticKv::new(&geometry(model, 1, KvType::F16)).unwrap();
        logits(model, &mut kv, &ids)
    });
    let apart = both[0]
        .iter()
        .zip(&both[1])
        .fold(0.0f32, |top, (a, b)| top.max((a - b).abs()));
    assert!(apart < 1e-3, "the reference is {apart} away over the same rows");
}

/// On the demo model and text that it was not trained on: bits per byte within half a per cent of everything in `f32`, with
/// rows in half precision under weights of every kind, and nearly always the same most likely token.
#[test]
fn the_demo_model_is_as_good() {
    let tokenizer = PatchTokenizer::load(demo().join("base")).unwrap();
    let start = tokenizer.eos_id().unwrap();
    let corpus = Corpus::open(demo().join("corpus/manual-heldout.jsonl.gz")).unwrap();
    let texts: Vec<String> = corpus
        .documents()
        .take(3)
        .map(|text| text.unwrap().chars().take(2000).collect())
        .collect();
    let run = |precision, numbers| {
        let options = Options { precision, threads: 1 };
        let mut model = Gpt2::load(&demo().join("base"), options).unwrap();
        let mut kv = VirtualKv::new(&geometry(&model, 4, numbers), 4096, 1 << 30).unwrap();
        let scores = texts.iter().map(|text| {
            let ids = tokenizer.encode_ordinary(text);
            score_model(&mut model, &mut kv, start, &ids, text.len()).unwrap()
        });
        let bits = scores.sum::<Score>().bits_per_byte();
        let prompts = texts.iter().map(|text| {
            let ids = tokenizer.encode_ordinary(text);
            Request::greedy(ids[..100].to_vec(), 40)
        });
        let prompts: Vec<Request> = prompts.collect();
        (bits, generate(&mut model, &mut kv, &prompts, 4, &mut |_| {}).unwrap())
    };
    let (bits, replies) = run(Precision::F32, KvType::F32);
    for (precision, numbers) in [
        (Precision::F32, KvType::F16),
        (Precision::F16, KvType::F16),
        (Precision::Int8, KvType::F32),
        (Precision::Int8, KvType::F16),
    ] {
        let (got, greedy) = run(precision, numbers);
        let same: usize = greedy
            .iter()
            .zip(&replies)
            .map(|(a, b)| a.iter().zip(b).take_while(|(a, b)| a == b).count())
            .sum();
        let all: usize = replies.iter().map(Vec::len).sum();
        eprintln!(
            "{precision:?} weights, {numbers:?} rows: {got:.4} for {bits:.4} bits per byte, {same} of {all} greedy tokens"
        );
        assert!(
            (got / bits - 1.0).abs() < 0.005,
            "{precision:?} {numbers:?}: {got} for {bits}"
        );
        assert!(
            precision == Precision::Int8 || same == all,
            "{precision:?} {numbers:?}: {same} of {all} greedy tokens"
        );
    }
}
