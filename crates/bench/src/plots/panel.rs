//! The kinds of panel the figures are made of: columns, rows, changes with their intervals, and
//! lines.
//!
//! A panel starts its value axis at 0 (bars would lie otherwise), carries its value in figures
//! beside each mark, and shows a 95% interval as a whisker wherever the report has one.

use plotters::style::RGBColor;

use super::canvas::{Anchor, Canvas, Ink};
use super::palette::{AXIS, GRID, INK, MUTED, PAPER, STRIP};
use crate::stats::Interval;

const TITLE: Ink = Ink::new(27.0, INK).bold();
const UNIT: Ink = Ink::new(21.0, MUTED);
const TICK: Ink = Ink::new(19.0, MUTED);
const LABEL: Ink = Ink::new(21.0, INK);
const VALUE: Ink = Ink::new(22.0, INK).bold();
/// Height of a panel's title and unit lines.
const HEAD: f64 = 84.0;

/// A rectangle on the canvas.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

impl Frame {
    /// The cell at `column`, `row` of a grid of equal cells that fills this frame with gaps
    /// between.
    pub(super) fn cell(self, [columns, rows]: [usize; 2], column: usize, row: usize, gap: f64) -> Self {
        let share = |whole: f64, parts: usize| (whole - gap * (parts as f64 - 1.0)) / parts as f64;
        let (w, h) = (share(self.w, columns), share(self.h, rows));
        Self {
            x: self.x + column as f64 * (w + gap),
            y: self.y + row as f64 * (h + gap),
            w,
            h,
        }
    }

    fn right(self) -> f64 {
        self.x + self.w
    }

    fn bottom(self) -> f64 {
        self.y + self.h
    }
}

/// What stands above a panel.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) title: String,
    pub(super) unit: String,
}

impl Head {
    pub(super) fn new(title: impl Into<String>, unit: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            unit: unit.into(),
        }
    }

    /// Draws title and unit and returns what is left of the frame.
    fn draw(&self, canvas: &mut Canvas<'_>, frame: Frame) -> Frame {
        canvas.text(&self.title, (frame.x, frame.y + 16.0), Anchor::Left, TITLE);
        canvas.text(&self.unit, (frame.x, frame.y + 48.0), Anchor::Left, UNIT);
        Frame {
            y: frame.y + HEAD,
            h: frame.h - HEAD,
            ..frame
        }
    }
}

/// One bar.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    /// Under or beside the bar; lines are separated by `\n`.
    pub(super) label: String,
    /// Its length.
    pub(super) value: f64,
    /// The part of it that is drawn in full colour; the rest is drawn pale.
    pub(super) solid: f64,
    /// The figure written at its end.
    pub(super) text: String,
    pub(super) interval: Option<Interval>,
    pub(super) color: RGBColor,
}

/// One change with its interval.
#[derive(Debug, Clone)]
pub(super) struct ChangeRow {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) text: String,
    pub(super) interval: Option<Interval>,
    pub(super) color: RGBColor,
}

/// One point of a scatter plot.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    /// Beside it.
    pub(super) label: String,
    pub(super) at: (f64, f64),
    /// Of its height.
    pub(super) interval: Option<Interval>,
    pub(super) color: RGBColor,
    /// Whether the line through such points goes through it.
    pub(super) joined: bool,
}

/// One line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) color: RGBColor,
    /// 0 draws the points alone.
    pub(super) width: u32,
    /// Radius of a disc at each point; 0 for none.
    pub(super) dots: u32,
}

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Evenly, from 0.
    Linear,
    /// By their logarithm, from the power of ten below the least.
    Logarithmic,
}

/// Round tick values from at or below `low` to at or above `high`, about `count` of them, steps of
/// 1, 2 or 5.
pub(super) fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let (low, high) = if high - low > 0.0 && (high - low).is_finite() {
        (low, high)
    } else {
        (0.0, 1.0)
    };
    let span = high - low;
    let rough = span / count.max(1) as f64;
    let decade = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * decade)
        .into_iter()
        .find(|&s| s >= rough * 0.8);
    let step = step.unwrap_or(10.0 * decade);
    let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
    (first..=last.max(first + 1)).map(|i| i as f64 * step).collect()
}

