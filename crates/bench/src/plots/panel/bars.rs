//! Columns, rows, and changes with their intervals.

use plotters::style::RGBColor;

use super::{Frame, Head, LABEL, Scale, TICK, VALUE, pale, tick_text, ticks};
use crate::plots::canvas::{Anchor, Canvas, Ink};
use crate::plots::palette::{AXIS, GRID, INK, PAPER, STRIP};
use crate::stats::Interval;

/// One bar.
#[derive(Debug, Clone)]
pub(in crate::plots) struct Bar {
    /// Under or beside the bar; lines are separated by `\n`.
    pub(in crate::plots) label: String,
    /// Its length.
    pub(in crate::plots) value: f64,
    /// The part of it that is drawn in full colour; the rest is drawn pale.
    pub(in crate::plots) solid: f64,
    /// The figure written at its end.
    pub(in crate::plots) text: String,
    pub(in crate::plots) interval: Option<Interval>,
    pub(in crate::plots) color: RGBColor,
}

/// One change with its interval.
#[derive(Debug, Clone)]
pub(in crate::plots) struct ChangeRow {
    pub(in crate::plots) label: String,
    pub(in crate::plots) value: f64,
    pub(in crate::plots) text: String,
    pub(in crate::plots) interval: Option<Interval>,
    pub(in crate::plots) color: RGBColor,
}

/// The largest thing a bar panel has to show.
fn reach(bars: &[Bar]) -> f64 {
    bars.iter()
        .map(|bar| bar.interval.map_or(bar.value, |i| i.high.max(bar.value)))
        .fold(0.0, f64::max)
}

/// The figure of a bar, on a patch of paper that keeps grid lines out of it.
fn value(canvas: &mut Canvas<'_>, text: &str, at: (f64, f64), anchor: Anchor) {
    let width = canvas.text_width(text, VALUE);
    let left = if anchor == Anchor::Left {
        at.0
    } else {
        at.0 - width / 2.0
    };
    canvas.rect((left - 4.0, at.1 - 12.0), (left + width + 4.0, at.1 + 12.0), PAPER);
    canvas.text(text, at, anchor, VALUE);
}

/// Vertical bars.
pub(in crate::plots) fn columns(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, bars: &[Bar]) {
    let body = head.draw(canvas, frame);
    let label_lines = bars.iter().map(|bar| bar.label.lines().count()).max().unwrap_or(1);
    let marks = ticks(0.0, reach(bars), 4);
    let (top, step) = (marks[marks.len() - 1], marks[1] - marks[0]);
    let plot = Frame {
        x: body.x + 74.0,
        y: body.y + 14.0,
        w: body.w - 74.0,
        h: body.h - 14.0 - 12.0 - 26.0 * label_lines as f64,
    };
    // Head room for the figure above the highest bar.
    let scale = Scale::new([0.0, top], [plot.bottom(), plot.y + 26.0]);
    for &mark in &marks {
        let y = scale.at(mark);
        canvas.line((plot.x, y), (plot.right(), y), if mark == 0.0 { AXIS } else { GRID }, 2);
        canvas.text(&tick_text(mark, step), (plot.x - 12.0, y), Anchor::Right, TICK);
    }
    let slot = plot.w / bars.len().max(1) as f64;
    let width = (slot * 0.56).min(150.0);
    for (i, bar) in bars.iter().enumerate() {
        let x = plot.x + slot * (i as f64 + 0.5);
        let (left, right) = (x - width / 2.0, x + width / 2.0);
        canvas.rect((left, scale.at(bar.value)), (right, plot.bottom()), pale(bar.color));
        canvas.rect((left, scale.at(bar.solid)), (right, plot.bottom()), bar.color);
        let mut label_y = scale.at(bar.value);
        if let Some(interval) = bar.interval {
            let (low, high) = (scale.at(interval.low), scale.at(interval.high));
            canvas.line((x, low), (x, high), INK, 3);
            for end in [low, high] {
                canvas.line((x - 11.0, end), (x + 11.0, end), INK, 3);
            }
            label_y = label_y.min(high);
        }
        value(canvas, &bar.text, (x, label_y - 18.0), Anchor::Middle);
        for (line, text) in bar.label.lines().enumerate() {
            canvas.text(
                text,
                (x, plot.bottom() + 22.0 + 26.0 * line as f64),
                Anchor::Middle,
                LABEL,
            );
        }
    }
}

