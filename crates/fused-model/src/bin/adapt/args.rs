//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use fused_model::adapt::{Head, PAPER_RATIO};
use fused_model::train::{Scope, TrainConfig};
use fused_model::{ModelConfig, SaveAs};
use serde::Serialize;

const EXAMPLE: &str = "\
Example, after build-vocab has written patched/:
  adapt --model gpt2/ --tokenizer patched/ --corpus docs/ --out adapted/

The folder then is a complete Hugging Face model. Its run/ holds the log and the checkpoint that --resume
continues. Ctrl-C ends tuning and writes the best weights so far. The report goes to standard output.

Exit status: 0 done, 1 failed, 2 wrong usage.";

/// Fits a GPT-2 or Llama model to a patched tokenizer: rows for the new tokens, then tuning.
#[derive(Debug, Parser)]
#[command(name = "adapt", version, after_help = EXAMPLE, max_term_width = 110)]
pub(crate) struct Args {
    /// Base model: a Hugging Face directory of a GPT-2 or Llama model with its tokenizer
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Folder that build-vocab wrote [default: the model's own tokenizer, for a control: the same tuning
    /// without new tokens]
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Text to fit and tune on: files and folders of .txt, .md, .jsonl and the like, .gz too
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    pub(crate) corpus: Vec<PathBuf>,
    /// Text to score [default: a tenth of the corpus, chosen by hash, which is then not learnt from]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) heldout: Vec<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Rows of new tokens to begin with
    #[arg(long, value_enum, default_value_t = Init::Exponential)]
    pub(crate) init: Init,
    /// Ratio of neighbouring weights: e squared in AdaptiVocab's paper, 2 in its released code
    #[arg(long, default_value_t = PAPER_RATIO)]
    ratio: f32,
    /// Whether new tokens get an output row of their own
    #[arg(long, value_enum, default_value_t = HeadChoice::Untied)]
    pub(crate) head: HeadChoice,
    /// What is fitted before tuning, in this order: new input rows to the base model's states, all output rows to
    /// how often tokens come, output rows of new tokens and their pieces to the text [default: all, where there
    /// are new tokens and an untied head]
    #[arg(long, value_enum, value_delimiter = ',')]
    fit: Vec<Fit>,
    /// Steps of fitting input rows, and of fitting output rows
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) fit_steps: usize,
    /// What is tuned
    #[arg(long, value_enum, default_value_t = Tune::Light)]
    pub(crate) tune: Tune,
    /// Tuning steps
    #[arg(long, value_name = "N", default_value_t = 2000)]
    steps: usize,
    /// Tokens of a window in fitting input rows, tuning and scoring [default: the model's context, at most 1,024]
    #[arg(long, value_name = "N")]
    context: Option<NonZeroUsize>,
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
    pub(crate) every: usize,
    /// Held-out scores without a better one after which tuning stops
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) patience: usize,
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
    pub(crate) resume: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Rows to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Init {
    /// Exponential weights over the pieces
    Exponential,
    /// Their plain mean
    Mean,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeadChoice {
    /// Input and output rows differ
    Untied,
    /// One row a token; the model must have it so
    Tied,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fit {
    /// Nothing
    None,
    /// Input rows, by distillation
    Inputs,
    /// All output rows, by the counts of tokens
    Calibrate,
    /// Output rows of new tokens and their pieces, by gradient steps on stored states
    Outputs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tune {
    /// Nothing
    None,
    /// Embeddings, head, final norm, first and last block
    #[value(name = "embeddings+head+first+last")]
    #[serde(rename = "embeddings+head+first+last")]
    Light,
    /// All weights
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Precision {
    /// 2 bytes a weight
    F16,
    /// 4 bytes a weight
    F32,
}

impl Args {
    /// Reads the command line; what contradicts itself ends the program with status 2.
    pub(crate) fn read() -> Self {
        let args = Self::parse();
        if let Some(why) = args.contradiction() {
            Self::command().error(ErrorKind::ArgumentConflict, why).exit()
        }
        args
    }

    fn contradiction(&self) -> Option<&'static str> {
        if self.resume && self.tune == Tune::None {
            return Some("--resume continues tuning, and --tune none leaves nothing to continue");
        }
        if self.fit.contains(&Fit::None) && self.fit.len() > 1 {
            return Some("--fit none together with another fit");
        }
        if self.fit.iter().any(|&fit| fit != Fit::None) {
            if self.head == HeadChoice::Tied {
                return Some("--fit needs output rows of their own: leave out --head tied, or say --fit none");
            }
            if self.tokenizer.is_none() {
                return Some("--fit is for the rows of new tokens: name their --tokenizer, or say --fit none");
            }
        }
        None
    }

    /// The fits to do, in their order.
    pub(crate) fn fits(&self) -> Vec<Fit> {
        let possible = self.tokenizer.is_some() && self.head == HeadChoice::Untied;
        let mut fits = match self.fit.is_empty() && possible {
            true => vec![Fit::Inputs, Fit::Calibrate, Fit::Outputs],
            false => self.fit.clone(),
        };
        fits.retain(|&fit| fit != Fit::None);
        fits.sort_unstable();
        fits.dedup();
        fits
    }

    pub(crate) fn ratio(&self) -> f32 {
        match self.init {
            Init::Exponential => self.ratio,
            Init::Mean => 1.0,
        }
    }

    pub(crate) fn head(&self) -> Head {
        match self.head {
            HeadChoice::Untied => Head::Untied,
            HeadChoice::Tied => Head::Tied,
        }
    }

    pub(crate) fn threads(&self) -> usize {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or(all)
    }

    pub(crate) fn save_as(&self) -> SaveAs {
        match self.dtype {
            Precision::F16 => SaveAs::F16,
            Precision::F32 => SaveAs::F32,
        }
    }

    /// Tokens of a window.
    pub(crate) fn window(&self, model: &ModelConfig) -> NonZeroUsize {
        const LONGEST: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
        let context = NonZeroUsize::new(model.context()).unwrap_or(NonZeroUsize::MIN);
        self.context.unwrap_or(context.min(LONGEST))
    }

    /// Settings of tuning for a model of this shape, `None` where nothing is tuned.
    pub(crate) fn tuning(&self, model: &ModelConfig) -> Option<TrainConfig> {
        let scope = match self.tune {
            Tune::None => return None,
            Tune::Light => Scope::Light,
            Tune::Full => Scope::Full,
        };
        Some(TrainConfig {
            scope,
            steps: self.steps,
            batch: self.batch,
            tokens: self.window(model).get(),
            peak_rate: self.rate,
            warmup: 100.min(self.steps / 10),
            dropout: self.dropout,
            threads: self.threads(),
            seed: self.seed,
            ..TrainConfig::default()
        })
    }
}
