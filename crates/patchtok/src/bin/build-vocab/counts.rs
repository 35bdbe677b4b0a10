//! `count` and `merge`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use patchtok::{ChunkCounter, Corpus, CountSummary, PatchTokenizer, Rejected, merge_counts};

use crate::args;
use crate::bar::Bar;
use crate::output::{Staging, check_file};

/// Name of a counts file before it is complete.
const STAGED: &str = "counts.parquet";

pub(crate) fn count(args: &args::Count) -> Result<()> {
    let out = &args.out;
    check_file(&out.out, out.force)?;
    let base = args.base.open()?;
    let mut corpus = args.corpus.open()?;
    if let Some((index, count)) = args.shard {
        corpus = corpus.shard(index, count)?;
    }
    let staging = Staging::beside(&out.out)?;
    let counter = args.corpus.counter(&base, args.shard)?;
    let counter = args.memory.limit(counter.list_documents(args.list_documents), &staging);
    let mut bar = Bar::new();
    let summary = counter.count_to_file(&corpus, staging.path(STAGED), |counting| bar.counting(counting))?;
    bar.finish();
    warn(&summary.rejected);
    staging.publish(STAGED, &out.out)?;
    print(&summary, out.json)
}

pub(crate) fn merge(args: &args::Merge) -> Result<()> {
    let out = &args.out;
    check_file(&out.out, out.force)?;
    let base = args.base.open()?;
    let staging = Staging::beside(&out.out)?;
    let mut bar = Bar::new();
    bar.message("adding counts");
    let summary = merge_counts(&base, &args.counts, staging.path(STAGED))?;
    bar.finish();
    staging.publish(STAGED, &out.out)?;
    print(&summary, out.json)
}

fn print(summary: &CountSummary, json: bool) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut stdout, summary)?;
        writeln!(stdout)?;
        return Ok(());
    }
    writeln!(
        stdout,
        "corpus      {} documents, {} bytes\nheld-out    {} documents, {} bytes\nchunks      {} distinct, {} bytes",
        summary.documents,
        summary.bytes,
        summary.heldout_documents,
        summary.heldout_bytes,
        summary.distinct_chunks,
        summary.distinct_bytes
    )?;
    Ok(())
}

/// Says on standard error what was skipped.
pub(crate) fn warn(rejected: &Rejected) {
    let Some(first) = &rejected.first else { return };
    eprintln!(
        "warning: {} records were skipped: {} are not UTF-8, {} not JSON objects, {} without the text, {} too long",
        rejected.total(),
        rejected.not_utf8,
        rejected.not_json,
        rejected.no_text,
        rejected.too_long
    );
    eprintln!("         the first one: {first}; --strict fails at it");
}

impl args::Base {
    pub(crate) fn open(&self) -> Result<PatchTokenizer> {
        open(&self.path).context("cannot read the base tokenizer")
    }
}

/// The tokenizer in a folder or in a file.
pub(crate) fn open(path: &Path) -> Result<PatchTokenizer> {
    ensure!(
        !path.join("ngrams.json").exists(),
        "{} holds an AdaptiVocab tokenizer, which is made to be measured only",
        path.display()
    );
    Ok(if path.is_dir() {
        PatchTokenizer::load(path)?
    } else {
        PatchTokenizer::from_file(path)?
    })
}

impl args::Corpus {
    /// The corpus to learn from, with the part that is held out of it.
    pub(crate) fn open(&self) -> Result<Corpus> {
        self.records.open(&self.corpus)
    }

    fn open_heldout(&self) -> Result<Corpus> {
        self.records.open(&self.heldout)
    }

    /// The corpus to learn from and the one to measure on, both to be read several times.
    pub(crate) fn open_checked(&self) -> Result<(Corpus, Corpus)> {
        let corpus = self.records.open_checked(&self.corpus)?;
        if self.heldout.is_empty() {
            return Ok(corpus.split());
        }
        Ok((corpus, self.records.open_checked(&self.heldout)?))
    }

    /// A counter that holds out what it is told to.
    pub(crate) fn counter<'b>(&self, base: &'b PatchTokenizer, shard: Option<(u64, u64)>) -> Result<ChunkCounter<'b>> {
        let counter = ChunkCounter::new(base);
        if self.heldout.is_empty() {
            return Ok(counter.hold_out_tenth());
        }
        let mut heldout = self.open_heldout()?;
        if let Some((index, count)) = shard {
            heldout = heldout.shard(index, count)?;
        }
        Ok(counter.heldout(heldout))
    }
}

impl args::Records {
    /// The texts as one corpus.
    pub(crate) fn open<P: AsRef<Path>>(&self, paths: &[P]) -> Result<Corpus> {
        let corpus = Corpus::open_all(paths)?;
        Ok(corpus.text_field(&self.field).skip_bad(!self.strict))
    }

    /// [`open`](args::Records::open) for files that are read several times: they are read now, so that
    /// bad records are refused before anything is built, or said once.
    pub(crate) fn open_checked<P: AsRef<Path>>(&self, paths: &[P]) -> Result<Corpus> {
        let corpus = self.open(paths)?;
        let mut documents = corpus.documents();
        documents.try_for_each(|document| document.map(drop))?;
        warn(documents.rejected());
        Ok(corpus)
    }
}

impl args::Memory {
    /// The counter with the limit, if there is one.
    pub(crate) fn limit<'b>(&self, counter: ChunkCounter<'b>, staging: &Staging) -> ChunkCounter<'b> {
        match self.memory {
            Some(bytes) => counter.memory(bytes, staging.path("")),
            None => counter,
        }
    }
}
