//! What was expected and what is claimed, beside what was measured.

use schemars::JsonSchema;
use serde::Serialize;

use super::Figure;

/// A gain that was expected elsewhere, before anything was measured.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Expectation {
    /// Of what.
    pub what: &'static str,
    /// Least gain that was expected, in per cent.
    pub low: f64,
    /// Most; the same where one number was named.
    pub high: f64,
    /// What this run measured.
    pub measured: Figure,
    /// How the two stand to each other.
    pub found: Found,
}

/// How a measured gain stands to an expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// Below what was expected.
    Less,
    /// Within what was expected.
    Within,
    /// Above what was expected.
    More,
}

impl Found {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Less => "less than expected",
            Self::Within => "as expected",
            Self::More => "more than expected",
        }
    }
}

impl Expectation {
    /// Judges a measured gain in per cent.
    pub fn new(what: &'static str, [low, high]: [f64; 2], measured: Figure) -> Self {
        let found = match measured.value {
            value if value < low => Found::Less,
            value if value > high => Found::More,
            _ => Found::Within,
        };
        Self {
            what,
            low,
            high,
            measured,
            found,
        }
    }

    /// The expectation as text.
    pub fn range(&self) -> String {
        if self.low == self.high {
            format!("{}%", self.low)
        } else {
            format!("{} to {}%", self.low, self.high)
        }
    }
}

/// Something the benchmark should show.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Goal {
    /// Short name.
    pub name: &'static str,
    /// The claim in words.
    pub claim: &'static str,
    /// The figure it is judged by.
    pub value: Figure,
    /// `at least`, `at most`, or `above`.
    pub relation: &'static str,
    /// The limit, in the unit of `value`.
    pub limit: f64,
    /// Whether the claim holds in this run.
    pub holds: bool,
}
