//! Everything on one page, and whether the goals hold.

use super::canvas::{Anchor, Canvas, Ink};
use super::palette::{FUSED, INK, MUTED, NORMAL};
use super::panel::{self, Bar, Frame, Head};
use super::{PlotError, bar, kv_cache, number, page, performance, tokens};
use crate::report::Report;

const PAGE: [u32; 2] = [2600, 1960];

pub(super) fn svg(report: &Report) -> Result<String, PlotError> {
    Canvas::draw(PAGE, |canvas| {
        let frame = page(canvas, PAGE, "Normal LLM and Fused LLM: all results", report);
        let strip = 110.0 + 40.0 * report.goals.len() as f64;
        let grid = Frame {
            h: frame.h - strip,
            ..frame
        };
        let cell = |column, row| grid.cell([4, 3], column, row, 60.0);
        let pages = format!("{} held-out pages", number(report.tokenization.texts as f64, 0));
        tokens::total(canvas, cell(0, 0), report, &pages);
        tokens::per_text(canvas, cell(1, 0), report);
        tokens::reduction(canvas, cell(2, 0), report);
        quality(canvas, cell(3, 0), report);
        kv_cache::total(canvas, cell(0, 1), report);
        kv_cache::per_text(canvas, cell(1, 1), report);
        kv_cache::reduction(canvas, cell(2, 1), report);
        kv_cache::timeline(canvas, cell(3, 1), report);
        performance::throughput(canvas, cell(0, 2), report);
        performance::token_speed(canvas, cell(1, 2), report);
        performance::time_per_text(canvas, cell(2, 2), report);
        performance::improvement(canvas, cell(3, 2), report);
        goals(
            canvas,
            Frame {
                y: grid.y + grid.h + 76.0,
                h: strip,
                ..frame
            },
            report,
        );
    })
}

/// Bits per byte of both models, in and out of the domain.
fn quality(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let on = [
        ("domain", Some(&report.quality.domain)),
        ("other text", report.quality.out_of_domain.as_ref()),
    ];
    let bars: Vec<Bar> = on
        .into_iter()
        .filter_map(|(name, quality)| quality.map(|quality| (name, quality)))
        .flat_map(|(name, quality)| {
            [(&quality.normal, "Normal", NORMAL), (&quality.fused, "Fused", FUSED)].map(|(score, arm, color)| {
                let figure = score.bits_per_byte;
                let text = number(figure.value, 3);
                Bar {
                    interval: figure.ci95,
                    ..bar(format!("{arm}\n{name}"), figure.value, text, color)
                }
            })
        })
        .collect();
    panel::columns(
        canvas,
        frame,
        &Head::new("Quality", "bits per byte of held-out text, less is better"),
        &bars,
    );
}

fn goals(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    canvas.text(
        "Goals of this benchmark",
        (frame.x, frame.y),
        Anchor::Left,
        Ink::new(27.0, INK).bold(),
    );
    for (i, goal) in report.goals.iter().enumerate() {
        let y = frame.y + 44.0 + 40.0 * i as f64;
        let (mark, color) = if goal.holds {
            ("holds", FUSED)
        } else {
            ("does not hold", NORMAL)
        };
        canvas.text(mark, (frame.x, y), Anchor::Left, Ink::new(23.0, color).bold());
        canvas.text(goal.claim, (frame.x + 200.0, y), Anchor::Left, Ink::new(23.0, INK));
        let interval = goal.value.ci95.map_or_else(String::new, |i| {
            format!(", 95% interval {} to {}", number(i.low, 1), number(i.high, 1))
        });
        let found = format!("found {}%{interval}", number(goal.value.value, 1));
        canvas.text(&found, (frame.x + 1300.0, y), Anchor::Left, Ink::new(23.0, MUTED));
    }
}
