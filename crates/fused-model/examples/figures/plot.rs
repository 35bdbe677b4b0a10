//! The curves of `scaling` as one picture of two panels.

use std::path::Path;

use anyhow::{Result, anyhow};
use fused_model::Precision;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::register_font;

use crate::peers::subject;
use crate::scaling::Curves;

const FONT: &[u8] = include_bytes!("../../../bench/assets/DejaVuSans.ttf");
const SIZE: (u32, u32) = (1200, 480);

/// Writes an SVG file: milliseconds of a token over the context, tokens per second over the batch.
pub(crate) fn draw(path: &Path, curves: &[Curves]) -> Result<()> {
    register_font("sans-serif", FontStyle::Normal, FONT).map_err(|_| anyhow!("the font of this program is broken"))?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        let contexts = curves.iter().map(|curves| (curves, curves.contexts.as_slice()));
        let x = 0f64..1024.0;
        panel(
            &left,
            "Milliseconds of a token at batch 1",
            "tokens before it",
            x,
            contexts,
        )?;
        let batches = curves.iter().map(|curves| (curves, curves.batches.as_slice()));
        let x = (1f64..64.0).log_scale().base(2.0);
        panel(
            &right,
            "Tokens per second, 128 tokens before them",
            "sequences",
            x,
            batches,
        )?;
        area.present()?;
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    std::fs::write(file.path(), svg)?;
    file.persist(path)?;
    Ok(())
}

/// One panel: a line for each of `curves`, thick ones of more threads.
fn panel<'a, X>(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    axis: &str,
    x: X,
    curves: impl Iterator<Item = (&'a Curves, &'a [(usize, f64)])> + Clone,
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    RangedCoordf64: ValueFormatter<f64>,
{
    let values = curves
        .clone()
        .flat_map(|(_, points)| points.iter().map(|point| point.1));
    let top = values.fold(0.0, f64::max) * 1.05;
    let failed = |error: DrawingAreaErrorKind<_>| anyhow!("{error}");
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(x, 0.0..top)
        .map_err(failed)?;
    let whole = |value: &f64| format!("{value:.0}");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(axis)
        .x_label_formatter(&whole)
        .y_label_formatter(&whole)
        .label_style(("sans-serif", 14))
        .draw()
        .map_err(failed)?;
    for (curves, points) in curves {
        let color = match curves.precision {
            Precision::F32 => RGBColor(0, 90, 181),
            Precision::F16 => RGBColor(225, 130, 0),
            Precision::Int8 => RGBColor(0, 140, 90),
        };
        let style = color.stroke_width(1 + curves.threads as u32);
        let points: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (x as f64, y)).collect();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(failed)?
            .label(subject(curves.precision, curves.threads))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        let marks = points.into_iter().map(|point| Circle::new(point, 3, color.filled()));
        chart.draw_series(marks).map_err(failed)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .label_font(("sans-serif", 14))
        .draw()
        .map_err(failed)?;
    Ok(())
}
