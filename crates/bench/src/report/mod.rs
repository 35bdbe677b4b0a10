//! The report: what `comprehensive_benchmark_results.json` holds. `docs/report-schema.md` explains
//! it field by field.

mod assemble;
mod claims;
mod figure;
pub(crate) mod serving;
mod summary;

pub use assemble::assemble;
pub use claims::{Expectation, Found, Goal};
pub use figure::{Change, Figure, Kind, Series, Unit};
pub use summary::{Improvements, KvCacheSummary, PerformanceSummary, QualitySummary, Side, TokenizationSummary};

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use crate::arms::{KvChoice, Role, TokenizerChoice};
use crate::environment::Environment;

/// Name and version of the format; the number changes when a field changes its meaning or goes
/// away.
pub const SCHEMA: &str = "fused-bench.report.v1";

/// The whole report.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The normal arm in short: base tokenizer, static KV.
    pub normal_llm: Side,
    /// The fused arm in short: patched tokenizer, virtual KV.
    pub fused_llm: Side,
    /// What the fused arm gains, in short.
    pub improvements: Improvements,
    /// For each figure of the three short sections, by its path, whether it was measured or
    /// computed.
    pub summary_kinds: BTreeMap<&'static str, Kind>,
    /// The machine and the build.
    pub environment: Environment,
    /// What was run on what.
    pub inputs: Inputs,
    /// Tokenizers on whole held-out pages.
    pub tokenization: Tokenization,
    /// Every arm: tokenizer × KV store.
    pub arms: Vec<ArmReport>,
    /// The fused arm against the normal one: KV memory.
    pub kv_cache: KvCacheComparison,
    /// The fused arm against the normal one: time.
    pub performance: PerformanceComparison,
    /// Bits per byte and scoring speed of both models.
    pub quality: Quality,
    /// Which gain comes from the tokenizer, which from the KV store, and what only both together
    /// give.
    pub interaction: Interaction,
    /// What the benchmark should show, and whether it does.
    pub goals: Vec<Goal>,
    /// What was expected elsewhere of such a system, beside what this run measured.
    pub expectations: Vec<Expectation>,
    /// What this run says nothing about.
    pub not_measured: Vec<NotMeasured>,
}

/// Paths of the figures of a report that were computed and not measured, without the places in lists, each once.
pub fn computed_paths(report: &serde_json::Value) -> BTreeSet<String> {
    fn walk(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
        use serde_json::Value;
        match value {
            Value::Object(object) if object.get("kind").is_some_and(|kind| kind == "computed") => {
                found.insert(path.to_owned());
            }
            Value::Object(object) => {
                for (key, value) in object {
                    let inner = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    if path == "summary_kinds" && value == "computed" {
                        found.insert(key.clone());
                    }
                    walk(value, &inner, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, path, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    walk(report, "", &mut found);
    found
}

/// What was run on what.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Inputs {
    /// `demo` or `own`: the embedded demonstration, or the files named on the command line.
    pub mode: &'static str,
    /// Directory of the base model.
    pub base_model: String,
    /// Directory of the fused arm's model, or how it was made.
    pub fused_model: String,
    /// `shipped`, `given`, or `adapted on the fly, not tuned`.
    pub fused_model_origin: &'static str,
    /// The held-out text of the domain.
    pub corpus: CorpusInput,
    /// The held-out text of another domain, where there is one.
    pub out_of_domain: Option<CorpusInput>,
    /// Shape of the base model.
    pub model_shape: ModelShape,
    /// The requests every arm answers.
    pub workload: WorkloadInput,
    /// How the KV stores were set up.
    pub kv_stores: KvInput,
}

/// One held-out corpus.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CorpusInput {
    /// Its path.
    pub path: String,
    /// Non-empty pages used.
    pub pages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Whether pages were left out because the corpus is larger than what a run reads.
    pub truncated: bool,
}

/// Shape of a model.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct ModelShape {
    /// Its architecture.
    pub architecture: &'static str,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence in tokens.
    pub n_positions: usize,
    /// Width.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// Attention heads.
    pub n_head: usize,
}

/// The requests.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WorkloadInput {
    /// Requests, each a prompt and the fixed reply that every arm produces.
    pub texts: usize,
    /// Bytes of all prompts.
    pub prompt_bytes: usize,
    /// Bytes of all replies.
    pub reply_bytes: usize,
    /// Requests decoded together.
    pub batch: usize,
    /// Repetitions of the whole workload per arm.
    pub rounds: usize,
    /// Pages passed over because they are too short for a prompt and a reply.
    pub pages_too_short: usize,
    /// In which order the arms were run.
    pub order: &'static str,
}

/// Set-up of the KV stores.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct KvInput {
    /// Physical memory the virtual store may use.
    pub budget: Figure,
    /// Unit of physical memory of the virtual store.
    pub frame: Figure,
    /// Tokens per block of the paged store.
    pub paged_block_tokens: usize,
}

