//! Time: the same texts through every arm.

use super::canvas::Canvas;
use super::panel::{self, Bar, Frame, Head, Line};
use super::{PAGE, PlotError, arm_bars, bar, change_row, effect_rows, number, page, palette};
use crate::arms::{FUSED, NORMAL};
use crate::report::{ArmReport, Figure, Report};

pub(super) fn svg(report: &Report) -> Result<String, PlotError> {
    Canvas::draw(PAGE, |canvas| {
        let frame = page(canvas, PAGE, "Performance: the same texts, end to end", report);
        let cell = |column, row| frame.cell([3, 2], column, row, 62.0);
        throughput(canvas, cell(0, 0), report);
        token_speed(canvas, cell(1, 0), report);
        time_per_text(canvas, cell(2, 0), report);
        improvement(canvas, cell(0, 1), report);
        attribution(canvas, cell(1, 1), report);
        latencies(canvas, cell(2, 1), report);
    })
}

pub(super) fn throughput(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let bars = arm_bars(report, |arm| (arm.performance.reply_bytes_per_second, 1e-3), 2);
    panel::rows(
        canvas,
        frame,
        &Head::new("Throughput", "kB of reply per second, end to end"),
        &bars,
    );
}

/// Only the two arms of interest, and a warning, because their tokens are not the same thing.
pub(super) fn token_speed(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let head = Head::new("Token speed", "reply tokens/s; a patched token holds more text");
    two_columns(canvas, frame, &head, report, |arm| {
        (arm.performance.reply_tokens_per_second, 0)
    });
}

pub(super) fn time_per_text(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let head = Head::new("Time per text", "ms of wall time per text, less is better");
    two_columns(canvas, frame, &head, report, |arm| (arm.performance.time_per_text, 1));
}

fn two_columns(
    canvas: &mut Canvas<'_>,
    frame: Frame,
    head: &Head,
    report: &Report,
    show: impl Fn(&ArmReport) -> (Figure, usize),
) {
    let bars: Vec<Bar> = [(NORMAL, "Normal"), (FUSED, "Fused")]
        .into_iter()
        .map(|(arm, label)| {
            let (figure, digits) = show(report.arm(arm.tokenizer, arm.kv_store));
            let text = number(figure.value, digits);
            Bar {
                interval: figure.ci95,
                ..bar(label, figure.value, text, palette::arm(arm))
            }
        })
        .collect();
    panel::columns(canvas, frame, head, &bars);
}

pub(super) fn improvement(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let time = &report.performance;
    let rows = [
        change_row("reply bytes per second", &time.bytes_per_second),
        change_row("latency of a text", &time.latency),
        change_row("time to the first byte", &time.time_to_first_byte),
        change_row("bytes scored per second", &report.quality.domain.scoring_speed),
        change_row("bits per byte", &report.quality.domain.bits_per_byte),
    ];
    let head = Head::new(
        "Fused against Normal",
        "% change: blue better, orange worse, grey unclear",
    );
    panel::changes(canvas, frame, &head, &rows);
}

pub(super) fn attribution(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let rows = effect_rows(&report.interaction.bytes_per_second);
    let head = Head::new("Where the speed comes from", "% change of reply bytes per second");
    panel::changes(canvas, frame, &head, &rows);
}

/// Share of texts finished within a time.
pub(super) fn latencies(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let lines: Vec<Line> = [(NORMAL, "Normal"), (FUSED, "Fused")]
        .into_iter()
        .map(|(arm, label)| {
            let latency = &report.arm(arm.tokenizer, arm.kv_store).performance.latency_by_text;
            let points = panel::steps(&latency.values, latency.values.len());
            Line {
                label: label.to_owned(),
                points,
                color: palette::arm(arm),
                width: 5,
                dots: 0,
            }
        })
        .collect();
    let head = Head::new("Latency of a text", "% of texts whose last byte came within the time");
    panel::lines(canvas, frame, &head, "ms since the batch was handed over", &lines);
}
