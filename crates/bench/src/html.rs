//! A report as one page that opens from disk: figures inside it, no script, nothing fetched. It is laid out for a phone, a wide
//! screen and paper.

use std::fmt::Write;

use serde::Serialize;

use crate::arms::{FUSED, NORMAL};
use crate::environment::Environment;
use crate::error::BenchError;
use crate::plots::arm_label;
use crate::plots::single::Single;
use crate::report::{Change, Figure, NotMeasured, Report};
use crate::serve::report::{ArmLoad, Latency, ServeReport};
use crate::serve::table::given_up;
use crate::words::{interval, number, or_dash, percent, with_interval};

/// Name of the page's file.
pub const FILE: &str = "report.html";

const PER_MIB: f64 = 1.0 / (1 << 20) as f64;

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; color: #1a1a1a; background: #fff;
  margin: 0 auto; max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { max-width: 50rem; }
.muted { color: #5f5f5f; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #e0e0e0; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; border-bottom: 2px solid #6e6e6e; }
.text { text-align: left; }
.better { color: #0b6eb5; font-weight: 600; }
.worse { color: #b34e00; font-weight: 600; }
.unclear { color: #5f5f5f; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid #e0e0e0; border-radius: 6px; padding: .4rem; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: #5f5f5f; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { padding: .7rem; font-size: 15px; }
  th, td { padding: .3rem .35rem; font-size: 14px; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .figures { grid-template-columns: 1fr 1fr; }
  .scroll { overflow: visible; }
  th, td { padding: .15rem .3rem; font-size: 8pt; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
}";

/// The page while it is written.
struct Page(String);

impl Page {
    fn new(title: &str) -> Self {
        let title = escape(title);
        Self(format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>{STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        ))
    }

    /// Text that is HTML already.
    fn raw(&mut self, html: &str) {
        self.0.push_str(html);
        self.0.push('\n');
    }

    fn heading(&mut self, text: &str) {
        self.raw(&format!("<h2>{}</h2>", escape(text)));
    }

    fn text(&mut self, text: &str) {
        self.raw(&format!("<p>{}</p>", escape(text)));
    }

    /// A table; cells are HTML already.
    fn table(&mut self, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        let mut table = String::from("<div class=\"scroll\"><table>\n<tr>");
        let mut rows = rows.into_iter().peekable();
        for (column, cell) in head.iter().enumerate() {
            let class = class(rows.peek().and_then(|row| row.get(column)).map_or("", String::as_str));
            let _ = write!(table, "<th{class}>{}</th>", escape(cell));
        }
        table.push_str("</tr>\n");
        for row in rows {
            table.push_str("<tr>");
            for cell in row {
                let _ = write!(table, "<td{}>{cell}</td>", class(&cell));
            }
            table.push_str("</tr>\n");
        }
        table.push_str("</table></div>");
        self.raw(&table);
    }

    fn figures(&mut self, figures: &[Single]) {
        self.heading("Figures");
        self.raw("<div class=\"figures\">");
        for figure in figures {
            let label = escape(&figure.alt);
            let svg = figure
                .svg
                .replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" "), 1);
            self.raw(&format!("<figure>{svg}</figure>"));
        }
        self.raw("</div>");
    }

    /// What was measured, computed, simulated and left out.
    fn honesty(&mut self, report: &impl Serialize, not_measured: &[NotMeasured]) -> Result<(), BenchError> {
        self.heading("What these numbers are");
        self.text(
            "Every figure was measured in this run (counted, or read from a clock or the operating system, or plain arithmetic \
             on such numbers) except those listed here. Nothing was simulated.",
        );
        let paths = crate::report::computed_paths(&serde_json::to_value(report)?);
        let items: Vec<String> = paths
            .iter()
            .map(|path| format!("<code>{}</code>", escape(path)))
            .collect();
        self.raw(&format!(
            "<p>Computed from a formula or a setting: {}.</p>",
            items.join(", ")
        ));
        self.table(
            &["Not measured", "Why"],
            not_measured
                .iter()
                .map(|item| vec![escape(item.what), format!("<span>{}</span>", escape(&item.why))]),
        );
        Ok(())
    }

    fn environment(&mut self, environment: &Environment) {
        self.heading("Machine and build");
        let load = |load: Option<f64>| load.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.2}"));
        let rows = [
            ("Processor", format!("{}, {} cores", environment.cpu, environment.cores)),
            ("System", format!("{}, kernel {}", environment.os, environment.kernel)),
            (
                "Load average",
                format!(
                    "{} at the start, {} at the end",
                    load(environment.load_average_start),
                    load(environment.load_average_end)
                ),
            ),
            (
                "Build",
                format!(
                    "{}, {}, version {}",
                    environment.rustc, environment.profile, environment.version
                ),
            ),
            (
                "Commit",
                environment.git_commit.clone().unwrap_or_else(|| "unknown".to_owned()),
            ),
            ("Seed", environment.seed.to_string()),
            (
                "Time",
                format!(
                    "{} to {}, {:.0} s",
                    environment.started, environment.ended, environment.duration_seconds
                ),
            ),
            ("Command", environment.command_line.join(" ")),
        ];
        self.list(&rows);
    }

    fn list(&mut self, rows: &[(&str, String)]) {
        let items: String = rows
            .iter()
            .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value)))
            .collect();
        self.raw(&format!("<dl>{items}</dl>"));
    }

    fn finish(mut self) -> Vec<u8> {
        self.raw("</body>\n</html>");
        self.0.into_bytes()
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// The attribute of a cell, and of the head over it: words stand on the left, numbers on the right.
fn class(cell: &str) -> &'static str {
    let words = cell.starts_with("<span") || cell.chars().next().is_some_and(char::is_alphabetic);
    if words { " class=\"text\"" } else { "" }
}

