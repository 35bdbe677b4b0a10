//! The page of an ablation.

use super::{Page, escape, verdict};
use crate::ablate::report::{AblationReport, Factorial, GuardOn, QualityGuard};
use crate::ablate::table::found;
use crate::arms::{ARMS, KvChoice};
use crate::error::BenchError;
use crate::plots::arm_label;
use crate::plots::single::Single;
use crate::report::Change;
use crate::stats::Verdict;
use crate::words::{PER_MIB, number, or_dash, percent, with_interval, workload};

/// The page of an ablation.
///
/// # Errors
///
/// If the report cannot be read as JSON.
pub fn ablated(report: &AblationReport, figures: &[Single]) -> Result<Vec<u8>, BenchError> {
    let mut page = Page::new("What each part gives and costs");
    let inputs = &report.inputs;
    let mut parts = vec!["a model at the stages of its adaptation, on the same held-out text"];
    if !report.frontier.is_empty() {
        parts.push("tokenizers with more and more swaps");
    }
    if report.factorial.is_some() {
        parts.push("both tokenizers with every KV store");
    }
    page.text(&format!(
        "What was measured: {}; KV stores from close by. Changes have 95% confidence intervals; where one covers 0, no difference was \
         shown.",
        parts.join("; ")
    ));
    guard(&mut page, &report.quality);
    page.figures(figures);
    frontier(&mut page, report);
    if let Some(factorial) = &report.factorial {
        page.heading("Tokenizer \u{d7} KV store");
        let bytes = [inputs.prompt_bytes, inputs.reply_bytes];
        page.text(&format!(
            "{}.",
            workload(inputs.texts, bytes, inputs.batch, inputs.rounds)
        ));
        effects(&mut page, factorial);
    }
    close_by(&mut page, report);
    samples(&mut page, &report.quality);
    page.honesty(report, &report.not_measured)?;
    page.environment(&report.environment);
    Ok(page.finish())
}

fn guard(page: &mut Page, quality: &QualityGuard) {
    page.heading("Quality guard");
    page.table(
        &["Claim", "Found", ""],
        quality.claims.iter().map(|claim| {
            // It can hold without the model having been shown to be better.
            let class = match claim.change.map(|change| change.verdict) {
                Some(Verdict::Better) => "better",
                Some(Verdict::Worse) => "worse",
                _ => "unclear",
            };
            vec![
                escape(claim.claim),
                or_dash(claim.change.as_ref(), |change| percent(&change.figure)),
                format!("<span class=\"{class}\">{}</span>", found(claim)),
            ]
        }),
    );
    stages(page, "Bits per byte, the domain", &quality.domain);
    if let Some(outside) = &quality.outside {
        stages(page, "Bits per byte, other text", outside);
    }
    if !quality.adoption.is_empty() {
        page.heading("New tokens in use, in % [95% interval]");
        page.table(
            &[
                "Model",
                "Of tokens it says",
                "Of bytes it says",
                "Of tokens of the page's own text",
            ],
            quality.adoption.iter().map(|adoption| {
                vec![
                    escape(adoption.stage.words()),
                    with_interval(&adoption.tokens, 1),
                    with_interval(&adoption.bytes, 1),
                    with_interval(&adoption.tokens_in_page, 1),
                ]
            }),
        );
    }
    let origins: Vec<(&str, String)> = quality
        .stages
        .iter()
        .map(|input| {
            let origin = input.origin.clone();
            (input.stage.words(), origin.unwrap_or_else(|| "not measured".to_owned()))
        })
        .collect();
    page.list(&origins);
    page.text("That base and adapted model were tuned alike is taken from the command line: it cannot be seen from the models.");
}

fn stages(page: &mut Page, heading: &str, on: &GuardOn) {
    page.heading(heading);
    page.text(&format!(
        "{} documents, {} bytes.",
        on.documents,
        number(on.bytes as f64, 0)
    ));
    let cells = |change: &Option<Change>| match change {
        Some(change) => [percent(&change.figure), verdict(change)],
        None => ["-".to_owned(), String::new()],
    };
    page.table(
        &[
            "Stage",
            "Bits/byte [95% interval]",
            "Against base",
            "",
            "Against base, tuned alike",
            "",
        ],
        on.stages.iter().map(|quality| {
            let bits = quality.bits_per_byte.as_ref();
            let mut row = vec![
                escape(quality.stage.words()),
                bits.map_or_else(|| "not measured".to_owned(), |bits| with_interval(bits, 4)),
            ];
            row.extend(cells(&quality.vs_base));
            row.extend(cells(&quality.vs_base_tuned));
            row
        }),
    );
}

