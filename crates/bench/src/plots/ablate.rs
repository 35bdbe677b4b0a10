//! Ablation: quality by stage, the frontier by swaps, tokenizer × KV store.

use plotters::style::RGBColor;

use super::panel::{self, Axis, Bar, ChangeRow, Head, Line, Mark};
use super::single::{Single, single};
use super::{PlotError, bar, change_row, number, palette};
use crate::ablate::frontier::Method;
use crate::ablate::report::{AblationReport, Adoption, FrameReport, FrontierPoint, GuardOn};
use crate::ablate::stages::Stage;
use crate::arms::KvChoice;
use crate::report::{Effects, Figure, Interaction};
use crate::words::PER_MIB;

/// Names of all figures, in order; those without data are left out of a run.
pub const ABLATED: [&str; 10] = [
    "quality_domain",
    "quality_outside",
    "adoption",
    "frontier_quality",
    "frontier_speed",
    "factorial_speed",
    "factorial_memory",
    "kv_waste_by_frame",
    "kv_calls_by_frame",
    "step_by_depth",
];

pub(super) fn figures(report: &AblationReport) -> Result<Vec<Single>, PlotError> {
    let mut figures = vec![quality(ABLATED[0], "the domain", &report.quality.domain)?];
    if let Some(outside) = &report.quality.outside {
        figures.push(quality(ABLATED[1], "other text", outside)?);
    }
    if !report.quality.adoption.is_empty() {
        figures.push(adoption(report)?);
    }
    if report.frontier.len() > 1 {
        figures.push(frontier_quality(&report.frontier)?);
        figures.push(frontier_speed(&report.frontier)?);
    }
    if let Some(factorial) = &report.factorial {
        let stores = [
            (KvChoice::Virtual, &factorial.virtual_store),
            (KvChoice::Paged, &factorial.paged_store),
        ];
        figures.push(effects(
            ABLATED[5],
            Head::new(
                "Which part gives what speed",
                "% change of reply bytes/s against base + static",
            ),
            stores,
            |store| &store.bytes_per_second,
        )?);
        figures.push(effects(
            ABLATED[6],
            Head::new(
                "Which part saves what memory",
                "% change of the peak KV memory against base + static",
            ),
            stores,
            |store| &store.kv_memory,
        )?);
    }
    figures.push(waste(report)?);
    figures.push(calls(report)?);
    figures.push(depth(report)?);
    Ok(figures)
}

fn color(stage: Stage) -> RGBColor {
    match stage {
        Stage::Base => palette::NORMAL,
        Stage::BaseTuned => palette::paler(palette::NORMAL),
        Stage::AdaptedUntuned => palette::paler(palette::FUSED),
        Stage::Adapted => palette::FUSED,
    }
}

/// A label in two lines.
fn lines(words: &str) -> String {
    words.replacen(", ", ",\n", 1)
}

fn bar_of(label: &str, figure: &Figure, digits: usize, color: RGBColor) -> Bar {
    Bar {
        interval: figure.ci95,
        ..bar(label, figure.value, number(figure.value, digits), color)
    }
}

fn quality(name: &'static str, what: &str, on: &GuardOn) -> Result<Single, PlotError> {
    let bars: Vec<Bar> = on
        .stages
        .iter()
        .filter_map(|quality| {
            let bits = quality.bits_per_byte.as_ref()?;
            Some(bar_of(&lines(quality.stage.words()), bits, 3, color(quality.stage)))
        })
        .collect();
    let missing: Vec<&str> = on
        .stages
        .iter()
        .filter(|quality| quality.bits_per_byte.is_none())
        .map(|quality| quality.stage.words())
        .collect();
    let unit = match missing.is_empty() {
        true => "bits per byte, less is better".to_owned(),
        false => format!("bits per byte, less is better; not measured: {}", missing.join("; ")),
    };
    let head = Head::new(format!("Quality on {what}"), unit);
    single(name, format!("Bits per byte of {what} by stage"), |canvas, frame| {
        panel::columns(canvas, frame, &head, &bars);
    })
}

fn adoption(report: &AblationReport) -> Result<Single, PlotError> {
    let adoption = &report.quality.adoption;
    let of_stage = |adoption: &Adoption| {
        let name = adoption.stage.words().trim_start_matches("adapted, ");
        let color = color(adoption.stage);
        [
            bar_of(&format!("{name}: tokens"), &adoption.tokens, 1, color),
            bar_of(&format!("{name}: bytes"), &adoption.bytes, 1, color),
        ]
    };
    let mut bars: Vec<Bar> = adoption.iter().flat_map(of_stage).collect();
    let page = adoption.iter().map(|of| &of.tokens_in_page).next_back();
    bars.extend(page.map(|tokens| bar_of("the page: tokens", tokens, 1, palette::MUTED)));
    let head = Head::new(
        "New tokens in use",
        "% of what a model says greedily, and of the page's own text",
    );
    single(ABLATED[2], "How often new tokens are said", |canvas, frame| {
        panel::rows(canvas, frame, &head, &bars);
    })
}

