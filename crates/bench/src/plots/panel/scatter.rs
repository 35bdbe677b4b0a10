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
    let mut names = Names {
        plot,
        line: &line,
        points: points.iter().map(|point| place(point.at)).collect(),
        whiskers: Vec::new(),
        placed: Vec::new(),
    };
    for point in points {
        let (x, y) = place(point.at);
        if let Some(interval) = point.interval {
            let (from, to) = (vertical.at(interval.low), vertical.at(interval.high));
            canvas.line((x, from), (x, to), shade(point.color, 0.6), 2);
            names.whiskers.push((x, [to, from]));
        }
        canvas.disc((x, y), 8, point.color);
    }
    for point in points {
        let ink = Ink::new(19.0, point.color).bold();
        let at = names.place(place(point.at), canvas.text_width(&point.label, ink));
        canvas.text(&point.label, (at.x, at.y + at.h / 2.0), Anchor::Left, ink);
    }
}

/// Height of a name.
const NAME: f64 = 22.0;
/// From a point to its name, across.
const BESIDE: f64 = 12.0;

/// Where names can stand, and what they should not cover.
struct Names<'a> {
    plot: Frame,
    line: &'a [(f64, f64)],
    points: Vec<(f64, f64)>,
    /// Place across, and both ends.
    whiskers: Vec<(f64, [f64; 2])>,
    placed: Vec<Frame>,
}

impl Names<'_> {
    /// The place beside a point where a name of this width covers least, the near ones first.
    fn place(&mut self, (x, y): (f64, f64), width: f64) -> Frame {
        let beside = |middle: f64| {
            [x + BESIDE, x - BESIDE - width].map(|x| Frame {
                x,
                y: y + middle - NAME / 2.0,
                w: width,
                h: NAME,
            })
        };
        let places = [-14.0, 16.0, -36.0, 38.0, -58.0, 60.0].into_iter().flat_map(beside);
        let cost = |&(near, frame): &(usize, Frame)| self.cost(frame) + near as f64;
        let best = places.enumerate().min_by(|a, b| cost(a).total_cmp(&cost(b)));
        let frame = best.map_or(self.plot, |(_, frame)| frame);
        self.placed.push(frame);
        frame
    }

    fn cost(&self, name: Frame) -> f64 {
        let holds = |(x, y): (f64, f64), room: f64| {
            name.x - room < x && x < name.right() + room && name.y - room < y && y < name.bottom() + room
        };
        let outside = name.x < self.plot.x
            || name.right() > self.plot.right()
            || name.y < self.plot.y
            || name.bottom() > self.plot.bottom();
        let names = self.placed.iter().filter(|&&other| overlap(name, other)).count();
        let points = self.points.iter().filter(|&&point| holds(point, 8.0)).count();
        let crosses = |&&(x, [top, bottom]): &&(f64, [f64; 2])| {
            name.x < x && x < name.right() && top < name.bottom() && name.y < bottom
        };
        let whiskers = self.whiskers.iter().filter(crosses).count();
        let along = self.line.windows(2).flat_map(|ends| {
            let at = |part: f64| {
                let between = |from: f64, to: f64| from + (to - from) * part;
                (between(ends[0].0, ends[1].0), between(ends[0].1, ends[1].1))
            };
            (0..=50).map(move |i| at(f64::from(i) / 50.0))
        });
        let line = along.filter(|&point| holds(point, 2.0)).count().min(1);
        1e3 * f64::from(u8::from(outside))
            + 200.0 * names as f64
            + 60.0 * points as f64
            + 8.0 * (whiskers + line) as f64
    }
}

fn overlap(a: Frame, b: Frame) -> bool {
    a.x < b.right() && b.x < a.right() && a.y < b.bottom() && b.y < a.bottom()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_neighbours_do_not_overlap_and_cover_no_point() {
        let plot = Frame {
            x: 0.0,
            y: 0.0,
            w: 600.0,
            h: 400.0,
        };
        // Close to each other, one above the other, and in the corners.
        let points = [
            (300.0, 200.0),
            (310.0, 206.0),
            (310.0, 230.0),
            (4.0, 4.0),
            (596.0, 396.0),
        ];
        let mut names = Names {
            plot,
            line: &points[..2],
            points: points.to_vec(),
            whiskers: vec![(310.0, [150.0, 260.0])],
            placed: Vec::new(),
        };
        let placed = points.map(|point| names.place(point, 120.0));
        for (i, &name) in placed.iter().enumerate() {
            assert!(placed[..i].iter().all(|&other| !overlap(name, other)), "{placed:?}");
            assert!(
                name.x >= 0.0 && name.right() <= plot.w && name.bottom() <= plot.h,
                "{name:?}"
            );
            let covered = points
                .iter()
                .filter(|&&(x, y)| name.x < x && x < name.right() && name.y < y && y < name.bottom());
            assert_eq!(covered.count(), 0, "{name:?}");
        }
    }
}
