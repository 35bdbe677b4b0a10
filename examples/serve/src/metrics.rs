//! What the server counts, in the text format of Prometheus.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fused_model::engine::{EngineStats, Finish};
use fused_model::kv::KvMemory;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How a sample ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    Stop,
    Length,
    Timeout,
    Failed,
    Cancelled,
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcomes {
    outcome: Outcome,
}

/// The figures of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    waiting: Gauge,
    running: Gauge,
    kept_prefixes: Gauge,
    kv_used: Gauge,
    kv_mapped: Gauge,
    steps: Counter<u64, AtomicU64>,
    computed_tokens: Counter,
    shared_tokens: Counter,
    output_tokens: Counter,
    preemptions: Counter,
    outcomes: Family<Outcomes, Counter>,
    first_token: Histogram,
    inter_token: Histogram,
}

impl Metrics {
    /// Figures of a server whose KV store may take `kv_budget_bytes`.
    pub fn new(kv_budget_bytes: usize) -> Self {
        // From 1 ms to 33 s.
        let seconds = || Histogram::new((0..16).map(|power| 0.001 * f64::from(1 << power)));
        let (first_token, inter_token) = (seconds(), seconds());
        let mut metrics = Self {
            registry: Registry::with_prefix("serve"),
            waiting: Gauge::default(),
            running: Gauge::default(),
            kept_prefixes: Gauge::default(),
            kv_used: Gauge::default(),
            kv_mapped: Gauge::default(),
            steps: Counter::default(),
            computed_tokens: Counter::default(),
            shared_tokens: Counter::default(),
            output_tokens: Counter::default(),
            preemptions: Counter::default(),
            outcomes: Family::default(),
            first_token,
            inter_token,
        };
        let kv_budget = Gauge::<i64>::default();
        kv_budget.set(kv_budget_bytes as i64);
        let registry = &mut metrics.registry;
        let gauges = [
            ("waiting_samples", "Samples in the queue", &metrics.waiting),
            ("running_samples", "Samples with rows in the KV store", &metrics.running),
            (
                "kept_prefixes",
                "Finished sequences whose rows stay for others",
                &metrics.kept_prefixes,
            ),
            (
                "kv_used_bytes",
                "Rows of live sequences, shared ones once for each",
                &metrics.kv_used,
            ),
            ("kv_mapped_bytes", "Physical memory of the KV store", &metrics.kv_mapped),
            ("kv_budget_bytes", "Most physical memory of the KV store", &kv_budget),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let counters = [
            ("steps", "Passes through the model", &metrics.steps),
            ("computed_tokens", "Tokens read by the model", &metrics.computed_tokens),
            (
                "shared_tokens",
                "Tokens not read because their rows were there",
                &metrics.shared_tokens,
            ),
            ("output_tokens", "Tokens of outputs", &metrics.output_tokens),
            (
                "preemptions",
                "Samples put back for lack of KV memory",
                &metrics.preemptions,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "samples",
            "Samples by how they ended; requests that were refused or cancelled",
            metrics.outcomes.clone(),
        );
        registry.register(
            "time_to_first_token_seconds",
            "From submission to the first token",
            metrics.first_token.clone(),
        );
        registry.register(
            "inter_token_seconds",
            "From one token of a sample to the next",
            metrics.inter_token.clone(),
        );
        metrics
    }

    /// The text Prometheus reads.
    ///
    /// # Errors
    /// When formatting fails.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn observe(&self, stats: &EngineStats, memory: &KvMemory) {
        self.waiting.set(stats.waiting as i64);
        self.running.set(stats.running as i64);
        self.kept_prefixes.set(stats.kept_prefixes as i64);
        self.kv_used.set(memory.used_bytes as i64);
        self.kv_mapped.set(memory.physical_bytes as i64);
        let counters = [
            (&self.steps, stats.steps),
            (&self.computed_tokens, stats.computed_tokens),
            (&self.shared_tokens, stats.shared_tokens),
            (&self.output_tokens, stats.output_tokens),
            (&self.preemptions, stats.preemptions),
        ];
        for (counter, value) in counters {
            counter.inc_by(value - counter.get());
        }
    }

    pub(crate) fn finished(&self, reason: &Finish) {
        self.count(match reason {
            Finish::Stop => Outcome::Stop,
            Finish::Length => Outcome::Length,
            Finish::Timeout => Outcome::Timeout,
            Finish::Failed(_) => Outcome::Failed,
        });
    }

    pub(crate) fn cancelled(&self) {
        self.count(Outcome::Cancelled);
    }

    pub(crate) fn refused(&self) {
        self.count(Outcome::Refused);
    }

    pub(crate) fn first_token(&self, after: Duration) {
        self.first_token.observe(after.as_secs_f64());
    }

    pub(crate) fn next_token(&self, after: Duration) {
        self.inter_token.observe(after.as_secs_f64());
    }

    fn count(&self, outcome: Outcome) {
        self.outcomes.get_or_create(&Outcomes { outcome }).inc();
    }
}
