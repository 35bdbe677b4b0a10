//! `adapt`: fits a model to a patched tokenizer.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fused_model::adapt::{
    InputFit, LEAST_SHARE, OutputFit, TwoStreams, calibrate, exponential, fit_inputs, fit_outputs, write_directory,
};
use fused_model::train::{News, Trainer, Watch, token_stream};
use fused_model::{Heldout, Params, end_ids};
use indicatif::{ProgressBar, ProgressStyle};
use patchtok::{Corpus, PatchTokenizer};

use args::{Args, Fit, HeadChoice};
use folder::{Inputs, RunFolder, check_out};
use report::{Begin, Report, Tuning};

mod args;
mod folder;
mod report;

/// Bytes of held-out text that watch a run; the figures of the report are of all of it.
const WATCHED_BYTES: usize = 96 << 10;
/// Bytes of the corpus that rows are fitted on.
const FIT_BYTES: usize = 8 << 20;
/// Places of the corpus that output rows are calibrated on.
const CALIBRATION_PLACES: usize = 1 << 16;

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    match run(&Args::read()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adapt: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    check_out(&args.out, args.resume)?;
    let base = Params::load(&args.model)?;
    let base_tokenizer = PatchTokenizer::load(&args.model).context("cannot read the model's tokenizer")?;
    let tokenizer = match &args.tokenizer {
        Some(folder) => {
            let tokenizer = PatchTokenizer::load(folder).context("cannot read the patched tokenizer")?;
            ensure!(
                tokenizer.patch_map().is_some(),
                "{} holds no patched tokenizer: it has no patch_map.json; make one with build-vocab",
                folder.display()
            );
            tokenizer
        }
        None => base_tokenizer.clone(),
    };
    let separator = end_ids(&args.model)?
        .first()
        .copied()
        .or(tokenizer.eos_id())
        .context("neither config.json nor the tokenizer names a token that ends a text; set eos_token_id")?;
    let corpus = Corpus::open_all(&args.corpus)?;
    let (corpus, held_back) = if args.heldout.is_empty() {
        corpus.split()
    } else {
        (corpus, Corpus::open_all(&args.heldout)?)
    };
    let window = args.window(base.config());
    let base_heldout = Heldout::read(&base_tokenizer, &held_back, separator)?.in_windows(window);
    let heldout = Heldout::read(&tokenizer, &held_back, separator)?.in_windows(window);
    // All that tuning may refuse, before the work that comes ahead of it.
    let mut params = initial(args, &base, &tokenizer)?;
    let tuning = match args.tuning(base.config()) {
        None => None,
        Some(config) => {
            let stream = token_stream(&tokenizer, &corpus, separator)?;
            config.check(params.config())?;
            config.check_text(params.config(), &stream)?;
            let inputs = Inputs::new(&tokenizer, &stream, &held_back)?;
            Some((config, stream, inputs))
        }
    };
    let run = RunFolder::of(&args.out);
    let mut resumed = None;
    if let (true, Some((config, _, inputs))) = (args.resume, &tuning) {
        run.check(inputs)?;
        resumed = Some(Trainer::resume(params.clone(), config.clone(), &run.checkpoint())?);
    }
    install_handler();

    let base_bits = base_heldout.score(&base)?.bits_per_byte();
    eprintln!("held-out bits per byte of the base: {base_bits:.4}");
    let mut begin = None;
    if resumed.is_none() {
        let two = TwoStreams::read(&base_tokenizer, &tokenizer, &corpus, separator, FIT_BYTES)?;
        begin = Some(prepare(args, &mut params, &base, &tokenizer, &two, &heldout)?);
    }
    let tuning = match tuning {
        None => None,
        Some((config, stream, inputs)) => {
            let trainer = match resumed {
                Some(trainer) => trainer,
                None => {
                    let trainer = Trainer::new(params, config)?;
                    run.create(&inputs)?;
                    trainer
                }
            };
            let (tuned, tuning) = tune(args, trainer, &run, &stream, &heldout.thinned(WATCHED_BYTES))?;
            params = tuned;
            Some(tuning)
        }
    };
    write_directory(&args.out, &params, args.save_as(), &tokenizer, &args.model)?;
    let report = Report {
        schema: "fused-model.adapt.v1",
        new_tokens: tokenizer.patch_map().map_or(0, |map| map.new_tokens().len()),
        head: args.head,
        begin,
        heldout_bytes: heldout.bytes(),
        base_bits_per_byte: base_bits,
        bits_per_byte: heldout.score(&Params::load(&args.out)?)?.bits_per_byte(),
        tuning,
    };
    report.print(args)
}

fn install_handler() {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        eprintln!("\nstopping; tuning that has begun keeps its best weights (once more stops at once)");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("signals are not caught: {error}");
    }
}

fn go_on() -> bool {
    !STOP.load(Ordering::Relaxed)
}