/// A tick value without trailing noise.
fn tick_text(value: f64, step: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if step >= 1_000_000.0 {
        return format!("{}M", super::number(value / 1e6, usize::from(step < 1e6)));
    }
    if step >= 1_000.0 {
        return format!("{}k", super::number(value / 1e3, 0));
    }
    super::number(
        value,
        usize::from(step < 1.0) + usize::from(step < 0.1) + usize::from(step < 0.01),
    )
}

/// A linear map from values to pixels.
#[derive(Debug, Clone, Copy)]
struct Scale {
    low: f64,
    per_unit: f64,
    origin: f64,
}

impl Scale {
    fn new([low, high]: [f64; 2], [from, to]: [f64; 2]) -> Self {
        Self {
            low,
            per_unit: (to - from) / (high - low),
            origin: from,
        }
    }

    fn at(self, value: f64) -> f64 {
        self.origin + (value - self.low) * self.per_unit
    }
}

fn pale(color: RGBColor) -> RGBColor {
    shade(color, 0.45)
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
pub(super) fn columns(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, bars: &[Bar]) {
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
pub(super) fn rows(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, bars: &[Bar]) {
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
pub(super) fn changes(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, rows: &[ChangeRow]) {
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

/// Lines over a horizontal axis, each named in a key above the plot.
pub(super) fn lines(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, x_unit: &str, lines: &[Line]) {
    lines_on(canvas, frame, head, x_unit, Axis::Linear, lines);
}

/// The same, with the vertical axis as named.
pub(super) fn lines_on(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, x_unit: &str, axis: Axis, lines: &[Line]) {
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

/// Points with their names, on axes that are fitted to them: neither begins at 0.
pub(super) fn scatter(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, x_unit: &str, points: &[Mark]) {
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
            let decades =
                (low as i32..=high as i32).map(|power| (10_f64.powi(power), tick_text(10_f64.powi(power), 1.0)));
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
pub(super) fn steps(values: &[f64], all: usize) -> Vec<(f64, f64)> {
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

/// A row of requests: bars from when each was to be sent, pale while it waits and full while it replies.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) label: String,
    /// Scheduled, first byte, end, in seconds.
    pub(super) requests: Vec<[f64; 3]>,
    pub(super) color: RGBColor,
}

/// Requests through time, a lane above the other, on one axis of time.
pub(super) fn gantt(canvas: &mut Canvas<'_>, frame: Frame, head: &Head, lanes: &[Lane]) {
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
pub(super) fn strips(
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
        let label = format!("{label}, longest {} ms", super::number(worst, 0));
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

/// Between paper (0) and the colour (1).
fn shade(color: RGBColor, share: f64) -> RGBColor {
    let mix = |c: u8| (255.0 + (f64::from(c) - 255.0) * share.clamp(0.0, 1.0)).round() as u8;
    RGBColor(mix(color.0), mix(color.1), mix(color.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_range() {
        assert_eq!(ticks(0.0, 97.0, 4), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(0.0, 8.0, 4), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(-12.0, 31.0, 3), [-20.0, 0.0, 20.0, 40.0]);
        for (low, high) in [(0.0, 1e-9), (-1e12, 3.0), (0.0, f64::INFINITY), (0.0, f64::NAN)] {
            let marks = ticks(low, high, 4);
            assert!(marks.len() >= 2 && marks.len() < 30, "{low} {high}: {marks:?}");
        }
    }

    #[test]
    fn steps_end_at_the_share_that_is_there() {
        let points = steps(&[3.0, 1.0], 4);
        assert_eq!(points, [(0.0, 0.0), (1.0, 0.0), (1.0, 25.0), (3.0, 25.0), (3.0, 50.0)]);
    }

    #[test]
    fn tick_texts() {
        assert_eq!(tick_text(0.0, 5.0), "0");
        assert_eq!(tick_text(250_000.0, 50_000.0), "250k");
        assert_eq!(tick_text(0.25, 0.05), "0.25");
        assert_eq!(tick_text(40.0, 20.0), "40");
    }

    #[test]
    fn cells_tile_a_frame() {
        let frame = Frame {
            x: 10.0,
            y: 20.0,
            w: 320.0,
            h: 210.0,
        };
        let last = frame.cell([3, 2], 2, 1, 10.0);
        assert_eq!((last.right(), last.bottom()), (frame.right(), frame.bottom()));
        assert_eq!((last.w, last.h), (100.0, 100.0));
    }
}
