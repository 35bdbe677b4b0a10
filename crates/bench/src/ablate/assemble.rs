//! From measurements to the report: statistics only, no clock is read here.

use super::frontier::{FrontierData, PointData};
use super::guard::{Adopted, Said, Scored, beginning_of, end_of};
use super::kv::{BIN, DepthData, FrameData};
use super::report::{
    Adoption, DepthReport, Factorial, FrameReport, FrontierPoint, GuardClaim, GuardOn, QualityGuard, Sample,
    SampleText, StageInput, StageQuality,
};
use super::stages::Stage;
use crate::arms::{ARMS, KvChoice};
use crate::measure::serving::ServingData;
use crate::report::serving::Serving;
use crate::report::{Change, Figure, Series, Unit};
use crate::stats::{
    Interval, Verdict, Wanted, bootstrap, bootstrap_rounds, mean, median, percent_or_infinite, quantile,
};
use crate::workload::Text;

/// Prompts whose continuations are shown.
const SHOWN: usize = 3;
/// Bytes of a prompt's end, and of what comes after it, that are shown.
const SHOWN_BYTES: usize = 240;

/// Values of independent observations, which are resampled together.
struct Paired {
    n: usize,
    seed: u64,
}

impl Paired {
    fn all(&self) -> Vec<usize> {
        (0..self.n).collect()
    }

    fn figure(&self, unit: Unit, statistic: impl Fn(&[usize]) -> f64) -> Figure {
        let interval = bootstrap(self.n, self.seed, &statistic);
        Figure::measured(statistic(&self.all()), unit).with_interval(interval, self.n)
    }

    /// The ratio of two sums.
    fn ratio(&self, unit: Unit, scale: f64, of: &[f64], by: &[f64]) -> Figure {
        self.figure(unit, |drawn| scale * sum(of, drawn) / sum(by, drawn))
    }

    /// The change of a sum, of which less is better.
    fn change(&self, before: &[f64], after: &[f64]) -> Change {
        let statistic = |drawn: &[usize]| percent_or_infinite(sum(before, drawn), sum(after, drawn));
        let interval = bootstrap(self.n, self.seed, statistic);
        Change::percent(statistic(&self.all()), interval, self.n, Wanted::Lower)
    }
}

fn sum(values: &[f64], of: &[usize]) -> f64 {
    of.iter().map(|&i| values[i]).sum()
}

/// What the guard measured.
pub(crate) struct Guarded {
    pub(crate) stages: Vec<StageInput>,
    pub(crate) domain: Scored,
    pub(crate) outside: Option<Scored>,
    pub(crate) said: Vec<Said>,
    pub(crate) texts: Vec<Text>,
}

/// The quality guard of the report.
pub(crate) fn guard(data: Guarded, seed: u64) -> QualityGuard {
    let domain = on(&data.domain, seed);
    let outside = data.outside.as_ref().map(|scored| on(scored, seed));
    let mut claims = vec![claim(
        "bits per byte of the domain, adapted and tuned: not shown to be above base and tuned alike",
        &domain,
    )];
    claims.extend(outside.as_ref().map(|outside| {
        claim(
            "bits per byte outside the domain, adapted and tuned: not shown to be above base and tuned alike",
            outside,
        )
    }));
    let adoption = data
        .said
        .iter()
        .filter_map(|said| Some(adoption(said.stage, said.adoption.as_ref()?, seed)));
    let samples = data.texts.iter().enumerate().take(SHOWN).map(|(i, text)| Sample {
        prompt: end_of(&text.prompt, SHOWN_BYTES).to_owned(),
        page: beginning_of(&text.reply, SHOWN_BYTES).to_owned(),
        models: data
            .said
            .iter()
            .map(|said| SampleText {
                stage: said.stage,
                text: beginning_of(&said.texts[i], SHOWN_BYTES).to_owned(),
            })
            .collect(),
    });
    QualityGuard {
        adoption: adoption.collect(),
        samples: samples.collect(),
        stages: data.stages,
        domain,
        outside,
        claims,
    }
}

fn on(scored: &Scored, seed: u64) -> GuardOn {
    let documents = Paired {
        n: scored.bytes.len(),
        seed,
    };
    // Nothing is compared with itself.
    let against = |control: Stage, stage: Stage| {
        let pair = scored.at(control).zip(scored.at(stage));
        pair.filter(|_| control != stage)
            .map(|(before, after)| documents.change(before, after))
    };
    let stages = Stage::ALL.map(|stage| StageQuality {
        stage,
        bits_per_byte: scored
            .at(stage)
            .map(|bits| documents.ratio(Unit::BitsPerByte, 1.0, bits, &scored.bytes)),
        vs_base: against(Stage::Base, stage),
        vs_base_tuned: against(Stage::BaseTuned, stage),
    });
    GuardOn {
        documents: documents.n,
        bytes: scored.bytes.iter().sum::<f64>() as usize,
        stages: stages.into(),
    }
}

