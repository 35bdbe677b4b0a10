//! The ablation as tables to read in a terminal.

use super::report::{AblationReport, GuardClaim, GuardOn, QualityGuard};
use crate::arms::KvChoice;
use crate::report::{Change, Interaction};
use crate::words::{PER_MIB, judged, number, or_dash, percent, with_interval};

/// The tables, ending with a line break.
pub fn render(report: &AblationReport) -> String {
    let mut sections = vec![guard(&report.quality.domain, "held-out pages of the domain")];
    sections.extend(report.quality.outside.as_ref().map(|on| guard(on, "another domain")));
    sections.push(claims(&report.quality));
    sections.push(adoption(&report.quality));
    sections.push(frontier(report));
    sections.extend(report.factorial.as_ref().map(|factorial| {
        [
            effects(KvChoice::Virtual, &factorial.virtual_store),
            effects(KvChoice::Paged, &factorial.paged_store),
        ]
        .concat()
    }));
    sections.push(frames(report));
    sections.extend(samples(&report.quality));
    if !report.not_measured.is_empty() {
        let missing = report
            .not_measured
            .iter()
            .map(|item| format!("  {}: {}", item.what, item.why));
        sections.push(std::iter::once("not measured".to_owned()).chain(missing).collect());
    }
    let lines = sections
        .iter()
        .filter(|lines| !lines.is_empty())
        .map(|lines| lines.join("\n"));
    lines.collect::<Vec<_>>().join("\n\n") + "\n"
}

/// What was found of a claim, in words.
pub(crate) fn found(claim: &GuardClaim) -> &'static str {
    match (claim.holds, claim.change) {
        (Some(true), _) => "holds",
        (Some(false), _) => "DOES NOT HOLD",
        (None, Some(_)) => "not judged",
        (None, None) => "not measured",
    }
}

fn guard(on: &GuardOn, what: &str) -> Vec<String> {
    let mut lines = vec![
        format!(
            "bits per byte, {what}: {} documents, {} bytes",
            on.documents,
            number(on.bytes as f64, 0)
        ),
        format!(
            "  {:20} {:26} {:42} {}",
            "", "[95%]", "against base", "against base, tuned alike"
        ),
    ];
    lines.extend(on.stages.iter().map(|quality| {
        let Some(bits) = &quality.bits_per_byte else {
            return format!("  {:20} not measured", quality.stage.words());
        };
        let against = |change: &Option<Change>| or_dash(change.as_ref(), judged);
        let line = format!(
            "  {:20} {:26} {:42} {}",
            quality.stage.words(),
            with_interval(bits, 4),
            against(&quality.vs_base),
            against(&quality.vs_base_tuned)
        );
        line.trim_end().to_owned()
    }));
    lines
}

fn claims(quality: &QualityGuard) -> Vec<String> {
    let line = |claim: &GuardClaim| {
        let change = claim
            .change
            .as_ref()
            .map_or_else(String::new, |change| format!(": {}", percent(&change.figure)));
        format!("  {:14} {}{change}", found(claim), claim.claim)
    };
    std::iter::once("quality guard; that the control was tuned alike is taken from the command line".to_owned())
        .chain(quality.claims.iter().map(line))
        .collect()
}

fn adoption(quality: &QualityGuard) -> Vec<String> {
    if quality.adoption.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![
        "new tokens in what a model says by itself, greedily, in %".to_owned(),
        format!(
            "  {:20} {:22} {:22} {}",
            "", "of tokens", "of bytes", "of tokens of the page's own text"
        ),
    ];
    lines.extend(quality.adoption.iter().map(|adoption| {
        format!(
            "  {:20} {:22} {:22} {}",
            adoption.stage.words(),
            with_interval(&adoption.tokens, 1),
            with_interval(&adoption.bytes, 1),
            with_interval(&adoption.tokens_in_page, 1)
        )
    }));
    lines
}

fn frontier(report: &AblationReport) -> Vec<String> {
    if report.frontier.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![
        "by swaps; changes against none; rows exponential and calibrated, not tuned unless it says so".to_owned(),
        format!(
            "  {:24} {:>6} {:>12}   {:24} {:24} {:>10}  {}",
            "", "swaps", "tokens/byte", "tokens", "bits/byte [95%]", "bytes/s", "speed"
        ),
    ];
    lines.extend(report.frontier.iter().map(|point| {
        format!(
            "  {:24} {:>6} {:>12}   {:24} {:24} {:>10}  {}",
            point.method.words(),
            number(point.swaps as f64, 0),
            number(point.tokens_per_byte.value, 4),
            percent(&point.tokens.figure),
            with_interval(&point.bits_per_byte, 4),
            number(point.reply_bytes_per_second.value, 0),
            percent(&point.speed.figure)
        )
    }));
    lines
}

fn effects(store: KvChoice, interaction: &Interaction) -> Vec<String> {
    let (speed, memory) = (
        interaction.bytes_per_second.rows(store),
        interaction.kv_memory.rows(store),
    );
    let mut lines = vec![format!(
        "  {:30} {:28} {}",
        "against base + static", "reply bytes/s", "peak KV memory of a batch"
    )];
    lines.extend(speed.into_iter().zip(memory).map(|((name, speed), (_, memory))| {
        format!("  {name:30} {:28} {}", percent(&speed.figure), percent(&memory.figure))
    }));
    lines
}

fn frames(report: &AblationReport) -> Vec<String> {
    let row = |of: &super::report::FrameReport| {
        format!(
            "  {:>10} KiB {:>14} MiB {:>14} %",
            number(of.frame.value / 1024.0, 0),
            number(of.physical.value * PER_MIB, 2),
            number(of.waste_share.value, 1)
        )
    };
    let title =
        "peak KV memory of a batch of the base model, and what of it holds no rows, by the size of a frame".to_owned();
    std::iter::once(title).chain(report.frames.iter().map(row)).collect()
}

fn samples(quality: &QualityGuard) -> Vec<Vec<String>> {
    let lines = |(i, sample): (usize, &super::report::Sample)| {
        let mut lines = vec![
            format!("text {}", i + 1),
            format!("  {:20} {:?}", "prompt, its end", sample.prompt),
            format!("  {:20} {:?}", "the page goes on", sample.page),
        ];
        let said = sample.models.iter();
        lines.extend(said.map(|said| format!("  {:20} {:?}", said.stage.words(), said.text)));
        lines
    };
    quality.samples.iter().enumerate().map(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ablate::stages::Stage;
    use crate::sample;

    #[test]
    fn the_tables_show_every_stage_and_what_is_missing() {
        let report = sample::ablation_report();
        let table = render(&report);
        for words in Stage::ALL.map(Stage::words) {
            assert!(table.contains(words), "{words} is missing in\n{table}");
        }
        for words in ["not measured", "AdaptiVocab as released", "paged store alone"] {
            assert!(table.contains(words), "{words} is missing in\n{table}");
        }
        assert!(!table.contains("NaN") && !table.contains("inf"), "{table}");
        assert!(table.lines().all(|line| line == line.trim_end()), "{table}");
    }
}
