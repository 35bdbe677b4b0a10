//! What can be said on the command line.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  A vocabulary in one step; without a command, build is meant:
    build-vocab --base gpt2/tokenizer.json --corpus docs/ notes.jsonl.gz --swaps 10000 --out adapted/

  From other places: a pattern, a column of Parquet files, standard input, with 4 GiB of memory to plan with:
    build-vocab --base gpt2/ --corpus 'dump/*.jsonl.zst' --field body --swaps 10000 --out adapted/
    build-vocab --base gpt2/ --corpus part-*.parquet --field content --swaps 10000 --out adapted/ --memory 4G
    zcat dump.sql.gz | build-vocab --base gpt2/ --corpus - --swaps 10000 --out adapted/

  Ids behind those of the base, so that no text takes more tokens; the fewest tokens; AdaptiVocab, to compare with:
    build-vocab --base gpt2/ --corpus docs/ --swaps 10000 --out grown/ --mode grow
    build-vocab --base gpt2/ --corpus docs/ --swaps 10000 --out shortest/ --segmentation min-tokens
    build-vocab --base gpt2/ --corpus docs/ --swaps 10000 --out rival/ --method adaptivocab-released

  What it saves by the number of swaps, as a picture, and on other text:
    build-vocab --base gpt2/ --corpus docs/ --swaps 10000 --out adapted/ --plot saving.png --outside wiki.txt

  In parts, on several machines:
    build-vocab count --base gpt2/ --corpus dump/ --shard 0/8 --out counts-0.parquet   # and 1/8 ... 7/8
    build-vocab merge --base gpt2/ counts-*.parquet --out counts.parquet
    build-vocab select --base gpt2/ --counts counts.parquet --swaps 10000 --out adapted/

  A look at the result:
    build-vocab inspect adapted/
    echo 'SELECT * FROM pg_stat_activity' | build-vocab encode adapted/

The folder then holds tokenizer.json (for Hugging Face tokenizers), patch_map.json (for the transfer
of embeddings) and patch_tokenizer.bin. Results go to standard output, progress and warnings to
standard error.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.";

/// Adapts the vocabulary of a byte-level BPE tokenizer to a corpus: tokens that the corpus hardly
/// uses are swapped for its frequent phrases. The vocabulary size and all other ids stay as they
/// are.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, subcommand_value_name = "COMMAND")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is wrong with arguments that are right one by one.
type Checked = Result<(), (ErrorKind, String)>;

impl Args {
    /// The arguments of this program. Options without a command are those of `build`.
    pub(crate) fn of_program() -> Self {
        let mut args: Vec<OsString> = std::env::args_os().collect();
        let first = args.get(1).and_then(|first| first.to_str());
        if first.is_some_and(|first| first.starts_with("--") && !["--help", "--version"].contains(&first)) {
            args.insert(1, "build".into());
        }
        let args = Args::parse_from(args);
        if let Err((kind, message)) = args.check() {
            Args::command().error(kind, message).exit();
        }
        args
    }