fn claim(claim: &'static str, on: &GuardOn) -> GuardClaim {
    let adapted = on.stages.iter().find(|quality| quality.stage == Stage::Adapted);
    let change = adapted.and_then(|quality| quality.vs_base_tuned);
    GuardClaim {
        claim,
        change,
        holds: change.and_then(|change| match change.verdict {
            Verdict::Better | Verdict::NoDifferenceShown => Some(true),
            Verdict::Worse => Some(false),
            Verdict::NotJudged => None,
        }),
    }
}

fn adoption(stage: Stage, adopted: &Adopted, seed: u64) -> Adoption {
    let share = |parts: &[[f64; 2]]| {
        let prompts = Paired { n: parts.len(), seed };
        let [new, all] = [0, 1].map(|side| parts.iter().map(|part| part[side]).collect::<Vec<f64>>());
        prompts.ratio(Unit::Percent, 100.0, &new, &all)
    };
    Adoption {
        stage,
        tokens: share(&adopted.tokens),
        bytes: share(&adopted.bytes),
        tokens_in_page: share(&adopted.in_page),
    }
}

/// The frontier of the report.
pub(crate) fn frontier(data: &FrontierData, seed: u64) -> Vec<FrontierPoint> {
    let base = &data.points[0];
    let pages = Paired {
        n: data.page_bytes.len(),
        seed,
    };
    let documents = Paired {
        n: data.document_bytes.len(),
        seed,
    };
    let point = |point: &PointData| {
        let rounds = point.seconds.len();
        let over_rounds = |statistic: &dyn Fn(&[usize]) -> f64| -> (f64, Option<Interval>) {
            let all: Vec<usize> = (0..rounds).collect();
            (statistic(&all), bootstrap_rounds(rounds, seed, statistic))
        };
        let (bytes_per_second, speed_interval) = over_rounds(&|drawn| {
            data.reply_bytes / median(&drawn.iter().map(|&round| point.seconds[round]).collect::<Vec<_>>())
        });
        // The same bytes, so that seconds compare as speeds do, the other way round.
        let (speed, change_interval) = over_rounds(&|drawn| {
            let ratios = drawn.iter().map(|&round| base.seconds[round] / point.seconds[round]);
            100.0 * (median(&ratios.collect::<Vec<_>>()) - 1.0)
        });
        FrontierPoint {
            method: point.method,
            swaps: point.swaps,
            tokens_per_byte: pages.ratio(Unit::TokensPerByte, 1.0, &point.tokens, &data.page_bytes),
            tokens: pages.change(&base.tokens, &point.tokens),
            bits_per_byte: documents.ratio(Unit::BitsPerByte, 1.0, &point.bits, &data.document_bytes),
            quality: documents.change(&base.bits, &point.bits),
            reply_bytes_per_second: Figure::measured(bytes_per_second, Unit::BytesPerSecond)
                .with_interval(speed_interval, rounds),
            speed: Change::percent(speed, change_interval, rounds, Wanted::Higher),
        }
    };
    data.points.iter().map(point).collect()
}

/// The 2×2 of the report, with the paged store beside it.
pub(crate) fn factorial(data: &ServingData, seed: u64) -> Factorial {
    let serving = Serving { data, seed };
    Factorial {
        arms: ARMS.into_iter().map(|arm| serving.arm(arm)).collect(),
        virtual_store: serving.interaction(KvChoice::Virtual),
        paged_store: serving.interaction(KvChoice::Paged),
    }
}

/// Quantiles of the times of calls that are given, in per cent.
const QUANTILES: [f64; 24] = [
    0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0, 65.0, 70.0, 75.0, 80.0, 85.0, 90.0,
    95.0, 98.0, 99.0, 99.5, 99.8,
];

/// Memory and calls by the size of frames.
pub(crate) fn frames(data: &[FrameData], seed: u64) -> Vec<FrameReport> {
    let bytes = |value: usize| Figure::measured(value as f64, Unit::Bytes);
    let report = |of: &FrameData| {
        let by_round: Vec<f64> = of.calls.iter().map(|calls| 1e3 * mean(calls)).collect();
        let average = |drawn: &[usize]| mean(&drawn.iter().map(|&round| by_round[round]).collect::<Vec<_>>());
        let interval = bootstrap_rounds(by_round.len(), seed, average);
        let calls: Vec<f64> = of.calls.iter().flatten().map(|seconds| 1e3 * seconds).collect();
        let times = QUANTILES.map(|percent| quantile(&calls, percent / 100.0));
        FrameReport {
            frame: Figure::computed(of.frame as f64, Unit::Bytes),
            physical: bytes(of.physical),
            used: bytes(of.used),
            waste_share: Figure::measured(100.0 * (1.0 - of.used as f64 / of.physical as f64), Unit::Percent),
            call: Figure::measured(mean(&by_round), Unit::Milliseconds).with_interval(interval, by_round.len()),
            call_quantiles: QUANTILES.to_vec(),
            call_times: Series::measured(times.to_vec(), Unit::Milliseconds),
        }
    };
    data.iter().map(report).collect()
}

