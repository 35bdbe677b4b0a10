//! `bench ablate`: what each part gives and costs.
//!
//! The *quality guard*: bits per byte of the base model, of the base after the same tuning, of the adapted model before
//! tuning and after it, on the same documents; how often it says new tokens; and what it says. The *frontier*: bits per
//! byte, tokens per byte and speed by the number of swaps, with AdaptiVocab's released method beside them. The *factorial*:
//! tokenizer × KV store, which gives what. And the stores from close by: memory by the size of a frame, time by depth.

pub(crate) mod assemble;
pub(crate) mod frontier;
pub(crate) mod guard;
pub(crate) mod kv;
pub mod report;
pub mod stages;
pub mod table;

use std::path::{Path, PathBuf};

use crate::cli::AblateArgs;
use crate::environment::Start;
use crate::error::BenchError;
use crate::html;
use crate::inputs::HeldOut;
use crate::measure::quality;
use crate::measure::serving::{self, Settings};
use crate::measure::store::{FRAME_BYTES, whole_budget};
use crate::output::{self, Output};
use crate::plots::single;
use crate::report::NotMeasured;
use crate::workload::{Text, Workload};
use assemble::Guarded;
use report::{AblationInputs, AblationReport, SCHEMA, StageInput};
use stages::{Models, Stage};

/// Name of the report's file.
pub const REPORT_FILE: &str = "ablation_results.json";

/// Texts decoded together wherever time or memory is measured.
const BATCH: usize = 4;

/// The texts of a run.
struct Corpora {
    domain: HeldOut,
    outside: Option<HeldOut>,
    train: Option<PathBuf>,
}

impl Corpora {
    fn read(args: &AblateArgs) -> Result<Self, BenchError> {
        let domain = args.domain.clone();
        let outside = args.named(&args.outside, "corpus/rust-heldout.jsonl.gz");
        Ok(Self {
            domain: HeldOut::read(domain.unwrap_or_else(|| args.demo.join("corpus/manual-heldout.jsonl.gz")))?,
            outside: outside.map(HeldOut::read).transpose()?,
            train: args.named(&args.train, "corpus/manual-train.jsonl.gz"),
        })
    }
}

/// Measures and returns the report and the files that hold it.
///
/// # Errors
///
/// Whatever ends the run; no file is written then.
pub fn run(args: &AblateArgs) -> Result<(AblationReport, Vec<PathBuf>), BenchError> {
    let start = Start::now();
    let output = Output::prepare(&args.out, &file_names())?;
    let corpora = Corpora::read(args)?;
    let models = Models::load(args)?;
    let (pages, seed) = (&corpora.domain.pages, args.seed);
    let documents = quality::beginnings(pages, args.documents, seed);
    let domain = guard::score("bits per byte", &models.0, &documents)?;
    let outside = match &corpora.outside {
        Some(other) => {
            let documents = quality::beginnings(&other.pages, args.documents, seed);
            Some(guard::score("bits per byte, other text", &models.0, &documents)?)
        }
        None => None,
    };
    let context = models.context();
    let room = |text: &Text, tokens: usize| {
        let fits = |model: &stages::Model| model.subject.tokenizer.encode(&text.prompt).len() + tokens <= context;
        models.0.iter().all(fits)
    };
    let prompts = Workload::draw(pages, guard::PROMPTS, seed, |text| room(text, guard::SAID_TOKENS))?.texts;
    let said = guard::let_speak(&models.0, &prompts)?;

    let points = match &corpora.train {
        Some(train) => frontier::points(&models, train, &args.swaps, &documents, &domain)?,
        None => Vec::new(),
    };
    let texts = Workload::draw(pages, args.texts, seed, |text| {
        let needs = |model: &stages::Model| model.subject.tokenizer.encode(&text.reply).len();
        room(text, models.0.iter().map(needs).max().unwrap_or(0))
            && points.iter().all(|point| point.needs(text) <= context)
    })?
    .texts;
    let frontier = if points.is_empty() {
        Vec::new()
    } else {
        assemble::frontier(
            &frontier::measure(&points, pages, &domain.bytes, &texts, args.rounds)?,
            seed,
        )
    };
    let factorial = match models.patched() {
        Some(patched) => {
            let subjects = [models.base(), patched];
            let batch = BATCH.min(texts.len());
            let settings = Settings {
                batch,
                rounds: args.rounds,
                kv_budget: whole_budget(&subjects, FRAME_BYTES, batch),
            };
            Some(assemble::factorial(
                &serving::measure(subjects, &texts, settings)?,
                seed,
            ))
        }
        None => None,
    };

    // Of the base, so that there is always something to show.
    let frames = kv::by_frame(models.base(), &texts[..texts.len().min(BATCH)], args.rounds)?;
    let depths = kv::by_depth(models.base(), pages, args.rounds)?;

    let guarded = Guarded {
        stages: stage_inputs(&models),
        domain,
        outside,
        said,
        texts: prompts,
    };
    let report = AblationReport {
        schema: SCHEMA,
        environment: start.finish(seed),
        inputs: inputs(args, &corpora, &models, &texts),
        quality: assemble::guard(guarded, seed),
        not_measured: not_measured(&models, &corpora, factorial.is_some()),
        frontier,
        factorial,
        frames: assemble::frames(&frames, seed),
        depths: assemble::depths(&depths, seed),
    };
    let figures = single::ablated(&report)?;
    let mut files = vec![
        (REPORT_FILE.to_owned(), output::json(&report)?),
        (html::FILE.to_owned(), html::ablated(&report, &figures)?),
    ];
    for figure in &figures {
        files.extend(figure.files()?);
    }
    Ok((report, output.write(&files)?))
}

