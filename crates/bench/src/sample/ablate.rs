//! Invented measurements of an ablation.

use super::{BATCH, ROUNDS, environment, inputs, noisy, not_measured, serving};
use crate::ablate::assemble::{self as ablation, Guarded};
use crate::ablate::frontier::{FrontierData, Method, PointData};
use crate::ablate::guard::{Adopted, Said, Scored};
use crate::ablate::kv::{DepthData, FrameData};
use crate::ablate::report::{self, AblationInputs, AblationReport, StageInput};
use crate::ablate::stages::Stage;
use crate::arms::KvChoice;
use crate::stats::Rng;
use crate::workload::Text;

/// Invented scores of three of the four stages: nothing is known of the base after tuning.
fn scored(rng: &mut Rng) -> Scored {
    let bytes: Vec<f64> = (0..24).map(|_| 3_000.0 + rng.below(1_000) as f64).collect();
    let stages = [
        (Stage::Base, 1.58),
        (Stage::AdaptedUntuned, 2.10),
        (Stage::Adapted, 1.56),
    ];
    let bits = stages.map(|(stage, per_byte)| {
        let bits = bytes.iter().map(|bytes| noisy(rng, per_byte, 0.02) * bytes).collect();
        (stage, bits)
    });
    Scored {
        bits: bits.to_vec(),
        bytes,
    }
}

fn said(rng: &mut Rng) -> Vec<Said> {
    let mut parts = |share: f64| {
        (0..6)
            .map(|_| [noisy(rng, 64.0 * share, 0.2), 64.0])
            .collect::<Vec<_>>()
    };
    [Stage::Base, Stage::AdaptedUntuned, Stage::Adapted]
        .map(|stage| Said {
            stage,
            texts: vec!["goes on <b> like that".to_owned(); 6],
            adoption: (stage != Stage::Base).then(|| Adopted {
                tokens: parts(0.2),
                bytes: parts(0.35),
                in_page: parts(0.3),
            }),
        })
        .to_vec()
}

fn frontier(rng: &mut Rng) -> FrontierData {
    let page_bytes: Vec<f64> = (0..30).map(|_| 2_000.0 + rng.below(9_000) as f64).collect();
    let document_bytes: Vec<f64> = page_bytes.iter().map(|bytes| bytes.min(4_096.0)).collect();
    let mut point = |method, swaps, per_byte: f64, bits: f64| PointData {
        method,
        swaps,
        tokens: page_bytes
            .iter()
            .map(|bytes| noisy(rng, bytes * per_byte, 0.05))
            .collect(),
        bits: document_bytes
            .iter()
            .map(|bytes| noisy(rng, bytes * bits, 0.05))
            .collect(),
        seconds: (0..ROUNDS).map(|_| noisy(rng, 3.0 * per_byte, 0.03)).collect(),
    };
    let points = vec![
        point(Method::Base, 0, 0.31, 1.24),
        point(Method::SwapBpe, 500, 0.26, 1.33),
        point(Method::SwapBpe, 2_000, 0.22, 1.48),
        point(Method::Adaptivocab, 2_000, 0.24, 1.60),
        point(Method::Tuned, 2_000, 0.22, 1.23),
    ];
    FrontierData {
        page_bytes,
        document_bytes,
        reply_bytes: 8_000.0,
        points,
    }
}

/// An ablation report on invented measurements.
pub(crate) fn ablation_report() -> AblationReport {
    let mut rng = Rng::new(17);
    let origin = |stage| StageInput {
        stage,
        origin: (stage != Stage::BaseTuned).then(|| "demo/somewhere".to_owned()),
    };
    let text = Text {
        prompt: "A prompt that ends".to_owned(),
        reply: " here".to_owned(),
    };
    let guarded = Guarded {
        stages: Stage::ALL.map(origin).into(),
        domain: scored(&mut rng),
        outside: Some(scored(&mut rng)),
        said: said(&mut rng),
        texts: vec![text; 6],
    };
    AblationReport {
        schema: report::SCHEMA,
        environment: environment(),
        inputs: AblationInputs {
            mode: "demo",
            domain: inputs().corpus,
            outside: inputs().out_of_domain,
            train: Some("demo/corpus/manual-train.jsonl.gz".to_owned()),
            model_shape: inputs().model_shape,
            texts: 16,
            prompt_bytes: 8_000,
            reply_bytes: 8_000,
            batch: BATCH,
            rounds: ROUNDS,
            order: "interleaved",
        },
        quality: ablation::guard(guarded, 1),
        frontier: ablation::frontier(&frontier(&mut rng), 1),
        factorial: Some(ablation::factorial(&serving(&mut rng), 1)),
        frames: ablation::frames(
            &[12_u32, 14, 18].map(|shift| FrameData {
                frame: 1 << shift,
                physical: (9 << 20) + (24 << shift),
                used: 9 << 20,
                calls: (0..ROUNDS)
                    .map(|_| {
                        let mapped = 50e-6 * f64::from(shift) / 12.0;
                        let call = |i: usize| if i.is_multiple_of(10) { mapped } else { 2e-6 };
                        (0..500).map(|i| noisy(&mut rng, call(i), 0.1)).collect()
                    })
                    .collect(),
            }),
            1,
        ),
        depths: ablation::depths(
            &[KvChoice::Static, KvChoice::Virtual].map(|kv_store| DepthData {
                kv_store,
                last: 512,
                rounds: (0..ROUNDS)
                    .map(|_| {
                        (1..=15)
                            .map(|bin| noisy(&mut rng, 2e-3 + 1e-4 * f64::from(bin), 0.02))
                            .collect()
                    })
                    .collect(),
            }),
            1,
        ),
        not_measured: not_measured(),
    }
}
