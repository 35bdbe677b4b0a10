//! A number with its unit, where it comes from, and how sure it is.

use schemars::JsonSchema;
use serde::Serialize;

use crate::stats::{Interval, Verdict, Wanted};

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Counted, or read from a clock or the operating system in this run, or plain arithmetic
    /// (sums, ratios, quantiles) on such numbers.
    Measured,
    /// From a formula or a setting, without observing it.
    Computed,
}

/// Unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[allow(missing_docs, reason = "the serialized name is the whole explanation")]
pub enum Unit {
    #[serde(rename = "tokens")]
    Tokens,
    #[serde(rename = "tokens/text")]
    TokensPerText,
    #[serde(rename = "bytes/token")]
    BytesPerToken,
    #[serde(rename = "tokens/byte")]
    TokensPerByte,
    #[serde(rename = "bytes")]
    Bytes,
    #[serde(rename = "bytes/byte")]
    BytesPerByte,
    /// 1,000,000 bytes per second.
    #[serde(rename = "MB/s")]
    MegabytesPerSecond,
    #[serde(rename = "texts/s")]
    TextsPerSecond,
    #[serde(rename = "bytes/s")]
    BytesPerSecond,
    #[serde(rename = "tokens/s")]
    TokensPerSecond,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "bits/byte")]
    BitsPerByte,
    #[serde(rename = "requests/s")]
    RequestsPerSecond,
    #[serde(rename = "ms/char")]
    MillisecondsPerCharacter,
    #[serde(rename = "documents")]
    Documents,
    #[serde(rename = "count")]
    Count,
    #[serde(rename = "%")]
    Percent,
}

/// A number with its unit, its kind, and, where it was observed more than once, its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Figure {
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
    /// Where it comes from.
    pub kind: Kind,
    /// 95% confidence interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ci95: Option<Interval>,
    /// Observations behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<usize>,
}

impl Figure {
    /// A measured number without an interval.
    pub fn measured(value: f64, unit: Unit) -> Self {
        Self {
            value,
            unit,
            kind: Kind::Measured,
            ci95: None,
            n: None,
        }
    }

    /// A computed number.
    pub fn computed(value: f64, unit: Unit) -> Self {
        Self {
            kind: Kind::Computed,
            ..Self::measured(value, unit)
        }
    }

    /// The same with the other sign: a reduction from a change, or a change from a reduction.
    pub fn negated(self) -> Self {
        let ci95 = self.ci95.map(|i| Interval {
            low: -i.high,
            high: -i.low,
        });
        Self {
            value: -self.value,
            ci95,
            ..self
        }
    }

    /// With the interval and the number of observations behind it.
    pub fn with_interval(self, ci95: Option<Interval>, n: usize) -> Self {
        Self {
            ci95,
            n: Some(n),
            ..self
        }
    }
}

/// A change between two arms, judged.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct Change {
    /// The change.
    #[serde(flatten)]
    pub figure: Figure,
    /// Which direction is good.
    pub wanted: Wanted,
    /// What the interval allows one to say.
    pub verdict: Verdict,
}

impl Change {
    /// Judges a change in per cent by its interval.
    pub fn percent(value: f64, ci95: Option<Interval>, n: usize, wanted: Wanted) -> Self {
        let figure = Figure::measured(value, Unit::Percent).with_interval(ci95, n);
        Self {
            figure,
            wanted,
            verdict: Verdict::of(ci95, wanted),
        }
    }
}

/// Many numbers of one unit and kind.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Series {
    /// The numbers.
    pub values: Vec<f64>,
    /// Their unit.
    pub unit: Unit,
    /// Where they come from.
    pub kind: Kind,
}

impl Series {
    /// Measured numbers.
    pub fn measured(values: Vec<f64>, unit: Unit) -> Self {
        Self {
            values,
            unit,
            kind: Kind::Measured,
        }
    }
}