fn verdict(change: &Change) -> String {
    use crate::stats::Verdict;
    let class = match change.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::NoDifferenceShown | Verdict::NotJudged => "unclear",
    };
    format!("<span class=\"{class}\">{}</span>", change.verdict.words())
}

/// The page of the comparison.
///
/// # Errors
///
/// If the report cannot be read as JSON.
pub fn compared(report: &Report, figures: &[Single]) -> Result<Vec<u8>, BenchError> {
    let mut page = Page::new("Normal LLM and Fused LLM");
    let (work, shape) = (&report.inputs.workload, &report.inputs.model_shape);
    page.text(&format!(
        "The same {} texts ({} bytes of prompt, {} of reply) through a GPT-2 model ({} layers, width {}, vocabulary {}) with its own \
         tokenizer and a static KV cache (Normal), and through the same model with a patched tokenizer and a virtual KV cache \
         (Fused). Changes have 95% confidence intervals; where one covers 0, no difference was shown.",
        work.texts,
        number(work.prompt_bytes as f64, 0),
        number(work.reply_bytes as f64, 0),
        shape.n_layer,
        shape.n_embd,
        number(shape.vocab_size as f64, 0),
    ));
    headline(&mut page, report);
    page.heading("Expected and measured");
    page.table(
        &["What", "Expected elsewhere", "Measured here [95% interval]", "Is"],
        report.expectations.iter().map(|expected| {
            vec![
                escape(expected.what),
                escape(&expected.range()),
                format!(
                    "{}%{}",
                    number(expected.measured.value, 1),
                    interval(&expected.measured, 1)
                ),
                format!("<span>{}</span>", expected.found.words()),
            ]
        }),
    );
    page.heading("Goals");
    page.table(
        &["Goal", "Found", ""],
        report.goals.iter().map(|goal| {
            let (class, words) = if goal.holds {
                ("better", "holds")
            } else {
                ("worse", "does not hold")
            };
            vec![
                escape(goal.claim),
                format!("{}%{}", number(goal.value.value, 1), interval(&goal.value, 1)),
                format!("<span class=\"{class}\">{words}</span>"),
            ]
        }),
    );
    page.figures(figures);
    arms(&mut page, report);
    page.honesty(report, &report.not_measured)?;
    page.environment(&report.environment);
    Ok(page.finish())
}

fn headline(page: &mut Page, report: &Report) {
    let [normal, fused] = [NORMAL, FUSED].map(|arm| report.arm(arm.tokenizer, arm.kv_store));
    let [base, patched] = [0, 1].map(|i| &report.tokenization.tokenizers[i]);
    let row = |name: &str, of: [&Figure; 2], scale: f64, digits: usize, change: Option<&Change>| {
        let [normal, fused] = of.map(|figure| number(figure.value * scale, digits));
        let words = change.map_or_else(String::new, verdict);
        vec![
            escape(name),
            normal,
            fused,
            change.map_or_else(String::new, |change| percent(&change.figure)),
            words,
        ]
    };
    let (time, quality) = (&report.performance, &report.quality.domain);
    let mut tokens = row(
        "Tokens of the held-out pages",
        [&base.total_tokens, &patched.total_tokens],
        1.0,
        0,
        None,
    );
    tokens[3] = percent(&report.tokenization.reductions[0].reduction.negated());
    page.table(
        &["", "Normal", "Fused", "Change [95% interval]", ""],
        [
            tokens,
            row(
                "Peak KV memory of a batch, MiB",
                [&normal.kv_cache.mean_batch_peak, &fused.kv_cache.mean_batch_peak],
                PER_MIB,
                2,
                Some(&report.kv_cache.fused_vs_normal),
            ),
            row(
                "Reply bytes a second",
                [
                    &normal.performance.reply_bytes_per_second,
                    &fused.performance.reply_bytes_per_second,
                ],
                1.0,
                0,
                Some(&time.bytes_per_second),
            ),
            row(
                "Latency of a text, ms",
                [&normal.performance.latency.mean, &fused.performance.latency.mean],
                1.0,
                1,
                Some(&time.latency),
            ),
            row(
                "Time to the first byte, ms",
                [
                    &normal.performance.time_to_first_byte.mean,
                    &fused.performance.time_to_first_byte.mean,
                ],
                1.0,
                1,
                Some(&time.time_to_first_byte),
            ),
            row(
                "Bits per byte of held-out text",
                [&quality.normal.bits_per_byte, &quality.fused.bits_per_byte],
                1.0,
                4,
                Some(&quality.bits_per_byte),
            ),
        ],
    );
}

