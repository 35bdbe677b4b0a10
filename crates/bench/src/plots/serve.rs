//! Load: what arms do when requests arrive by themselves.

use plotters::style::RGBColor;

use super::panel::{self, Axis, Bar, Head, Lane, Line};
use super::single::{Single, single};
use super::{PlotError, bar, number, palette};
use crate::report::Figure;
use crate::serve::record::Measure;
use crate::serve::report::{ArmLoad, LoadKind, LoadReport, ServeReport};
use crate::words::PER_MIB;

/// Names of all figures, in order; those without data are left out of a run.
pub const SERVED: [&str; 10] = [
    "serve_first_byte_vs_load",
    "serve_throughput_vs_load",
    "serve_tokens_vs_load",
    "serve_goodput_vs_load",
    "serve_pareto",
    "serve_latency_ecdf",
    "serve_stalls",
    "serve_requests",
    "serve_kv_memory",
    "serve_documents",
];

struct Picture<'a> {
    report: &'a ServeReport,
    /// Loads on one axis: by offered rate, or by clients.
    steps: Vec<(f64, &'a LoadReport)>,
    x: &'static str,
}

pub(super) fn figures(report: &ServeReport) -> Result<Vec<Single>, PlotError> {
    let clients = report.loads.iter().filter(|load| load.kind == LoadKind::Closed).count() > 1;
    let of = |load: &LoadReport| match clients {
        true => load.clients.map(|clients| clients as f64),
        false => load.offered.map(|rate| rate.value),
    };
    let mut steps: Vec<_> = report.loads.iter().filter_map(|load| Some((of(load)?, load))).collect();
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let picture = Picture {
        report,
        steps,
        x: if clients {
            "clients"
        } else {
            "requests offered a second"
        },
    };
    let mut figures = Vec::new();
    if picture.steps.len() > 1 {
        figures.push(picture.first_byte()?);
        figures.push(picture.rate(
            SERVED[1],
            Head::new("Throughput", "kB of reply per second"),
            |arm| arm.reply_bytes_per_second,
            1e-3,
        )?);
        figures.push(picture.rate(
            SERVED[2],
            Head::new("Token throughput", "reply tokens/s; a patched token holds more text"),
            |arm| arm.reply_tokens_per_second,
            1.0,
        )?);
        figures.push(picture.goodput()?);
        figures.push(picture.pareto()?);
    }
    figures.push(picture.ecdf()?);
    figures.push(picture.stalls()?);
    figures.push(picture.requests()?);
    if report.detail.arms.iter().any(|arm| arm.timeline.is_some()) {
        figures.push(picture.memory()?);
        figures.push(picture.documents()?);
    }
    Ok(figures)
}

