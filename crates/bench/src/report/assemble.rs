//! From measurements to the report: statistics only, no clock is read here.

use std::collections::BTreeMap;

use super::serving::Serving;
use super::{
    ArmReport, Change, Expectation, Figure, Goal, Improvements, Inputs, Interaction, Kind, KvCacheComparison,
    KvCacheSummary, NotMeasured, PerformanceComparison, PerformanceSummary, Quality, QualityOn, QualitySummary, Report,
    SCHEMA, ScoreReport, Side, TokenReduction, Tokenization, TokenizationSummary, TokenizerReport, Unit,
};
use crate::arms::{ARMS, Arm, FUSED, KvChoice, NORMAL, TokenizerChoice};
use crate::environment::Environment;
use crate::measure::Measurements;
use crate::measure::quality::{DocumentScore, QualityData};
use crate::measure::tokens::TokenizerData;
use crate::stats::{Wanted, bootstrap, bootstrap_rounds, median, percent_or_infinite};
use crate::words::PER_MIB;

/// Builds the report. `inputs` and `environment` are taken as they are; `not_measured` too.
pub fn assemble(
    measured: &Measurements,
    inputs: Inputs,
    environment: Environment,
    not_measured: Vec<NotMeasured>,
) -> Report {
    let seed = environment.seed;
    let tokenization = tokenization(measured, seed);
    let serving = Serving {
        data: &measured.serving,
        seed,
    };
    let arms: Vec<ArmReport> = ARMS.into_iter().map(|arm| serving.arm(arm)).collect();
    let (normal, fused) = (&arms[NORMAL.index()], &arms[FUSED.index()]);
    let kv_cache = KvCacheComparison {
        fused_vs_normal: serving.kv_change(NORMAL, FUSED),
        fused_vs_paged: serving.kv_change(
            Arm {
                kv_store: KvChoice::Paged,
                ..FUSED
            },
            FUSED,
        ),
        saved_at_peak: Figure::measured(
            normal.kv_cache.physical_at_peak.value - fused.kv_cache.physical_at_peak.value,
            Unit::Bytes,
        ),
    };
    let performance = serving.comparison();
    let quality = Quality {
        domain: quality_on(&measured.domain, seed),
        out_of_domain: measured.out_of_domain.as_ref().map(|data| quality_on(data, seed)),
    };
    let improvements = improvements(&tokenization, &kv_cache, normal, &performance, &quality);
    let goals = goals(&tokenization, &kv_cache, &performance, &quality);
    let interaction = serving.interaction(KvChoice::Virtual);
    let expectations = expectations(&tokenization, &interaction, &performance);
    Report {
        schema: SCHEMA,
        normal_llm: side(normal, &tokenization.tokenizers[0], &quality.domain.normal),
        fused_llm: side(fused, &tokenization.tokenizers[1], &quality.domain.fused),
        improvements,
        summary_kinds: summary_kinds(),
        environment,
        inputs,
        tokenization,
        kv_cache,
        performance,
        quality,
        interaction,
        arms,
        goals,
        expectations,
        not_measured,
    }
}

fn tokenization(measured: &Measurements, seed: u64) -> Tokenization {
    let bytes: usize = measured.page_bytes.iter().sum();
    let pages = measured.page_bytes.len();
    let tokenizers = measured
        .tokenizers
        .iter()
        .map(|data| tokenizer(data, &measured.page_bytes, seed))
        .collect();
    let find = |name| measured.tokenizers.iter().find(|data| data.name == name);
    let reductions = measured
        .tokenizers
        .iter()
        .filter_map(|to| to.patched_from.and_then(|name| Some((find(name)?, to))))
        .map(|(from, to)| {
            let sum = |data: &TokenizerData, of: &[usize]| of.iter().map(|&i| data.counts[i] as f64).sum::<f64>();
            let all: Vec<usize> = (0..pages).collect();
            let reduction = |of: &[usize]| -percent_or_infinite(sum(from, of), sum(to, of));
            let ci = bootstrap(pages, seed, reduction);
            TokenReduction {
                from: from.name,
                to: to.name,
                swaps: to.swaps,
                tokens_saved: Figure::measured(sum(from, &all) - sum(to, &all), Unit::Tokens),
                reduction: Figure::measured(reduction(&all), Unit::Percent).with_interval(ci, pages),
            }
        })
        .collect();
    Tokenization {
        texts: pages,
        bytes,
        tokenizers,
        reductions,
    }
}

