//! Quality, tokens and speed by the number of swaps. Every model of the frontier is made alike, from the base, and none is
//! tuned; the tuned adapted model stands beside them where there is one.

use std::path::Path;

use fused_model::kv::StaticKv;
use fused_model::{CausalLm, Model, ModelError, Options, adapt, score};
use patchtok::{AdaptivocabBuilder, AdaptivocabForm, Corpus, NgramTokenizer, PatchTokenizer, VocabBuilder};
use schemars::JsonSchema;
use serde::Serialize;

use super::BATCH;
use super::guard::Scored;
use super::stages::{self, Models, Stage};
use crate::error::BenchError;
use crate::interrupt;
use crate::measure::replay::{Replay, Spelling};
use crate::measure::turns;
use crate::progress;
use crate::workload::{Pages, Text};

/// Places of the training text that output rows are calibrated on.
const CALIBRATION_PLACES: usize = 1 << 13;

/// How a tokenizer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The base tokenizer.
    Base,
    /// Leaves of the base removed, its merges continued; rows exponential and calibrated.
    SwapBpe,
    /// AdaptiVocab as its authors released it; rows exponential and calibrated.
    Adaptivocab,
    /// The adapted model, tuned.
    Tuned,
}

impl Method {
    /// Its name in prose.
    pub fn words(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::SwapBpe => "swap-BPE",
            Self::Adaptivocab => "AdaptiVocab as released",
            Self::Tuned => "swap-BPE, tuned",
        }
    }
}

/// What was measured.
#[derive(Debug, Clone)]
pub(crate) struct FrontierData {
    /// Bytes of each held-out page.
    pub(crate) page_bytes: Vec<f64>,
    /// Bytes of each scored document.
    pub(crate) document_bytes: Vec<f64>,
    /// Bytes of all replies.
    pub(crate) reply_bytes: f64,
    /// The points; the first has no swaps.
    pub(crate) points: Vec<PointData>,
}

/// One tokenizer and its model.
#[derive(Debug, Clone)]
pub(crate) struct PointData {
    pub(crate) method: Method,
    pub(crate) swaps: usize,
    /// Tokens of each page.
    pub(crate) tokens: Vec<f64>,
    /// Bits of each document.
    pub(crate) bits: Vec<f64>,
    /// Seconds for all texts, by round.
    pub(crate) seconds: Vec<f64>,
}

/// A tokenizer of either kind.
enum Tokenizer {
    Patched(Box<PatchTokenizer>),
    Ngrams(Box<NgramTokenizer>),
}

impl Spelling for Tokenizer {
    fn encode(&self, text: &str) -> Vec<u32> {
        match self {
            Self::Patched(tokenizer) => tokenizer.encode(text),
            Self::Ngrams(tokenizer) => tokenizer.encode(text),
        }
    }

    fn decode_bytes(&self, ids: &[u32]) -> patchtok::Result<Vec<u8>> {
        match self {
            Self::Patched(tokenizer) => tokenizer.decode_bytes(ids),
            Self::Ngrams(tokenizer) => tokenizer.decode_bytes(ids),
        }
    }
}

impl Tokenizer {
    /// The new tokens, and what each stands for.
    fn new_tokens(&self) -> Vec<(u32, &[u32])> {
        match self {
            Self::Patched(tokenizer) => {
                let new = tokenizer.patch_map().into_iter().flat_map(|map| map.new_tokens());
                new.map(|token| (token.id, token.base_ids.as_slice())).collect()
            }
            Self::Ngrams(tokenizer) => tokenizer.ngrams().collect(),
        }
    }
}

/// A tokenizer, a model with rows for it, and the bits that it needs for each document.
pub(super) struct Point {
    method: Method,
    swaps: usize,
    tokenizer: Tokenizer,
    model: Model,
    bits: Vec<f64>,
}

impl Point {
    /// A model of the quality guard, which has scored it.
    fn scored(method: Method, of: &stages::Model, domain: &Scored) -> Self {
        let tokenizer = Tokenizer::Patched(Box::new(of.subject.tokenizer.clone()));
        Self {
            method,
            swaps: tokenizer.new_tokens().len(),
            model: of.subject.model.clone(),
            tokenizer,
            bits: domain.at(of.stage).unwrap_or_default().to_vec(),
        }
    }

    /// Tokens that the model has to hold for a text.
    pub(super) fn needs(&self, text: &Text) -> usize {
        self.tokenizer.encode(&text.prompt).len() + self.tokenizer.encode(&text.reply).len()
    }
}

