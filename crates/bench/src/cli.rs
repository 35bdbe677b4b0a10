//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::arms::{ARMS, Arm};
use crate::diff::Gate;
use crate::serve::record::{Measure, Objective};

/// The embedded demonstration.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo");

/// Compares a Normal LLM (base tokenizer, static KV cache) with the Fused LLM (patched tokenizer,
/// virtual KV cache) on the same text, and writes the report and its figures.
///
/// Without arguments it runs the embedded demonstration; it needs no network. Give --model,
/// --tokenizer and --corpus to run it on your own files. The exit status is 0 for a finished run, 1
/// for one that failed, 2 for wrong usage.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "bench",
    version,
    max_term_width = 110,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// Another thing to do than the comparison.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The comparison.
    #[command(flatten)]
    pub compare: CompareArgs,
}

/// Another thing to do than the comparison.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Puts load on the arms, or on servers by URL: requests that arrive by themselves, clients that
    /// wait for their answers, or a recorded trace
    Serve(Box<ServeArgs>),
    /// Shows what each part gives and costs: quality stage by stage and by the number of swaps, tokenizer × KV store
    Ablate(Box<AblateArgs>),
    /// Compares two reports of the comparison, or two of `serve`, and fails when a quantity changed by more than a gate lets it
    Diff(DiffArgs),
}

/// Two reports against each other.
///
/// Both are of the comparison, or both of `serve`. The exit status is 0 when no gate is broken, 1 when one is, and 2 when the
/// reports cannot be compared or the second lacks what a gate is on.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// The report before
    #[arg(value_name = "BEFORE.json")]
    pub before: PathBuf,
    /// The report after
    #[arg(value_name = "AFTER.json")]
    pub after: PathBuf,
    /// Most that a quantity may rise or fall: kv_peak_bytes=+2%, bytes_per_second=-5%; may be repeated
    #[arg(long, value_name = "NAME=\u{b1}N%", value_parser = Gate::parse, allow_hyphen_values = true)]
    pub gate: Vec<Gate>,
    /// Which arm is compared with itself [default: the last, which is the fused one]
    #[arg(long, value_name = "NAME")]
    pub arm: Option<String>,
    /// Print the result as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Models, tokenizers and text.
#[derive(Debug, Clone, Args)]
pub struct Files {
    /// Your base model: a Hugging Face directory of a GPT-2 or Llama with its tokenizer.json
    #[arg(long, value_name = "DIR", requires_all = ["tokenizer", "corpus"])]
    pub model: Option<PathBuf>,
    /// Your patched tokenizer: a directory that build-vocab wrote
    #[arg(long, value_name = "DIR", requires_all = ["model", "corpus"])]
    pub tokenizer: Option<PathBuf>,
    /// Your held-out text: a file or folder of .txt, .md, .jsonl and the like, .gz too
    #[arg(long, value_name = "PATH", requires_all = ["model", "tokenizer"])]
    pub corpus: Option<PathBuf>,
    /// The model tuned for your patched tokenizer [default: adapted on the fly, not tuned]
    #[arg(long, value_name = "DIR", requires = "model")]
    pub fused_model: Option<PathBuf>,
    /// Where the demonstration's files are
    #[arg(long, value_name = "DIR", default_value = DEMO, hide_default_value = true, conflicts_with = "model")]
    pub demo: PathBuf,
}

/// The comparison: the same batches of text through every arm.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// What is compared.
    #[command(flatten)]
    pub files: Files,
    /// Where the report and the figures go; other files there are left alone
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub out: PathBuf,
    /// Texts that every arm completes
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count)]
    pub texts: usize,
    /// Texts decoded together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = count)]
    pub batch: usize,
    /// Repetitions of every measurement; of fewer than 5, times have no intervals
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count)]
    pub rounds: usize,
    /// Physical memory the virtual KV cache may use, in MiB [default: what the static one takes]
    #[arg(long, value_name = "MIB", value_parser = count)]
    pub kv_budget: Option<usize>,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Requests under load.