fn tokenizer(data: &TokenizerData, page_bytes: &[usize], seed: u64) -> TokenizerReport {
    let pages = page_bytes.len();
    let bytes: f64 = page_bytes.iter().map(|&b| b as f64).sum();
    let total: f64 = data.counts.iter().map(|&c| c as f64).sum();
    let per_page = bootstrap(pages, seed, |of| {
        of.iter().map(|&i| data.counts[i] as f64).sum::<f64>() / of.len() as f64
    });
    let per_token = bootstrap(pages, seed, |of| {
        let sum = |values: &[usize]| of.iter().map(|&i| values[i] as f64).sum::<f64>();
        sum(page_bytes) / sum(&data.counts)
    });
    let speed = |seconds: &[f64]| {
        let by_round: Vec<f64> = seconds.iter().map(|s| bytes / s / 1e6).collect();
        let ci = bootstrap_rounds(by_round.len(), seed, |of| {
            median(&of.iter().map(|&i| by_round[i]).collect::<Vec<_>>())
        });
        Figure::measured(median(&by_round), Unit::MegabytesPerSecond).with_interval(ci, by_round.len())
    };
    TokenizerReport {
        name: data.name,
        label: data.label,
        patched: data.patched_from.is_some(),
        vocab_size: data.vocab_size,
        lossless: data.lossless,
        total_tokens: Figure::measured(total, Unit::Tokens),
        tokens_per_text: Figure::measured(total / pages as f64, Unit::TokensPerText).with_interval(per_page, pages),
        bytes_per_token: Figure::measured(bytes / total, Unit::BytesPerToken).with_interval(per_token, pages),
        encode_speed: speed(&data.encode_seconds),
        hugging_face_encode_speed: data.hugging_face_seconds.as_deref().map(speed),
        same_ids_as_hugging_face: data.same_ids_as_hugging_face,
    }
}

fn quality_on(data: &QualityData, seed: u64) -> QualityOn {
    let documents = data.document_bytes.len();
    let sum = |of: &[usize], value: &dyn Fn(usize) -> f64| of.iter().map(|&i| value(i)).sum::<f64>();
    let bytes = |of: &[usize]| sum(of, &|i| data.document_bytes[i] as f64);
    let bits_per_byte = |scores: &[DocumentScore], of: &[usize]| sum(of, &|i| scores[i].bits) / bytes(of);
    let seconds = |scores: &[DocumentScore], of: &[usize]| sum(of, &|i| scores[i].seconds);
    let tokens = |scores: &[DocumentScore], of: &[usize]| sum(of, &|i| scores[i].tokens as f64);
    let all: Vec<usize> = (0..documents).collect();
    let estimate = |statistic: &dyn Fn(&[usize]) -> f64| (statistic(&all), bootstrap(documents, seed, statistic));
    let figure = |unit, statistic: &dyn Fn(&[usize]) -> f64| {
        let (value, ci) = estimate(statistic);
        Figure::measured(value, unit).with_interval(ci, documents)
    };
    let change = |wanted, statistic: &dyn Fn(&[usize]) -> f64| {
        let (value, ci) = estimate(statistic);
        Change::percent(value, ci, documents, wanted)
    };
    let report = |scores: &[DocumentScore]| ScoreReport {
        bits_per_byte: figure(Unit::BitsPerByte, &|of| bits_per_byte(scores, of)),
        tokens: Figure::measured(tokens(scores, &all), Unit::Tokens),
        texts_per_second: figure(Unit::TextsPerSecond, &|of| of.len() as f64 / seconds(scores, of)),
        bytes_per_second: figure(Unit::BytesPerSecond, &|of| bytes(of) / seconds(scores, of)),
        tokens_per_second: figure(Unit::TokensPerSecond, &|of| tokens(scores, of) / seconds(scores, of)),
    };
    QualityOn {
        documents,
        bytes: data.document_bytes.iter().sum(),
        normal: report(&data.normal),
        fused: report(&data.fused),
        bits_per_byte: change(Wanted::Lower, &|of| {
            percent_or_infinite(bits_per_byte(&data.normal, of), bits_per_byte(&data.fused, of))
        }),
        // Bytes per second are inverse to seconds, the bytes being the same.
        scoring_speed: change(Wanted::Higher, &|of| {
            percent_or_infinite(seconds(&data.fused, of), seconds(&data.normal, of))
        }),
    }
}

fn side(arm: &ArmReport, tokenizer: &TokenizerReport, score: &ScoreReport) -> Side {
    let (kv, time) = (&arm.kv_cache, &arm.performance);
    let in_flight = kv.physical_at_peak.value / kv.physical_per_text.value;
    Side {
        tokenization: TokenizationSummary {
            total_tokens: tokenizer.total_tokens.value as u64,
            avg_tokens_per_text: tokenizer.tokens_per_text.value,
            adaptivocab_enabled: arm.tokenizer == TokenizerChoice::Patched,
        },
        kv_cache: KvCacheSummary {
            measured_total_mb: kv.physical_at_peak.value * PER_MIB,
            measured_per_text_mb: kv.physical_per_text.value * PER_MIB,
            estimated_total_mb: kv.estimated_at_peak.value * PER_MIB,
            estimated_per_text_mb: kv.estimated_at_peak.value / in_flight * PER_MIB,
            vattention_enabled: arm.kv_store == KvChoice::Virtual,
        },
        performance: PerformanceSummary {
            texts_per_second: time.texts_per_second.value,
            tokens_per_second: time.reply_tokens_per_second.value,
            avg_time_per_text_ms: time.time_per_text.value,
            bytes_per_second: time.reply_bytes_per_second.value,
        },
        quality: QualitySummary {
            bits_per_byte: score.bits_per_byte.value,
        },
    }
}