fn frontier(page: &mut Page, report: &AblationReport) {
    if report.frontier.is_empty() {
        return;
    }
    page.heading("By swaps");
    page.text("Changes are against no swaps. Rows are exponential and calibrated; nothing is tuned unless it says so.");
    page.table(
        &[
            "Tokenizer",
            "Swaps",
            "Tokens/byte",
            "Tokens",
            "Bits/byte",
            "Bits/byte, change",
            "Reply bytes/s",
            "Speed",
        ],
        report.frontier.iter().map(|point| {
            vec![
                escape(point.method.words()),
                number(point.swaps as f64, 0),
                number(point.tokens_per_byte.value, 4),
                percent(&point.tokens.figure),
                with_interval(&point.bits_per_byte, 4),
                percent(&point.quality.figure),
                number(point.reply_bytes_per_second.value, 0),
                percent(&point.speed.figure),
            ]
        }),
    );
}

fn effects(page: &mut Page, factorial: &Factorial) {
    page.table(
        &["Arm", "Reply bytes/s [95% interval]", "KV MiB, peak of a batch"],
        ARMS.iter().zip(&factorial.arms).map(|(arm, of)| {
            vec![
                escape(&arm_label(*arm)),
                with_interval(&of.performance.reply_bytes_per_second, 0),
                number(of.kv_cache.mean_batch_peak.value * PER_MIB, 2),
            ]
        }),
    );
    // The tokenizer alone is the same beside both stores.
    let stores = [
        (KvChoice::Virtual, &factorial.virtual_store, 0),
        (KvChoice::Paged, &factorial.paged_store, 1),
    ];
    let rows = stores.into_iter().flat_map(|(store, of, from)| {
        let rows = of
            .bytes_per_second
            .rows(store)
            .into_iter()
            .zip(of.kv_memory.rows(store));
        rows.skip(from)
    });
    page.table(
        &["Against base + static", "Reply bytes/s", "", "Peak KV memory", ""],
        rows.map(|((name, speed), (_, memory))| {
            vec![
                escape(&name),
                percent(&speed.figure),
                verdict(speed),
                percent(&memory.figure),
                verdict(memory),
            ]
        }),
    );
}

/// The stores: memory by the size of a frame, time by depth.
fn close_by(page: &mut Page, report: &AblationReport) {
    page.heading("KV memory by the size of a frame");
    page.text("A batch of the base model at the step where its memory was largest, and the mean of the calls that make room for the next token \
         of four sequences.");
    page.table(
        &["Frame, KiB", "Peak, MiB", "Rows, MiB", "Without rows", "Call, µs"],
        report.frames.iter().map(|of| {
            vec![
                number(of.frame.value / 1024.0, 0),
                number(of.physical.value * PER_MIB, 2),
                number(of.used.value * PER_MIB, 2),
                format!("{}%", number(of.waste_share.value, 1)),
                number(1e3 * of.call.value, 1),
            ]
        }),
    );
    page.heading("Time of a step by depth");
    page.text("Milliseconds [95% interval over rounds] for a token of each of four sequences of the base model, at so many tokens each.");
    let mut head = vec!["Tokens"];
    head.extend(report.depths.iter().map(|of| of.kv_store.word()));
    let depths = report.depths.first().map_or(&[][..], |of| of.depth.as_slice());
    page.table(
        &head,
        depths.iter().enumerate().map(|(i, &depth)| {
            let mut row = vec![number(depth as f64, 0)];
            let steps = report.depths.iter().map(|of| of.step.get(i));
            row.extend(steps.map(|step| or_dash(step, |step| with_interval(step, 2))));
            row
        }),
    );
}

/// The same prompts, continued: a column for each model would be too narrow on a phone, so they stand below each other.
fn samples(page: &mut Page, quality: &QualityGuard) {
    page.heading("What the models say, greedily");
    for sample in &quality.samples {
        let mut rows = vec![
            ("Prompt, its end", sample.prompt.clone()),
            ("The page goes on", sample.page.clone()),
        ];
        rows.extend(sample.models.iter().map(|said| (said.stage.words(), said.text.clone())));
        page.list(&rows);
        page.raw("<hr>");
    }
}
