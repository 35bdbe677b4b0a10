//! Figures of one panel each, for pages that put them in an order of their own.

pub use super::ablate::ABLATED;
use super::canvas::{self, Canvas};
use super::panel::{self, Bar, Frame, Head};
pub use super::serve::SERVED;
use super::{PlotError, ablate, effect_rows, kv_cache, number, palette, performance, serve, tokens};
use crate::ablate::report::AblationReport;
use crate::report::Report;
use crate::serve::report::ServeReport;

/// Size of a figure.
const SIZE: [u32; 2] = [700, 520];
/// Pixels of a PNG for each unit of the figure.
const PNG_SCALE: f32 = 2.0;

/// A figure of one panel.
#[derive(Debug, Clone)]
pub struct Single {
    /// Its name, without an ending.
    pub name: &'static str,
    /// What it shows, for those who cannot see it.
    pub alt: String,
    /// SVG text.
    pub svg: String,
}

impl Single {
    /// The figure as files, PNG and SVG, named as [`file_names`] says.
    ///
    /// # Errors
    ///
    /// If rendering fails.
    pub fn files(&self) -> Result<[(String, Vec<u8>); 2], PlotError> {
        let [png, svg] = file_names(self.name);
        Ok([
            (png, canvas::png(&self.svg, PNG_SCALE)?),
            (svg, self.svg.clone().into_bytes()),
        ])
    }
}

/// Names of the files of a figure.
pub fn file_names(name: &str) -> [String; 2] {
    ["png", "svg"].map(|ending| format!("{name}.{ending}"))
}

/// Draws a figure.
pub(super) fn single(
    name: &'static str,
    alt: impl Into<String>,
    paint: impl FnOnce(&mut Canvas<'_>, Frame),
) -> Result<Single, PlotError> {
    let svg = Canvas::draw(SIZE, |canvas| {
        let [width, height] = SIZE.map(f64::from);
        paint(
            canvas,
            Frame {
                x: 18.0,
                y: 12.0,
                w: width - 36.0,
                h: height - 24.0,
            },
        );
    })?;
    Ok(Single {
        name,
        alt: alt.into(),
        svg,
    })
}

/// Names of the figures of the comparison, in order.
pub const COMPARED: [&str; 8] = [
    "tokens",
    "fertility_by_domain",
    "kv_memory_by_arm",
    "kv_memory_over_time",
    "throughput_by_arm",
    "latency_ecdf",
    "ablation_speed",
    "ablation_memory",
];

/// The figures of the comparison, named as in [`COMPARED`].
///
/// # Errors
///
/// If a drawing call fails.
pub fn compared(report: &Report) -> Result<Vec<Single>, PlotError> {
    let mut names = COMPARED.into_iter();
    let mut draw = |alt: &str, paint: &dyn Fn(&mut Canvas<'_>, Frame, &Report)| {
        single(names.next().unwrap_or_default(), alt, |canvas, frame| {
            paint(canvas, frame, report)
        })
    };
    Ok(vec![
        draw(
            "Tokens of the same text with each tokenizer",
            &|canvas, frame, report| {
                tokens::total(canvas, frame, report, "the same held-out pages");
            },
        )?,
        draw("Bytes per token in the domain and in other text", &fertility)?,
        draw("Peak of KV memory by arm", &kv_cache::total)?,
        draw("KV memory while a batch is decoded", &kv_cache::timeline)?,
        draw("Reply bytes per second by arm", &performance::throughput)?,
        draw("Share of texts finished within a time", &performance::latencies)?,
        draw("Which part gives what of the speed", &performance::attribution)?,
        draw("Which part gives what of the KV memory", &memory_attribution)?,
    ])
}

fn memory_attribution(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let rows = effect_rows(&report.interaction.kv_memory);
    let head = Head::new("Where the memory goes", "% change of the peak KV memory of a batch");
    panel::changes(canvas, frame, &head, &rows);
}

/// Text per token of both models' tokenizers, where scored: in the domain and out of it.
fn fertility(canvas: &mut Canvas<'_>, frame: Frame, report: &Report) {
    let on = [
        ("domain", Some(&report.quality.domain)),
        ("other text", report.quality.out_of_domain.as_ref()),
    ];
    let bars: Vec<Bar> = on
        .into_iter()
        .filter_map(|(name, quality)| quality.map(|quality| (name, quality)))
        .flat_map(|(name, quality)| {
            let sides = [
                ("base", &quality.normal, palette::NORMAL),
                ("patched", &quality.fused, palette::FUSED),
            ];
            sides.map(|(tokenizer, score, color)| {
                let value = quality.bytes as f64 / score.tokens.value;
                super::bar(format!("{tokenizer}\n{name}"), value, number(value, 2), color)
            })
        })
        .collect();
    let head = Head::new(
        "Text per token by domain",
        "bytes per token of the scored documents, more is better",
    );
    panel::columns(canvas, frame, &head, &bars);
}

/// The figures of a run under load.
///
/// # Errors
///
/// If a drawing call fails.
pub fn served(report: &ServeReport) -> Result<Vec<Single>, PlotError> {
    serve::figures(report)
}

/// The figures of an ablation.
///
/// # Errors
///
/// If a drawing call fails.
pub fn ablated(report: &AblationReport) -> Result<Vec<Single>, PlotError> {
    ablate::figures(report)
}
