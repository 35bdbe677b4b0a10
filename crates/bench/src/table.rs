//! The report as a table to read in a terminal.

use crate::arms::{ARMS, FUSED, KvChoice, NORMAL};
use crate::report::{Figure, Report};
use crate::words::{PER_MIB, judged, number, or_dash, percent, workload};

/// The whole table, ending with a line break.
pub fn render(report: &Report) -> String {
    let sections = [
        head(report),
        comparison(report),
        arms(report),
        tokenizers(report),
        attribution(report),
        goals(report),
    ];
    let mut text = sections.map(|lines| lines.join("\n")).join("\n\n");
    text.push('\n');
    text
}

fn head(report: &Report) -> Vec<String> {
    let (inputs, machine) = (&report.inputs, &report.environment);
    let (work, shape, corpus) = (&inputs.workload, &inputs.model_shape, &inputs.corpus);
    let load = |load: Option<f64>| load.map_or_else(|| "?".to_owned(), |load| format!("{load:.1}"));
    vec![
        "Normal LLM (base tokenizer, static KV cache) against Fused LLM (patched tokenizer, virtual KV cache)"
            .to_owned(),
        format!(
            "  model     {} architecture, {} layers, width {}, vocabulary {}, context {}; fused arm's model: {}",
            shape.architecture,
            shape.n_layer,
            shape.n_embd,
            number(shape.vocab_size as f64, 0),
            shape.n_positions,
            inputs.fused_model_origin
        ),
        format!(
            "  corpus    {} pages, {} bytes{} of {}",
            number(corpus.pages as f64, 0),
            number(corpus.bytes as f64, 0),
            if corpus.truncated { " (the rest left out)" } else { "" },
            corpus.path
        ),
        format!(
            "  workload  {}, arms interleaved",
            workload(
                work.texts,
                [work.prompt_bytes, work.reply_bytes],
                work.batch,
                work.rounds
            )
        ),
        format!(
            "  machine   {}, {} cores, {}, load {} to {}, {} build",
            machine.cpu,
            machine.cores,
            machine.os,
            load(machine.load_average_start),
            load(machine.load_average_end),
            machine.profile
        ),
    ]
}

fn comparison(report: &Report) -> Vec<String> {
    let [normal, fused] = [NORMAL, FUSED].map(|arm| report.arm(arm.tokenizer, arm.kv_store));
    let [base, patched] = [0, 1].map(|i| &report.tokenization.tokenizers[i]);
    let row = |name: &str, of: [&Figure; 2], scale: f64, digits: usize, change: String| {
        let [normal, fused] = of.map(|figure| number(figure.value * scale, digits));
        format!("{name:32} {normal:>12} {fused:>12}   {change}")
            .trim_end()
            .to_owned()
    };
    let fewer = report.tokenization.reductions[0].reduction.negated();
    let (kv, time, quality) = (&report.kv_cache, &report.performance, &report.quality);
    let (normal_time, fused_time) = (&normal.performance, &fused.performance);
    let (normal_kv, fused_kv) = (&normal.kv_cache, &fused.kv_cache);
    let bits = |on: &crate::report::QualityOn, name: &str| {
        let of = [&on.normal.bits_per_byte, &on.fused.bits_per_byte];
        row(name, of, 1.0, 4, judged(&on.bits_per_byte))
    };
    let none = String::new;
    let mut lines = vec![
        format!("{:32} {:>12} {:>12}   change [95% interval]", "", "Normal", "Fused"),
        row(
            "tokens of the held-out pages",
            [&base.total_tokens, &patched.total_tokens],
            1.0,
            0,
            percent(&fewer),
        ),
        row(
            "tokens per page",
            [&base.tokens_per_text, &patched.tokens_per_text],
            1.0,
            1,
            none(),
        ),
        row(
            "bytes per token",
            [&base.bytes_per_token, &patched.bytes_per_token],
            1.0,
            2,
            none(),
        ),
        row(
            "peak KV memory of a batch, MiB",
            [&normal_kv.mean_batch_peak, &fused_kv.mean_batch_peak],
            PER_MIB,
            2,
            judged(&kv.fused_vs_normal),
        ),
        row(
            "highest peak KV memory, MiB",
            [&normal_kv.physical_at_peak, &fused_kv.physical_at_peak],
            PER_MIB,
            2,
            none(),
        ),
        row(
            "KV memory per text, MiB",
            [&normal_kv.physical_per_text, &fused_kv.physical_per_text],
            PER_MIB,
            3,
            none(),
        ),
        row(
            "KV memory without rows, %",
            [&normal_kv.waste_share, &fused_kv.waste_share],
            1.0,
            1,
            none(),
        ),
        row(
            "reply bytes/s, end to end",
            [&normal_time.reply_bytes_per_second, &fused_time.reply_bytes_per_second],
            1.0,
            0,
            judged(&time.bytes_per_second),
        ),
        row(
            "texts/s",
            [&normal_time.texts_per_second, &fused_time.texts_per_second],
            1.0,
            2,
            none(),
        ),
        row(
            "time per text, ms",
            [&normal_time.time_per_text, &fused_time.time_per_text],
            1.0,
            1,
            none(),
        ),
        row(
            "latency of a text, ms",
            [&normal_time.latency.mean, &fused_time.latency.mean],
            1.0,
            1,
            judged(&time.latency),
        ),
        row(
            "time to the first byte, ms",
            [
                &normal_time.time_to_first_byte.mean,
                &fused_time.time_to_first_byte.mean,
            ],
            1.0,
            1,
            judged(&time.time_to_first_byte),
        ),
        row(
            "reply tokens/s (tokens differ)",
            [
                &normal_time.reply_tokens_per_second,
                &fused_time.reply_tokens_per_second,
            ],
            1.0,
            0,
            percent(&time.tokens_per_second.figure),
        ),
        bits(&quality.domain, "bits per byte, held-out"),
    ];
    lines.extend(
        quality
            .out_of_domain
            .as_ref()
            .map(|on| bits(on, "bits per byte, other domain")),
    );
    let speeds = [
        &quality.domain.normal.bytes_per_second,
        &quality.domain.fused.bytes_per_second,
    ];
    lines.push(row(
        "scoring, bytes/s",
        speeds,
        1.0,
        0,
        judged(&quality.domain.scoring_speed),
    ));
    lines
}

