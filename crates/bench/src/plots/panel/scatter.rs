//! Points with their names beside them.

use plotters::style::RGBColor;

use super::{Frame, Head, Scale, TICK, shade, tick_text, ticks};
use crate::plots::canvas::{Anchor, Canvas, Ink};
use crate::plots::palette::{AXIS, GRID};
use crate::stats::Interval;

/// One point of a scatter plot.
#[derive(Debug, Clone)]
pub(in crate::plots) struct Mark {
    /// Beside it.
    pub(in crate::plots) label: String,
    pub(in crate::plots) at: (f64, f64),
    /// Of its height.
    pub(in crate::plots) interval: Option<Interval>,
    pub(in crate::plots) color: RGBColor,
    /// Whether the line through such points goes through it.
    pub(in crate::plots) joined: bool,
}

/// Points with their names, on axes that are fitted to them: neither begins at 0.
pub(in crate::plots) fn scatter(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, x_unit: &str, points: &[Mark]) {
    let body = head.draw(canvas, frame);
    let plot = Frame {
        x: body.x + 84.0,
        y: body.y + 8.0,
        w: body.w - 84.0 - 20.0,
        h: body.h - 70.0,
    };
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        // Room for names.
        let room = 0.06 * (high - low).max(1e-9);
        (low - room, high + room)
    };
    let (left, right) = ends(&mut points.iter().map(|point| point.at.0));
    let (low, high) = ends(&mut points.iter().flat_map(|point| {
        let whole = point.interval.map_or([point.at.1; 2], |i| [i.low, i.high]);
        whole.into_iter().chain([point.at.1])
    }));
    let (across, up) = (ticks(left, right, 5), ticks(low, high, 4));
    let horizontal = Scale::new([left, right], [plot.x, plot.right()]);
    let vertical = Scale::new([low, high], [plot.bottom(), plot.y]);
    for &mark in up.iter().filter(|&&mark| low <= mark && mark <= high) {
        let y = vertical.at(mark);
        canvas.line((plot.x, y), (plot.right(), y), GRID, 2);
        canvas.text(&tick_text(mark, up[1] - up[0]), (plot.x - 12.0, y), Anchor::Right, TICK);
    }
    canvas.line((plot.x, plot.bottom()), (plot.right(), plot.bottom()), AXIS, 2);
    for &mark in across.iter().filter(|&&mark| left <= mark && mark <= right) {
        let x = horizontal.at(mark);
        canvas.line((x, plot.bottom()), (x, plot.bottom() + 7.0), AXIS, 2);
        let text = tick_text(mark, across[1] - across[0]);
        canvas.text(&text, (x, plot.bottom() + 24.0), Anchor::Middle, TICK);
    }
    canvas.text(x_unit, (plot.right(), plot.bottom() + 52.0), Anchor::Right, TICK);
    let place = |at: (f64, f64)| (horizontal.at(at.0), vertical.at(at.1));
    let line: Vec<_> = points
        .iter()
        .filter(|point| point.joined)
        .map(|point| place(point.at))
        .collect();
    if line.len() > 1 {
        canvas.path(&line, GRID, 4);
    }
    for point in points {
        let (x, y) = place(point.at);
        if let Some(interval) = point.interval {
            let (from, to) = (vertical.at(interval.low), vertical.at(interval.high));
            canvas.line((x, from), (x, to), shade(point.color, 0.6), 2);
        }
        canvas.disc((x, y), 8, point.color);
        // On the side where there is room.
        let (anchor, step) = match x < plot.x + plot.w / 2.0 {
            true => (Anchor::Left, 14.0),
            false => (Anchor::Right, -14.0),
        };
        // Names of what stands beside the line stand below.
        let name = y + if point.joined { -14.0 } else { 20.0 };
        let ink = Ink::new(19.0, point.color).bold();
        canvas.text(&point.label, (x + step, name), anchor, ink);
    }
}