fn improvements(
    tokenization: &Tokenization,
    kv: &KvCacheComparison,
    normal: &ArmReport,
    performance: &PerformanceComparison,
    quality: &Quality,
) -> Improvements {
    let tokens = &tokenization.reductions[0];
    Improvements {
        token_reduction_percent: tokens.reduction.value,
        tokens_saved: tokens.tokens_saved.value as i64,
        kv_cache_reduction_percent: 100.0 * kv.saved_at_peak.value / normal.kv_cache.physical_at_peak.value,
        kv_cache_saved_mb: kv.saved_at_peak.value * PER_MIB,
        speed_improvement_percent: performance.bytes_per_second.figure.value,
        bits_per_byte_change_percent: quality.domain.bits_per_byte.figure.value,
    }
}

/// Kinds of the plain numbers in the short sections.
fn summary_kinds() -> BTreeMap<&'static str, Kind> {
    let measured = [
        "tokenization.total_tokens",
        "tokenization.avg_tokens_per_text",
        "kv_cache.measured_total_mb",
        "kv_cache.measured_per_text_mb",
        "performance.texts_per_second",
        "performance.tokens_per_second",
        "performance.avg_time_per_text_ms",
        "performance.bytes_per_second",
        "quality.bits_per_byte",
        "improvements.token_reduction_percent",
        "improvements.tokens_saved",
        "improvements.kv_cache_reduction_percent",
        "improvements.kv_cache_saved_mb",
        "improvements.speed_improvement_percent",
        "improvements.bits_per_byte_change_percent",
    ];
    let computed = ["kv_cache.estimated_total_mb", "kv_cache.estimated_per_text_mb"];
    let with = |kind| move |path| (path, kind);
    measured
        .into_iter()
        .map(with(Kind::Measured))
        .chain(computed.into_iter().map(with(Kind::Computed)))
        .collect()
}

/// Gains that were expected elsewhere, before anything was measured.
fn expectations(
    tokenization: &Tokenization,
    interaction: &Interaction,
    performance: &PerformanceComparison,
) -> Vec<Expectation> {
    let memory = &interaction.kv_memory;
    vec![
        Expectation::new(
            "fewer tokens with the patched tokenizer",
            [25.0, 25.0],
            tokenization.reductions[0].reduction,
        ),
        Expectation::new(
            "less KV memory with the virtual cache alone",
            [15.0, 20.0],
            memory.kv_store.figure.negated(),
        ),
        Expectation::new("less KV memory with both", [40.0, 40.0], memory.both.figure.negated()),
        Expectation::new(
            "more speed with both",
            [30.0, 40.0],
            performance.bytes_per_second.figure,
        ),
    ]
}

fn goals(
    tokenization: &Tokenization,
    kv: &KvCacheComparison,
    performance: &PerformanceComparison,
    quality: &Quality,
) -> Vec<Goal> {
    let reduction = tokenization.reductions[0].reduction;
    let less_than_normal = kv.fused_vs_normal.figure.negated();
    let less_than_paged = kv.fused_vs_paged.figure.negated();
    let speed = performance.bytes_per_second.figure;
    let bits = quality.domain.bits_per_byte.figure;
    // A claim "above" needs the whole interval above, not just the estimate.
    let surely_above = |figure: &Figure, limit| figure.ci95.map_or(figure.value, |i| i.low) > limit;
    vec![
        Goal {
            name: "tokens",
            claim: "at least 25% fewer tokens on held-out text with the patched tokenizer",
            value: reduction,
            relation: "at least",
            limit: 25.0,
            holds: reduction.value >= 25.0,
        },
        Goal {
            name: "kv_memory",
            claim: "at least 40% less peak KV memory than the normal (static) arm",
            value: less_than_normal,
            relation: "at least",
            limit: 40.0,
            holds: less_than_normal.value >= 40.0,
        },
        Goal {
            name: "kv_memory_paged",
            claim: "less peak KV memory than the paged arm with the same tokenizer",
            value: less_than_paged,
            relation: "above",
            limit: 0.0,
            holds: surely_above(&less_than_paged, 0.0),
        },
        Goal {
            name: "speed",
            claim: "end-to-end bytes per second above the normal arm's",
            value: speed,
            relation: "above",
            limit: 0.0,
            holds: surely_above(&speed, 0.0),
        },
        Goal {
            name: "quality",
            claim: "bits per byte at most 3% above the normal arm's",
            value: bits,
            relation: "at most",
            limit: 3.0,
            holds: bits.value <= 3.0,
        },
    ]
}
