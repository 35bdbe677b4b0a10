//! The report of a run under load: what `serve_results.json` holds. `docs/report-schema.md` explains it field by field.

use schemars::JsonSchema;
use serde::Serialize;

use super::record::Objective;
use crate::arms::{KvChoice, TokenizerChoice};
use crate::environment::Environment;
use crate::report::{Change, CorpusInput, Figure, ModelShape, NotMeasured, Series};

/// Name and version of the format; the number changes when a field changes its meaning or goes away.
pub const SCHEMA: &str = "fused-bench.serve.v1";

/// The whole report.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ServeReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The machine and the build.
    pub environment: Environment,
    /// What was run on what.
    pub inputs: ServeInputs,
    /// What a good request keeps to.
    pub objectives: Vec<Objective>,
    /// What served, in the order of `--arms` or `--url`; the first is what the others are compared with.
    pub arms: Vec<ServedArm>,
    /// Each load, and what came of it.
    pub loads: Vec<LoadReport>,
    /// The highest rate at which 90% of the requests are good; empty unless it was searched for.
    pub max_rates: Vec<MaxRate>,
    /// One load from close by, for the figures.
    pub detail: Detail,
    /// What this run says nothing about.
    pub not_measured: Vec<NotMeasured>,
}

/// What was run on what.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ServeInputs {
    /// `demo` or `own`.
    pub mode: &'static str,
    /// The held-out text prompts and replies are cut from.
    pub corpus: CorpusInput,
    /// Shape of the base model; absent for servers.
    pub model_shape: Option<ModelShape>,
    /// How the fused arm's model was made; absent for servers.
    pub fused_model_origin: Option<&'static str>,
    /// Different texts; requests take them in turn.
    pub texts: usize,
    /// Mean bytes of a prompt.
    pub prompt_bytes: Figure,
    /// Mean bytes of a reply.
    pub reply_bytes: Figure,
    /// KV memory that every arm may use; absent for servers.
    pub kv_budget: Option<Figure>,
    /// Shape of the gamma distribution of the gaps between requests.
    pub burstiness: f64,
    /// The trace that was replayed.
    pub trace: Option<TraceInput>,
    /// How long requests were sent in a run.
    pub seconds: f64,
    /// Repetitions of every run.
    pub rounds: usize,
    /// A silence that counts as a stall.
    pub stall: Figure,
    /// Every so many requests the client goes away after the first text; 0 never.
    pub abandon_every: usize,
    /// In which order the arms were run.
    pub order: &'static str,
}

/// A trace.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TraceInput {
    /// Its file.
    pub path: String,
    /// Requests of it that were replayed.
    pub requests: usize,
    /// How many times faster than recorded.
    pub speed: f64,
    /// Bytes of text that stand for a token of the trace.
    pub bytes_per_token: f64,
    /// Requests that were shortened until they fitted the model.
    pub shortened: usize,
}

/// An arm or a server.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ServedArm {
    /// Its name.
    pub name: String,
    /// Its tokenizer, and with it its model.
    pub tokenizer: Option<TokenizerChoice>,
    /// Its KV store.
    pub kv_store: Option<KvChoice>,
    /// Most requests decoded together.
    pub max_batch: Option<usize>,
    /// Where the server is.
    pub url: Option<String>,
    /// The model the server names.
    pub model: Option<String>,
}

/// Kinds of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadKind {
    /// All requests at the same moment: how many fit, and how fast a full arm is.
    AllAtOnce,
    /// Requests arrive by themselves.
    Open,
    /// Clients wait for their answers.
    Closed,
    /// Requests arrive as recorded.
    Trace,
}

/// One load.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LoadReport {
    /// Its name, as in the file of requests.
    pub name: String,
    /// Its kind.
    pub kind: LoadKind,
    /// Requests a second that were to be sent (computed from the schedule); absent where clients wait.
    pub offered: Option<Figure>,
    /// Clients that wait for their answers.
    pub clients: Option<usize>,
    /// Each arm, in the order of `arms`.
    pub arms: Vec<ArmLoad>,
    /// Each arm but the first against the first.
    pub changes: Vec<ArmChange>,
}

/// One arm under one load, all rounds together.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ArmLoad {
    /// Which arm.
    pub arm: String,
    /// How requests ended.
    pub requests: Outcomes,
    /// Rounds that were stopped because more came than was served.
    pub saturated_rounds: usize,
    /// By how much requests were sent later than scheduled at the 99th percentile: what the load generator itself adds.
    pub send_delay_p99: Figure,
    /// Requests completed a second.
    pub requests_per_second: Figure,
    /// Bytes of replies a second.
    pub reply_bytes_per_second: Figure,
    /// Tokens of replies a second; not comparable between tokenizers.
    pub reply_tokens_per_second: Figure,
    /// Good requests a second: complete, and within every objective.
    pub goodput: Figure,
    /// Good requests in per cent of those sent.
    pub good_share: Figure,
    /// Time to the first token.
    pub ttft: Latency,
    /// Time to the first byte of text.
    pub ttfb: Latency,
    /// Time to the last byte.
    pub e2e: Latency,
    /// Time to the last byte divided by the characters of the reply; complete requests only.
    pub ms_per_char: Latency,
    /// Time between tokens after the first, averaged over a reply; complete requests only, not comparable between tokenizers.
    pub tpot: Latency,
    /// Time from one token to the next, over all tokens; not comparable between tokenizers.
    pub itl: Latency,
    /// Silences longer than `stall`, for each request.
    pub stalls_per_text: Figure,
    /// The longest silence within a reply; absent where no reply had two pieces.
    pub longest_gap: Option<Figure>,
    /// What the engine said; absent for servers.
    pub engine: Option<EngineLoad>,
}

