//! Training runs: they learn, they repeat, they resume, and light tuning leaves the middle alone.

use fused_model::train::{News, Scope, Stopped, TrainConfig, Trainer, Watch, token_stream};
use fused_model::{Gpt2Config, Heldout, ModelError, Params};
use patchtok::{Corpus, PatchTokenizer};

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
        TrainConfig {
            peak_rate: f32::NAN,
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
    let shape = params().config().clone();
    assert!(config(Scope::Full).check_text(&shape, &stream()).is_ok());
    for bad in [&[1; 16][..], &[16; 40]] {
        assert!(matches!(
            config(Scope::Full).check_text(&shape, bad),
            Err(ModelError::Request(_))
        ));
    }
    // A warm-up longer than the run.
    let long = TrainConfig {
        warmup: 100,
        ..config(Scope::Full)
    };
    assert!(long.rate(150).is_finite());
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

/// A text, the same as tokens, and a small model for them.
fn text() -> (Params, Vec<u32>, Heldout) {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/demo/base/tokenizer.json");
    let tokenizer = PatchTokenizer::from_file(base).unwrap();
    let corpus = Corpus::from_texts((0..40).map(|i| format!("Row {i} of the table is locked by process {}.\n", i % 7)));
    let end = tokenizer.eos_id().unwrap();
    let stream = token_stream(&tokenizer, &corpus, end).unwrap();
    let heldout = Heldout::read(&tokenizer, &corpus, end).unwrap().thinned(500);
    assert!(heldout.bytes() < 1000);
    (
        Params::random(Gpt2Config::new(tokenizer.vocab_size(), 16, 8, 2, 2), 3),
        stream,
        heldout,
    )
}

fn watch(checkpoint: Option<&std::path::Path>) -> Watch<'_> {
    Watch {
        every: 10,
        patience: None,
        checkpoint,
    }
}

#[test]
fn a_run_keeps_the_best_weights_and_resumes_with_them() {
    let (params, stream, heldout) = text();
    let config = || TrainConfig {
        steps: 40,
        ..config(Scope::Full)
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/checkpoint.safetensors");
    let mut whole = Trainer::new(params.clone(), config()).unwrap();
    let mut scores = Vec::new();
    let (want, stopped) = whole
        .run(&stream, &heldout, watch(None), &mut |news| {
            if let News::Scored { step, bits_per_byte } = news {
                scores.push((step, bits_per_byte));
            }
            true
        })
        .unwrap();
    assert_eq!(stopped, Stopped::Finished);
    assert_eq!(
        scores.iter().map(|&(step, _)| step).collect::<Vec<_>>(),
        [0, 10, 20, 30, 40]
    );
    let least = scores.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!((want.step, want.bits_per_byte), least);
    assert_eq!(heldout.score(&want.params).unwrap().bits_per_byte(), least.1);

    // Stopped in the middle of a stretch, then taken up.
    let mut broken = Trainer::new(params.clone(), config()).unwrap();
    let mut until_25 = |news: News<'_>| !matches!(news, News::Step(report) if report.step == 24);
    let (best, stopped) = broken
        .run(&stream, &heldout, watch(Some(&path)), &mut until_25)
        .unwrap();
    assert_eq!((stopped, broken.step_number()), (Stopped::Asked, 25));
    assert!(best.bits_per_byte <= scores[2].1);
    let mut resumed = Trainer::resume(params, config(), &path).unwrap();
    assert_eq!(resumed.step_number(), 25);
    let (got, stopped) = resumed
        .run(&stream, &heldout, watch(Some(&path)), &mut |_| true)
        .unwrap();
    assert_eq!(stopped, Stopped::Finished);
    assert_eq!(values(resumed.params(), |_| true), values(whole.params(), |_| true));
    assert_eq!((got.step, got.bits_per_byte), (want.step, want.bits_per_byte));
}

/// Wherever a run that may stop early is interrupted, it goes on to the same end, at rates at which scores rise and fall.
#[test]
fn a_resumed_run_stops_where_the_whole_one_does() {
    let (params, stream, heldout) = text();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let watch = |checkpoint| Watch {
        every: 3,
        patience: Some(1),
        checkpoint,
    };
    // Runs that stopped early, and interruptions that fell on better weights than all scores before them.
    let (mut early, mut gained) = (0, 0);
    for peak_rate in [0.1, 1.0, 5.0] {
        let config = || TrainConfig {
            peak_rate,
            warmup: 0,
            steps: 24,
            ..config(Scope::Full)
        };
        let mut whole = Trainer::new(params.clone(), config()).unwrap();
        let (want, end) = whole.run(&stream, &heldout, watch(None), &mut |_| true).unwrap();
        early += usize::from(end == Stopped::NoGain);
        for last in (0..whole.step_number() - 1).step_by(2) {
            let mut broken = Trainer::new(params.clone(), config()).unwrap();
            let mut until = |news: News<'_>| !matches!(news, News::Step(report) if report.step == last);
            let (best, asked) = broken.run(&stream, &heldout, watch(Some(&path)), &mut until).unwrap();
            assert_eq!(asked, Stopped::Asked);
            gained += usize::from(best.step % 3 != 0);
            let mut resumed = Trainer::resume(params.clone(), config(), &path).unwrap();
            let (got, stopped) = resumed
                .run(&stream, &heldout, watch(Some(&path)), &mut |_| true)
                .unwrap();
            let got = (stopped, resumed.step_number(), got.step, got.bits_per_byte);
            let want = (end, whole.step_number(), want.step, want.bits_per_byte);
            assert_eq!(got, want, "rate {peak_rate}, stopped after step {last}");
        }
    }
    assert!(early > 0 && gained > 0, "{early} {gained}");
}

#[test]
fn a_run_stops_when_nothing_is_gained_and_is_no_worse_than_before() {
    let (params, stream, heldout) = text();
    // A rate so high that every step does harm.
    let config = TrainConfig {
        peak_rate: 30.0,
        warmup: 0,
        steps: 1000,
        ..config(Scope::Full)
    };
    let mut trainer = Trainer::new(params.clone(), config).unwrap();
    let watch = Watch {
        every: 2,
        patience: Some(3),
        checkpoint: None,
    };
    let (best, stopped) = trainer.run(&stream, &heldout, watch, &mut |_| true).unwrap();
    assert_eq!((stopped, best.step, trainer.step_number()), (Stopped::NoGain, 0, 6));
    assert_eq!(values(&best.params, |_| true), values(&params, |_| true));
}
