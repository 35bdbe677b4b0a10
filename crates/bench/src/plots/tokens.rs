//! Token counts: how many tokens the same held-out text needs before and after patching.

use super::canvas::Canvas;
use super::panel::{self, Bar, Head};
use super::{PAGE, PlotError, bar, number, page, palette};
use crate::report::{Figure, Report, TokenReduction, TokenizerReport};

pub(super) fn svg(report: &Report) -> Result<String, PlotError> {
    Canvas::draw(PAGE, |canvas| {
        let frame = page(
            canvas,
            PAGE,
            "Tokens: the same held-out text, base and patched tokenizer",
            report,
        );
        let cell = |column, row| frame.cell([3, 2], column, row, 62.0);
        let tokens = &report.tokenization;
        let pages = format!(
            "{} pages, {} bytes",
            number(tokens.texts as f64, 0),
            number(tokens.bytes as f64, 0)
        );
        total(canvas, cell(0, 0), report, &pages);
        per_text(canvas, cell(1, 0), report);
        reduction(canvas, cell(2, 0), report);
        panel::columns(
            canvas,
            cell(0, 1),
            &Head::new("Tokens saved", format!("tokens fewer on {pages}")),
            &by_reduction(report, |r| (r.tokens_saved, number(r.tokens_saved.value, 0))),
        );
        panel::columns(
            canvas,
            cell(1, 1),
            &Head::new("Text per token", "bytes per token, more is better"),
            &by_tokenizer(report, |t| (t.bytes_per_token, number(t.bytes_per_token.value, 2))),
        );
        speed(canvas, cell(2, 1), report);
    })
}

pub(super) fn total(canvas: &mut Canvas<'_>, frame: panel::Frame, report: &Report, pages: &str) {
    let bars = by_tokenizer(report, |t| (t.total_tokens, number(t.total_tokens.value, 0)));
    panel::columns(
        canvas,
        frame,
        &Head::new("Total tokens", format!("tokens, {pages}")),
        &bars,
    );
}

pub(super) fn per_text(canvas: &mut Canvas<'_>, frame: panel::Frame, report: &Report) {
    // No whiskers: pages differ in length, which says nothing about tokenizers. The reduction has
    // the paired interval.
    let bars = by_tokenizer(report, |t| {
        let figure = Figure {
            ci95: None,
            ..t.tokens_per_text
        };
        (figure, number(figure.value, 0))
    });
    panel::columns(
        canvas,
        frame,
        &Head::new("Average tokens per text", "tokens per page"),
        &bars,
    );
}

pub(super) fn reduction(canvas: &mut Canvas<'_>, frame: panel::Frame, report: &Report) {
    let bars = by_reduction(report, |r| (r.reduction, format!("{}%", number(r.reduction.value, 1))));
    panel::columns(
        canvas,
        frame,
        &Head::new("Token reduction", "% of the base tokens, more is better"),
        &bars,
    );
}

fn by_tokenizer(report: &Report, show: impl Fn(&TokenizerReport) -> (Figure, String)) -> Vec<Bar> {
    let bars = report.tokenization.tokenizers.iter().map(|tokenizer| {
        let (figure, text) = show(tokenizer);
        Bar {
            interval: figure.ci95,
            ..bar(
                lines(tokenizer.label),
                figure.value,
                text,
                palette::tokenizer(tokenizer.patched),
            )
        }
    });
    bars.collect()
}

fn by_reduction(report: &Report, show: impl Fn(&TokenReduction) -> (Figure, String)) -> Vec<Bar> {
    let label = |name: &str| {
        report
            .tokenization
            .tokenizers
            .iter()
            .find(|t| t.name == name)
            .map_or("", |t| t.label)
    };
    let bars = report.tokenization.reductions.iter().map(|reduction| {
        let (figure, text) = show(reduction);
        let swaps = number(reduction.swaps as f64, 0);
        let label = format!("{}\n{swaps} swaps", label(reduction.from));
        Bar {
            interval: figure.ci95,
            ..bar(label, figure.value, text, palette::FUSED)
        }
    });
    bars.collect()
}

/// Words of a label on lines of their own, so that four stand beside each other.
fn lines(label: &str) -> String {
    label.replacen(", ", "\n", 1)
}

/// Encoding speed, ours and of the `tokenizers` crate from the same file.
fn speed(canvas: &mut Canvas<'_>, frame: panel::Frame, report: &Report) {
    let row = |label: &str, figure: Figure, color| Bar {
        interval: figure.ci95,
        ..bar(label, figure.value, number(figure.value, 1), color)
    };
    let bars: Vec<Bar> = report
        .tokenization
        .tokenizers
        .iter()
        .flat_map(|t| {
            let ours = row(t.label, t.encode_speed, palette::tokenizer(t.patched));
            let theirs = t
                .hugging_face_encode_speed
                .map(|figure| row("Hugging Face", figure, palette::AXIS));
            [Some(ours), theirs]
        })
        .flatten()
        .collect();
    let head = Head::new(
        "Tokenization speed",
        "MB/s on one thread, same ids as Hugging Face tokenizers (grey)",
    );
    panel::rows(canvas, frame, &head, &bars);
}
