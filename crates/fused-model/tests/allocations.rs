//! A step of decoding that needs no new memory for rows allocates nothing.

use std::path::Path;

use fused_model::kv::{KvGeometry, KvId, KvStore, KvType, PagedKv, StaticKv, VirtualKv};
use fused_model::{CausalLm, Chunk, Logits, Options, Precision, load};

/// One step of two sequences.
fn step(model: &mut dyn CausalLm, kv: &mut dyn KvStore, sequences: &[KvId; 2], id: u32) {
    let ids = [id];
    let chunks = sequences.map(|sequence| Chunk { sequence, ids: &ids });
    let logits = model.forward(kv, &chunks, Logits::Last).unwrap();
    assert!(logits.iter().all(|logit| logit.is_finite()));
}

#[test]
fn a_step_allocates_nothing() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for fixture in ["gpt2-tiny", "llama-tiny/grouped"] {
        for precision in [Precision::F32, Precision::F16, Precision::Int8] {
            for numbers in [KvType::F32, KvType::F16] {
                // Of several threads, one may meet its first task of a kind at any step, and makes room for it then.
                let options = Options { precision, threads: 1 };
                let mut model = load(&fixtures.join(fixture), options).unwrap();
                let geometry = KvGeometry {
                    numbers,
                    ..model.kv_geometry(2)
                };
                let stores: [Box<dyn KvStore>; 3] = [
                    Box::new(StaticKv::new(&geometry).unwrap()),
                    Box::new(PagedKv::new(&geometry).unwrap()),
                    Box::new(VirtualKv::new(&geometry, 64 << 10, 1 << 30).unwrap()),
                ];
                for mut kv in stores {
                    // A first run makes room for what a step needs, and for scores of as many tokens.
                    let mut sequences = [(); 2].map(|()| kv.open().unwrap());
                    (0..12).for_each(|id| step(model.as_mut(), kv.as_mut(), &sequences, id));
                    for sequence in &mut sequences {
                        kv.free(*sequence).unwrap();
                        *sequence = kv.open().unwrap();
                    }
                    // Rows of the first step get memory, those of the others have it.
                    step(model.as_mut(), kv.as_mut(), &sequences, 0);
                    let steps = allocation_counter::measure(|| {
                        (1..12).for_each(|id| step(model.as_mut(), kv.as_mut(), &sequences, id));
                    });
                    let what = format!("{fixture}, {precision:?}, {numbers:?}, {} store", kv.name());
                    assert_eq!(steps.count_total, 0, "{what}: {} bytes", steps.bytes_total);
                    sequences.into_iter().for_each(|sequence| kv.free(sequence).unwrap());
                }
            }
        }
    }
}
