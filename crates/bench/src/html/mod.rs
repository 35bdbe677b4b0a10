//! A report as one page that opens from disk: figures inside it, no script, nothing fetched. It is laid out for a phone, a wide
//! screen and paper.

mod ablate;
mod compare;
mod serve;

use std::fmt::Write;

use serde::Serialize;

use crate::environment::Environment;
use crate::error::BenchError;
use crate::plots::single::Single;
use crate::report::{Change, NotMeasured};

pub use ablate::ablated;
pub use compare::compared;
pub use serve::served;

/// Name of the page's file.
pub const FILE: &str = "report.html";

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plots::single;
    use crate::sample;

    /// Every opened element is closed, in order.
    fn assert_well_formed(html: &str) {
        const VOID: [&str; 3] = ["meta", "!doctype", "hr"];
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
    fn the_page_of_an_ablation_says_what_is_missing_and_shows_the_rest() {
        let report = sample::ablation_report();
        let figures = single::ablated(&report).expect("draws");
        let page = String::from_utf8(ablated(&report, &figures).expect("writes")).expect("UTF-8");
        assert_well_formed(&page);
        for needed in [
            "not measured",
            "Quality guard",
            "AdaptiVocab as released",
            "both, paged",
            "KV memory by the size of a frame",
            "Time of a step by depth",
            "&lt;b&gt;",
        ] {
            assert!(page.contains(needed), "{needed}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf%") && !page.contains("<b>"));
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
