//! What `ablation_results.json` holds; `docs/report-schema.md` explains it field by field.

use schemars::JsonSchema;
use serde::Serialize;

use super::frontier::Method;
use super::stages::Stage;
use crate::arms::KvChoice;
use crate::environment::Environment;
use crate::report::{ArmReport, Change, CorpusInput, Figure, Interaction, ModelShape, NotMeasured, Series};

/// Name and version of the format; the number changes when a field changes its meaning or goes away.
pub const SCHEMA: &str = "fused-bench.ablation.v1";

/// The whole report.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AblationReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The machine and the build.
    pub environment: Environment,
    /// What was run on what.
    pub inputs: AblationInputs,
    /// The quality guard.
    pub quality: QualityGuard,
    /// One entry for each tokenizer, the base first; empty where none could be built.
    pub frontier: Vec<FrontierPoint>,
    /// Tokenizer × KV store; absent without an adapted model.
    pub factorial: Option<Factorial>,
    /// KV memory of a batch of the base model by the size of the virtual store's frames.
    pub frames: Vec<FrameReport>,
    /// What a step of the base model costs as sequences grow, by KV store.
    pub depths: Vec<DepthReport>,
    /// What this run says nothing about.
    pub not_measured: Vec<NotMeasured>,
}

/// What was run on what.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AblationInputs {
    /// `demo` or `own`: whether what was not named came from the embedded demonstration.
    pub mode: &'static str,
    /// Held-out text of the domain.
    pub domain: CorpusInput,
    /// Held-out text of another domain.
    pub outside: Option<CorpusInput>,
    /// Training text that tokenizers of the frontier were built on.
    pub train: Option<String>,
    /// Shape of the base model.
    pub model_shape: ModelShape,
    /// Texts completed where time is measured.
    pub texts: usize,
    /// Bytes of their prompts.
    pub prompt_bytes: usize,
    /// Bytes of their replies.
    pub reply_bytes: usize,
    /// Texts decoded together.
    pub batch: usize,
    /// Repetitions where time is measured.
    pub rounds: usize,
    /// In which order.
    pub order: &'static str,
}

/// The quality guard: what adaptation does to the model.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct QualityGuard {
    /// The stages, and where each comes from.
    pub stages: Vec<StageInput>,
    /// Beginnings of held-out pages of the domain, up to 4 KiB of each.
    pub domain: GuardOn,
    /// The same of another domain, where there is one.
    pub outside: Option<GuardOn>,
    /// What it all is about, on the domain and outside.
    pub claims: Vec<GuardClaim>,
    /// How often adapted models say new tokens.
    pub adoption: Vec<Adoption>,
    /// The same prompts continued by every model, greedily.
    pub samples: Vec<Sample>,
}

/// A stage and where its model comes from.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct StageInput {
    /// Which stage.
    pub stage: Stage,
    /// Its directory, or how it was made; absent where there is none.
    pub origin: Option<String>,
}

/// All stages on one corpus.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct GuardOn {
    /// Documents scored.
    pub documents: usize,
    /// Their bytes.
    pub bytes: usize,
    /// The stages, all four of them.
    pub stages: Vec<StageQuality>,
}

/// One stage on one corpus; all absent where it was not measured.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct StageQuality {
    /// Which stage.
    pub stage: Stage,
    /// Bits the model needs per byte of text; interval over documents.
    pub bits_per_byte: Option<Figure>,
    /// Change against the base, paired by document; absent for the base itself.
    pub vs_base: Option<Change>,
    /// Change against the base after the same tuning, paired by document; absent for that itself.
    pub vs_base_tuned: Option<Change>,
}

/// Whether the adapted model is as good as its control.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct GuardClaim {
    /// The claim in words.
    pub claim: &'static str,
    /// Change of bits per byte, adapted and tuned against base and tuned alike; absent where one of them is missing.
    pub change: Option<Change>,
    /// Whether the interval leaves it possible; absent where it was not measured or has no interval.
    pub holds: Option<bool>,
}

/// How often a model says new tokens when it goes on greedily by itself. Intervals over prompts, of which several come from a page.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Adoption {
    /// Which model.
    pub stage: Stage,
    /// New tokens in per cent of the tokens it says.
    pub tokens: Figure,
    /// Their bytes in per cent of the bytes it says.
    pub bytes: Figure,
    /// New tokens in per cent of the tokens of the pages' own continuations.
    pub tokens_in_page: Figure,
}

/// One prompt and what comes after it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Sample {
    /// The end of the prompt.
    pub prompt: String,
    /// How the page goes on.
    pub page: String,
    /// How each model goes on.
    pub models: Vec<SampleText>,
}

/// What a model said.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SampleText {
    /// Which model.
    pub stage: Stage,
    /// Its text.
    pub text: String,
}

/// One tokenizer, and a model with rows for it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FrontierPoint {
    /// How it was made.
    pub method: Method,
    /// Tokens exchanged.
    pub swaps: usize,
    /// Tokens that a byte of held-out text takes; interval over pages.
    pub tokens_per_byte: Figure,
    /// Change of the tokens of held-out text against no swaps.
    pub tokens: Change,
    /// Bits per byte; interval over documents.
    pub bits_per_byte: Figure,
    /// Change of bits per byte against no swaps.
    pub quality: Change,
    /// Reply bytes per second, end to end, static KV store; median of rounds, interval over them and not over texts.
    pub reply_bytes_per_second: Figure,
    /// Change of that against no swaps, round by round.
    pub speed: Change,
}

/// Tokenizer × KV store: which gives what, and what both give beyond the product.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Factorial {
    /// All six arms.
    pub arms: Vec<ArmReport>,
    /// Against the static store: the virtual one.
    pub virtual_store: Interaction,
    /// Against the static store: the paged one.
    pub paged_store: Interaction,
}

/// Frames of one size: memory of a batch at the step where it was largest, and what the calls that map memory cost.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FrameReport {
    /// Size of a frame.
    pub frame: Figure,
    /// Physical memory, as the operating system counts it.
    pub physical: Figure,
    /// Bytes that hold K and V rows.
    pub used: Figure,
    /// What is left of the physical memory, in per cent of it.
    pub waste_share: Figure,
    /// Time of a call that makes room for the next token of four sequences, in a new store and without a model; mean, interval over
    /// rounds.
    pub call: Figure,
    /// Quantiles of that time over the calls of all rounds, in per cent.
    pub call_quantiles: Vec<f64>,
    /// The times at them.
    pub call_times: Series,
}

/// Steps of a few sequences that grow together to the model's context or 1,024 tokens, with one KV store.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct DepthReport {
    /// Which store.
    pub kv_store: KvChoice,
    /// Tokens of each sequence in the middle of each 32 steps.
    pub depth: Vec<usize>,
    /// Time of a step there; median of rounds, interval over them.
    pub step: Vec<Figure>,
}