/// The base model with rows for the new tokens.
fn initial(args: &Args, base: &Params, tokenizer: &PatchTokenizer) -> Result<Params> {
    match (tokenizer.patch_map(), args.head) {
        (Some(patch), _) => Ok(exponential(base, patch, args.ratio(), args.head())?),
        (None, HeadChoice::Untied) => Ok(base.untied()),
        (None, HeadChoice::Tied) => Ok(base.clone()),
    }
}

/// Fits the rows before tuning.
fn prepare(
    args: &Args,
    params: &mut Params,
    base: &Params,
    tokenizer: &PatchTokenizer,
    two: &TwoStreams,
    heldout: &Heldout,
) -> Result<Begin> {
    let initial = heldout.score(params)?.bits_per_byte();
    let started = Instant::now();
    let fits = args.fits();
    for &fit in &fits {
        apply(args, fit, params, base, tokenizer, two)?;
        ensure!(go_on(), "interrupted before tuning; nothing was written");
    }
    let fit_seconds = started.elapsed().as_secs_f64();
    let fitted = heldout.score(params)?.bits_per_byte();
    ensure!(go_on(), "interrupted before tuning; nothing was written");
    eprintln!("with new rows: {initial:.4} initial, {fitted:.4} before tuning");
    Ok(Begin {
        init: args.init,
        ratio: args.ratio(),
        fit: fits,
        initial_bits_per_byte: initial,
        fitted_bits_per_byte: fitted,
        fit_seconds,
    })
}

fn apply(
    args: &Args,
    fit: Fit,
    params: &mut Params,
    base: &Params,
    tokenizer: &PatchTokenizer,
    two: &TwoStreams,
) -> Result<()> {
    let Some(patch) = tokenizer.patch_map() else {
        return Ok(());
    };
    match fit {
        Fit::None => {}
        Fit::Inputs => {
            let settings = InputFit {
                steps: args.fit_steps,
                tokens: args.window(base.config()).get(),
                threads: args.threads(),
                ..InputFit::default()
            };
            let new: Vec<u32> = patch.new_tokens().map(|token| token.id).collect();
            let bar = bar(args.fit_steps, "fitting input rows");
            fit_inputs(params, base, &new, two, &settings, &mut |_, distance| {
                bar.inc(1);
                bar.set_message(format!("fitting input rows, distance {distance:.3}"));
                go_on()
            })?;
            bar.finish_and_clear();
        }
        Fit::Calibrate => {
            let held = calibrate(params, two.patched(), CALIBRATION_PLACES, &go_on)?;
            if let Some(held) = held.filter(|&held| held.is_nan() || held < LEAST_SHARE) {
                eprintln!("output rows are not calibrated: the model's states hold only {held:.2} of a constant");
            }
        }
        Fit::Outputs => {
            let settings = OutputFit {
                steps: args.fit_steps,
                ..OutputFit::default()
            };
            let tokens = patch.new_tokens();
            let rows: Vec<u32> = tokens
                .flat_map(|token| std::iter::once(token.id).chain(token.base_ids.iter().copied()))
                .collect();
            let bar = bar(args.fit_steps, "fitting output rows");
            fit_outputs(params, &rows, two.patched(), &settings, &go_on, &mut |_, loss| {
                bar.inc(1);
                bar.set_message(format!("fitting output rows, loss {loss:.3}"));
            })?;
            bar.finish_and_clear();
        }
    }
    Ok(())
}

fn tune(
    args: &Args,
    mut trainer: Trainer,
    run: &RunFolder,
    stream: &[u32],
    heldout: &Heldout,
) -> Result<(Params, Tuning)> {
    let (checkpoint, mut log) = (run.checkpoint(), run.log()?);
    let started = Instant::now();
    let bar = bar(trainer.config().steps, "tuning");
    bar.set_position(trainer.step_number() as u64);
    bar.reset_eta();
    let watch = Watch {
        every: args.every,
        patience: Some(args.patience),
        checkpoint: Some(&checkpoint),
    };
    let (best, stopped) = trainer.run(stream, heldout, watch, &mut |news| {
        let line = match news {
            News::Step(report) => {
                bar.inc(1);
                bar.set_message(format!("tuning, loss {:.3}", report.loss));
                serde_json::json!(report)
            }
            News::Scored { step, bits_per_byte } => serde_json::json!({ "step": step, "bits_per_byte": bits_per_byte }),
            _ => return true,
        };
        // A log that cannot be written to is no reason to lose the run.
        let _ = writeln!(log, "{line}");
        go_on()
    })?;
    bar.finish_and_clear();
    let tuning = Tuning {
        tune: args.tune,
        settings: trainer.config().clone(),
        resumed: args.resume,
        stopped,
        steps_done: trainer.step_number(),
        best_step: best.step,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((best.params, tuning))
}

fn bar(steps: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left, {msg}");
    ProgressBar::new(steps as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(what)
}
