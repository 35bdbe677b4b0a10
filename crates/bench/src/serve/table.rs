//! The report as a table to read in a terminal.

use super::report::{ArmLoad, Latency, LoadKind, LoadReport, MaxRate, ServeReport};
use crate::report::Figure;
use crate::words::{PER_MIB, judged, number, or_dash, with_interval};

/// The whole table, ending with a line break.
pub fn render(report: &ServeReport) -> String {
    let mut sections = vec![head(report)];
    sections.extend(report.loads.iter().map(load));
    if !report.max_rates.is_empty() {
        sections.push(max_rates(report));
    }
    let mut text = sections
        .iter()
        .map(|lines| lines.join("\n"))
        .collect::<Vec<_>>()
        .join("\n\n");
    text.push('\n');
    text
}

fn head(report: &ServeReport) -> Vec<String> {
    let (inputs, machine) = (&report.inputs, &report.environment);
    let load = |load: Option<f64>| load.map_or_else(|| "?".to_owned(), |load| format!("{load:.1}"));
    let objectives = report
        .objectives
        .iter()
        .map(|o| format!("{} at most {} ms", o.on.name(), o.limit_ms));
    let mut lines = vec![
        format!("The same texts through every arm{}", same_times(report)),
        format!(
            "  texts     {} of {}, {} bytes of prompt and {} of reply on average; runs of {} s, {} rounds, arms interleaved",
            inputs.texts,
            inputs.corpus.path,
            number(inputs.prompt_bytes.value, 0),
            number(inputs.reply_bytes.value, 0),
            inputs.seconds,
            inputs.rounds
        ),
    ];
    lines.extend(inputs.trace.as_ref().map(|trace| {
        format!(
            "  trace     {} requests of {}, {} times as fast, {:.2} bytes a token, {} shortened to fit",
            trace.requests, trace.path, trace.speed, trace.bytes_per_token, trace.shortened
        )
    }));
    lines.extend(inputs.kv_budget.map(|budget| {
        format!(
            "  memory    {} MiB for KV rows in every arm",
            number(budget.value * PER_MIB, 0)
        )
    }));
    lines.push(format!("  good      {}", objectives.collect::<Vec<_>>().join(", ")));
    lines.push(format!(
        "  machine   {}, {} cores, {}, load {} to {}, {} build",
        machine.cpu,
        machine.cores,
        machine.os,
        load(machine.load_average_start),
        load(machine.load_average_end),
        machine.profile
    ));
    lines
}

fn load(load: &LoadReport) -> Vec<String> {
    let mut lines = vec![format!(
        "{:18} {:>9} {:>8} {:>7} {:>19} {:>19} {:>11} {:>9} {:>9} {:>9}",
        load.name,
        "bytes/s",
        "good/s",
        "good %",
        "1st byte p50 p99 ms",
        "last byte p50 p99",
        "ms/char",
        "documents",
        "KV MiB",
        "put back"
    )];
    lines.extend(load.arms.iter().map(arm));
    for change in &load.changes {
        let pairs = [
            ("bytes/s", change.reply_bytes_per_second.as_ref()),
            ("good/s", change.goodput.as_ref()),
            ("1st byte p50", change.ttfb_p50.as_ref()),
            ("p99", change.ttfb_p99.as_ref()),
            ("last byte p50", change.e2e_p50.as_ref()),
            ("ms/char", change.ms_per_char.as_ref()),
            ("documents", change.documents_peak.as_ref()),
            ("KV", change.kv_mapped_peak.as_ref()),
        ];
        lines.push(format!("  {} against {}, 95% intervals", change.arm, change.against));
        let parts: Vec<String> = pairs
            .iter()
            .filter_map(|(name, change)| Some(format!("{name} {}", judged((*change)?))))
            .collect();
        lines.extend(parts.chunks(3).map(|parts| format!("    {}", parts.join("; "))));
    }
    lines
}

fn arm(arm: &ArmLoad) -> String {
    let quantiles = |latency: &Latency, digits| {
        let show = |figure: Option<Figure>| or_dash(figure, |figure| number(figure.value, digits));
        format!("{} {:>8}", show(latency.p50), show(latency.p99))
    };
    let engine = |of: &dyn Fn(&super::report::EngineLoad) -> String| or_dash(arm.engine.as_ref(), of);
    let mut name = arm.arm.clone();
    if arm.saturated_rounds > 0 {
        name.push_str(" (saturated)");
    }
    let requests = &arm.requests;
    let lost = requests.refused + requests.failed + requests.unfinished;
    let lost = if lost > 0 {
        format!("   {lost} of {} not served", requests.sent)
    } else {
        String::new()
    };
    format!(
        "  {name:16} {:>9} {:>8} {:>7} {:>19} {:>19} {:>11} {:>9} {:>9} {:>9}{lost}",
        number(arm.reply_bytes_per_second.value, 0),
        number(arm.goodput.value, 1),
        number(arm.good_share.value, 0),
        quantiles(&arm.ttfb, 0),
        quantiles(&arm.e2e, 0),
        or_dash(arm.ms_per_char.mean, |mean| number(mean.value, 2)),
        engine(&|engine| number(engine.documents_peak.value, 0)),
        engine(&|engine| number(engine.kv_mapped_peak.value * PER_MIB, 1)),
        engine(&|engine| number(engine.preemptions.value, 1)),
    )
}

/// Whether arms got their requests at the same times: clients send the next one when the last has ended.
pub(crate) fn same_times(report: &ServeReport) -> &'static str {
    let closed = report.loads.iter().filter(|load| load.kind == LoadKind::Closed).count();
    match closed {
        0 => ", at the same times",
        some if some == report.loads.len() => ", each client sending the next when the last has ended",
        _ => ", at the same times unless clients wait for their answers",
    }
}

/// What is to be said of searches that did not end.
pub(crate) fn given_up(found: &MaxRate) -> String {
    match found.abandoned_searches {
        0 => String::new(),
        rounds => format!(
            "   {rounds} of {} searches given up before the rate was found",
            found.rate.n.unwrap_or(rounds)
        ),
    }
}

fn max_rates(report: &ServeReport) -> Vec<String> {
    let mut lines = vec!["highest rate at which 90% of the requests are good, requests/s".to_owned()];
    lines.extend(report.max_rates.iter().map(|found| {
        let change = found
            .change
            .as_ref()
            .map_or_else(String::new, |change| format!("   {}", judged(change)));
        let rate = with_interval(&found.rate, 1);
        format!("  {:16} {rate}{change}{}", found.arm, given_up(found))
    }));
    lines
}