fn arms(report: &Report) -> Vec<String> {
    let title = format!(
        "{:24} {:>11} {:>10} {:>9} {:>8} {:>9} {:>9} {:>11}",
        "arm", "tokens/text", "KV MiB", "MiB/text", "waste %", "bytes/s", "ms/text", "1st byte ms"
    );
    let rows = ARMS.map(|arm| {
        let report = report.arm(arm.tokenizer, arm.kv_store);
        let (kv, time) = (&report.kv_cache, &report.performance);
        format!(
            "{:24} {:>11} {:>10} {:>9} {:>8} {:>9} {:>9} {:>11}",
            crate::plots::arm_label(arm),
            number(report.tokens.tokens_per_text.value, 1),
            number(kv.physical_at_peak.value * PER_MIB, 2),
            number(kv.physical_per_text.value * PER_MIB, 3),
            number(kv.waste_share.value, 1),
            number(time.reply_bytes_per_second.value, 0),
            number(time.time_per_text.value, 1),
            number(time.time_to_first_byte.mean.value, 1),
        )
    });
    std::iter::once(title).chain(rows).collect()
}

fn tokenizers(report: &Report) -> Vec<String> {
    let title = format!(
        "{:24} {:>11} {:>10} {:>12} {:>9} {:>10}   {}",
        "tokenizer", "tokens", "per page", "bytes/token", "MB/s", "HF MB/s", "same ids"
    );
    let rows = report.tokenization.tokenizers.iter().map(|tokenizer| {
        format!(
            "{:24} {:>11} {:>10} {:>12} {:>9} {:>10}   {}",
            tokenizer.label,
            number(tokenizer.total_tokens.value, 0),
            number(tokenizer.tokens_per_text.value, 1),
            number(tokenizer.bytes_per_token.value, 2),
            number(tokenizer.encode_speed.value, 1),
            or_dash(tokenizer.hugging_face_encode_speed, |speed| number(speed.value, 1)),
            tokenizer
                .same_ids_as_hugging_face
                .map_or("not checked", |same| if same { "yes" } else { "NO" }),
        )
    });
    let reductions = report.tokenization.reductions.iter().map(|reduction| {
        format!(
            "{} to {}, {} swaps: {} tokens fewer, {}",
            reduction.from,
            reduction.to,
            number(reduction.swaps as f64, 0),
            number(reduction.tokens_saved.value, 0),
            percent(&reduction.reduction.negated()),
        )
    });
    std::iter::once(title).chain(rows).chain(reductions).collect()
}

fn attribution(report: &Report) -> Vec<String> {
    let [speed, memory] = [&report.interaction.bytes_per_second, &report.interaction.kv_memory];
    let mut lines = vec![format!(
        "{:32} {:32} {}",
        "which part gives what", "reply bytes/s", "peak KV memory of a batch"
    )];
    let rows = speed
        .rows(KvChoice::Virtual)
        .into_iter()
        .zip(memory.rows(KvChoice::Virtual));
    lines.extend(rows.map(|((name, speed), (_, memory))| {
        format!("{name:32} {:32} {}", percent(&speed.figure), percent(&memory.figure))
    }));
    lines
}

fn goals(report: &Report) -> Vec<String> {
    let rows = report.goals.iter().map(|goal| {
        let holds = if goal.holds { "holds" } else { "DOES NOT HOLD" };
        format!("  {holds:14} {}: {}", goal.claim, percent(&goal.value))
    });
    std::iter::once("goals".to_owned()).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn the_table_shows_what_the_report_holds() {
        let report = sample::report();
        let table = render(&report);
        let tokens = number(report.normal_llm.tokenization.total_tokens as f64, 0);
        assert!(table.contains(&tokens), "{tokens} is missing in\n{table}");
        for goal in &report.goals {
            assert!(table.contains(goal.claim), "{} is missing in\n{table}", goal.claim);
        }
        assert!(!table.contains("NaN") && !table.contains("inf"), "{table}");
        assert!(
            table.lines().all(|line| line.len() <= 140 && line == line.trim_end()),
            "{table}"
        );
    }

    #[test]
    fn a_goal_that_fails_is_said_plainly() {
        let mut report = sample::report();
        report.goals[0].holds = false;
        assert!(render(&report).contains("DOES NOT HOLD"));
    }
}