///
/// Every arm gets the same KV memory, the same requests and, unless clients wait for answers, the same times at which they are sent, arms
/// take turns in an order that is reversed every other turn, and every time counts from the moment a
/// request was to be sent. Without a choice of load, the rate at which the first arm is full is measured,
/// and requests arrive at fractions and multiples of it.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// What is served.
    #[command(flatten)]
    pub files: Files,
    /// A run of about a minute on few requests
    #[arg(long)]
    pub quick: bool,
    /// Arms to serve with, by name, or `all`; the first is what the others are compared with
    #[arg(long, value_name = "NAMES", default_value = "normal,fused", value_parser = arms)]
    pub arms: ArmList,
    /// A server with OpenAI's interface instead of the arms, `NAME=http://HOST:PORT`; may be repeated
    #[arg(long, value_name = "NAME=URL", conflicts_with = "arms", value_parser = server)]
    pub url: Vec<Server>,
    /// Requests a second, one run for each
    #[arg(long, value_name = "R,R,..", value_delimiter = ',', value_parser = positive)]
    pub rates: Vec<f64>,
    /// Shape of the gamma distribution of the gaps between requests: 1 is a Poisson process, less is burstier
    #[arg(long, value_name = "K", default_value_t = 1.0, value_parser = positive)]
    pub burstiness: f64,
    /// Clients that each send the next request when the last has ended, one run for each number
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', value_parser = count, conflicts_with_all = ["rates", "trace"])]
    pub clients: Vec<usize>,
    /// Requests of a trace: Azure's CSV or Mooncake's JSONL
    #[arg(long, value_name = "FILE", conflicts_with = "rates")]
    pub trace: Option<PathBuf>,
    /// How many times faster than recorded a trace is replayed
    #[arg(long, value_name = "X", default_value_t = 1.0, requires = "trace", value_parser = positive)]
    pub trace_speed: f64,
    /// Factor of the lengths of a trace [default: 1, or less so that 99% of them fit the model]
    #[arg(long, value_name = "X", requires = "trace", value_parser = positive)]
    pub trace_scale: Option<f64>,
    /// Find the highest rate at which 90% of the requests meet the objectives
    #[arg(long, conflicts_with_all = ["clients", "trace"])]
    pub find_rate: bool,
    /// What a good request keeps to, in milliseconds: of `ttft`, `ttfb`, `e2e`, `gap` (longest silence
    /// within a reply), `ms_per_char`
    #[arg(long, value_name = "NAME=MS,..", value_delimiter = ',', default_value = "ttfb=250,ms_per_char=4", value_parser = objective)]
    pub objectives: Vec<Objective>,
    /// A silence within a reply that counts as a stall, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100.0, value_parser = positive)]
    pub stall: f64,
    /// How long requests are sent in a run, in seconds [default: 12, quick 1.3]
    #[arg(long, value_name = "S", value_parser = positive)]
    pub seconds: Option<f64>,
    /// Repetitions of every run; of fewer than 5 nothing has an interval [default: 5]
    #[arg(long, value_name = "N", value_parser = count)]
    pub rounds: Option<usize>,
    /// KV memory of every arm, in MiB [default: what 8 of the longest sequences take]
    #[arg(long, value_name = "MIB", value_parser = count)]
    pub kv_budget: Option<usize>,
    /// Most requests decoded together
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count)]
    pub max_batch: usize,
    /// Finished sequences whose rows stay for requests that begin alike
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = prefixes)]
    pub kept_prefixes: usize,
    /// Every so many requests the client goes away after the first text; 0 never
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub abandon_every: usize,
    /// Where the report, the figures and the requests go; other files there are left alone
    #[arg(long, value_name = "DIR", default_value = "target/bench-serve")]
    pub out: PathBuf,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What each part gives and costs.
