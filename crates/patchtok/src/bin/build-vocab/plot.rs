//! The report as a picture: what is saved by the number of new tokens, and by which.
//!
//! plotters writes SVG, resvg turns it into PNG, both with the embedded font, so that the picture is
//! the same on every machine.

use std::sync::{Arc, Once};

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::{tiny_skia, usvg};

use crate::report::{Point, Report};

const FONT: &[u8] = include_bytes!("../../../assets/DejaVuSans.ttf");
const FAMILY: &str = "DejaVu Sans";

const SIZE: (u32, u32) = (1800, 900);
/// Width of the left half.
const CURVE: u32 = 1000;

/// Two colours that are told apart by everyone.
const CORPUS: RGBColor = RGBColor(0, 114, 178);
const HELD_OUT: RGBColor = RGBColor(213, 94, 0);
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// New tokens that are shown.
const TOP: usize = 20;
/// Characters of a token that are shown.
const LABEL: usize = 32;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The picture as the bytes of a PNG file.
pub(crate) fn png(report: &Report<'_>) -> Result<Vec<u8>> {
    let svg = svg(report).context("cannot draw the report")?;
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    let options = usvg::Options {
        font_family: FAMILY.to_owned(),
        fontdb: Arc::new(fonts),
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_str(&svg, &options)?;
    let mut pixels = tiny_skia::Pixmap::new(SIZE.0, SIZE.1).context("no memory for the picture")?;
    resvg::render(&tree, tiny_skia::Transform::identity(), &mut pixels.as_mut());
    Ok(pixels.encode_png()?)
}

fn svg(report: &Report<'_>) -> Result<String> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // Only widths of text depend on it.
        let _ = plotters::style::register_font(FAMILY, FontStyle::Normal, FONT);
    });
    let mut svg = String::new();
    {
        let page = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        page.fill(&WHITE)?;
        page.draw_text(&report.headline(), &text(26, INK, HPos::Left), (40, 36))?;
        let (_, page) = page.split_vertically(64);
        let (left, right) = page.split_horizontally(CURVE);
        draw_curve(&left, &report.curve())?;
        draw_tokens(&right, report)?;
        page.present()?;
    }
    Ok(svg)
}

fn text(size: u32, color: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    (FAMILY, size)
        .into_font()
        .color(&color)
        .pos(Pos::new(horizontal, VPos::Center))
}

/// Lines of the saving on the corpus and on the held-out text.
fn draw_curve(area: &Area<'_>, curve: &[Point]) -> Result<()> {
    let corpus: Vec<(usize, f64)> = curve.iter().map(|point| (point.new_tokens, point.corpus)).collect();
    let heldout = curve
        .iter()
        .filter_map(|point| Some((point.new_tokens, point.heldout?)));
    let lines = [
        ("corpus", CORPUS, corpus),
        ("held-out text", HELD_OUT, heldout.collect::<Vec<_>>()),
    ];
    let values = || lines.iter().flat_map(|(_, _, line)| line).map(|&(_, saving)| saving);
    let low = values().fold(0.0, f64::min);
    let high = values().fold(1.0, f64::max) * 1.05;
    let most = curve.last().map_or(1, |point| point.new_tokens.max(1));
    let mut chart = ChartBuilder::on(area)
        .margin(24)
        .margin_right(40)
        .x_label_area_size(70)
        .y_label_area_size(90)
        .build_cartesian_2d(0..most, low..high)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .x_desc("new tokens")
        .y_desc("% fewer tokens than the base")
        .label_style((FAMILY, 22).into_font().color(&INK))
        .axis_desc_style((FAMILY, 24).into_font().color(&INK))
        .x_label_formatter(&|new| grouped(*new as u64))
        .y_label_formatter(&|saving| format!("{saving:.0}"))
        .draw()?;
    for (name, color, line) in lines.into_iter().filter(|(_, _, line)| !line.is_empty()) {
        let end = line.last().map_or(0.0, |&(_, saving)| saving);
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(4)))?
            .label(format!("{name}: {end:.1} %"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 30, y)], color.stroke_width(4)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(24)
        .legend_area_size(40)
        .background_style(WHITE)
        .border_style(GRID)
        .label_font((FAMILY, 22).into_font().color(&INK))
        .draw()?;
    Ok(())
}

/// Bars of the tokens that the first new tokens save on the corpus.
fn draw_tokens(area: &Area<'_>, report: &Report<'_>) -> Result<()> {
    let (width, height) = area.dim_in_pixel();
    let (width, height) = (width as i32, height as i32);
    let tokens: Vec<_> = report.build.tokens.iter().take(TOP).collect();
    let all = report.build.base.tokens.max(1) as f64;
    area.draw_text(
        "New tokens (· is a blank) by what they save, % of the tokens of the corpus",
        &text(22, INK, HPos::Left),
        (0, 20),
    )?;
    let (label, bars) = (width / 2, width / 2 - 110);
    let most = tokens.first().map_or(1, |token| token.saved.max(1)) as f64;
    let row = (height - 90) / TOP as i32;
    for (at, token) in (0..).zip(&tokens) {
        let y = 56 + at * row + row / 2;
        area.draw_text(&shown(&token.text), &text(18, INK, HPos::Right), (label - 12, y))?;
        let length = (f64::from(bars) * token.saved as f64 / most) as i32;
        let bar = [(label, y - row / 3), (label + length.max(1), y + row / 3)];
        area.draw(&Rectangle::new(bar, CORPUS.filled()))?;
        let percent = format!("{:.2}", 100.0 * token.saved as f64 / all);
        area.draw_text(&percent, &text(18, INK, HPos::Left), (label + length + 10, y))?;
    }
    Ok(())
}

/// A token in quotes, with blanks that can be counted, its end left out if it is long.
fn shown(token: &str) -> String {
    let shown = format!("{token:?}").replace(' ', "·");
    if shown.chars().count() <= LABEL {
        return shown;
    }
    shown.chars().take(LABEL - 1).chain(['…']).collect()
}

/// A number with thousands separated by commas.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