/// Times of steps; the last bin of steps ends with the sequences.
pub(crate) fn depths(data: &[DepthData], seed: u64) -> Vec<DepthReport> {
    let report = |of: &DepthData| {
        let (rounds, bins) = (of.rounds.len(), of.rounds.iter().map(Vec::len).min().unwrap_or(0));
        let step = |bin: usize| {
            let middle = |drawn: &[usize]| median(&drawn.iter().map(|&r| 1e3 * of.rounds[r][bin]).collect::<Vec<_>>());
            let value = middle(&(0..rounds).collect::<Vec<_>>());
            Figure::measured(value, Unit::Milliseconds).with_interval(bootstrap_rounds(rounds, seed, middle), rounds)
        };
        DepthReport {
            kv_store: of.kv_store,
            depth: (0..bins).map(|bin| of.last - BIN * (bins - bin) + BIN / 2).collect(),
            step: (0..bins).map(step).collect(),
        }
    };
    data.iter().map(report).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn known_changes_of_quality_are_found_and_what_is_missing_is_absent() {
        let quality = sample::ablation_report().quality;
        let [base, base_tuned, untuned, adapted] = &quality.domain.stages[..] else {
            panic!("four stages")
        };
        assert!(base_tuned.bits_per_byte.is_none() && adapted.vs_base_tuned.is_none());
        let change = untuned.vs_base.expect("both were scored");
        // From 1.58 to 2.10.
        assert!(
            (change.figure.value - 32.9).abs() < 2.0 && change.verdict == Verdict::Worse,
            "{change:?}"
        );
        assert!(base.vs_base.is_none(), "nothing is compared with itself");
        assert!(
            quality.claims.iter().all(|claim| claim.holds.is_none()),
            "nothing to compare with"
        );
        let adoption = &quality.adoption[0];
        assert!((adoption.tokens.value - 20.0).abs() < 3.0 && adoption.tokens.ci95.is_some());
    }

    #[test]
    fn the_guard_holds_unless_the_interval_lies_above() {
        let scored = |adapted: f64| Scored {
            bytes: vec![100.0; 8],
            bits: vec![
                (Stage::BaseTuned, (0..8).map(|i| 150.0 + f64::from(i)).collect()),
                (Stage::Adapted, (0..8).map(|i| adapted + f64::from(i * i % 5)).collect()),
            ],
        };
        for (adapted, holds) in [(140.0, true), (151.5, true), (190.0, false)] {
            let on = on(&scored(adapted), 1);
            assert_eq!(claim("", &on).holds, Some(holds), "{adapted}");
            assert!(on.stages[1].vs_base_tuned.is_none(), "nothing is compared with itself");
        }
        let mut single = scored(140.0);
        single.bytes.truncate(1);
        let unjudged = claim("", &on(&single, 1));
        assert!(unjudged.change.is_some(), "one document has a change and no interval");
        assert_eq!(unjudged.holds, None);
    }

    #[test]
    fn the_frontier_compares_with_no_swaps() {
        let points = sample::ablation_report().frontier;
        let base = &points[0];
        assert_eq!((base.tokens.figure.value, base.speed.figure.value), (0.0, 0.0));
        let most = &points[2];
        assert!((most.tokens.figure.value + 29.0).abs() < 2.0, "{:?}", most.tokens);
        assert!(most.speed.verdict == Verdict::Better && most.quality.verdict == Verdict::Worse);
    }

    #[test]
    fn both_stores_have_their_interaction() {
        let factorial = sample::ablation_report().factorial.expect("two models");
        for interaction in [&factorial.virtual_store, &factorial.paged_store] {
            let effects = &interaction.kv_memory;
            let part = |change: &Change| 1.0 + change.figure.value / 100.0;
            let product = part(&effects.tokenizer) * part(&effects.kv_store) * part(&effects.interaction);
            assert!((product - part(&effects.both)).abs() < 1e-9, "{effects:?}");
        }
        let [paged, virtual_] =
            [&factorial.paged_store, &factorial.virtual_store].map(|of| of.kv_memory.both.figure.value);
        assert!(virtual_ < paged, "{virtual_} {paged}");
    }

    #[test]
    fn frames_and_depths_are_as_measured() {
        let report = sample::ablation_report();
        let shares: Vec<f64> = report.frames.iter().map(|of| of.waste_share.value).collect();
        assert!(shares.is_sorted() && (shares[2] - 40.0).abs() < 1e-9, "{shares:?}");
        // One call in ten maps memory, which takes 50 µs with the smallest frames, and 2 µs where nothing is to be done.
        let of = &report.frames[0];
        assert!(
            (of.call.value - 6.8e-3).abs() < 3e-4 && of.call.ci95.is_some(),
            "{:?}",
            of.call
        );
        let at = |percent| {
            let place = of.call_quantiles.iter().position(|&quantile| quantile == percent);
            place.map_or(f64::NAN, |i| of.call_times.values[i])
        };
        assert!(at(50.0) < 3e-3 && at(99.0) > 40e-3, "{of:?}");
        let of = &report.depths[0];
        assert_eq!((of.depth[0], of.depth[14], of.step.len()), (48, 496, 15));
        assert!((of.step[14].value - 3.5).abs() < 0.1 && of.step[14].ci95.is_some());
    }
}
