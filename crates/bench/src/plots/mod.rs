//! The figures, drawn from a report and from nothing else: four pages of the comparison, and single panels of both reports.

mod ablate;
mod canvas;
mod dashboard;
mod kv_cache;
mod palette;
mod panel;
mod performance;
mod serve;
pub mod single;
mod tokens;

use canvas::{Anchor, Canvas, Ink};
use palette::{FUSED, INK, MUTED, NORMAL};
use panel::{Bar, ChangeRow, Frame};

use crate::arms::{ARMS, Arm, KvChoice};
use crate::report::{ArmReport, Change, Effects, Figure, Report};
use crate::words::{PER_MIB, number, percent};

/// A figure that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// A drawing call failed.
    #[error("drawing a figure failed: {0}")]
    Draw(String),
    /// The SVG could not be turned into pixels.
    #[error("turning a figure into PNG failed: {0}")]
    Render(String),
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plot {
    /// Token counts.
    Tokens,
    /// KV memory.
    KvCache,
    /// Time.
    Performance,
    /// All of it on one page.
    Dashboard,
}

impl Plot {
    /// All figures.
    pub const ALL: [Self; 4] = [Self::Tokens, Self::KvCache, Self::Performance, Self::Dashboard];

    /// Name of its file as SVG.
    pub fn svg_name(self) -> &'static str {
        match self {
            Self::Tokens => "comprehensive_token_comparison.svg",
            Self::KvCache => "comprehensive_kv_cache_comparison.svg",
            Self::Performance => "comprehensive_performance_comparison.svg",
            Self::Dashboard => "comprehensive_comparison_dashboard.svg",
        }
    }

    /// Name of its file as PNG.
    pub fn png_name(self) -> &'static str {
        match self {
            Self::Tokens => "comprehensive_token_comparison.png",
            Self::KvCache => "comprehensive_kv_cache_comparison.png",
            Self::Performance => "comprehensive_performance_comparison.png",
            Self::Dashboard => "comprehensive_comparison_dashboard.png",
        }
    }

    /// The figure as SVG text; the same report gives the same text.
    ///
    /// # Errors
    ///
    /// If a drawing call fails.
    pub fn svg(self, report: &Report) -> Result<String, PlotError> {
        match self {
            Self::Tokens => tokens::svg(report),
            Self::KvCache => kv_cache::svg(report),
            Self::Performance => performance::svg(report),
            Self::Dashboard => dashboard::svg(report),
        }
    }
}

/// A page's SVG text as the bytes of a PNG file, one pixel per unit.
///
/// # Errors
///
/// If rendering fails.
pub fn png(svg: &str) -> Result<Vec<u8>, PlotError> {
    canvas::png(svg, 1.0)
}

const PAGE: [u32; 2] = [2400, 1350];
const MARGIN: f64 = 64.0;

/// Draws title, subtitle and the key of a page and returns the frame for its panels.
fn page(canvas: &mut Canvas<'_>, [width, height]: [u32; 2], title: &str, report: &Report) -> Frame {
    let (width, height) = (f64::from(width), f64::from(height));
    canvas.text(title, (MARGIN, 58.0), Anchor::Left, Ink::new(42.0, INK).bold());
    canvas.text(
        &workload_line(report),
        (MARGIN, 106.0),
        Anchor::Left,
        Ink::new(22.0, MUTED),
    );
    let key = Ink::new(22.0, INK);
    let mut x = MARGIN;
    for (color, words) in [
        (NORMAL, "Normal LLM: base tokenizer, static KV cache"),
        (FUSED, "Fused LLM: patched tokenizer, virtual KV cache"),
    ] {
        canvas.rect((x, 137.0), (x + 24.0, 161.0), color);
        canvas.text(words, (x + 36.0, 149.0), Anchor::Left, key);
        x += 36.0 + canvas.text_width(words, key) + 56.0;
    }
    canvas.text(
        "whiskers: 95% confidence interval",
        (x, 149.0),
        Anchor::Left,
        Ink::new(22.0, MUTED),
    );
    Frame {
        x: MARGIN,
        y: 206.0,
        w: width - 2.0 * MARGIN,
        h: height - 206.0 - 40.0,
    }
}

