//! The page of a run under load.

use super::{Page, escape, verdict};
use crate::error::BenchError;
use crate::plots::single::Single;
use crate::report::Figure;
use crate::serve::report::{ArmLoad, Latency, ServeReport};
use crate::serve::table::{given_up, same_times};
use crate::words::{PER_MIB, number, or_dash, percent, with_interval};

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
        "The same texts ({} bytes of prompt and {} of reply on average) through every arm{}. A request is good when \
         it is complete with {}. Times are in ms and count from the moment a request was to be sent.",
        number(inputs.prompt_bytes.value, 0),
        number(inputs.reply_bytes.value, 0),
        same_times(report),
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
            page.raw(
                "<details><summary>Changes on the same rounds and blocks of requests, with 95% intervals</summary>",
            );
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
