//! `build` and `select`.

use std::io::Write;

use anyhow::Result;
use patchtok::{BuildReport, Built, ChunkCounts, CountSummary, PatchTokenizer, Sampling, VocabBuilder};
use serde::Serialize;

use crate::args;
use crate::bar::Bar;
use crate::counts::warn;
use crate::output::{Staging, check_folder};

/// New tokens that the report lists.
const TOP: usize = 20;

pub(crate) fn build(args: &args::Build) -> Result<()> {
    let out = &args.out;
    check_folder(&out.out, out.force)?;
    let base = args.base.open()?;
    let corpus = args.corpus.open()?;
    let staging = Staging::beside(&out.out)?;
    let mut bar = Bar::new();
    let counter = args.corpus.counter(&base, None)?.list_documents(args.settings.min_df);
    let counter = args.memory.limit(counter, &staging);
    let counts = counter.count(&corpus, |counting| bar.counting(counting))?;
    finish(&base, &counts, &args.settings, out, &staging, bar)
}

pub(crate) fn select(args: &args::Select) -> Result<()> {
    let out = &args.out;
    check_folder(&out.out, out.force)?;
    let base = args.base.open()?;
    let staging = Staging::beside(&out.out)?;
    let mut bar = Bar::new();
    bar.message("reading counts");
    let counts = ChunkCounts::load(&base, &args.counts, args.memory.memory)?;
    finish(&base, &counts, &args.settings, out, &staging, bar)
}

/// Builds the tokenizer from counts, writes it and prints the report.
fn finish(
    base: &PatchTokenizer,
    counts: &ChunkCounts,
    settings: &args::Settings,
    out: &args::OutFolder,
    staging: &Staging,
    mut bar: Bar,
) -> Result<()> {
    let builder = VocabBuilder::new(base.clone())
        .swaps(settings.swaps)
        .min_documents(settings.min_df)
        .min_count(settings.min_count)
        .max_token_bytes(settings.max_token_bytes)
        .stop_on_stall(settings.stop_when_stalled);
    let Built { tokenizer, report, .. } = builder.build_from_counts(counts, |progress| bar.show(progress))?;
    bar.finish();
    warn(&counts.summary().rejected);
    staging.save(&tokenizer, &out.out)?;
    let report = Report {
        schema: "patchtok.build.v1",
        vocab_size: base.vocab_size(),
        heldout: HeldOut::of(&report),
        counts: counts.summary(),
        sampling: counts.sampling(),
        build: report,
    };
    let mut stdout = std::io::stdout().lock();
    if out.json {
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
        Ok(())
    } else {
        print(&mut stdout, &report)
    }
}

/// The machine-readable report.
#[derive(Serialize)]
struct Report<'c> {
    schema: &'static str,
    vocab_size: usize,
    heldout: HeldOut,
    counts: &'c CountSummary,
    /// Of the chunks, when they did not fit into memory; the tokens of `build` and `heldout` are
    /// then estimates.
    sampling: Option<&'c Sampling>,
    build: BuildReport,
}

/// Tokens of the held-out text before and after.
#[derive(Serialize)]
struct HeldOut {
    base: patchtok::TokenCount,
    patched: patchtok::TokenCount,
    saving_percent: f64,
    base_bytes_per_token: f64,
    patched_bytes_per_token: f64,
}

impl HeldOut {
    fn of(build: &BuildReport) -> Self {
        let (base, patched) = (build.heldout_base, build.heldout_patched);
        HeldOut {
            base,
            patched,
            saving_percent: patched.saving_percent(&base),
            base_bytes_per_token: base.bytes_per_token(),
            patched_bytes_per_token: patched.bytes_per_token(),
        }
    }
}

fn print(out: &mut impl Write, report: &Report<'_>) -> Result<()> {
    let Report { build, heldout, .. } = report;
    writeln!(
        out,
        "vocabulary  {} tokens, {} of {} swapped ({})",
        report.vocab_size, build.swaps, build.requested, build.stop
    )?;
    writeln!(out, "corpus      {} documents, {} bytes", build.documents, build.bytes)?;
    writeln!(
        out,
        "            {} -> {} tokens",
        build.base_tokens, build.patched_tokens
    )?;
    if heldout.base.documents == 0 {
        writeln!(out, "held-out    no documents; name some with --heldout")?;
    } else {
        writeln!(
            out,
            "held-out    {} documents, {} bytes",
            heldout.base.documents, heldout.base.bytes
        )?;
        writeln!(
            out,
            "            {} -> {} tokens",
            heldout.base.tokens, heldout.patched.tokens
        )?;
        writeln!(
            out,
            "            {:.2} % fewer tokens, {:.2} -> {:.2} bytes per token",
            heldout.saving_percent, heldout.base_bytes_per_token, heldout.patched_bytes_per_token
        )?;
    }
    if let Some(sampling) = report.sampling {
        writeln!(
            out,
            "sampled     {} of {} distinct chunks: all that occur {} times or more, of the others count/{}\n\
             \x20           tokens are estimated; standard error of the corpus size {:.3} %",
            sampling.kept_chunks, report.counts.distinct_chunks, sampling.k, sampling.k, sampling.size_error_percent
        )?;
    }
    if !build.tokens.is_empty() {
        writeln!(
            out,
            "\ntokens saved in the corpus, by new token\n{:>10} {:>8}  token",
            "saved", "uses"
        )?;
    }
    for token in build.tokens.iter().take(TOP) {
        writeln!(out, "{:>10} {:>8}  {:?}", token.saved, token.uses, token.text)?;
    }
    Ok(())
}
