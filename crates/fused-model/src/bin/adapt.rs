//! `adapt`: fits a model to a patched tokenizer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use fused_model::adapt::{
    Head, InputFit, LEAST_SHARE, PAPER_RATIO, TwoStreams, calibrate, exponential, fit_inputs, weigh_rows,
    write_directory,
};
use fused_model::train::{News, Scope, Stopped, TrainConfig, Trainer, Watch, token_stream};
use fused_model::{Heldout, Params, SaveAs};
use indicatif::{ProgressBar, ProgressStyle};
use patchtok::{Corpus, PatchTokenizer};
use serde::Serialize;

/// Bytes of held-out text that watch a run; the figures of the report are of all of it.
const WATCHED_BYTES: usize = 96 << 10;
/// Bytes of the corpus that rows are fitted on.
const FIT_BYTES: usize = 8 << 20;
/// Places of the corpus that output rows are calibrated on.
const CALIBRATION_PLACES: usize = 1 << 16;

const EXAMPLE: &str = "\
Example, after build-vocab has written patched/:
  adapt --model gpt2/ --tokenizer patched/ --corpus docs/ --out adapted/

The folder then is a complete Hugging Face model. Its run/ holds the log and the checkpoint that --resume
continues. Ctrl-C ends tuning and writes the best weights so far. The report goes to standard output.

Exit status: 0 done, 1 failed, 2 wrong usage.";