/// Tokenizers on whole held-out pages.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Tokenization {
    /// Pages encoded.
    pub texts: usize,
    /// Bytes encoded.
    pub bytes: usize,
    /// Each tokenizer.
    pub tokenizers: Vec<TokenizerReport>,
    /// Each pair of a tokenizer and its patched version.
    pub reductions: Vec<TokenReduction>,
}

/// One tokenizer.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TokenizerReport {
    /// `base`, `patched`, `gpt2`, or `gpt2_patched`.
    pub name: &'static str,
    /// Name for people.
    pub label: &'static str,
    /// Whether its vocabulary was patched.
    pub patched: bool,
    /// Entries of its vocabulary.
    pub vocab_size: usize,
    /// Whether every page came back from its ids unchanged.
    pub lossless: bool,
    /// Tokens of all pages.
    pub total_tokens: Figure,
    /// Tokens of a page.
    pub tokens_per_text: Figure,
    /// Bytes of text a token stands for.
    pub bytes_per_token: Figure,
    /// Text encoded per second on one thread.
    pub encode_speed: Figure,
    /// Text encoded per second on one thread by the `tokenizers` crate from the same file; absent
    /// when its ids differ or it cannot read the file.
    pub hugging_face_encode_speed: Option<Figure>,
    /// Whether the `tokenizers` crate gives the same ids on every page.
    pub same_ids_as_hugging_face: Option<bool>,
}

/// A tokenizer against its patched version.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TokenReduction {
    /// Name of the tokenizer before.
    pub from: &'static str,
    /// Name of the tokenizer after.
    pub to: &'static str,
    /// Vocabulary entries exchanged.
    pub swaps: usize,
    /// Tokens fewer on the same text.
    pub tokens_saved: Figure,
    /// The same in per cent of the tokens before.
    pub reduction: Figure,
}

/// One arm.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ArmReport {
    /// `normal`, `fused`, or tokenizer and KV store joined by `+`.
    pub name: &'static str,
    /// Which tokenizer, and the model that goes with it.
    pub tokenizer: TokenizerChoice,
    /// Which KV store.
    pub kv_store: KvChoice,
    /// What the arm is for.
    pub role: Role,
    /// Tokens of the workload.
    pub tokens: ArmTokens,
    /// KV memory.
    pub kv_cache: ArmKv,
    /// Time.
    pub performance: ArmPerformance,
}

/// Tokens of the workload in one arm.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ArmTokens {
    /// Tokens of all prompts.
    pub prompt_tokens: Figure,
    /// Tokens of all replies.
    pub reply_tokens: Figure,
    /// Prompt and reply tokens of a text.
    pub tokens_per_text: Figure,
}

/// KV memory of one arm.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ArmKv {
    /// Address space set aside.
    pub reserved: Figure,
    /// Physical memory at the step where it was largest, over all batches.
    pub physical_at_peak: Figure,
    /// The same divided by the texts that were in flight.
    pub physical_per_text: Figure,
    /// The same per byte of text (prompt and reply) in flight.
    pub physical_per_text_byte: Figure,
    /// Bytes that hold K and V rows at that step.
    pub used_at_peak: Figure,
    /// Physical minus used at that step.
    pub waste_at_peak: Figure,
    /// Waste in per cent of physical.
    pub waste_share: Figure,
    /// What a formula over lengths and shapes says the physical peak should be.
    pub estimated_at_peak: Figure,
    /// Mean over batches of the physical peak of a batch.
    pub mean_batch_peak: Figure,
    /// Change of the mean batch peak against the normal arm.
    pub vs_normal: Change,
    /// Physical and used bytes while the first batch was decoded in a store of its own.
    pub timeline: Timeline,
}

/// KV memory over time.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Timeline {
    /// Milliseconds since the batch was handed over.
    pub time: Series,
    /// Physical memory.
    pub physical: Series,
    /// Bytes that hold rows.
    pub used: Series,
}

