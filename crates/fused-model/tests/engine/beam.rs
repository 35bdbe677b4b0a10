//! Beam search over the stores against a search that computes everything again from the tokens.

use fused_model::engine::{Beams, Hypothesis, beam_search};
use fused_model::kv::{KvStore, PagedKv, StaticKv, VirtualKv};
use fused_model::{CausalLm, ModelError};
use proptest::prelude::*;

use crate::toy::ToyLm;

fn stores(model: &dyn CausalLm, width: usize) -> [Box<dyn KvStore>; 3] {
    let geometry = model.kv_geometry(width);
    [
        Box::new(StaticKv::new(&geometry).unwrap()),
        Box::new(PagedKv::new(&geometry).unwrap()),
        Box::new(VirtualKv::new(&geometry, 4096, 1 << 26).unwrap()),
    ]
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
}

fn score(hypothesis: &Hypothesis, length_penalty: f64) -> f64 {
    let length = hypothesis.tokens.len() + usize::from(hypothesis.stopped);
    hypothesis.log_probability / (length as f64).powf(length_penalty)
}

/// The search by its definition, to the last step.
fn plain(model: &ToyLm, prompt: &[u32], search: &Beams) -> Vec<Hypothesis> {
    let mut beams = vec![(Vec::new(), 0.0)];
    let mut done = Vec::new();
    for _ in 0..search.max_tokens {
        let mut candidates = Vec::new();
        for (tokens, so_far) in &beams {
            let all = [prompt, tokens].concat();
            for (id, log_probability) in log_softmax(&model.logits_after(&all)).into_iter().enumerate() {
                candidates.push((tokens.clone(), id as u32, so_far + log_probability));
            }
        }
        candidates.sort_by(|a, b| b.2.total_cmp(&a.2));
        beams.clear();
        for (rank, (mut tokens, id, log_probability)) in candidates.into_iter().enumerate() {
            if search.stop_ids.contains(&id) {
                if rank < search.width && beams.len() < search.width {
                    done.push(Hypothesis {
                        tokens,
                        log_probability,
                        stopped: true,
                    });
                }
            } else if beams.len() < search.width {
                tokens.push(id);
                beams.push((tokens, log_probability));
            }
        }
    }
    done.extend(beams.into_iter().map(|(tokens, log_probability)| Hypothesis {
        tokens,
        log_probability,
        stopped: false,
    }));
    done.sort_by(|a, b| score(b, search.length_penalty).total_cmp(&score(a, search.length_penalty)));
    done.truncate(search.width);
    done
}

fn assert_same(got: &[Hypothesis], want: &[Hypothesis], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: {got:?} wants {want:?}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!((&got.tokens, got.stopped), (&want.tokens, want.stopped), "{what}");
        assert!(
            (got.log_probability - want.log_probability).abs() < 1e-6,
            "{what}: {got:?} wants {want:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_store_finds_what_the_definition_does(
        prompt in prop::collection::vec(0u32..9, 1..20),
        width in 1usize..6,
        max_tokens in 1usize..12,
        stop_ids in prop::collection::vec(0u32..9, 0..2),
        length_penalty in prop::sample::select(vec![-0.5, 0.0, 0.7, 1.0, 2.0]),
    ) {
        let mut model = ToyLm::new(9, 64);
        let search = Beams { width, max_tokens, stop_ids, length_penalty };
        let want = plain(&model, &prompt, &search);
        for mut kv in stores(&model, width) {
            let got = beam_search(&mut model, kv.as_mut(), &prompt, &search).unwrap();
            assert_same(&got, &want, kv.name());
            prop_assert_eq!(kv.memory().used_bytes, 0);
        }
    }
}

#[test]
fn a_beam_is_greedy_and_enough_beams_find_the_best_of_all() {
    let mut model = ToyLm::new(3, 64);
    let search = |width| Beams {
        width,
        max_tokens: 4,
        stop_ids: Vec::new(),
        length_penalty: 1.0,
    };
    let prompt = [1, 2, 0];
    let mut kv = StaticKv::new(&model.kv_geometry(81)).unwrap();
    let one = beam_search(&mut model, &mut kv, &prompt, &search(1)).unwrap();
    assert_eq!(one[0].tokens, model.greedy(&prompt, 4, &[]));

    let all = beam_search(&mut model, &mut kv, &prompt, &search(81)).unwrap();
    assert_eq!(all.len(), 81);
    let total: f64 = all.iter().map(|hypothesis| hypothesis.log_probability.exp()).sum();
    assert!((total - 1.0).abs() < 1e-9, "probabilities of all texts sum to {total}");
    assert!(all.is_sorted_by(|a, b| a.log_probability >= b.log_probability));
}

#[test]
fn what_cannot_be_searched_leaves_nothing() {
    let mut model = ToyLm::new(9, 16);
    let search = Beams {
        width: 4,
        max_tokens: 8,
        stop_ids: Vec::new(),
        length_penalty: 1.0,
    };
    // Too few places.
    let mut kv = StaticKv::new(&model.kv_geometry(2)).unwrap();
    assert!(matches!(
        beam_search(&mut model, &mut kv, &[1], &search),
        Err(ModelError::Kv(_))
    ));
    assert_eq!(kv.memory().used_bytes, 0);
    let wide = Beams { width: 0, ..search };
    assert!(matches!(
        beam_search(&mut model, &mut kv, &[1], &wide),
        Err(ModelError::Request(_))
    ));
    assert!(kv.open().is_ok() && kv.open().is_ok());
}