/// Fits a GPT-2 model to a patched tokenizer: rows for the new tokens, then tuning.
#[derive(Debug, Parser)]
#[command(name = "adapt", version, after_help = EXAMPLE, max_term_width = 110)]
struct Args {
    /// Base model: a Hugging Face GPT-2 directory with its tokenizer
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder that build-vocab wrote [default: the model's own tokenizer, for a control: the same tuning
    /// without new tokens]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Text to fit and tune on: files and folders of .txt, .md, .jsonl and the like, .gz too
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    corpus: Vec<PathBuf>,
    /// Text to score [default: a tenth of the corpus, chosen by hash, which is then not learnt from]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    heldout: Vec<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Rows of new tokens to begin with
    #[arg(long, value_enum, default_value_t = Init::Exponential)]
    init: Init,
    /// Ratio of neighbouring weights: e squared in AdaptiVocab's paper, 2 in its released code
    #[arg(long, default_value_t = PAPER_RATIO)]
    ratio: f32,
    /// Whether new tokens get an output row of their own
    #[arg(long, value_enum, default_value_t = HeadChoice::Untied)]
    head: HeadChoice,
    /// What is fitted before tuning, in this order: new input rows to the base model's states, then all output
    /// rows to how often tokens come [untied heads only]
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Fit::Inputs, Fit::Calibrate])]
    fit: Vec<Fit>,
    /// Steps of fitting input rows
    #[arg(long, value_name = "N", default_value_t = 200)]
    fit_steps: usize,
    /// What is tuned
    #[arg(long, value_enum, default_value_t = Tune::Light)]
    tune: Tune,
    /// Tuning steps
    #[arg(long, value_name = "N", default_value_t = 2000)]
    steps: usize,
    /// Sequences in a step
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Learning rate after warm-up
    #[arg(long, default_value_t = 1e-3)]
    rate: f32,
    /// Dropout on embeddings and residual branches
    #[arg(long, default_value_t = 0.1)]
    dropout: f32,
    /// Steps between held-out scores and checkpoints
    #[arg(long, value_name = "N", default_value_t = 250)]
    every: usize,
    /// Held-out scores without a better one after which tuning stops
    #[arg(long, value_name = "N", default_value_t = 3)]
    patience: usize,
    /// Threads; the result is reproducible for a seed and a number of threads
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Seed of windows and dropout
    #[arg(long, default_value_t = 2)]
    seed: u64,
    /// Precision of the written weights
    #[arg(long, value_enum, default_value_t = Precision::F16)]
    dtype: Precision,
    /// Continue the run in the output folder
    #[arg(long)]
    resume: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Rows to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Init {
    /// Exponential weights over the pieces
    Exponential,
    /// Their plain mean
    Mean,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum HeadChoice {
    /// Input and output rows differ
    Untied,
    /// One row a token; the model must have it so
    Tied,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fit {
    /// Nothing
    None,
    /// Input rows, by distillation
    Inputs,
    /// All output rows, by the counts of tokens
    Calibrate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Tune {
    /// Nothing
    None,
    /// Embeddings, head, final norm, first and last block
    #[value(name = "embeddings+head+first+last")]
    #[serde(rename = "embeddings+head+first+last")]
    Light,
    /// All weights
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Precision {
    /// 2 bytes a weight
    F16,
    /// 4 bytes a weight
    F32,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    new_tokens: usize,
    init: Init,
    ratio: f32,
    head: HeadChoice,
    fit: Vec<Fit>,
    heldout_bytes: usize,
    /// Held-out bits per byte.
    base_bits_per_byte: f64,
    initial_bits_per_byte: f64,
    /// After the fits, before tuning.
    fitted_bits_per_byte: f64,
    /// Of the files just written, their rounding included.
    bits_per_byte: f64,
    fit_seconds: f64,
    tuning: Option<Tuning>,
}

#[derive(Debug, Serialize)]
struct Tuning {
    tune: Tune,
    settings: TrainConfig,
    stopped: Stopped,
    steps_done: usize,
    best_step: usize,
    seconds: f64,
}

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    match run(&Args::parse()) {
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
    let separator = base
        .config()
        .eos_token_id
        .or(tokenizer.eos_id())
        .context("neither config.json nor the tokenizer names a token that ends a text; set eos_token_id")?;
    let corpus = Corpus::open_all(&args.corpus)?;
    let (corpus, heldout) = if args.heldout.is_empty() {
        corpus.split()
    } else {
        (corpus, Corpus::open_all(&args.heldout)?)
    };
    let base_heldout = Heldout::read(&base_tokenizer, &heldout, separator)?;
    let heldout = Heldout::read(&tokenizer, &heldout, separator)?;
    install_handler();

    let started = Instant::now();
    let initial = initial(args, &base, &tokenizer)?;
    let initial_bits = heldout.score(&initial)?.bits_per_byte();
    let mut fits: Vec<Fit> = args.fit.iter().copied().filter(|&fit| fit != Fit::None).collect();
    if args.tokenizer.is_none() || args.head == HeadChoice::Tied {
        fits.clear();
    }
    fits.sort_unstable();
    fits.dedup();
    let mut params = initial;
    // A resumed run brings the weights it goes on with.
    if !args.resume {
        let two = TwoStreams::read(&base_tokenizer, &tokenizer, &corpus, separator, FIT_BYTES)?;
        for &fit in &fits {
            apply(args, fit, &mut params, &base, &tokenizer, &two)?;
        }
    }
    let fitted_bits = heldout.score(&params)?.bits_per_byte();
    let fit_seconds = started.elapsed().as_secs_f64();
    let base_bits = base_heldout.score(&base)?.bits_per_byte();
    eprintln!("held-out bits per byte: {base_bits:.4} base, {initial_bits:.4} initial, {fitted_bits:.4} before tuning");

    let tuning = match args.tune {
        Tune::None => None,
        _ => {
            let stream = token_stream(&tokenizer, &corpus, separator)?;
            let (tuned, tuning) = tune(args, params, &stream, &heldout.thinned(WATCHED_BYTES))?;
            params = tuned;
            Some(tuning)
        }
    };
    let precision = match args.dtype {
        Precision::F16 => SaveAs::F16,
        Precision::F32 => SaveAs::F32,
    };
    write_directory(&args.out, &params, precision, &tokenizer, &args.model)?;
    let report = Report {
        schema: "fused-model.adapt.v1",
        new_tokens: tokenizer.patch_map().map_or(0, |map| map.new_tokens().len()),
        init: args.init,
        ratio: ratio(args),
        head: args.head,
        fit: fits,
        heldout_bytes: heldout.bytes(),
        base_bits_per_byte: base_bits,
        initial_bits_per_byte: initial_bits,
        fitted_bits_per_byte: fitted_bits,
        bits_per_byte: heldout.score(&Params::load(&args.out)?)?.bits_per_byte(),
        fit_seconds,
        tuning,
    };
    print(&report, args)
}

/// Refuses to write among files of somebody else, and to write over a run by accident.
fn check_out(out: &Path, resume: bool) -> Result<()> {
    let checkpoint = checkpoint(out);
    if resume {
        ensure!(
            checkpoint.exists(),
            "{} does not exist: nothing to resume",
            checkpoint.display()
        );
        return Ok(());
    }
    let mut entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| out.display().to_string()),
    };
    if entries.next().is_some() {
        bail!(
            "{} is not empty; name another --out, or continue its run with --resume",
            out.display()
        );
    }
    Ok(())
}

fn checkpoint(out: &Path) -> PathBuf {
    out.join("run/checkpoint.safetensors")
}

fn install_handler() {
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(1);
        }
        eprintln!("\nstopping after this step and keeping the best weights (once more stops at once)");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("signals are not caught: {error}");
    }
}

