//! A whole run: load, measure, report, write.

use fused_model::CausalLm;
use std::path::PathBuf;

use fused_model::kv::PagedKv;

use crate::cli::CompareArgs;
use crate::environment::Start;
use crate::error::BenchError;
use crate::html;
use crate::inputs::{Loaded, Subject};
use crate::measure::serving::Settings;
use crate::measure::store::{FRAME_BYTES, whole_budget};
use crate::measure::{Measurements, quality, serving, tokens};
use crate::output::{self, Output};
use crate::plots::{self, Plot, single};
use crate::progress::Stage;
use crate::report::{Figure, Inputs, KvInput, Report, Unit, WorkloadInput, assemble};
use crate::workload::{Text, Workload};

/// Name of the report's file.
const REPORT_FILE: &str = "comprehensive_benchmark_results.json";

/// Runs the benchmark as the command line says and returns the report and the files that hold it.
///
/// # Errors
///
/// Whatever ends the run; no file is written then.
pub fn run(cli: &CompareArgs) -> Result<(Report, Vec<PathBuf>), BenchError> {
    let start = Start::now();
    let output = Output::prepare(&cli.out, &file_names())?;
    let mut loaded = Loaded::new(&cli.files)?;
    loaded.patch_gpt2()?;
    let subjects = [&loaded.base, &loaded.patched];
    let workload = Workload::draw(&loaded.domain.pages, cli.texts, cli.seed, |text| {
        subjects
            .iter()
            .all(|subject| needed_tokens(subject, text) <= loaded.context())
    })?;
    let kv_budget = kv_budget(cli, &loaded, &workload)?;
    let settings = Settings {
        batch: cli.batch,
        rounds: cli.rounds,
        kv_budget,
    };

    let measured = Measurements {
        page_bytes: loaded.domain.pages.texts.iter().map(String::len).collect(),
        tokenizers: tokens::measure(&loaded.tokenizers(), &loaded.domain.pages, cli.rounds)?,
        serving: serving::measure(subjects, &workload.texts, settings)?,
        domain: quality::measure("bits per byte", subjects, &loaded.domain.pages, cli.seed)?,
        out_of_domain: match &loaded.out_of_domain {
            Some(other) => Some(quality::measure(
                "bits per byte, other domain",
                subjects,
                &other.pages,
                cli.seed,
            )?),
            None => None,
        },
    };
    let inputs = inputs(&loaded, &workload, settings);
    let report = assemble(&measured, inputs, start.finish(cli.seed), loaded.not_measured());
    let stage = Stage::new("figures", 1);
    let mut files = vec![(REPORT_FILE.to_owned(), output::json(&report)?)];
    for plot in Plot::ALL {
        let svg = plot.svg(&report)?;
        files.push((plot.png_name().to_owned(), plots::png(&svg)?));
        files.push((plot.svg_name().to_owned(), svg.into_bytes()));
    }
    let singles = single::compared(&report)?;
    for figure in &singles {
        files.extend(figure.files()?);
    }
    files.push((html::FILE.to_owned(), html::compared(&report, &singles)?));
    let paths = output.write(&files)?;
    stage.step();
    Ok((report, paths))
}

/// The names this run writes.
fn file_names() -> Vec<String> {
    let pages = Plot::ALL
        .into_iter()
        .flat_map(|plot| [plot.png_name(), plot.svg_name()]);
    let names = [REPORT_FILE, html::FILE].into_iter().chain(pages).map(str::to_owned);
    names
        .chain(single::COMPARED.into_iter().flat_map(single::file_names))
        .collect()
}

/// Tokens that the model has to hold for a text.
fn needed_tokens(subject: &Subject, text: &Text) -> usize {
    subject.tokenizer.encode(&text.prompt).len() + subject.tokenizer.encode(&text.reply).len()
}

/// The budget of the virtual store in bytes, found to be enough for the longest text.
fn kv_budget(cli: &CompareArgs, loaded: &Loaded, workload: &Workload) -> Result<usize, BenchError> {
    let subjects = [&loaded.base, &loaded.patched];
    let Some(mebibytes) = cli.kv_budget else {
        return Ok(whole_budget(&subjects, FRAME_BYTES, cli.batch));
    };
    let budget = mebibytes << 20;
    for subject in subjects {
        let geometry = subject.model.kv_geometry(1);
        let runs = 2 * geometry.layers;
        let longest = workload
            .texts
            .iter()
            .map(|text| needed_tokens(subject, text))
            .max()
            .unwrap_or(0);
        let need = runs * (longest * geometry.token_bytes() / runs).next_multiple_of(FRAME_BYTES);
        if need > budget {
            return Err(BenchError::Input(format!(
                "--kv-budget {mebibytes} gives {budget} bytes, but one text of {longest} tokens needs {need}; \
                 give at least {}",
                need.div_ceil(1 << 20)
            )));
        }
    }
    Ok(budget)
}

fn inputs(loaded: &Loaded, workload: &Workload, settings: Settings) -> Inputs {
    let bytes = |part: fn(&Text) -> &str| workload.texts.iter().map(|text| part(text).len()).sum();
    Inputs {
        mode: loaded.mode,
        base_model: loaded.base_model.clone(),
        fused_model: loaded.fused_model.clone(),
        fused_model_origin: loaded.fused_model_origin,
        corpus: loaded.domain.describe(),
        out_of_domain: loaded.out_of_domain.as_ref().map(|other| other.describe()),
        model_shape: loaded.model_shape(),
        workload: WorkloadInput {
            texts: workload.texts.len(),
            prompt_bytes: bytes(|text| &text.prompt),
            reply_bytes: bytes(|text| &text.reply),
            batch: settings.batch,
            rounds: settings.rounds,
            pages_too_short: workload.pages_too_short,
            order: "one untimed pass; then arms take turns batch by batch, in an order that is reversed every other \
                    turn",
        },
        kv_stores: KvInput {
            budget: Figure::computed(settings.kv_budget as f64, Unit::Bytes),
            frame: Figure::computed(FRAME_BYTES as f64, Unit::Bytes),
            paged_block_tokens: PagedKv::BLOCK_TOKENS,
        },
    }
}
