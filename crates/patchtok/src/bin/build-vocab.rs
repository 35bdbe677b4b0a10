//! `build-vocab`: adapts the vocabulary of a tokenizer to a corpus.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use patchtok::{BuildReport, Corpus, PatchTokenizer, Progress, TokenCount, VocabBuilder};
use serde::Serialize;

/// Files that make up a tokenizer folder; `--force` replaces folders of these only.
const FILES: [&str; 3] = ["tokenizer.json", "patch_map.json", "patch_tokenizer.bin"];

/// New tokens that the report lists.
const TOP: usize = 20;

const EXAMPLE: &str = "\
Example:
  build-vocab --base gpt2/tokenizer.json --corpus docs/ notes.jsonl.gz --swaps 10000 --out adapted/

The folder then holds tokenizer.json (for Hugging Face tokenizers), patch_map.json (for the transfer
of embeddings) and patch_tokenizer.bin. The report goes to standard output.

Exit status: 0 done, 1 failed, 2 wrong usage.";

/// Adapts the vocabulary of a byte-level BPE tokenizer to a corpus: tokens that the corpus hardly
/// uses are swapped for its frequent phrases. The vocabulary size and all other ids stay as they
/// are.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLE)]
struct Args {
    /// tokenizer.json to start from, or the folder that holds it
    #[arg(long, value_name = "FILE|DIR")]
    base: PathBuf,
    /// Files and folders of text: .txt, .md, ... (a document each) or .jsonl ("text" of each line),
    /// also .gz
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    corpus: Vec<PathBuf>,
    /// Number of tokens to swap
    #[arg(long, value_name = "N")]
    swaps: usize,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Text to measure on [default: a tenth of the corpus, chosen by hash, which is then not learnt
    /// from]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    heldout: Vec<PathBuf>,
    /// Documents that a new token must occur in
    #[arg(long, value_name = "N", default_value_t = VocabBuilder::MIN_DOCUMENTS)]
    min_df: usize,
    /// Occurrences that a new token must have
    #[arg(long, value_name = "N", default_value_t = VocabBuilder::MIN_COUNT)]
    min_count: u64,
    /// Longest new token in bytes
    #[arg(long, value_name = "N", default_value_t = VocabBuilder::MAX_TOKEN_BYTES)]
    max_token_bytes: usize,
    /// Print the report as JSON, with all new tokens
    #[arg(long)]
    json: bool,
    /// Replace the tokenizer in an existing folder
    #[arg(long)]
    force: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    check_out(&args.out, args.force)?;
    let base = if args.base.is_dir() {
        PatchTokenizer::load(&args.base)
    } else {
        PatchTokenizer::from_file(&args.base)
    }
    .context("cannot read the base tokenizer")?;
    let corpus = Corpus::open_all(&args.corpus)?;
    let (corpus, heldout) = if args.heldout.is_empty() {
        corpus.split()
    } else {
        (corpus, Corpus::open_all(&args.heldout)?)
    };
    let builder = VocabBuilder::new(base.clone())
        .swaps(args.swaps)
        .min_documents(args.min_df)
        .min_count(args.min_count)
        .max_token_bytes(args.max_token_bytes);
    let bar = Bar::new();
    let built = builder.build_with_progress(&corpus, |progress| bar.show(progress))?;
    let heldout = HeldOut::measure(&base, &built.tokenizer, &heldout)?;
    bar.finish();
    write_folder(&built.tokenizer, &args.out)?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        let report = Report {
            schema: "patchtok.build.v1",
            vocab_size: base.vocab_size(),
            heldout,
            build: built.report,
        };
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
    } else {
        print(&mut stdout, base.vocab_size(), &heldout, &built.report)?;
    }
    Ok(())
}

/// Fails when `out` may not be written.
fn check_out(out: &Path, force: bool) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    ensure!(
        out.is_dir(),
        "{} exists and is not a folder; name another --out",
        out.display()
    );
    let entries = fs::read_dir(out).with_context(|| out.display().to_string())?;
    for entry in entries {
        let name = entry.with_context(|| out.display().to_string())?.file_name();
        if !FILES.iter().any(|&file| name == file) {
            bail!(
                "{} holds other files ({}); name another --out",
                out.display(),
                name.display()
            );
        }
        ensure!(
            force,
            "{} already holds a tokenizer; --force replaces it",
            out.display()
        );
    }
    Ok(())
}

/// Writes the tokenizer to a folder beside `out` and puts that in its place.
fn write_folder(tokenizer: &PatchTokenizer, out: &Path) -> Result<()> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let staging = staging(parent).with_context(|| format!("cannot write beside {}", out.display()))?;
    let new = staging.path().join("new");
    tokenizer.save(&new)?;
    if out.exists() {
        fs::rename(out, staging.path().join("old")).with_context(|| format!("cannot replace {}", out.display()))?;
    }
    if let Err(error) = fs::rename(&new, out) {
        let old = staging.path().join("old");
        if old.exists() {
            fs::rename(&old, out).with_context(|| format!("cannot put {} back", out.display()))?;
        }
        return Err(error).with_context(|| format!("cannot write {}", out.display()));
    }
    Ok(())
}

fn staging(parent: &Path) -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix(".build-vocab-")
        .suffix(".tmp")
        .tempdir_in(parent)
}

/// The machine-readable report.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    vocab_size: usize,
    heldout: HeldOut,
    build: BuildReport,
}

/// Tokens of the held-out text before and after.
#[derive(Serialize)]
struct HeldOut {
    base: TokenCount,
    patched: TokenCount,
    saving_percent: f64,
    base_bytes_per_token: f64,
    patched_bytes_per_token: f64,
}

impl HeldOut {
    fn measure(base: &PatchTokenizer, patched: &PatchTokenizer, heldout: &Corpus) -> Result<Self> {
        let (base, patched) = (TokenCount::of(base, heldout)?, TokenCount::of(patched, heldout)?);
        Ok(HeldOut {
            base,
            patched,
            saving_percent: patched.saving_percent(&base),
            base_bytes_per_token: base.bytes_per_token(),
            patched_bytes_per_token: patched.bytes_per_token(),
        })
    }
}

fn print(out: &mut impl Write, vocab_size: usize, heldout: &HeldOut, build: &BuildReport) -> Result<()> {
    writeln!(
        out,
        "vocabulary  {vocab_size} tokens, {} of {} swapped ({})",
        build.swaps, build.requested, build.stop
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

/// Progress on standard error; nothing when that is not a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Bar(bar)
    }

    fn show(&self, progress: Progress) {
        match progress {
            Progress::Reading(documents) => self.0.set_message(format!("{documents} documents read")),
            Progress::Merging(found, wanted) => {
                if self.0.length() != Some(wanted as u64) {
                    self.0.set_length(wanted as u64);
                    let style = ProgressStyle::with_template("{spinner} new tokens {bar:30} {pos}/{len} {eta}");
                    self.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                }
                self.0.set_position(found as u64);
            }
            _ => {
                self.0.set_style(ProgressStyle::default_spinner());
                self.0.set_message("counting tokens");
            }
        }
    }

    fn finish(&self) {
        self.0.finish_and_clear();
    }
}