fn ratio(args: &Args) -> f32 {
    match args.init {
        Init::Exponential => args.ratio,
        Init::Mean => 1.0,
    }
}

fn initial(args: &Args, base: &Params, tokenizer: &PatchTokenizer) -> Result<Params> {
    match (tokenizer.patch_map(), args.head) {
        (Some(patch), HeadChoice::Untied) => Ok(exponential(base, patch, ratio(args))?),
        (Some(patch), HeadChoice::Tied) => {
            let tokens = patch.new_tokens().map(|token| (token.id, token.base_ids.as_slice()));
            Ok(weigh_rows(base, tokens, ratio(args), Head::Tied)?)
        }
        (None, HeadChoice::Untied) => Ok(base.untied()),
        (None, HeadChoice::Tied) => Ok(base.clone()),
    }
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
                threads: threads(args),
                ..InputFit::default()
            };
            let bar = bar(args.fit_steps, "fitting input rows");
            fit_inputs(params, base, patch, two, &settings, &mut |_, distance| {
                bar.inc(1);
                bar.set_message(format!("fitting input rows, distance {distance:.3}"));
                !STOP.load(Ordering::Relaxed)
            })?;
            bar.finish_and_clear();
        }
        Fit::Calibrate => {
            let held = calibrate(params, two.patched(), CALIBRATION_PLACES)?;
            if held < LEAST_SHARE {
                eprintln!("output rows stay as they are: the model's states hold only {held:.2} of a constant");
            }
        }
    }
    ensure!(
        !STOP.load(Ordering::Relaxed),
        "interrupted before tuning; nothing was written"
    );
    Ok(())
}

fn tune(args: &Args, params: Params, stream: &[u32], heldout: &Heldout) -> Result<(Params, Tuning)> {
    let config = TrainConfig {
        scope: if args.tune == Tune::Full {
            Scope::Full
        } else {
            Scope::Light
        },
        steps: args.steps,
        batch: args.batch,
        tokens: params.config().n_positions,
        peak_rate: args.rate,
        warmup: 100.min(args.steps / 10),
        dropout: args.dropout,
        threads: threads(args),
        seed: args.seed,
        ..TrainConfig::default()
    };
    let checkpoint = checkpoint(&args.out);
    let folder = args.out.join("run");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut trainer = if args.resume {
        Trainer::resume(params, config, &checkpoint)?
    } else {
        Trainer::new(params, config)?
    };
    let log = folder.join("log.jsonl");
    let mut log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| log.display().to_string())?;
    let started = Instant::now();
    let bar = bar(args.steps, "tuning");
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
        !STOP.load(Ordering::Relaxed)
    })?;
    bar.finish_and_clear();
    let tuning = Tuning {
        tune: args.tune,
        settings: trainer.config().clone(),
        stopped,
        steps_done: trainer.step_number(),
        best_step: best.step,
        seconds: started.elapsed().as_secs_f64(),
    };
    Ok((best.params, tuning))
}

fn threads(args: &Args) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    args.threads.unwrap_or(all)
}

fn bar(steps: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left, {msg}");
    ProgressBar::new(steps as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(what)
}

fn print(report: &Report, args: &Args) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, report)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "new tokens      {}", report.new_tokens)?;
    writeln!(out, "bits per byte of {} held-out bytes", report.heldout_bytes)?;
    writeln!(out, "  base          {:.4}", report.base_bits_per_byte)?;
    writeln!(out, "  initial rows  {:.4}", report.initial_bits_per_byte)?;
    writeln!(
        out,
        "  fitted rows   {:.4}  ({:.0} s)",
        report.fitted_bits_per_byte, report.fit_seconds
    )?;
    if let Some(tuning) = &report.tuning {
        writeln!(
            out,
            "  tuned         {:.4}  (best at step {} of {} done, {:.0} s)",
            report.bits_per_byte, tuning.best_step, tuning.steps_done, tuning.seconds
        )?;
    }
    writeln!(out, "wrote           {}", args.out.display())?;
    Ok(())
}
