//! The short sections at the top of the report: plain numbers under fixed names, for scripts that
//! compare the two arms and need nothing else.

use schemars::JsonSchema;
use serde::Serialize;

/// One arm in short.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Side {
    /// Tokens of the held-out pages.
    pub tokenization: TokenizationSummary,
    /// KV memory.
    pub kv_cache: KvCacheSummary,
    /// Time of the served workload.
    pub performance: PerformanceSummary,
    /// Quality of the model.
    pub quality: QualitySummary,
}

/// Tokens of the held-out pages.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TokenizationSummary {
    /// Tokens of all pages.
    pub total_tokens: u64,
    /// Tokens of a page.
    pub avg_tokens_per_text: f64,
    /// Whether the vocabulary was patched.
    pub adaptivocab_enabled: bool,
}

/// KV memory; 1 MB is 2^20 bytes here.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct KvCacheSummary {
    /// Physical memory at the peak.
    pub measured_total_mb: f64,
    /// The same divided by the texts in flight.
    pub measured_per_text_mb: f64,
    /// The peak by formula.
    pub estimated_total_mb: f64,
    /// The same divided by the texts in flight.
    pub estimated_per_text_mb: f64,
    /// Whether the KV cache is virtual memory mapped on demand.
    pub vattention_enabled: bool,
}

/// Time of the served workload.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PerformanceSummary {
    /// Texts finished per second.
    pub texts_per_second: f64,
    /// Reply tokens per second; not comparable between the arms, whose tokens differ.
    pub tokens_per_second: f64,
    /// Wall time per text.
    pub avg_time_per_text_ms: f64,
    /// Reply bytes per second.
    pub bytes_per_second: f64,
}

/// Quality of the model.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct QualitySummary {
    /// Bits per byte on held-out pages of the domain.
    pub bits_per_byte: f64,
}

/// What the fused arm gains over the normal one.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Improvements {
    /// Tokens fewer, in per cent.
    pub token_reduction_percent: f64,
    /// Tokens fewer.
    pub tokens_saved: i64,
    /// KV memory less at the peak, in per cent.
    pub kv_cache_reduction_percent: f64,
    /// KV memory less at the peak.
    pub kv_cache_saved_mb: f64,
    /// Reply bytes per second more, in per cent.
    pub speed_improvement_percent: f64,
    /// Bits per byte more, in per cent: negative is better.
    pub bits_per_byte_change_percent: f64,
}
