//! Training runs: they learn, they repeat, they resume, and light tuning leaves the middle alone.

use fused_model::train::{Scope, TrainConfig, Trainer};
use fused_model::{Gpt2Config, ModelError, Params};

fn params() -> Params {
    Params::random(Gpt2Config::new(16, 16, 16, 3, 2), 9)
}

fn config(scope: Scope) -> TrainConfig {
    TrainConfig {
        scope,
        steps: 60,
        batch: 4,
        tokens: 16,
        peak_rate: 1e-2,
        warmup: 5,
        dropout: 0.0,
        threads: 2,
        ..TrainConfig::default()
    }
}

/// A text in which the next token follows from the last one.
fn stream() -> Vec<u32> {
    (0..400u32).map(|i| (i * 5) % 16).collect()
}

fn run(trainer: &mut Trainer, steps: usize) -> Vec<f64> {
    (0..steps).map(|_| trainer.step(&stream()).unwrap().loss).collect()
}

fn values(params: &Params, keep: impl Fn(&str) -> bool) -> Vec<f32> {
    let tensors = params.tensors().iter().filter(|tensor| keep(&tensor.name));
    tensors
        .flat_map(|tensor| params.get(&tensor.name).unwrap().to_vec())
        .collect()
}

#[test]
fn a_run_learns_and_repeats_itself() {
    let mut first = Trainer::new(params(), config(Scope::Full)).unwrap();
    let mut second = Trainer::new(params(), config(Scope::Full)).unwrap();
    let losses = run(&mut first, 60);
    assert!(
        (losses[0] - 16f64.ln()).abs() < 0.2,
        "an untrained model knows nothing: {}",
        losses[0]
    );
    assert!(
        losses[59] < 0.5,
        "loss {} after training on a predictable text",
        losses[59]
    );
    assert_eq!(losses, run(&mut second, 60));
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    // With dropout, so that the masks have to go on where they were.
    let config = || TrainConfig {
        dropout: 0.1,
        ..config(Scope::Full)
    };
    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("checkpoint.safetensors");
    let mut whole = Trainer::new(params(), config()).unwrap();
    let want = run(&mut whole, 20);
    let mut broken = Trainer::new(params(), config()).unwrap();
    run(&mut broken, 12);
    broken.save_checkpoint(&path).unwrap();
    let mut resumed = Trainer::resume(params(), config(), &path).unwrap();
    assert_eq!(resumed.step_number(), 12);
    assert_eq!(run(&mut resumed, 8), want[12..]);
    assert_eq!(values(resumed.params(), |_| true), values(whole.params(), |_| true));

    let other = TrainConfig { steps: 61, ..config() };
    assert!(matches!(
        Trainer::resume(params(), other, &path),
        Err(ModelError::Weights { .. })
    ));
    let smaller = Params::random(Gpt2Config::new(16, 16, 16, 2, 2), 9);
    assert!(matches!(
        Trainer::resume(smaller, config(), &path),
        Err(ModelError::Weights { .. })
    ));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(
        Trainer::resume(params(), config(), &path),
        Err(ModelError::Weights { .. })
    ));
}

#[test]
fn light_tuning_leaves_the_blocks_between_as_they_are() {
    let mut trainer = Trainer::new(params().untied(), config(Scope::Light)).unwrap();
    let losses = run(&mut trainer, 60);
    assert!(losses[59] < 0.5 * losses[0], "{} to {}", losses[0], losses[59]);
    let middle = |name: &str| name.starts_with("transformer.h.1.");
    assert_eq!(values(trainer.params(), middle), values(&params(), middle));
    for part in [
        "transformer.wte",
        "transformer.wpe",
        "transformer.h.0.",
        "transformer.h.2.",
        "transformer.ln_f",
    ] {
        let part = |name: &str| name.starts_with(part);
        assert_ne!(values(trainer.params(), part), values(&params(), part));
    }
    assert_ne!(
        trainer.params().get("lm_head.weight"),
        params().get("transformer.wte.weight")
    );
}

#[test]
fn settings_and_texts_out_of_range_are_refused() {
    let bad = [
        TrainConfig {
            tokens: 17,
            ..config(Scope::Full)
        },
        TrainConfig {
            tokens: 0,
            ..config(Scope::Full)
        },
        TrainConfig {
            batch: 0,
            ..config(Scope::Full)
        },
        TrainConfig {
            threads: 0,
            ..config(Scope::Full)
        },
        TrainConfig {
            steps: 0,
            ..config(Scope::Full)
        },
        TrainConfig {
            dropout: 1.0,
            ..config(Scope::Full)
        },
    ];
    for config in bad {
        assert!(matches!(Trainer::new(params(), config), Err(ModelError::Request(_))));
    }
    let mut trainer = Trainer::new(params(), config(Scope::Full)).unwrap();
    assert!(trainer.step(&[1; 16]).unwrap_err().to_string().contains("16 tokens"));
    assert!(trainer.step(&[16; 40]).unwrap_err().to_string().contains("token id 16"));
    assert_eq!(trainer.step_number(), 0);
}

#[test]
fn the_rate_warms_up_and_falls() {
    let config = TrainConfig {
        peak_rate: 1.0,
        final_share: 0.1,
        warmup: 10,
        steps: 110,
        ..TrainConfig::default()
    };
    assert!((config.rate(0) - 0.1).abs() < 1e-6 && (config.rate(9) - 1.0).abs() < 1e-6);
    assert!((config.rate(10) - 1.0).abs() < 1e-6 && (config.rate(60) - 0.55).abs() < 1e-6);
    assert!((config.rate(110) - 0.1).abs() < 1e-6 && (config.rate(500) - 0.1).abs() < 1e-6);
}
