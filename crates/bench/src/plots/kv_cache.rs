//! KV memory: physical memory read from the operating system while the same requests are decoded.

use super::canvas::Canvas;
use super::panel::{self, Bar, Frame, Head, Line};
use super::{PAGE, PlotError, arm_bars, arm_label, bar, mib, number, page, palette};
use crate::arms::{ARMS, Arm, FUSED, NORMAL};
use crate::report::Report;
use crate::stats::Interval;
use crate::words::PER_MIB;

pub(super) fn svg(report: &Report) -> Result<String, PlotError> {
    Canvas::draw(PAGE, |canvas| {
        let frame = page(canvas, PAGE, "KV cache: physical memory for the same requests", report);
        let cell = |column, row| frame.cell([3, 2], column, row, 62.0);
        total(canvas, cell(0, 0), report);
        per_text(canvas, cell(1, 0), report);
        reduction(canvas, cell(2, 0), report);
        saved(canvas, cell(0, 1), report);
        timeline(canvas, cell(1, 1), report);
        panel::rows(
            canvas,
            cell(2, 1),
            &Head::new("KV waste", "% of the physical memory at the peak without rows"),
            &arm_bars(report, |arm| (arm.kv_cache.waste_share, 1.0), 1),
        );
    })
}

/// Peak by arm; the pale part is waste.
pub(super) fn total(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let bars: Vec<Bar> = ARMS
        .into_iter()
        .zip(arm_bars(report, |arm| (arm.kv_cache.physical_at_peak, PER_MIB), 2))
        .map(|(arm, bar)| Bar {
            solid: mib(&report.arm(arm.tokenizer, arm.kv_store).kv_cache.used_at_peak),
            ..bar
        })
        .collect();
    let head = Head::new("KV memory at the peak", "MiB, physical; pale: holds no rows");
    panel::rows(canvas, frame, &head, &bars);
}

pub(super) fn per_text(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let bars = arm_bars(report, |arm| (arm.kv_cache.physical_per_text, PER_MIB), 2);
    panel::rows(
        canvas,
        frame,
        &Head::new("KV memory per text", "MiB, physical, per text in flight at the peak"),
        &bars,
    );
}

/// How much smaller the mean peak of a batch is than in the normal arm.
pub(super) fn reduction(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let bars = others(|arm| {
        let less = report
            .arm(arm.tokenizer, arm.kv_store)
            .kv_cache
            .vs_normal
            .figure
            .negated();
        (less.value, less.ci95, format!("{}%", number(less.value, 1)))
    });
    panel::rows(
        canvas,
        frame,
        &Head::new("KV reduction", "% of Normal's mean peak of a batch"),
        &bars,
    );
}

fn saved(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let peak = |arm: Arm| mib(&report.arm(arm.tokenizer, arm.kv_store).kv_cache.physical_at_peak);
    let bars = others(|arm| {
        let saved = peak(NORMAL) - peak(arm);
        (saved, None, number(saved, 2))
    });
    panel::rows(
        canvas,
        frame,
        &Head::new("KV memory saved", "MiB less than Normal at the peak"),
        &bars,
    );
}

/// A bar for every arm but the normal one; what is below 0 has no length, but keeps its figure.
fn others(show: impl Fn(Arm) -> (f64, Option<Interval>, String)) -> Vec<Bar> {
    let bars = ARMS[1..].iter().map(|&arm| {
        let (value, interval, text) = show(arm);
        let interval = interval.filter(|_| value > 0.0);
        Bar {
            interval,
            ..bar(arm_label(arm), value.max(0.0), text, palette::arm(arm))
        }
    });
    bars.collect()
}

/// Physical memory of one batch over time in three arms, and what of it the fused arm uses.
pub(super) fn timeline(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let paged = Arm {
        kv_store: crate::arms::KvChoice::Paged,
        ..FUSED
    };
    let lines: Vec<Line> = [(NORMAL, "Normal"), (paged, "patched + paged"), (FUSED, "Fused")]
        .into_iter()
        .map(|(arm, label)| {
            let time = &report.arm(arm.tokenizer, arm.kv_store).kv_cache.timeline;
            let points = time.time.values.iter().zip(&time.physical.values);
            Line {
                label: label.to_owned(),
                points: points.map(|(&x, &y)| (x, y * PER_MIB)).collect(),
                color: palette::arm(arm),
                width: 5,
                dots: 0,
            }
        })
        .collect();
    let head = Head::new("KV memory over time", "MiB, physical, while one batch is decoded");
    panel::lines(canvas, frame, &head, "ms since the batch was handed over", &lines);
}
