//! Requests and values through time.

use plotters::style::RGBColor;

use super::{Frame, Head, LABEL, Scale, TICK, pale, shade, tick_text, ticks};
use crate::plots::canvas::{Anchor, Canvas};
use crate::plots::palette::{AXIS, STRIP};

/// A row of requests: bars from when each was to be sent, pale while it waits and full while it replies.
#[derive(Debug, Clone)]
pub(in crate::plots) struct Lane {
    pub(in crate::plots) label: String,
    /// Scheduled, first byte, end, in seconds.
    pub(in crate::plots) requests: Vec<[f64; 3]>,
    pub(in crate::plots) color: RGBColor,
}

/// Requests through time, a lane above the other, on one axis of time.
pub(in crate::plots) fn gantt(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, lanes: &[Lane]) {
    let body = head.draw(canvas, frame);
    let end = lanes
        .iter()
        .flat_map(|lane| &lane.requests)
        .map(|request| request[2])
        .fold(0.0, f64::max);
    let marks = ticks(0.0, end, 5);
    let plot = Frame {
        x: body.x + 8.0,
        w: body.w - 28.0,
        h: body.h - 62.0,
        ..body
    };
    let scale = Scale::new([0.0, end.max(f64::MIN_POSITIVE)], [plot.x, plot.right()]);
    for (i, lane) in lanes.iter().enumerate() {
        let cell = plot.cell([1, lanes.len()], 0, i, 14.0);
        canvas.text(&lane.label, (cell.x, cell.y + 12.0), Anchor::Left, LABEL);
        let (top, height) = (cell.y + 30.0, cell.h - 30.0);
        let step = height / lane.requests.len().max(1) as f64;
        let thick = (step * 0.8).clamp(1.0, 10.0);
        for (row, &[scheduled, first, ended]) in lane.requests.iter().enumerate() {
            let y = top + step * row as f64;
            canvas.rect((scale.at(scheduled), y), (scale.at(first), y + thick), pale(lane.color));
            canvas.rect((scale.at(first), y), (scale.at(ended), y + thick), lane.color);
        }
    }
    time_axis(canvas, plot, scale, &marks, end);
}

/// Values in equal parts of time, one strip for each lane, darker for more.
pub(in crate::plots) fn strips(
    canvas: &mut Canvas<'_>,
    frame: Frame,
    head: &Head,
    seconds: f64,
    lanes: &[(String, Vec<f64>, RGBColor)],
) {
    let body = head.draw(canvas, frame);
    let most = lanes
        .iter()
        .flat_map(|lane| &lane.1)
        .copied()
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let marks = ticks(0.0, seconds, 5);
    let plot = Frame {
        x: body.x + 8.0,
        w: body.w - 28.0,
        h: body.h - 62.0,
        ..body
    };
    let scale = Scale::new([0.0, seconds.max(f64::MIN_POSITIVE)], [plot.x, plot.right()]);
    for (i, (label, values, color)) in lanes.iter().enumerate() {
        let cell = plot.cell([1, lanes.len()], 0, i, 18.0);
        let worst = values.iter().copied().fold(0.0, f64::max);
        let label = format!("{label}, longest {} ms", super::super::number(worst, 0));
        canvas.text(&label, (cell.x, cell.y + 12.0), Anchor::Left, LABEL);
        canvas.rect((cell.x, cell.y + 30.0), (cell.right(), cell.y + cell.h), STRIP);
        let width = plot.w / values.len().max(1) as f64;
        for (part, &value) in values.iter().enumerate().filter(|part| *part.1 > 0.0) {
            let x = plot.x + width * part as f64;
            canvas.rect(
                (x, cell.y + 30.0),
                (x + width, cell.y + cell.h),
                shade(*color, value / most),
            );
        }
    }
    time_axis(canvas, plot, scale, &marks, seconds);
}

fn time_axis(canvas: &mut Canvas<'_>, plot: Frame, scale: Scale, marks: &[f64], end: f64) {
    canvas.line(
        (plot.x, plot.bottom() + 6.0),
        (plot.right(), plot.bottom() + 6.0),
        AXIS,
        2,
    );
    for &mark in marks.iter().filter(|&&mark| mark <= end) {
        let text = tick_text(mark, marks[1] - marks[0]);
        canvas.text(&text, (scale.at(mark), plot.bottom() + 26.0), Anchor::Middle, TICK);
    }
    canvas.text(
        "seconds since the run began",
        (plot.right(), plot.bottom() + 52.0),
        Anchor::Right,
        TICK,
    );
}