/// What was run, on which machine.
fn workload_line(report: &Report) -> String {
    let (work, shape) = (&report.inputs.workload, &report.inputs.model_shape);
    let environment = &report.environment;
    format!(
        "{} texts, {} B prompt + {} B reply each, batches of {}, {} rounds interleaved  |  {} architecture, \
         {} layers, width {}, vocabulary {}, context {}  |  {}, {} cores",
        work.texts,
        number(work.prompt_bytes as f64 / work.texts.max(1) as f64, 0),
        number(work.reply_bytes as f64 / work.texts.max(1) as f64, 0),
        work.batch,
        work.rounds,
        shape.architecture,
        shape.n_layer,
        shape.n_embd,
        number(shape.vocab_size as f64, 0),
        shape.n_positions,
        environment.cpu,
        environment.cores,
    )
}

/// Bytes as MiB.
fn mib(figure: &Figure) -> f64 {
    figure.value * PER_MIB
}

/// A full-colour bar without an interval.
fn bar(label: impl Into<String>, value: f64, text: String, color: plotters::style::RGBColor) -> Bar {
    Bar {
        label: label.into(),
        value,
        solid: value,
        text,
        interval: None,
        color,
    }
}

/// The label of an arm: tokenizer + KV store, and its name if it has one.
pub(crate) fn arm_label(arm: Arm) -> String {
    match arm.name() {
        "normal" => "Normal: base + static".to_owned(),
        "fused" => "Fused: patched + virtual".to_owned(),
        _ => format!("{} + {}", arm.tokenizer.word(), arm.kv_store.word()),
    }
}

/// One bar for each arm.
fn arm_bars(report: &Report, value: impl Fn(&ArmReport) -> (Figure, f64), digits: usize) -> Vec<Bar> {
    ARMS.into_iter()
        .map(|arm| {
            let (figure, scale) = value(report.arm(arm.tokenizer, arm.kv_store));
            let interval = figure.ci95.map(|i| crate::stats::Interval {
                low: i.low * scale,
                high: i.high * scale,
            });
            Bar {
                interval,
                ..bar(
                    arm_label(arm),
                    figure.value * scale,
                    number(figure.value * scale, digits),
                    palette::arm(arm),
                )
            }
        })
        .collect()
}

/// A row for a change, coloured by its verdict.
fn change_row(label: impl Into<String>, change: &Change) -> ChangeRow {
    let value = change.figure.value;
    let text = percent(&change.figure);
    ChangeRow {
        label: label.into(),
        value,
        text,
        interval: change.figure.ci95,
        color: palette::verdict(change.verdict),
    }
}

/// A row for each effect of the tokenizer and the virtual store.
fn effect_rows(effects: &Effects) -> [ChangeRow; 4] {
    effects
        .rows(KvChoice::Virtual)
        .map(|(name, change)| change_row(name, change))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::words::signed_percent;

    #[test]
    fn every_figure_is_drawn_the_same_twice_and_holds_its_values() {
        let report = sample::report();
        for plot in Plot::ALL {
            let svg = plot.svg(&report).expect("draws");
            assert_eq!(
                svg,
                plot.svg(&report).expect("draws again"),
                "{plot:?} is not deterministic"
            );
            assert!(
                svg.contains("Normal LLM") && svg.contains("Fused LLM"),
                "{plot:?} has no key"
            );
            assert!(
                !svg.contains("NaN") && !svg.contains("inf"),
                "{plot:?} shows a broken number"
            );
        }
        let reduction = signed_percent(-report.improvements.token_reduction_percent);
        assert!(Plot::Tokens.svg(&report).expect("draws").contains(&reduction[1..]));
    }

    #[test]
    fn png_has_the_size_of_the_page() {
        let png = png(&Plot::Tokens.svg(&sample::report()).expect("draws")).expect("renders");
        assert_eq!(&png[..8], b"\x89PNG\r\n\x1a\n");
        let at = |i: usize| u32::from_be_bytes(png[i..i + 4].try_into().expect("4 bytes"));
        assert_eq!([at(16), at(20)], PAGE);
        assert!(png.len() > 30_000, "{} bytes: an empty page", png.len());
    }

    #[test]
    fn single_figures_have_their_names_and_whole_numbers() {
        let compared = single::compared(&sample::report()).expect("draws");
        let served = single::served(&sample::serve_report()).expect("draws");
        let ablated = single::ablated(&sample::ablation_report()).expect("draws");
        let names = |figures: &[single::Single]| figures.iter().map(|figure| figure.name).collect::<Vec<_>>();
        assert_eq!(names(&compared), single::COMPARED);
        assert_eq!(names(&served), single::SERVED);
        assert_eq!(names(&ablated), single::ABLATED);
        for figure in compared.iter().chain(&served).chain(&ablated) {
            assert!(
                !figure.svg.contains("NaN") && !figure.svg.contains("inf<"),
                "{}",
                figure.name
            );
            assert!(!figure.alt.is_empty());
        }
    }
}
