//! A patched tokenizer's rows in a model.

use fused_model::adapt::{PAPER_RATIO, exponential};
use fused_model::{Gpt2Config, ModelError, Params};
use patchtok::{Corpus, PatchTokenizer, VocabBuilder};

fn patched() -> PatchTokenizer {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/demo/base/tokenizer.json");
    let base = PatchTokenizer::from_file(base).unwrap();
    let texts = (0..30).map(|i| format!("The write-ahead log is read by the background writer, case {i}.\n"));
    let corpus = Corpus::from_texts(texts);
    VocabBuilder::new(base)
        .swaps(8)
        .min_count(3)
        .build(corpus)
        .unwrap()
        .tokenizer
}

#[test]
fn new_rows_are_weighted_sums_and_the_rest_is_untouched() {
    let tokenizer = patched();
    let patch = tokenizer.patch_map().unwrap();
    assert!(patch.new_tokens().len() > 0);
    let base = Params::random(Gpt2Config::new(tokenizer.vocab_size(), 8, 4, 1, 1), 2);
    let adapted = exponential(&base, patch, PAPER_RATIO).unwrap();
    assert!(!adapted.config().tie_word_embeddings);
    let old = base.get("transformer.wte.weight").unwrap();
    let input = adapted.get("transformer.wte.weight").unwrap();
    let output = adapted.get("lm_head.weight").unwrap();
    let row = |matrix: &[f32], id: u32| matrix[id as usize * 4..][..4].to_vec();
    for id in 0..tokenizer.vocab_size() as u32 {
        let Some(ids) = patch.base_ids(id) else {
            assert_eq!(row(input, id), row(old, id));
            assert_eq!(row(output, id), row(old, id));
            continue;
        };
        let sum = |power: f64| -> Vec<f64> {
            let weights: Vec<f64> = (1..=ids.len()).map(|i| (power * i as f64).exp()).collect();
            let total: f64 = weights.iter().sum();
            let of = |column: usize| {
                ids.iter()
                    .zip(&weights)
                    .map(|(&id, weight)| weight / total * f64::from(row(old, id)[column]))
                    .sum()
            };
            (0..4).map(of).collect()
        };
        for (got, want) in [(row(input, id), sum(2.0)), (row(output, id), sum(-2.0))] {
            assert!(
                got.iter()
                    .zip(&want)
                    .all(|(got, want)| (f64::from(*got) - want).abs() < 1e-6),
                "{got:?} wants {want:?}"
            );
        }
    }
    for tensor in base.tensors().iter().filter(|tensor| !tensor.name.contains("wte")) {
        assert_eq!(base.get(&tensor.name), adapted.get(&tensor.name), "{}", tensor.name);
    }
}

#[test]
fn a_patch_for_another_vocabulary_is_refused() {
    let tokenizer = patched();
    let patch = tokenizer.patch_map().unwrap();
    let other = Params::random(Gpt2Config::new(300, 8, 4, 1, 1), 2);
    assert!(matches!(exponential(&other, patch, 2.0), Err(ModelError::Mismatch(why)) if why.contains("300")));
    let base = Params::random(Gpt2Config::new(tokenizer.vocab_size(), 8, 4, 1, 1), 2);
    for ratio in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(matches!(exponential(&base, patch, ratio), Err(ModelError::Request(_))));
    }
}