/// Horizontal bars.
pub(in crate::plots) fn rows(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, bars: &[Bar]) {
    let body = head.draw(canvas, frame);
    let widest = |texts: &mut dyn Iterator<Item = &str>, ink: Ink| {
        texts.map(|text| canvas.text_width(text, ink)).fold(0.0, f64::max)
    };
    let label_width = widest(&mut bars.iter().map(|bar| bar.label.as_str()), LABEL);
    let value_width = widest(&mut bars.iter().map(|bar| bar.text.as_str()), VALUE);
    let plot = Frame {
        x: body.x + label_width + 18.0,
        y: body.y,
        w: body.w - label_width - 18.0 - value_width - 24.0,
        h: body.h - 34.0,
    };
    let marks = ticks(0.0, reach(bars), 3);
    let (top, step) = (marks[marks.len() - 1], marks[1] - marks[0]);
    let scale = Scale::new([0.0, top], [plot.x, plot.right()]);
    for &mark in &marks {
        let x = scale.at(mark);
        canvas.line(
            (x, plot.y),
            (x, plot.bottom()),
            if mark == 0.0 { AXIS } else { GRID },
            2,
        );
        canvas.text(&tick_text(mark, step), (x, plot.bottom() + 20.0), Anchor::Middle, TICK);
    }
    let slot = plot.h / bars.len().max(1) as f64;
    let height = (slot * 0.62).min(46.0);
    for (i, bar) in bars.iter().enumerate() {
        let y = plot.y + slot * (i as f64 + 0.5);
        let (up, down) = (y - height / 2.0, y + height / 2.0);
        canvas.rect((plot.x, up), (scale.at(bar.value), down), pale(bar.color));
        canvas.rect((plot.x, up), (scale.at(bar.solid), down), bar.color);
        let mut end = scale.at(bar.value);
        if let Some(interval) = bar.interval {
            let (low, high) = (scale.at(interval.low), scale.at(interval.high));
            canvas.line((low, y), (high, y), INK, 3);
            for x in [low, high] {
                canvas.line((x, y - 8.0), (x, y + 8.0), INK, 3);
            }
            end = end.max(high);
        }
        canvas.text(&bar.label, (plot.x - 14.0, y), Anchor::Right, LABEL);
        value(canvas, &bar.text, (end + 12.0, y), Anchor::Left);
    }
}

/// Changes in per cent around a line at 0.
pub(in crate::plots) fn changes(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, rows: &[ChangeRow]) {
    let body = head.draw(canvas, frame);
    let ends = |row: &ChangeRow| {
        row.interval
            .map_or([row.value; 2], |i| [i.low.min(row.value), i.high.max(row.value)])
    };
    let low = rows.iter().map(|row| ends(row)[0]).fold(0.0, f64::min);
    let high = rows.iter().map(|row| ends(row)[1]).fold(0.0, f64::max);
    let marks = ticks(low, high, 4);
    let (first, last, step) = (marks[0], marks[marks.len() - 1], marks[1] - marks[0]);
    let plot = Frame {
        x: body.x + 8.0,
        y: body.y,
        w: body.w - 16.0,
        h: body.h - 34.0,
    };
    // Marks keep clear of the ends of the strips.
    let scale = Scale::new([first, last], [plot.x + 20.0, plot.right() - 20.0]);
    let slot = plot.h / rows.len().max(1) as f64;
    for (i, row) in rows.iter().enumerate() {
        let middle = plot.y + slot * (i as f64 + 0.5);
        let half = (slot / 2.0 - 22.0).clamp(9.0, 16.0);
        let (words, y) = (middle - half - 2.0, middle + 15.0);
        canvas.text(&row.label, (plot.x, words), Anchor::Left, LABEL);
        canvas.text(&row.text, (plot.right(), words), Anchor::Right, VALUE);
        canvas.rect((plot.x, y - half), (plot.right(), y + half), STRIP);
        for &mark in &marks {
            let (color, width) = if mark == 0.0 { (AXIS, 4) } else { (GRID, 2) };
            canvas.line((scale.at(mark), y - half), (scale.at(mark), y + half), color, width);
        }
        let [low, high] = ends(row).map(|end| scale.at(end));
        canvas.line((low, y), (high, y), row.color, 5);
        for x in [low, high] {
            canvas.line((x, y - 9.0), (x, y + 9.0), row.color, 4);
        }
        canvas.disc((scale.at(row.value), y), 9, row.color);
    }
    for &mark in &marks {
        let text = if mark > 0.0 {
            format!("+{}", tick_text(mark, step))
        } else {
            tick_text(mark, step)
        };
        canvas.text(&text, (scale.at(mark), plot.bottom() + 18.0), Anchor::Middle, TICK);
    }
}
