//! The comprehensive benchmark: the Normal LLM (base tokenizer, static KV cache) against the Fused
//! LLM (patched tokenizer, virtual KV cache) on the same text, with everything between and the
//! paged KV cache beside them. It measures, judges the differences by their confidence intervals,
//! and writes a JSON report and four figures.
//!
//! The program is `cargo run --release -p bench`; `docs/benchmark.md` explains what it measures and
//! how. As a library it has these types:
//!
//! * [`Cli`](cli::Cli), what is to be run, and [`run`](run::run), which runs it;
//! * [`Report`](report::Report), the result: `docs/report-schema.md` field by field;
//! * [`serve::run`], the arms under load, and its [`ServeReport`](serve::report::ServeReport);
//! * [`ablate::run`], quality and speed part by part, and its [`AblationReport`](ablate::report::AblationReport);
//! * [`diff::diff`], two reports against each other;
//! * [`Plot`](plots::Plot), the four figures, drawn from a report, and [`table::render`], the same
//!   for a terminal.
//!
//! The statistics can be used alone:
//!
//! ```
//! use bench::stats::{Verdict, Wanted, bootstrap, mean, percent_or_infinite};
//!
//! // The same five requests before and after, in milliseconds.
//! let (before, after) = ([52.0, 48.0, 51.0, 50.0, 49.0], [41.0, 40.0, 39.0, 42.0, 38.0]);
//! let change = |drawn: &[usize]| {
//!     let of = |times: &[f64]| mean(&drawn.iter().map(|&i| times[i]).collect::<Vec<_>>());
//!     percent_or_infinite(of(&before), of(&after))
//! };
//! let interval = bootstrap(before.len(), 1, change);
//! assert_eq!(Verdict::of(interval, Wanted::Lower), Verdict::Better);
//! ```
//!
//! It is no place for algorithms (tokenizers, models and KV stores come from `patchtok` and
//! `fused-model`), and it compares no two machines.

pub mod ablate;
pub mod arms;
pub mod cli;
pub mod diff;
pub mod environment;
pub mod error;
pub mod html;
pub mod inputs;
pub mod interrupt;
pub mod measure;
pub mod output;
pub mod plots;
mod progress;
pub mod report;
pub mod run;
pub mod schema;
pub mod serve;
pub mod stats;
pub mod table;
mod words;
pub mod workload;

#[cfg(test)]
mod sample;