/// How requests ended.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
pub struct Outcomes {
    /// All.
    pub sent: usize,
    /// With their whole reply.
    pub complete: usize,
    /// Refused by the server.
    pub refused: usize,
    /// Failed.
    pub failed: usize,
    /// Left by the client on purpose.
    pub abandoned: usize,
    /// Cut off by the end of the run. Their times count as what they had waited by then, which is the least they can be.
    pub unfinished: usize,
}

/// A distribution of times. A quantile is absent where fewer observations stand behind it than it takes for one of them to
/// lie beyond it.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Latency {
    /// Mean; absent where nothing was observed.
    pub mean: Option<Figure>,
    /// Median.
    pub p50: Option<Figure>,
    /// 90th percentile.
    pub p90: Option<Figure>,
    /// 99th percentile.
    pub p99: Option<Figure>,
    /// 99.9th percentile.
    pub p99_9: Option<Figure>,
}

/// An engine under load. Means are over time.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct EngineLoad {
    /// Most documents in the store at once.
    pub documents_peak: Figure,
    /// Documents in the store.
    pub documents_mean: Figure,
    /// Most requests in the queue.
    pub waiting_peak: Figure,
    /// Requests put back into the queue for lack of memory, in a round.
    pub preemptions: Figure,
    /// Address space set aside for KV rows.
    pub kv_reserved: Figure,
    /// Physical memory of the KV store, as the operating system counts it, where it was largest.
    pub kv_mapped_peak: Figure,
    /// The same on average.
    pub kv_mapped_mean: Figure,
    /// Bytes that hold rows of live sequences, where they were most.
    pub kv_used_peak: Figure,
    /// The same on average.
    pub kv_used_mean: Figure,
}

/// An arm against the first one, on the same rounds and blocks of requests: the same texts, and at the same times unless clients wait
/// for their answers. A change from nothing is absent, and so are
/// changes of times where a round of either arm was saturated, since what was cut off then has no time.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ArmChange {
    /// Which arm.
    pub arm: String,
    /// The arm it is compared with.
    pub against: String,
    /// Of reply bytes a second.
    pub reply_bytes_per_second: Option<Change>,
    /// Of good requests a second; absent where the first arm had none.
    pub goodput: Option<Change>,
    /// Of the median time to the first byte; absent without requests.
    pub ttfb_p50: Option<Change>,
    /// Of its 99th percentile; absent where too few requests lie beyond it.
    pub ttfb_p99: Option<Change>,
    /// Of the median time to the last byte; absent without requests.
    pub e2e_p50: Option<Change>,
    /// Of its 99th percentile; absent where too few requests lie beyond it.
    pub e2e_p99: Option<Change>,
    /// Of the mean time per character; absent where a request of either arm was unfinished, which that leaves out.
    pub ms_per_char: Option<Change>,
    /// Of the most documents at once; only where all requests come at once, and absent for servers.
    pub documents_peak: Option<Change>,
    /// Of the physical KV memory where it was largest; absent for servers.
    pub kv_mapped_peak: Option<Change>,
}

/// The highest rate of an arm.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct MaxRate {
    /// Which arm.
    pub arm: String,
    /// The highest rate that passed; the mean of the rounds.
    pub rate: Figure,
    /// Rounds whose search was given up before a rate that passed and one that failed were close to each other. The rate is
    /// then less sure than its interval says.
    pub abandoned_searches: usize,
    /// Against the first arm; absent where a search of either was given up.
    pub change: Option<Change>,
    /// Every rate that was tried.
    pub probes: Vec<Probe>,
}

/// A rate that was tried.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Probe {
    /// In which round.
    pub round: usize,
    /// Requests a second.
    pub rate: f64,
    /// Good requests in per cent of those sent.
    pub good_percent: f64,
    /// Whether more came than was served.
    pub saturated: bool,
    /// Whether at least 90% were good and it was not saturated.
    pub passed: bool,
}

/// One load from close by.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Detail {
    /// Name of the load.
    pub load: String,
    /// Each arm.
    pub arms: Vec<ArmDetail>,
}

/// One arm from close by.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ArmDetail {
    /// Which arm.
    pub arm: String,
    /// Time to the last byte of every complete request of all rounds.
    pub e2e: Series,
    /// Of how many requests these are the complete ones; those that the client left are not counted.
    pub e2e_of: usize,
    /// Time to the first byte of every request of all rounds.
    pub ttfb: Series,
    /// Requests of the first round: when they were scheduled.
    pub scheduled: Series,
    /// When their first byte came, or when they ended without one.
    pub first_byte: Series,
    /// When they ended.
    pub ended: Series,
    /// The longest silence of any reply in each of equal parts of the first round.
    pub longest_gap: Series,
    /// Seconds of a part.
    pub gap_part: f64,
    /// The engine through the first round; absent for servers.
    pub timeline: Option<EngineTimeline>,
}

/// An engine through a round.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EngineTimeline {
    /// When.
    pub time: Series,
    /// Address space set aside.
    pub reserved: Series,
    /// Physical memory.
    pub mapped: Series,
    /// Bytes that hold rows.
    pub used: Series,
    /// Documents in the store.
    pub running: Series,
    /// Requests in the queue.
    pub waiting: Series,
}
