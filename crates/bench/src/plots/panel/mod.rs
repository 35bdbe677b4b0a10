//! The kinds of panel the figures are made of: columns, rows, changes with their intervals, and
//! lines.
//!
//! A panel starts its value axis at 0 (bars would lie otherwise), carries its value in figures
//! beside each mark, and shows a 95% interval as a whisker wherever the report has one.

mod bars;
mod lines;
mod scatter;
mod time;

use plotters::style::RGBColor;

use super::canvas::{Anchor, Canvas, Ink};
use super::palette::{INK, MUTED};

pub(super) use bars::{Bar, ChangeRow, changes, columns, rows};
pub(super) use lines::{Axis, Line, lines, lines_on, steps};
pub(super) use scatter::{Mark, scatter};
pub(super) use time::{Lane, gantt, strips};

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