///
/// Bits per byte of the base model, of the base after the same tuning, of the adapted model before tuning and after it,
/// on the same text; how often it says new tokens, and what it says; then quality, tokens and speed by the number of swaps,
/// with AdaptiVocab's released method; then the base and the patched tokenizer with every KV store; memory by the size of a frame
/// and time of a step by depth. What is not named is taken from the embedded demonstration, unless --base is; what is missing
/// is not measured, and the report says so. That --base-tuned had the tuning that --adapted had is taken from you.
#[derive(Debug, Clone, Args)]
pub struct AblateArgs {
    /// The base model: a Hugging Face directory of a GPT-2 or Llama with its tokenizer.json
    #[arg(long, value_name = "DIR", requires = "domain")]
    pub base: Option<PathBuf>,
    /// The base model after the tuning that the adapted one got: the control
    #[arg(long, value_name = "DIR")]
    pub base_tuned: Option<PathBuf>,
    /// The adapted model before tuning [default: rows made from the base's]
    #[arg(long, value_name = "DIR")]
    pub adapted_untuned: Option<PathBuf>,
    /// The adapted model after tuning, with its patched tokenizer
    #[arg(long, value_name = "DIR")]
    pub adapted: Option<PathBuf>,
    /// Held-out text of the domain
    #[arg(long, value_name = "PATH")]
    pub domain: Option<PathBuf>,
    /// Held-out text of something else
    #[arg(long, value_name = "PATH")]
    pub outside: Option<PathBuf>,
    /// Training text of the domain, to build tokenizers on
    #[arg(long, value_name = "PATH")]
    pub train: Option<PathBuf>,
    /// Where the demonstration's files are
    #[arg(long, value_name = "DIR", default_value = DEMO, hide_default_value = true, conflicts_with = "base")]
    pub demo: PathBuf,
    /// Numbers of swaps; none is always there
    #[arg(long, value_name = "N,N,..", value_delimiter = ',', default_value = "500,1000,2000,5000", value_parser = count)]
    pub swaps: Vec<usize>,
    /// Held-out pages scored of each text, up to 4 KiB of each
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = count)]
    pub documents: usize,
    /// Texts completed where time is measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = count)]
    pub texts: usize,
    /// Repetitions where time is measured; of fewer than 5, times have no intervals
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count)]
    pub rounds: usize,
    /// Where the report and the figures go; other files there are left alone
    #[arg(long, value_name = "DIR", default_value = "target/bench-ablate")]
    pub out: PathBuf,
    /// Seed of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print the report as JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

impl AblateArgs {
    /// What is used for a path: the one that was named, or the demonstration's, unless the base model is one's own.
    pub(crate) fn named(&self, path: &Option<PathBuf>, shipped: &str) -> Option<PathBuf> {
        path.clone()
            .or_else(|| self.base.is_none().then(|| self.demo.join(shipped)))
    }
}

/// Arms in the order they were named, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArmList(pub Vec<Arm>);

fn arms(text: &str) -> Result<ArmList, String> {
    if text == "all" {
        return Ok(ArmList(ARMS.to_vec()));
    }
    let mut list = Vec::new();
    for name in text.split(',') {
        let arm = ARMS.into_iter().find(|arm| arm.name() == name);
        let known = ARMS.map(Arm::name).join(", ");
        let arm = arm.ok_or_else(|| format!("{name:?} is no arm; there are {known}"))?;
        if list.contains(&arm) {
            return Err(format!("{name} is named twice"));
        }
        list.push(arm);
    }
    Ok(ArmList(list))
}

/// A server under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name in the report.
    pub name: String,
    /// Where it is, without `/v1`.
    pub url: String,
}

fn server(text: &str) -> Result<Server, String> {
    let (name, url) = match text.split_once('=') {
        Some((name, url)) if !name.contains("://") => (name, url),
        _ => (text, text),
    };
    if name.is_empty() || !url.starts_with("http://") {
        return Err("must be http://HOST:PORT, or NAME= before it; TLS is not spoken".to_owned());
    }
    let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
    Ok(Server {
        name: name.to_owned(),
        url,
    })
}