fn marks(points: &[FrontierPoint], at: impl Fn(&FrontierPoint) -> (f64, &Figure)) -> Vec<Mark> {
    let mark = |point: &FrontierPoint| {
        let (x, figure) = at(point);
        let (color, joined) = match point.method {
            Method::Base => (palette::NORMAL, true),
            Method::SwapBpe => (palette::FUSED, true),
            Method::Adaptivocab => (palette::server(3), false),
            Method::Tuned => (palette::server(2), false),
        };
        let label = match point.method {
            Method::Base => "base".to_owned(),
            Method::SwapBpe => number(point.swaps as f64, 0),
            Method::Adaptivocab => format!("AdaptiVocab {}", number(point.swaps as f64, 0)),
            Method::Tuned => format!("{} tuned", number(point.swaps as f64, 0)),
        };
        Mark {
            label,
            at: (x, figure.value),
            interval: figure.ci95,
            color,
            joined,
        }
    };
    points.iter().map(mark).collect()
}

fn frontier_quality(points: &[FrontierPoint]) -> Result<Single, PlotError> {
    let marks = marks(points, |point| (point.tokens_per_byte.value, &point.bits_per_byte));
    let head = Head::new(
        "Quality against tokens, by swaps",
        "bits per byte of held-out text, less is better",
    );
    single(
        ABLATED[3],
        "Bits per byte against tokens per byte by number of swaps",
        |canvas, frame| {
            panel::scatter(canvas, frame, &head, "tokens per byte of text, less is better", &marks);
        },
    )
}

fn frontier_speed(points: &[FrontierPoint]) -> Result<Single, PlotError> {
    let marks = marks(points, |point| {
        (point.tokens_per_byte.value, &point.reply_bytes_per_second)
    });
    let head = Head::new(
        "Speed against tokens, by swaps",
        "reply bytes per second, more is better",
    );
    single(
        ABLATED[4],
        "Reply bytes per second against tokens per byte by number of swaps",
        |canvas, frame| {
            panel::scatter(canvas, frame, &head, "tokens per byte of text, less is better", &marks);
        },
    )
}

fn waste(report: &AblationReport) -> Result<Single, PlotError> {
    let bars: Vec<Bar> = report
        .frames
        .iter()
        .map(|of| {
            let label = format!(
                "{} KiB\n{} MiB",
                number(of.frame.value / 1024.0, 0),
                number(of.physical.value * PER_MIB, 1)
            );
            bar(
                label,
                of.waste_share.value,
                number(of.waste_share.value, 1),
                palette::FUSED,
            )
        })
        .collect();
    let head = Head::new(
        "KV memory without rows by size of frame",
        "% of a batch's peak; below: frame and peak",
    );
    single(
        ABLATED[7],
        "Share of KV memory that holds no rows, by size of a frame",
        |canvas, frame| {
            panel::columns(canvas, frame, &head, &bars);
        },
    )
}

/// How long the calls take, as quantiles: most map nothing, and those that do are seen at the right.
fn calls(report: &AblationReport) -> Result<Single, PlotError> {
    let colors = [
        palette::FUSED,
        palette::paler(palette::FUSED),
        palette::server(2),
        palette::server(3),
        palette::NORMAL,
    ];
    let line = |(of, color): (&FrameReport, RGBColor)| Line {
        label: format!(
            "{} KiB, mean {}",
            number(of.frame.value / 1024.0, 0),
            number(1e3 * of.call.value, 1)
        ),
        points: std::iter::zip(&of.call_quantiles, &of.call_times.values)
            .map(|(&percent, ms)| (percent, 1e3 * ms))
            .collect(),
        color,
        width: 4,
        dots: 0,
    };
    let lines: Vec<Line> = report.frames.iter().zip(colors).map(line).collect();
    let head = Head::new(
        "Calls that make room for a token",
        "µs of a call for 4 sequences, logarithmic, by size of frame",
    );
    single(
        ABLATED[8],
        "Time of the KV cache's calls as quantiles, by size of a frame",
        |canvas, frame| {
            let x_unit = "% of the calls took at most so long";
            panel::lines_on(canvas, frame, &head, x_unit, Axis::Logarithmic, &lines);
        },
    )
}

fn depth(report: &AblationReport) -> Result<Single, PlotError> {
    let lines: Vec<Line> = report
        .depths
        .iter()
        .map(|of| {
            let values = of.step.iter().map(|step| step.value);
            Line {
                label: of.kv_store.word().to_owned(),
                points: of.depth.iter().map(|&depth| depth as f64).zip(values).collect(),
                color: match of.kv_store {
                    KvChoice::Static => palette::NORMAL,
                    KvChoice::Paged => palette::server(2),
                    KvChoice::Virtual => palette::FUSED,
                },
                width: 4,
                dots: 5,
            }
        })
        .collect();
    let head = Head::new(
        "Time of a step by depth",
        "ms for a token of each of 4 sequences, base model",
    );
    single(
        ABLATED[9],
        "Time of a decoding step as sequences grow, by KV store",
        |canvas, frame| {
            panel::lines(canvas, frame, &head, "tokens in each sequence", &lines);
        },
    )
}

fn effects(
    name: &'static str,
    head: Head,
    stores: [(KvChoice, &Interaction); 2],
    of: impl Fn(&Interaction) -> &Effects,
) -> Result<Single, PlotError> {
    // The tokenizer alone is the same beside both stores.
    let rows: Vec<ChangeRow> = stores
        .into_iter()
        .zip([0, 1])
        .flat_map(|((store, interaction), from)| of(interaction).rows(store).into_iter().skip(from))
        .map(|(name, change)| change_row(name, change))
        .collect();
    let alt = format!("{} by tokenizer and KV store", head.title);
    single(name, alt, |canvas, frame| panel::changes(canvas, frame, &head, &rows))
}
