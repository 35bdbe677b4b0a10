//! `build` and `select`.

use std::path::Path;

use anyhow::{Result, bail};
use patchtok::{AdaptivocabForm, Built, ChunkCounts, Corpus, Mode, PatchTokenizer, Segmentation, VocabBuilder};

use crate::args;
use crate::args::Method;
use crate::bar::Bar;
use crate::compare;
use crate::counts::warn;
use crate::output::{Staging, check_folder, write_whole};
use crate::plot;
use crate::report::{Outside, Report};

pub(crate) fn build(args: &args::Build) -> Result<()> {
    match args.method {
        Method::SwapBpe => swap_bpe(args),
        Method::AdaptivocabPaper => compare::build(args, AdaptivocabForm::Paper),
        Method::AdaptivocabReleased => compare::build(args, AdaptivocabForm::Released),
    }
}

fn swap_bpe(args: &args::Build) -> Result<()> {
    check_folder(&args.out.out, args.out.force)?;
    let base = args.base.open()?;
    let corpus = args.corpus.open()?;
    let job = Job::new(&base, &args.settings, &args.report, &args.corpus.records)?;
    let staging = Staging::beside(&args.out.out)?;
    let mut bar = Bar::new();
    let counter = args.corpus.counter(&base, None)?;
    let counter = counter.list_documents(args.settings.swap_bpe.min_documents());
    let counter = args.memory.limit(counter, &staging);
    let counts = counter.count(&corpus, |counting| bar.counting(counting))?;
    job.finish(&counts, &args.out.out, &staging, bar)
}

pub(crate) fn select(args: &args::Select) -> Result<()> {
    check_folder(&args.out.out, args.out.force)?;
    let base = args.base.open()?;
    let job = Job::new(&base, &args.settings, &args.report, &args.records)?;
    let staging = Staging::beside(&args.out.out)?;
    let mut bar = Bar::new();
    bar.message("reading counts");
    let counts = ChunkCounts::load(&base, &args.counts, args.memory.memory)?;
    job.finish(&counts, &args.out.out, &staging, bar)
}

/// A build from counts that are yet to come.
struct Job<'a> {
    base: &'a PatchTokenizer,
    builder: VocabBuilder,
    report: &'a args::Report,
    /// Texts of other domains by their names.
    outside: Vec<(String, Corpus)>,
}

impl<'a> Job<'a> {
    /// Finds mistakes before anything is counted.
    fn new(
        base: &'a PatchTokenizer,
        settings: &args::Settings,
        report: &'a args::Report,
        records: &args::Records,
    ) -> Result<Self> {
        base.check_patchable()?;
        Ok(Job {
            base,
            builder: settings.builder(base, records)?,
            report,
            outside: report.open_outside(records)?,
        })
    }

    /// Builds the tokenizer, writes it and prints the report.
    fn finish(self, counts: &ChunkCounts, out: &Path, staging: &Staging, mut bar: Bar) -> Result<()> {
        let built = self.builder.build_from_counts(counts, |progress| bar.show(progress))?;
        let Built { tokenizer, report, .. } = built;
        if !self.outside.is_empty() {
            bar.message("counting tokens of other text");
        }
        let tokens = |text: &str| tokenizer.encode(text).len() as u64;
        let outside = Outside::all(&self.outside, self.base, tokens)?;
        let report = Report::new(&tokenizer, counts, report, outside);
        let plot = match &self.report.plot {
            Some(path) => Some((path, plot::png(&report)?)),
            None => None,
        };
        bar.finish();
        warn(&counts.summary().rejected);
        staging.save(out, |folder| tokenizer.save(folder))?;
        if let Some((path, png)) = plot {
            write_whole(path, &png)?;
        }
        report.write(self.report.json)
    }
}

// The help names these.
const _: () = assert!(VocabBuilder::MIN_DOCUMENTS == 3 && VocabBuilder::MIN_COUNT == 10);
const _: () = assert!(VocabBuilder::MAX_TOKEN_BYTES == 48);

impl args::Settings {
    fn builder(&self, base: &PatchTokenizer, records: &args::Records) -> Result<VocabBuilder> {
        let swap_bpe = &self.swap_bpe;
        let vocab_size = base.vocab_size();
        if let Some(id) = swap_bpe.pin.iter().find(|&&id| id as usize >= vocab_size) {
            bail!("--pin {id}: the base has {vocab_size} tokens, from 0 on");
        }
        let mut builder = VocabBuilder::new(base.clone())
            .swaps(self.swaps)
            .mode(match swap_bpe.mode {
                None | Some(args::Mode::Swap) => Mode::Swap,
                Some(args::Mode::Grow) => Mode::Grow,
            })
            .segmentation(match swap_bpe.segmentation {
                None | Some(args::Segmentation::Bpe) => Segmentation::Bpe,
                Some(args::Segmentation::MinTokens) => Segmentation::MinTokens,
            })
            .min_documents(swap_bpe.min_documents())
            .min_count(swap_bpe.min_count.unwrap_or(VocabBuilder::MIN_COUNT))
            .max_token_bytes(swap_bpe.max_token_bytes.unwrap_or(VocabBuilder::MAX_TOKEN_BYTES))
            .pin(swap_bpe.pin.iter().copied())
            .stop_on_stall(swap_bpe.stop_when_stalled);
        if !swap_bpe.general.is_empty() {
            builder = builder.general(records.open_checked(&swap_bpe.general)?);
        }
        Ok(builder)
    }
}

impl args::SwapBpe {
    fn min_documents(&self) -> usize {
        self.min_df.unwrap_or(VocabBuilder::MIN_DOCUMENTS)
    }
}