    /// Checks arguments that are right one by one against each other.
    fn check(&self) -> Checked {
        match &self.command {
            Command::Build(build) => {
                // First what the method has no use for: of that it does not matter whether it is right.
                build.check_method()?;
                build.corpus.check()?;
                build.settings.swap_bpe.check()?;
                build.report.check()
            }
            Command::Select(select) => {
                select.settings.swap_bpe.check()?;
                select.report.check()
            }
            Command::Count(count) => count.corpus.check(),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Builds a tokenizer from a corpus; options without a command are its options
    Build(Build),
    /// Counts a corpus, or a part of it, into a file
    Count(Count),
    /// Adds the files of several counts together
    Merge(Merge),
    /// Builds a tokenizer from counts
    Select(Select),
    /// Shows what a tokenizer folder holds
    Inspect(Inspect),
    /// Prints the tokens of a text
    Encode(Encode),
    /// Prints the text of token ids
    Decode(Decode),
    /// Prints a script that completes these commands in a shell
    Completions {
        /// Shell to complete in
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    #[command(flatten)]
    pub(crate) base: Base,
    #[command(flatten)]
    pub(crate) corpus: Corpus,
    /// How new tokens are found
    #[arg(long, value_enum, value_name = "METHOD", default_value_t)]
    pub(crate) method: Method,
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(flatten)]
    pub(crate) memory: Memory,
    #[command(flatten)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) out: OutFolder,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// Byte pair encoding goes on, across words, in place of the least used leaves
    #[default]
    SwapBpe,
    /// AdaptiVocab as published, to compare with; writes a folder that only this crate reads
    AdaptivocabPaper,
    /// AdaptiVocab as its released code does it
    AdaptivocabReleased,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Count {
    #[command(flatten)]
    pub(crate) base: Base,
    #[command(flatten)]
    pub(crate) corpus: Corpus,
    /// Count part I of N only, I from 0: each record belongs to one part
    #[arg(long, value_name = "I/N", value_parser = shard)]
    pub(crate) shard: Option<(u64, u64)>,
    /// Documents of a chunk to list: the most that --min-df of select may then ask for
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) list_documents: usize,
    #[command(flatten)]
    pub(crate) memory: Memory,
    #[command(flatten)]
    pub(crate) out: OutFile,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Merge {
    #[command(flatten)]
    pub(crate) base: Base,
    /// Files that count or merge wrote, or a query over such files, sorted by chunk
    #[arg(value_name = "FILE", required = true)]
    pub(crate) counts: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) out: OutFile,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Select {
    #[command(flatten)]
    pub(crate) base: Base,
    /// Files of counts; several are added together
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) counts: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) records: Records,
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(flatten)]
    pub(crate) memory: Memory,
    #[command(flatten)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) out: OutFolder,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Folder of a tokenizer, or a tokenizer.json
    pub(crate) tokenizer: PathBuf,
    /// New tokens to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) top: usize,
    /// Print JSON, with all new tokens
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Encode {
    /// Folder of a tokenizer, or a tokenizer.json
    pub(crate) tokenizer: PathBuf,
    /// Text [default: standard input]
    pub(crate) text: Option<String>,
    /// Print the ids only, in one line
    #[arg(long, conflicts_with = "json")]
    pub(crate) ids: bool,
    /// Print JSON: ids and the text of each token
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Decode {
    /// Folder of a tokenizer, or a tokenizer.json
    pub(crate) tokenizer: PathBuf,
    /// Token ids [default: numbers on standard input]
    pub(crate) ids: Vec<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Base {
    /// tokenizer.json to start from, or the folder that holds it
    #[arg(long = "base", value_name = "FILE|DIR")]
    pub(crate) path: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Corpus {
    /// Text: files (.txt, .md, ..., .jsonl, also .gz or .zst; .parquet), folders, patterns, or - for
    /// standard input
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    pub(crate) corpus: Vec<PathBuf>,
    /// Text to measure on, from the same places [default: a tenth of the corpus, chosen by hash, which
    /// is then not learnt from]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) heldout: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) records: Records,
}

/// How all texts that are named are read.
#[derive(Debug, clap::Args)]
pub(crate) struct Records {
    /// Field of JSON lines, and column of Parquet files, that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) field: String,
    /// Fail at the first record that is not UTF-8, not JSON, or without text, instead of skipping
    /// and counting it
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Settings {
    /// Number of tokens to swap
    #[arg(long, value_name = "N")]
    pub(crate) swaps: usize,
    #[command(flatten)]
    pub(crate) swap_bpe: SwapBpe,
}

/// Settings that have no meaning for the other methods.
#[derive(Debug, clap::Args)]
pub(crate) struct SwapBpe {
    /// Ids of new tokens: those of removed ones, or new ones behind the last [default: swap]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,
    /// How the adapted tokenizer cuts text: by merges, or into the fewest tokens [default: bpe]
    #[arg(long, value_enum)]
    pub(crate) segmentation: Option<Segmentation>,
    /// Documents that a new token must occur in [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) min_df: Option<usize>,
    /// Occurrences that a new token must have [default: 10]
    #[arg(long, value_name = "N")]
    pub(crate) min_count: Option<u64>,
    /// Longest new token in bytes [default: 48]
    #[arg(long, value_name = "N")]
    pub(crate) max_token_bytes: Option<usize>,
    /// Ids of tokens that must stay
    #[arg(long, value_name = "ID", num_args = 1..)]
    pub(crate) pin: Vec<u32>,
    /// A sample of general text, files as for the corpus: of tokens that the corpus uses equally
    /// little, those go first that it uses least
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) general: Vec<PathBuf>,
    /// Stop when 100 swaps in a row save nothing on the held-out text
    #[arg(long)]
    pub(crate) stop_when_stalled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Swap,
    Grow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Segmentation {
    Bpe,
    MinTokens,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Memory {
    /// Memory to plan with: 2G, 512M, for building at least 201M; counts that do not fit go to files,
    /// and if the distinct chunks are too many, a sample of them is used and its error reported
    /// [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// Text of another domain to measure on as well, files as for the corpus, a line of the report
    /// for each path
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) outside: Vec<PathBuf>,
    /// Print the report as JSON, with all new and all removed tokens
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the report into a PNG file, too, which is replaced if it exists
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OutFolder {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Replace the tokenizer in an existing folder
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct OutFile {
    /// File to write, .parquet
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Print what was counted as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Replace an existing file
    #[arg(long)]
    pub(crate) force: bool,
}

/// Whether a path is standard input.
fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl Corpus {
    /// Standard input can be read once.
    fn check(&self) -> Checked {
        let named = self
            .corpus
            .iter()
            .chain(&self.heldout)
            .filter(|path| is_standard_input(path));
        if named.count() > 1 {
            let message = "standard input (-) can be read once, as --corpus or as --heldout";
            return Err((ErrorKind::ArgumentConflict, message.into()));
        }
        Ok(())
    }
}

/// Texts that are read more than once.
fn check_files(name: &str, paths: &[PathBuf]) -> Checked {
    if paths.iter().any(|path| is_standard_input(path)) {
        let message = format!("{name} is read more than once, so it cannot be standard input (-); name a file");
        return Err((ErrorKind::InvalidValue, message));
    }
    Ok(())
}

impl SwapBpe {
    fn check(&self) -> Checked {
        if self.mode == Some(Mode::Grow) && !self.general.is_empty() {
            let message = "--general says which tokens to remove; with --mode grow none are removed";
            return Err((ErrorKind::ArgumentConflict, message.into()));
        }
        check_files("--general", &self.general)
    }
}

impl Report {
    fn check(&self) -> Checked {
        check_files("--outside", &self.outside)
    }
}

impl Build {
    /// Settings that have no meaning for the method.
    fn check_method(&self) -> Checked {
        if self.method == Method::SwapBpe {
            return Ok(());
        }
        let SwapBpe {
            mode,
            segmentation,
            min_df,
            min_count,
            max_token_bytes,
            pin,
            general,
            stop_when_stalled,
        } = &self.settings.swap_bpe;
        let given = [
            ("--mode", mode.is_some()),
            ("--segmentation", segmentation.is_some()),
            ("--min-df", min_df.is_some()),
            ("--min-count", min_count.is_some()),
            ("--max-token-bytes", max_token_bytes.is_some()),
            ("--pin", !pin.is_empty()),
            ("--general", !general.is_empty()),
            ("--stop-when-stalled", *stop_when_stalled),
            ("--memory", self.memory.memory.is_some()),
            ("--plot", self.report.plot.is_some()),
        ];
        if let Some((name, _)) = given.into_iter().find(|(_, given)| *given) {
            let message = format!("{name} cannot be used with AdaptiVocab, only with --method swap-bpe");
            return Err((ErrorKind::ArgumentConflict, message));
        }
        check_files("--corpus of AdaptiVocab", &self.corpus.corpus)?;
        check_files("--heldout of AdaptiVocab", &self.corpus.heldout)
    }
}

/// Prints the completion script of a shell.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "build-vocab", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}

fn shard(text: &str) -> Result<(u64, u64), String> {
    let parts = text
        .split_once('/')
        .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((index, count)) if index < count => Ok((index, count)),
        Some((_, count)) => Err(format!(
            "of {count} shards there are 0/{count} to {}/{count}",
            count.max(1) - 1
        )),
        None => Err("write it as I/N, for example 0/8".into()),
    }
}

/// A number of bytes: `512M`, `2G`, `2.5GiB`, `1000000`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("{other:?} is no unit; use K, M or G")),
    };
    match digits.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok((number * unit) as u64),
        _ => Err(format!("{digits:?} is no number of bytes")),
    }
}
