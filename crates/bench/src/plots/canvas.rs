//! A drawing surface in pixels: plotters writes SVG, resvg turns it into PNG, both with the
//! embedded font, so that a report looks the same on every machine and needs no font installed.

use std::sync::{Arc, Once};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::{tiny_skia, usvg};

use super::PlotError;

const REGULAR: &[u8] = include_bytes!("../../assets/DejaVuSans.ttf");
const BOLD: &[u8] = include_bytes!("../../assets/DejaVuSans-Bold.ttf");
const FAMILY: &str = "DejaVu Sans";
/// plotters' SVG backend divides font sizes by this; sizes here are the ones that appear.
const PLOTTERS_EM: f64 = 1.24;

/// Where text stands relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    /// The point is at the left end, half-way up.
    Left,
    /// The point is in the middle.
    Middle,
    /// The point is at the right end, half-way up.
    Right,
}

/// How text looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ink {
    pub(super) size: f64,
    pub(super) color: RGBColor,
    pub(super) bold: bool,
}

impl Ink {
    pub(super) const fn new(size: f64, color: RGBColor) -> Self {
        Self {
            size,
            color,
            bold: false,
        }
    }

    pub(super) const fn bold(self) -> Self {
        Self { bold: true, ..self }
    }
}

/// The surface. A drawing call that fails is remembered and reported once, by [`Canvas::draw`].
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    failure: Option<PlotError>,
}

impl Canvas<'_> {
    /// Runs `paint` on a white surface of `width` × `height` pixels and returns the SVG text.
    pub(super) fn draw([width, height]: [u32; 2], paint: impl FnOnce(&mut Canvas<'_>)) -> Result<String, PlotError> {
        register_fonts();
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
            let mut canvas = Canvas { area, failure: None };
            canvas.keep(|area| area.fill(&WHITE));
            paint(&mut canvas);
            canvas.keep(|area| area.present());
            if let Some(failure) = canvas.failure {
                return Err(failure);
            }
        }
        Ok(svg)
    }

    fn keep<E: std::fmt::Display>(&mut self, step: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), E>) {
        if let Err(error) = step(&self.area) {
            self.failure.get_or_insert(PlotError::Draw(error.to_string()));
        }
    }

    /// A filled rectangle between two corners in any order.
    pub(super) fn rect(&mut self, from: (f64, f64), to: (f64, f64), color: RGBColor) {
        let (low, high) = (
            (from.0.min(to.0), from.1.min(to.1)),
            (from.0.max(to.0), from.1.max(to.1)),
        );
        self.keep(|area| area.draw(&Rectangle::new([pixel(low), pixel(high)], color.filled())));
    }

    /// A straight line.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), color: RGBColor, width: u32) {
        self.path(&[from, to], color, width);
    }

    /// A line through all points.
    pub(super) fn path(&mut self, points: &[(f64, f64)], color: RGBColor, width: u32) {
        let points: Vec<_> = points.iter().copied().map(pixel).collect();
        self.keep(|area| area.draw(&PathElement::new(points, color.stroke_width(width))));
    }

    /// A filled disc.
    pub(super) fn disc(&mut self, center: (f64, f64), radius: u32, color: RGBColor) {
        self.keep(|area| area.draw(&Circle::new(pixel(center), radius, color.filled())));
    }

    /// A line of text.
    pub(super) fn text(&mut self, text: &str, at: (f64, f64), anchor: Anchor, ink: Ink) {
        let horizontal = match anchor {
            Anchor::Left => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::Right => HPos::Right,
        };
        let style = style(ink, horizontal);
        self.keep(|area| area.draw_text(text, &style, pixel(at)));
    }

    /// How wide `text` will be, in pixels.
    pub(super) fn text_width(&self, text: &str, ink: Ink) -> f64 {
        let style = style(ink, HPos::Left);
        // Without metrics (the font is embedded, so this does not happen) a usual width per
        // character serves.
        self.area
            .estimate_text_size(text, &style)
            .map_or(0.6 * ink.size * text.len() as f64, |(w, _)| f64::from(w))
    }
}

fn font_style(ink: Ink) -> FontStyle {
    if ink.bold { FontStyle::Bold } else { FontStyle::Normal }
}

fn style(ink: Ink, horizontal: HPos) -> TextStyle<'static> {
    TextStyle {
        font: (FAMILY, ink.size * PLOTTERS_EM, font_style(ink)).into_font(),
        color: ink.color.to_backend_color(),
        pos: Pos::new(horizontal, VPos::Center),
    }
}

fn pixel((x, y): (f64, f64)) -> (i32, i32) {
    (x.round() as i32, y.round() as i32)
}

fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (style, bytes) in [(FontStyle::Normal, REGULAR), (FontStyle::Bold, BOLD)] {
            // Only text widths depend on this, and they have a fallback.
            let _ = plotters::style::register_font(FAMILY, style, bytes);
        }
    });
}

/// Turns the SVG text of [`Canvas::draw`] into a PNG file's bytes, `scale` pixels per unit.
pub(super) fn png(svg: &str, scale: f32) -> Result<Vec<u8>, PlotError> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(REGULAR.to_vec());
    fonts.load_font_data(BOLD.to_vec());
    let options = usvg::Options {
        font_family: FAMILY.to_owned(),
        fontdb: Arc::new(fonts),
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| PlotError::Render(error.to_string()))?;
    let size = tree.size().to_int_size();
    let size = size.scale_by(scale).unwrap_or(size);
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height())
        .ok_or_else(|| PlotError::Render(format!("no memory for {}x{} pixels", size.width(), size.height())))?;
    resvg::render(
        &tree,
        tiny_skia::Transform::from_scale(scale, scale),
        &mut pixels.as_mut(),
    );
    pixels
        .encode_png()
        .map_err(|error| PlotError::Render(error.to_string()))
}