fn arms(page: &mut Page, report: &Report) {
    page.heading("All arms");
    page.table(
        &[
            "Arm",
            "Tokens/text",
            "KV MiB at the peak",
            "Without rows",
            "Reply bytes/s",
            "ms/text",
            "First byte, ms",
        ],
        crate::arms::ARMS.map(|arm| {
            let of = report.arm(arm.tokenizer, arm.kv_store);
            vec![
                escape(&arm_label(arm)),
                number(of.tokens.tokens_per_text.value, 1),
                number(of.kv_cache.physical_at_peak.value * PER_MIB, 2),
                format!("{}%", number(of.kv_cache.waste_share.value, 1)),
                number(of.performance.reply_bytes_per_second.value, 0),
                number(of.performance.time_per_text.value, 1),
                number(of.performance.time_to_first_byte.mean.value, 1),
            ]
        }),
    );
    page.heading("Tokenizers");
    page.table(
        &[
            "Tokenizer",
            "Tokens",
            "Bytes/token",
            "MB/s",
            "Hugging Face MB/s",
            "Same ids",
        ],
        report.tokenization.tokenizers.iter().map(|of| {
            vec![
                escape(of.label),
                number(of.total_tokens.value, 0),
                number(of.bytes_per_token.value, 2),
                number(of.encode_speed.value, 1),
                or_dash(of.hugging_face_encode_speed, |speed| number(speed.value, 1)),
                of.same_ids_as_hugging_face
                    .map_or("not checked", |same| if same { "yes" } else { "NO" })
                    .to_owned(),
            ]
        }),
    );
}

/// The page of a run under load.
///
/// # Errors
///
/// If the report cannot be read as JSON.
pub fn served(report: &ServeReport, figures: &[Single]) -> Result<Vec<u8>, BenchError> {
    let mut page = Page::new("Arms under load");
    let inputs = &report.inputs;
    let objectives = report
        .objectives
        .iter()
        .map(|o| format!("{} at most {} ms", o.on.name(), o.limit_ms));
    page.text(&format!(
        "The same texts ({} bytes of prompt and {} of reply on average) at the same times through every arm. A request is good when \
         it is complete with {}. Times are in ms and count from the moment a request was to be sent.",
        number(inputs.prompt_bytes.value, 0),
        number(inputs.reply_bytes.value, 0),
        objectives.collect::<Vec<_>>().join(" and "),
    ));
    for load in &report.loads {
        page.heading(&load.name);
        page.table(
            &[
                "Arm",
                "Bytes/s",
                "Good",
                "First byte p50",
                "KV MiB",
                "Documents",
                "Last byte p50",
                "First byte p99",
                "Last byte p99",
                "ms/char",
                "Good/s",
                "Stalls/text",
                "Put back",
                "Not served",
            ],
            load.arms.iter().map(arm_row),
        );
        let rows = load.changes.iter().flat_map(|change| {
            [
                ("reply bytes/s", change.reply_bytes_per_second.as_ref()),
                ("good requests/s", change.goodput.as_ref()),
                ("first byte, p50", change.ttfb_p50.as_ref()),
                ("first byte, p99", change.ttfb_p99.as_ref()),
                ("last byte, p50", change.e2e_p50.as_ref()),
                ("last byte, p99", change.e2e_p99.as_ref()),
                ("ms per character", change.ms_per_char.as_ref()),
                ("documents at once", change.documents_peak.as_ref()),
                ("KV memory at the peak", change.kv_mapped_peak.as_ref()),
            ]
            .into_iter()
            .filter_map(|(what, of)| Some((what, of?)))
            .map(|(what, of)| {
                vec![
                    escape(&format!("{} against {}: {what}", change.arm, change.against)),
                    percent(&of.figure),
                    verdict(of),
                ]
            })
            .collect::<Vec<_>>()
        });
        let rows: Vec<_> = rows.collect();
        if !rows.is_empty() {
            page.raw("<details><summary>Changes, paired request by request, with 95% intervals</summary>");
            page.table(&["", "Change", ""], rows);
            page.raw("</details>");
        }
    }
    if !report.max_rates.is_empty() {
        page.heading("Highest rate at which 90% of the requests are good");
        page.table(
            &["Arm", "Requests/s", "Change", ""],
            report.max_rates.iter().map(|found| {
                let change = found.change.as_ref();
                vec![
                    escape(&found.arm),
                    format!("{}{}", with_interval(&found.rate, 1), given_up(found)),
                    change.map_or_else(String::new, |change| percent(&change.figure)),
                    change.map_or_else(String::new, verdict),
                ]
            }),
        );
    }
    page.figures(figures);
    page.honesty(report, &report.not_measured)?;
    page.environment(&report.environment);
    Ok(page.finish())
}