/// Time of one arm.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ArmPerformance {
    /// Texts finished per second of wall time.
    pub texts_per_second: Figure,
    /// Wall time per text (its inverse).
    pub time_per_text: Figure,
    /// Bytes of reply per second of wall time: the headline.
    pub reply_bytes_per_second: Figure,
    /// Bytes of prompt and reply per second of wall time.
    pub total_bytes_per_second: Figure,
    /// Reply tokens per second; not comparable between tokenizers.
    pub reply_tokens_per_second: Figure,
    /// Prompt and reply tokens per second; not comparable between tokenizers.
    pub total_tokens_per_second: Figure,
    /// From handing over a batch to the last byte of a text, over texts (median of rounds each).
    pub latency: Distribution,
    /// From handing over a batch to the first byte of a text's reply.
    pub time_to_first_byte: Distribution,
    /// Change of reply bytes per second against the normal arm.
    pub vs_normal: Change,
    /// Wall time of each round.
    pub wall_time_by_round: Series,
    /// Latency of each text, median of rounds.
    pub latency_by_text: Series,
}

/// Mean and quantiles over texts.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Distribution {
    /// Mean, with its interval.
    pub mean: Figure,
    /// Median.
    pub p50: Figure,
    /// 90% quantile.
    pub p90: Figure,
    /// 99% quantile.
    pub p99: Figure,
}

/// The fused arm against others: KV memory.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct KvCacheComparison {
    /// Mean batch peak, fused against normal.
    pub fused_vs_normal: Change,
    /// Mean batch peak, fused against the paged store with the same tokenizer.
    pub fused_vs_paged: Change,
    /// Physical bytes saved at the peak, normal minus fused.
    pub saved_at_peak: Figure,
}

/// The fused arm against the normal one: time.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PerformanceComparison {
    /// Reply bytes per second, end to end: the headline.
    pub bytes_per_second: Change,
    /// Mean latency of a text.
    pub latency: Change,
    /// Mean time to the first byte of a text.
    pub time_to_first_byte: Change,
    /// Reply tokens per second; falls when a token stands for more bytes.
    pub tokens_per_second: Change,
}

/// Quality of both models.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Quality {
    /// On held-out pages of the domain.
    pub domain: QualityOn,
    /// On another domain, where there is one.
    pub out_of_domain: Option<QualityOn>,
}

/// Quality of both models on one corpus.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct QualityOn {
    /// Pages scored.
    pub documents: usize,
    /// Bytes scored.
    pub bytes: usize,
    /// The base model.
    pub normal: ScoreReport,
    /// The fused arm's model.
    pub fused: ScoreReport,
    /// Change of bits per byte.
    pub bits_per_byte: Change,
    /// Change of bytes scored per second.
    pub scoring_speed: Change,
}

/// One model on one corpus.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ScoreReport {
    /// Bits the model needs per byte of text.
    pub bits_per_byte: Figure,
    /// Tokens scored.
    pub tokens: Figure,
    /// Texts scored per second.
    pub texts_per_second: Figure,
    /// Bytes scored per second.
    pub bytes_per_second: Figure,
    /// Tokens scored per second; not comparable between tokenizers.
    pub tokens_per_second: Figure,
}

/// The 2×2 of tokenizer and KV store: the static store and one other, which is the virtual one unless it says so.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Interaction {
    /// On reply bytes per second.
    pub bytes_per_second: Effects,
    /// On the mean batch peak of KV memory.
    pub kv_memory: Effects,
}

/// Effects of a 2×2 as ratios: (1 + both) = (1 + tokenizer) · (1 + store) · (1 + interaction).
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Effects {
    /// Patched instead of base tokenizer, KV store as in the normal arm.
    pub tokenizer: Change,
    /// Another KV store instead of the static one (virtual, or paged where it says so), tokenizer as in the normal arm.
    pub kv_store: Change,
    /// Both.
    pub both: Change,
    /// What both give beyond the product of the two.
    pub interaction: Change,
}

impl Effects {
    /// The four with their names, the tokenizer's first.
    pub(crate) fn rows(&self, store: KvChoice) -> [(String, &Change); 4] {
        let store = store.word();
        [
            ("patched tokenizer alone".to_owned(), &self.tokenizer),
            (format!("{store} store alone"), &self.kv_store),
            (format!("both, {store}"), &self.both),
            (format!("beyond the product, {store}"), &self.interaction),
        ]
    }
}

/// Something this run says nothing about.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct NotMeasured {
    /// What.
    pub what: &'static str,
    /// Why not.
    pub why: String,
}

impl Report {
    /// The arm with the given tokenizer and KV store.
    ///
    /// # Panics
    ///
    /// If the report was built without that arm; `assemble` puts all six in.
    pub fn arm(&self, tokenizer: TokenizerChoice, kv_store: KvChoice) -> &ArmReport {
        self.arms
            .iter()
            .find(|arm| arm.tokenizer == tokenizer && arm.kv_store == kv_store)
            .expect("a report holds all six arms")
    }
}

#[cfg(test)]
mod tests;
