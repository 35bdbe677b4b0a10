//! The page of the comparison.

use super::{Page, escape, verdict};
use crate::arms::{FUSED, NORMAL};
use crate::error::BenchError;
use crate::plots::arm_label;
use crate::plots::single::Single;
use crate::report::{Change, Figure, Report};
use crate::words::{PER_MIB, interval, number, or_dash, percent};

/// The page of the comparison.
///
/// # Errors
///
/// If the report cannot be read as JSON.
pub fn compared(report: &Report, figures: &[Single]) -> Result<Vec<u8>, BenchError> {
    let mut page = Page::new("Normal LLM and Fused LLM");
    let (work, shape) = (&report.inputs.workload, &report.inputs.model_shape);
    page.text(&format!(
        "The same {} texts ({} bytes of prompt, {} of reply) through a {} model ({} layers, width {}, vocabulary {}) with its own \
         tokenizer and a static KV cache (Normal), and with a patched tokenizer and a virtual KV cache (Fused), whose model is {}. \
         Changes have 95% confidence intervals; where one covers 0, no difference was shown.",
        work.texts,
        number(work.prompt_bytes as f64, 0),
        number(work.reply_bytes as f64, 0),
        shape.architecture,
        shape.n_layer,
        shape.n_embd,
        number(shape.vocab_size as f64, 0),
        match report.inputs.fused_model_origin {
            "shipped" => "the same adapted and tuned",
            "given" => "the one that was given",
            other => other,
        },
    ));
    headline(&mut page, report);
    page.heading("Expected and measured");
    page.table(
        &["What", "Expected elsewhere", "Measured here [95% interval]", "Is"],
        report.expectations.iter().map(|expected| {
            vec![
                escape(expected.what),
                escape(&expected.range()),
                format!(
                    "{}%{}",
                    number(expected.measured.value, 1),
                    interval(&expected.measured, 1)
                ),
                format!("<span>{}</span>", expected.found.words()),
            ]
        }),
    );
    page.heading("Goals");
    page.table(
        &["Goal", "Found", ""],
        report.goals.iter().map(|goal| {
            let (class, words) = if goal.holds {
                ("better", "holds")
            } else {
                ("worse", "does not hold")
            };
            vec![
                escape(goal.claim),
                format!("{}%{}", number(goal.value.value, 1), interval(&goal.value, 1)),
                format!("<span class=\"{class}\">{words}</span>"),
            ]
        }),
    );
    page.figures(figures);
    arms(&mut page, report);
    page.honesty(report, &report.not_measured)?;
    page.environment(&report.environment);
    Ok(page.finish())
}

fn headline(page: &mut Page, report: &Report) {
    let [normal, fused] = [NORMAL, FUSED].map(|arm| report.arm(arm.tokenizer, arm.kv_store));
    let [base, patched] = [0, 1].map(|i| &report.tokenization.tokenizers[i]);
    let row = |name: &str, of: [&Figure; 2], scale: f64, digits: usize, change: Option<&Change>| {
        let [normal, fused] = of.map(|figure| number(figure.value * scale, digits));
        let words = change.map_or_else(String::new, verdict);
        vec![
            escape(name),
            normal,
            fused,
            change.map_or_else(String::new, |change| percent(&change.figure)),
            words,
        ]
    };
    let (time, quality) = (&report.performance, &report.quality.domain);
    let mut tokens = row(
        "Tokens of the held-out pages",
        [&base.total_tokens, &patched.total_tokens],
        1.0,
        0,
        None,
    );
    tokens[3] = percent(&report.tokenization.reductions[0].reduction.negated());
    page.table(
        &["", "Normal", "Fused", "Change [95% interval]", ""],
        [
            tokens,
            row(
                "Peak KV memory of a batch, MiB",
                [&normal.kv_cache.mean_batch_peak, &fused.kv_cache.mean_batch_peak],
                PER_MIB,
                2,
                Some(&report.kv_cache.fused_vs_normal),
            ),
            row(
                "Reply bytes a second",
                [
                    &normal.performance.reply_bytes_per_second,
                    &fused.performance.reply_bytes_per_second,
                ],
                1.0,
                0,
                Some(&time.bytes_per_second),
            ),
            row(
                "Latency of a text, ms",
                [&normal.performance.latency.mean, &fused.performance.latency.mean],
                1.0,
                1,
                Some(&time.latency),
            ),
            row(
                "Time to the first byte, ms",
                [
                    &normal.performance.time_to_first_byte.mean,
                    &fused.performance.time_to_first_byte.mean,
                ],
                1.0,
                1,
                Some(&time.time_to_first_byte),
            ),
            row(
                "Bits per byte of held-out text",
                [&quality.normal.bits_per_byte, &quality.fused.bits_per_byte],
                1.0,
                4,
                Some(&quality.bits_per_byte),
            ),
        ],
    );
}

fn arms(page: &mut Page, report: &Report) {
    page.heading("All arms");
    page.table(
        &[
            "Arm",
            "Tokens/text",
            "KV MiB at the peak",
            "Without rows",
            "Reply bytes/s",
            "ms/text",
            "First byte, ms",
        ],
        crate::arms::ARMS.map(|arm| {
            let of = report.arm(arm.tokenizer, arm.kv_store);
            vec![
                escape(&arm_label(arm)),
                number(of.tokens.tokens_per_text.value, 1),
                number(of.kv_cache.physical_at_peak.value * PER_MIB, 2),
                format!("{}%", number(of.kv_cache.waste_share.value, 1)),
                number(of.performance.reply_bytes_per_second.value, 0),
                number(of.performance.time_per_text.value, 1),
                number(of.performance.time_to_first_byte.mean.value, 1),
            ]
        }),
    );
    page.heading("Tokenizers");
    page.table(
        &[
            "Tokenizer",
            "Tokens",
            "Bytes/token",
            "MB/s",
            "Hugging Face MB/s",
            "Same ids",
        ],
        report.tokenization.tokenizers.iter().map(|of| {
            vec![
                escape(of.label),
                number(of.total_tokens.value, 0),
                number(of.bytes_per_token.value, 2),
                number(of.encode_speed.value, 1),
                or_dash(of.hugging_face_encode_speed, |speed| number(speed.value, 1)),
                of.same_ids_as_hugging_face
                    .map_or("not checked", |same| if same { "yes" } else { "NO" })
                    .to_owned(),
            ]
        }),
    );
}