fn objective(text: &str) -> Result<Objective, String> {
    let (name, limit) = text.split_once('=').ok_or("must be NAME=MS")?;
    let on = Measure::ALL.into_iter().find(|on| on.name() == name);
    let known = Measure::ALL.map(Measure::name).join(", ");
    Ok(Objective {
        on: on.ok_or_else(|| format!("there is no objective {name:?}; there are {known}"))?,
        limit_ms: positive(limit)?,
    })
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if f64::is_finite(value) && value > 0.0 => Ok(value),
        _ => Err("must be a number above 0".to_owned()),
    }
}

impl ServeArgs {
    /// Refuses what would give two loads or two servers the same name.
    ///
    /// # Errors
    ///
    /// What is named twice, in words.
    pub fn check(&self) -> Result<(), String> {
        let twice = |names: Vec<String>| {
            let repeated = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name));
            repeated.map(|(_, name)| name.clone())
        };
        if let Some(clients) = twice(self.clients.iter().map(usize::to_string).collect()) {
            return Err(format!("--clients has {clients} twice"));
        }
        if let Some(name) = twice(self.url.iter().map(|server| server.name.clone()).collect()) {
            return Err(format!(
                "two servers are named {name}; give each a name of its own, NAME=http://HOST:PORT"
            ));
        }
        Ok(())
    }
}

/// A whole number from 0 to the most places that are set aside for finished sequences.
fn prefixes(text: &str) -> Result<usize, String> {
    let limit = 4_096;
    match text.parse() {
        Ok(n) if n <= limit => Ok(n),
        _ => Err(format!("must be a whole number from 0 to {limit}")),
    }
}

/// A whole number from 1 to a million.
fn count(text: &str) -> Result<usize, String> {
    let limit = 1_000_000;
    match text.parse() {
        Ok(n) if (1..=limit).contains(&n) => Ok(n),
        _ => Err(format!("must be a whole number from 1 to {limit}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn own_files_come_together_or_not_at_all() {
        let parse = |args: &str| Cli::try_parse_from(std::iter::once("bench").chain(args.split_whitespace()));
        assert!(parse("").is_ok());
        assert!(parse("--model a --tokenizer b --corpus c --fused-model d --json").is_ok());
        assert!(parse("serve --quick --rates 1,2.5 --arms fused,normal --objectives e2e=9").is_ok());
        assert!(parse("ablate --base a --domain b --base-tuned c --swaps 5,10").is_ok());
        let servers = parse("serve --url http://host:8000/v1/ --url b=http://other").expect("two servers");
        let Some(Command::Serve(serve)) = servers.command else {
            panic!("not the subcommand")
        };
        assert_eq!(serve.url[0].url, "http://host:8000");
        assert_eq!(
            (serve.url[1].name.as_str(), serve.url[1].url.as_str()),
            ("b", "http://other")
        );
        assert_eq!(serve.check(), Ok(()));
        for args in [
            "serve --clients 4,8,4",
            "serve --url http://a --url http://a",
            "serve --url s=http://a --url s=http://b",
        ] {
            let Some(Command::Serve(serve)) = parse(args).expect(args).command else {
                panic!("not the subcommand")
            };
            assert!(serve.check().is_err(), "{args}");
        }
        for args in [
            "--model a",
            "--model a --corpus c",
            "--tokenizer b --corpus c",
            "--fused-model d",
            "--model a --tokenizer b --corpus c --demo d",
            "--texts 0",
            "--rounds -1",
            "--batch 1000001",
            "--kv-budget x",
            "stray",
            "serve --rates 0",
            "serve --rates 1,x",
            "serve --clients 4 --rates 2",
            "serve --trace a --rates 2",
            "serve --arms normal,normal",
            "serve --arms other",
            "serve --url https://host",
            "serve --url a=http://host --arms fused",
            "serve --objectives ttfb",
            "serve --objectives speed=3",
            "serve --model a",
            "serve --kept-prefixes 4097",
            "serve --kept-prefixes 18446744073709551615",
            "ablate --base a",
            "ablate --swaps 0",
            "diff a.json",
            "diff a.json b.json --gate kv=2",
        ] {
            assert_eq!(parse(args).expect_err(args).exit_code(), 2, "{args}");
        }
    }
}
