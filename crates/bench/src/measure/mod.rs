//! What is read from clocks, counters and the operating system, before any statistics.

pub mod quality;
pub mod serving;
pub mod tokens;

use quality::QualityData;
use serving::ServingData;
use tokens::TokenizerData;

/// Everything that was measured in a run.
#[derive(Debug, Clone)]
pub struct Measurements {
    /// Bytes of each held-out page.
    pub page_bytes: Vec<usize>,
    /// Tokenizers on those pages.
    pub tokenizers: Vec<TokenizerData>,
    /// All arms on the workload.
    pub serving: ServingData,
    /// Both models on held-out pages of the domain.
    pub domain: QualityData,
    /// Both models on another domain.
    pub out_of_domain: Option<QualityData>,
}
