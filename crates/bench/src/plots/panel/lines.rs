//! Lines, each named in a key above the plot.

use plotters::style::RGBColor;

use super::{Frame, Head, Scale, TICK, tick_text, ticks};
use crate::plots::canvas::{Anchor, Canvas};
use crate::plots::palette::{AXIS, GRID};

/// One line.
#[derive(Debug, Clone)]
pub(in crate::plots) struct Line {
    pub(in crate::plots) label: String,
    pub(in crate::plots) points: Vec<(f64, f64)>,
    pub(in crate::plots) color: RGBColor,
    /// 0 draws the points alone.
    pub(in crate::plots) width: u32,
    /// Radius of a disc at each point; 0 for none.
    pub(in crate::plots) dots: u32,
}

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plots) enum Axis {
    /// Evenly, from 0.
    Linear,
    /// By their logarithm, from the power of ten below the least.
    Logarithmic,
}

/// Lines over a horizontal axis, each named in a key above the plot.
pub(in crate::plots) fn lines(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, x_unit: &str, lines: &[Line]) {
    lines_on(canvas, frame, head, x_unit, Axis::Linear, lines);
}

/// The same, with the vertical axis as named.
pub(in crate::plots) fn lines_on(
    canvas: &mut Canvas<'_>,
    frame: Frame,
    head: &Head,
    x_unit: &str,
    axis: Axis,
    lines: &[Line],
) {
    let body = head.draw(canvas, frame);
    let body = key(canvas, body, lines.iter().map(|line| (line.label.as_str(), line.color)));
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let max_x = points().map(|p| p.0).fold(0.0, f64::max);
    let max_y = points().map(|p| p.1).fold(0.0, f64::max);
    let least = points().map(|p| p.1).filter(|&y| y > 0.0).fold(f64::INFINITY, f64::min);
    let across = ticks(0.0, max_x, 5);
    let plot = Frame {
        x: body.x + 74.0,
        y: body.y,
        w: body.w - 74.0 - 20.0,
        h: body.h - 62.0,
    };
    let horizontal = Scale::new([0.0, max_x.max(f64::MIN_POSITIVE)], [plot.x, plot.right()]);
    let (marks, vertical) = vertical(axis, [least, max_y], plot);
    for (mark, text) in marks {
        let y = vertical(mark);
        canvas.line((plot.x, y), (plot.right(), y), if mark == 0.0 { AXIS } else { GRID }, 2);
        canvas.text(&text, (plot.x - 12.0, y), Anchor::Right, TICK);
    }
    canvas.line((plot.x, plot.bottom()), (plot.right(), plot.bottom()), AXIS, 2);
    for &mark in across.iter().filter(|&&mark| mark <= max_x) {
        let x = horizontal.at(mark);
        canvas.line((x, plot.bottom()), (x, plot.bottom() + 7.0), AXIS, 2);
        canvas.text(
            &tick_text(mark, across[1] - across[0]),
            (x, plot.bottom() + 24.0),
            Anchor::Middle,
            TICK,
        );
    }
    canvas.text(x_unit, (plot.right(), plot.bottom() + 52.0), Anchor::Right, TICK);
    for line in lines {
        let shown = line.points.iter().filter(|point| axis == Axis::Linear || point.1 > 0.0);
        let points: Vec<_> = shown.map(|&(x, y)| (horizontal.at(x), vertical(y))).collect();
        if points.len() > 1 && line.width > 0 {
            canvas.path(&points, line.color, line.width);
        }
        for &point in points.iter().filter(|_| line.dots > 0) {
            canvas.disc(point, line.dots, line.color);
        }
    }
}

/// Marks of a vertical axis with their texts, and where values lie on it.
fn vertical(axis: Axis, [least, most]: [f64; 2], plot: Frame) -> (Vec<(f64, String)>, impl Fn(f64) -> f64) {
    let up = ticks(0.0, most, 4);
    let (ends, marks): ([f64; 2], Vec<(f64, String)>) = match axis {
        Axis::Linear => {
            let step = up[1] - up[0];
            (
                [0.0, up[up.len() - 1]],
                up.iter().map(|&mark| (mark, tick_text(mark, step))).collect(),
            )
        }
        Axis::Logarithmic => {
            let least = if least.is_finite() { least } else { 1.0 };
            let (low, high) = (
                least.log10().floor(),
                most.max(least).log10().ceil().max(least.log10().floor() + 1.0),
            );
            let decades = (low as i32..=high as i32).map(|power| {
                (
                    10_f64.powi(power),
                    tick_text(10_f64.powi(power), 10_f64.powi(power).min(1.0)),
                )
            });
            ([low, high], decades.collect())
        }
    };
    let scale = Scale::new(ends, [plot.bottom(), plot.y]);
    (marks, move |value: f64| {
        scale.at(if axis == Axis::Logarithmic {
            value.log10()
        } else {
            value
        })
    })
}

/// Names colours in a row above a plot, in as many rows as it takes, and returns what is left of the frame.
fn key<'k>(canvas: &mut Canvas<'_>, frame: Frame, entries: impl Iterator<Item = (&'k str, RGBColor)>) -> Frame {
    let (mut x, mut y) = (frame.x, frame.y + 2.0);
    for (label, color) in entries {
        let width = 44.0 + canvas.text_width(label, TICK);
        if x > frame.x && x + width > frame.right() {
            (x, y) = (frame.x, y + 28.0);
        }
        canvas.line((x, y), (x + 34.0, y), color, 6);
        canvas.text(label, (x + 44.0, y), Anchor::Left, TICK);
        x += width + 34.0;
    }
    let used = y - frame.y + 30.0;
    Frame {
        y: frame.y + used,
        h: frame.h - used,
        ..frame
    }
}

/// The share, in per cent of `all`, of values at or below each: points of a line of steps. It ends below 100 where there
/// are fewer values.
pub(in crate::plots) fn steps(values: &[f64], all: usize) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let share = 100.0 / all.max(1) as f64;
    let mut points = vec![(0.0, 0.0)];
    for (i, &value) in sorted.iter().enumerate() {
        points.push((value, i as f64 * share));
        points.push((value, (i + 1) as f64 * share));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_at_the_share_that_is_there() {
        let points = steps(&[3.0, 1.0], 4);
        assert_eq!(points, [(0.0, 0.0), (1.0, 0.0), (1.0, 25.0), (3.0, 25.0), (3.0, 50.0)]);
    }
}