fn arm_row(arm: &ArmLoad) -> Vec<String> {
    let show = |figure: Option<Figure>| or_dash(figure, |figure| number(figure.value, 0));
    let pair = |latency: &Latency| [show(latency.p50), show(latency.p99)];
    let engine = arm.engine.as_ref();
    let of =
        |figure: Option<Figure>, scale: f64, digits| or_dash(figure, |figure| number(figure.value * scale, digits));
    let saturated = if arm.saturated_rounds > 0 { " (saturated)" } else { "" };
    let lost = arm.requests.refused + arm.requests.failed + arm.requests.unfinished;
    let [first_p50, first_p99] = pair(&arm.ttfb);
    let [last_p50, last_p99] = pair(&arm.e2e);
    vec![
        escape(&format!("{}{saturated}", arm.arm)),
        number(arm.reply_bytes_per_second.value, 0),
        format!("{}%", number(arm.good_share.value, 0)),
        first_p50,
        of(engine.map(|engine| engine.kv_mapped_peak), PER_MIB, 1),
        of(engine.map(|engine| engine.documents_peak), 1.0, 0),
        last_p50,
        first_p99,
        last_p99,
        or_dash(arm.ms_per_char.mean, |mean| number(mean.value, 2)),
        number(arm.goodput.value, 1),
        number(arm.stalls_per_text.value, 2),
        of(engine.map(|engine| engine.preemptions), 1.0, 1),
        format!("{lost} of {}", arm.requests.sent),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plots::single;
    use crate::sample;

    /// Every opened element is closed, in order.
    fn assert_well_formed(html: &str) {
        const VOID: [&str; 2] = ["meta", "!doctype"];
        let mut open = Vec::new();
        for tag in html.split('<').skip(1) {
            let name = tag.split([' ', '>', '\n', '/']).next().unwrap_or_default();
            match tag.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop(), closed.split('>').next(), "near {tag:.60}"),
                None if VOID.contains(&name) || tag.contains("/>") => {}
                None => open.push(name),
            }
        }
        assert_eq!(open, Vec::<&str>::new());
    }

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let report = sample::report();
        let figures = single::compared(&report).expect("draws");
        let page = String::from_utf8(compared(&report, &figures).expect("writes")).expect("UTF-8");
        assert_well_formed(&page);
        for outside in ["src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
        for needed in [
            "viewport",
            "@media print",
            "Expected elsewhere",
            "no difference",
            "Nothing was simulated",
        ] {
            assert!(page.contains(needed), "{needed}");
        }
        assert!(
            page.contains("kv_cache.estimated_at_peak"),
            "computed figures are named"
        );
        assert!(!page.contains("NaN") && !page.contains("inf%"));
        assert_eq!(page.matches("<figure>").count(), figures.len());
    }

    #[test]
    fn text_cannot_become_markup() {
        let mut report = sample::report();
        report.environment.cpu = "<script>\"&".to_owned();
        let page = String::from_utf8(compared(&report, &[]).expect("writes")).expect("UTF-8");
        assert!(page.contains("&lt;script&gt;&quot;&amp;") && !page.contains("<script"));
        assert_well_formed(&page);
    }

    #[test]
    fn a_value_is_no_word() {
        let words = |cell| class(cell) == " class=\"text\"";
        assert!(words("Normal") && words("<span>holds</span>"));
        assert!(!words("12.3") && !words("-") && !words(""));
    }
}