/// The base, each number of swaps, AdaptiVocab's released method with the most of them, and the tuned model. `domain` are the scores
/// of the models on the `documents`; the others are scored here.
pub(super) fn points(
    models: &Models,
    train: &Path,
    swaps: &[usize],
    documents: &[&str],
    domain: &Scored,
) -> Result<Vec<Point>, BenchError> {
    let base = models.base();
    let corpus = Corpus::open(train)?;
    let mut numbers = swaps.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    let stage = progress::Stage::new("tokenizers, rows, bits per byte", numbers.len() + 1);
    let base_tokenizer = || base.tokenizer.clone();
    let mut points = vec![Point::scored(Method::Base, &models.0[0], domain)];
    let mut add = |method, tokenizer: Tokenizer| -> Result<usize, BenchError> {
        interrupt::check()?;
        let mut stream = vec![base.start()];
        for document in corpus.documents() {
            stream.extend(tokenizer.encode(&document?));
            stream.push(base.start());
        }
        let new = tokenizer.new_tokens();
        let made = new.len();
        let mut params = adapt::weigh_rows(base.params(), new, adapt::PAPER_RATIO, adapt::Head::Untied)?;
        adapt::calibrate(&mut params, &stream, CALIBRATION_PLACES, &|| interrupt::check().is_ok())?;
        let mut bits = Vec::new();
        for text in documents {
            interrupt::check()?;
            bits.push(score(&params, base.start(), &tokenizer.encode(text), text.len())?.bits);
        }
        points.push(Point {
            method,
            swaps: made,
            model: Model::new(&params, Options::default())?,
            tokenizer,
            bits,
        });
        stage.step();
        Ok(made)
    };
    let mut most = 0;
    for &swaps in &numbers {
        let built = VocabBuilder::new(base_tokenizer()).swaps(swaps).build(&corpus)?;
        let made = add(Method::SwapBpe, Tokenizer::Patched(Box::new(built.tokenizer)))?;
        most = most.max(made);
        if made < swaps {
            // There is nothing more to gain; larger numbers would give the same.
            break;
        }
    }
    if most > 0 {
        let builder = AdaptivocabBuilder::new(base_tokenizer(), AdaptivocabForm::Released).swaps(most);
        add(
            Method::Adaptivocab,
            Tokenizer::Ngrams(Box::new(builder.build(&corpus)?)),
        )?;
    }
    let tuned = models.at(Stage::Adapted);
    points.extend(tuned.map(|tuned| Point::scored(Method::Tuned, tuned, domain)));
    Ok(points)
}

/// Counts the tokens of every point and times it.
pub(super) fn measure(
    points: &[Point],
    pages: &Pages,
    document_bytes: &[f64],
    texts: &[Text],
    rounds: usize,
) -> Result<FrontierData, BenchError> {
    let data = points
        .iter()
        .zip(seconds(points, texts, rounds)?)
        .map(|(point, seconds)| {
            let tokens = pages.texts.iter().map(|page| point.tokenizer.encode(page).len() as f64);
            PointData {
                method: point.method,
                swaps: point.swaps,
                tokens: tokens.collect(),
                bits: point.bits.clone(),
                seconds,
            }
        });
    Ok(FrontierData {
        points: data.collect(),
        page_bytes: pages.texts.iter().map(|page| page.len() as f64).collect(),
        document_bytes: document_bytes.to_vec(),
        reply_bytes: texts.iter().map(|text| text.reply.len() as f64).sum(),
    })
}

/// Seconds of each point by round, for prompts in as text and replies out as text; points take turns in an order that is
/// reversed every other round, after one round that is not counted.
fn seconds(points: &[Point], texts: &[Text], rounds: usize) -> Result<Vec<Vec<f64>>, BenchError> {
    let stage = progress::Stage::new("speed by swaps", (rounds + 1) * points.len());
    let mut seconds = vec![Vec::new(); points.len()];
    for round in 0..=rounds {
        for index in turns(round, points.len()) {
            interrupt::check()?;
            let time = replay(&points[index], texts)?;
            if round > 0 {
                seconds[index].push(time);
            }
            stage.step();
        }
    }
    Ok(seconds)
}

fn replay(point: &Point, texts: &[Text]) -> Result<f64, BenchError> {
    let geometry = point.model.kv_geometry(BATCH.min(texts.len()));
    let mut store = StaticKv::new(&geometry).map_err(ModelError::from)?;
    let replay = Replay {
        who: &format!("{} with {} swaps", point.method.words(), point.swaps),
        model: &point.model,
        tokenizer: &point.tokenizer,
        texts,
        batch: geometry.max_sequences,
    };
    Ok(replay.run(&mut store, &mut |_, _| {})?.seconds)
}