/// The names this run may write.
fn file_names() -> Vec<String> {
    let names = [REPORT_FILE, html::FILE].map(str::to_owned).into_iter();
    names
        .chain(single::ABLATED.into_iter().flat_map(single::file_names))
        .collect()
}

fn stage_inputs(models: &Models) -> Vec<StageInput> {
    let input = |stage| StageInput {
        stage,
        origin: models.at(stage).map(|model| model.origin.clone()),
    };
    Stage::ALL.map(input).into()
}

fn inputs(args: &AblateArgs, corpora: &Corpora, models: &Models, texts: &[Text]) -> AblationInputs {
    let bytes = |part: fn(&Text) -> &str| texts.iter().map(|text| part(text).len()).sum();
    AblationInputs {
        mode: if args.base.is_none() { "demo" } else { "own" },
        domain: corpora.domain.describe(),
        outside: corpora.outside.as_ref().map(HeldOut::describe),
        train: corpora.train.as_deref().map(Path::display).map(|path| path.to_string()),
        model_shape: models.base().shape(),
        texts: texts.len(),
        prompt_bytes: bytes(|text| &text.prompt),
        reply_bytes: bytes(|text| &text.reply),
        batch: BATCH.min(texts.len()),
        rounds: args.rounds,
        order: "one round that is not counted; then tokenizers, and arms batch by batch, take turns in an order that is reversed \
                every other turn",
    }
}

fn not_measured(models: &Models, corpora: &Corpora, factorial: bool) -> Vec<NotMeasured> {
    let missing = Stage::ALL.into_iter().filter(|&stage| models.at(stage).is_none());
    let mut list: Vec<NotMeasured> = missing
        .map(|stage| NotMeasured {
            what: stage.words(),
            why: Models::why_missing(stage),
        })
        .collect();
    let mut note = |missing: bool, what, why: &str| {
        if missing {
            list.push(NotMeasured {
                what,
                why: why.to_owned(),
            });
        }
    };
    note(
        corpora.outside.is_none(),
        "text outside the domain",
        "none was named; --outside does",
    );
    note(
        corpora.train.is_none(),
        "the frontier by swaps",
        "building tokenizers needs training text of the domain; --train names it",
    );
    note(!factorial, "tokenizer \u{d7} KV store", "there is no adapted model");
    note(
        true,
        "tuned models by the number of swaps",
        "tuning takes hours for each; no model that was made here is tuned",
    );
    list
}