impl Picture<'_> {
    fn arms(&self) -> impl Iterator<Item = (usize, &str, RGBColor)> {
        self.report.arms.iter().enumerate().map(|(i, arm)| {
            let color = match (arm.tokenizer, arm.kv_store) {
                (Some(tokenizer), Some(kv_store)) => palette::arm(crate::arms::Arm { tokenizer, kv_store }),
                _ => palette::server(i),
            };
            (i, arm.name.as_str(), color)
        })
    }

    /// A line with dots through one figure of each step.
    fn line(&self, arm: usize, label: String, color: RGBColor, of: impl Fn(&ArmLoad) -> Option<f64>) -> Line {
        let points = self
            .steps
            .iter()
            .filter_map(|&(x, load)| Some((x, of(&load.arms[arm])?)));
        Line {
            label,
            points: points.collect(),
            color,
            width: 4,
            dots: 6,
        }
    }

    fn first_byte(&self) -> Result<Single, PlotError> {
        let mut lines = Vec::new();
        for (i, name, color) in self.arms() {
            let at = |figure: Option<Figure>| figure.map(|figure| figure.value);
            lines.push(self.line(i, format!("{name}, median"), color, |arm| at(arm.ttfb.p50)));
            let tail = Line {
                width: 2,
                ..self.line(
                    i,
                    format!("{name}, p99 (p90 where few)"),
                    palette::paler(color),
                    |arm| at(arm.ttfb.p99.or(arm.ttfb.p90)),
                )
            };
            lines.push(tail);
        }
        let limit = self
            .report
            .objectives
            .iter()
            .find(|objective| objective.on == Measure::Ttfb);
        if let (Some(limit), Some(&(last, _))) = (limit, self.steps.last()) {
            lines.push(Line {
                label: format!("objective, {} ms", limit.limit_ms),
                points: vec![(0.0, limit.limit_ms), (last, limit.limit_ms)],
                color: palette::MUTED,
                width: 2,
                dots: 0,
            });
        }
        let head = Head::new(
            "Time to the first byte",
            "ms since the request was to be sent, logarithmic",
        );
        single(
            SERVED[0],
            "Time to the first byte against offered load",
            |canvas, frame| {
                panel::lines_on(canvas, frame, &head, self.x, Axis::Logarithmic, &lines);
            },
        )
    }

    fn rate(
        &self,
        name: &'static str,
        head: Head,
        of: impl Fn(&ArmLoad) -> Figure,
        scale: f64,
    ) -> Result<Single, PlotError> {
        let lines: Vec<Line> = self
            .arms()
            .map(|(i, name, color)| self.line(i, name.to_owned(), color, |arm| Some(of(arm).value * scale)))
            .collect();
        single(name, format!("{} against offered load", head.title), |canvas, frame| {
            panel::lines(canvas, frame, &head, self.x, &lines);
        })
    }

    fn goodput(&self) -> Result<Single, PlotError> {
        let limits = self
            .report
            .objectives
            .iter()
            .map(|o| format!("{} \u{2264} {} ms", o.on.name(), o.limit_ms));
        let limits = limits.collect::<Vec<_>>().join(", ");
        self.rate(
            SERVED[3],
            Head::new("Goodput", format!("requests/s with {limits}")),
            |arm| arm.goodput,
            1.0,
        )
    }

    /// What one user gets against what all get.
    fn pareto(&self) -> Result<Single, PlotError> {
        let lines: Vec<Line> = self
            .arms()
            .map(|(i, name, color)| {
                let point = |load: &&LoadReport| {
                    let arm = &load.arms[i];
                    let ms = arm.ms_per_char.mean.map(|mean| mean.value).filter(|&ms| ms > 0.0)?;
                    Some((arm.reply_bytes_per_second.value * 1e-3, 1e3 / ms))
                };
                let points = self.steps.iter().filter_map(|(_, load)| point(load)).collect();
                Line {
                    label: name.to_owned(),
                    points,
                    color,
                    width: 3,
                    dots: 7,
                }
            })
            .collect();
        let head = Head::new(
            "Speed for one and for all",
            "characters/s that a user sees; a point for each load",
        );
        single(
            SERVED[4],
            "Speed of one reply against the speed of all",
            |canvas, frame| {
                panel::lines(canvas, frame, &head, "kB of reply per second, all users", &lines);
            },
        )
    }

    fn ecdf(&self) -> Result<Single, PlotError> {
        let detail = &self.report.detail;
        let lines: Vec<Line> = self
            .arms()
            .map(|(i, name, color)| {
                let arm = &detail.arms[i];
                let points = panel::steps(&arm.e2e.values, arm.e2e_of);
                Line {
                    label: name.to_owned(),
                    points,
                    color,
                    width: 5,
                    dots: 0,
                }
            })
            .collect();
        let head = Head::new(
            "Time to the last byte",
            format!(
                "% of requests waited for that were done within the time, {}",
                detail.load
            ),
        );
        single(SERVED[5], "Share of requests done within a time", |canvas, frame| {
            panel::lines(canvas, frame, &head, "ms since the request was to be sent", &lines);
        })
    }

    fn stalls(&self) -> Result<Single, PlotError> {
        let detail = &self.report.detail;
        let seconds = detail
            .arms
            .iter()
            .map(|arm| arm.gap_part * arm.longest_gap.values.len() as f64)
            .fold(0.0, f64::max);
        let lanes: Vec<_> = self
            .arms()
            .map(|(i, name, color)| {
                // Parts of the same length for all arms.
                let arm = &detail.arms[i];
                let parts = arm.longest_gap.values.len();
                let wide = (parts as f64 * arm.gap_part / seconds.max(f64::MIN_POSITIVE)).min(1.0);
                let at = |part: usize| {
                    arm.longest_gap
                        .values
                        .get((part as f64 / wide.max(1e-9)) as usize)
                        .copied()
                        .unwrap_or(0.0)
                };
                (name.to_owned(), (0..parts).map(at).collect::<Vec<_>>(), color)
            })
            .collect();
        let head = Head::new(
            "Silences within replies",
            format!("darker: longer between two pieces of text, {}", detail.load),
        );
        single(SERVED[6], "The longest silences through a run", |canvas, frame| {
            panel::strips(canvas, frame, &head, seconds, &lanes);
        })
    }

    fn requests(&self) -> Result<Single, PlotError> {
        let detail = &self.report.detail;
        let lanes: Vec<Lane> = self
            .arms()
            .map(|(i, name, color)| {
                let arm = &detail.arms[i];
                let times = arm
                    .scheduled
                    .values
                    .iter()
                    .zip(&arm.first_byte.values)
                    .zip(&arm.ended.values);
                let requests = times.map(|((&scheduled, &first), &ended)| [scheduled, first.min(ended), ended]);
                Lane {
                    label: name.to_owned(),
                    requests: requests.collect(),
                    color,
                }
            })
            .collect();
        let head = Head::new(
            "Requests",
            format!("pale: waits for its first byte; full: replies; {}", detail.load),
        );
        single(SERVED[7], "Each request through a run", |canvas, frame| {
            panel::gantt(canvas, frame, &head, &lanes)
        })
    }

    fn memory(&self) -> Result<Single, PlotError> {
        let detail = &self.report.detail;
        let mut lines = Vec::new();
        for (i, name, color) in self.arms() {
            let Some(time) = &detail.arms[i].timeline else {
                continue;
            };
            let line = |label: String, values: &[f64], color, width| Line {
                label,
                points: time
                    .time
                    .values
                    .iter()
                    .copied()
                    .zip(values.iter().map(|bytes| bytes * PER_MIB))
                    .collect(),
                color,
                width,
                dots: 0,
            };
            let reserved = time.reserved.values.iter().copied().fold(0.0, f64::max) * PER_MIB;
            let label = format!("{name} mapped ({} MiB reserved)", number(reserved, 0));
            lines.push(line(label, &time.mapped.values, color, 5));
            lines.push(line(
                format!("{name} used"),
                &time.used.values,
                palette::paler(color),
                3,
            ));
        }
        let head = Head::new("KV memory over time", format!("MiB, {}", detail.load));
        single(SERVED[8], "KV memory mapped and used through a run", |canvas, frame| {
            panel::lines(canvas, frame, &head, "seconds since the run began", &lines);
        })
    }

    /// How many documents the same memory holds.
    fn documents(&self) -> Result<Single, PlotError> {
        let Some(full) = self.report.loads.first() else {
            return single(SERVED[9], "", |_, _| {});
        };
        let bars: Vec<Bar> = self
            .arms()
            .filter_map(|(i, name, color)| {
                let engine = full.arms[i].engine.as_ref()?;
                let value = engine.documents_peak.value;
                let label = format!("{name}\n{} on average", number(engine.documents_mean.value, 1));
                Some(bar(label, value, number(value, 0), color))
            })
            .collect();
        let budget = self
            .report
            .inputs
            .kv_budget
            .map_or(0.0, |budget| budget.value * PER_MIB);
        let head = Head::new(
            "Documents at once",
            format!("in {} MiB of KV memory, {}", number(budget, 0), full.name),
        );
        single(
            SERVED[9],
            "Documents that the same KV memory holds at once",
            |canvas, frame| {
                panel::columns(canvas, frame, &head, &bars);
            },
        )
    }
}
