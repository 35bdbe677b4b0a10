//! Quality, tokens and speed by the number of swaps. Every model of the frontier is made alike, from the base, and none is
//! tuned; the tuned adapted model stands beside them where there is one.

use std::path::Path;

use fused_model::kv::StaticKv;
use fused_model::{CausalLm, Model, ModelError, Options, Params, adapt, score};
use patchtok::{AdaptivocabBuilder, AdaptivocabForm, Corpus, NgramTokenizer, PatchTokenizer, VocabBuilder};
use schemars::JsonSchema;
use serde::Serialize;

use super::stages::{Models, Stage};
use crate::error::BenchError;
use crate::interrupt;
use crate::measure::replay::{Replay, Spelling};
use crate::measure::{quality, turns};
use crate::progress;
use crate::workload::{Pages, Text};

/// Texts decoded together when speed is measured.
const BATCH: usize = 8;
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

/// A tokenizer and a model with rows for it.
pub(super) struct Point {
    method: Method,
    swaps: usize,
    tokenizer: Tokenizer,
    params: Params,
    model: Model,
}

impl Point {
    fn new(method: Method, tokenizer: Tokenizer, params: Params) -> Result<Self, BenchError> {
        Ok(Self {
            method,
            swaps: tokenizer.new_tokens().len(),
            model: Model::new(&params, Options::default())?,
            tokenizer,
            params,
        })
    }

    /// Tokens that the model has to hold for a text.
    pub(super) fn needs(&self, text: &Text) -> usize {
        self.tokenizer.encode(&text.prompt).len() + self.tokenizer.encode(&text.reply).len()
    }
}

/// The base, each number of swaps, AdaptiVocab's released method with the most of them, and the tuned model.
pub(super) fn points(models: &Models, train: &Path, swaps: &[usize]) -> Result<Vec<Point>, BenchError> {
    let base = models.base();
    let corpus = Corpus::open(train)?;
    let mut numbers = swaps.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    let stage = progress::Stage::new("tokenizers and rows", numbers.len() + 1);
    let base_tokenizer = || base.tokenizer.clone();
    let mut points = vec![Point::new(
        Method::Base,
        Tokenizer::Patched(Box::new(base_tokenizer())),
        base.params().clone(),
    )?];
    let mut add = |method, tokenizer: Tokenizer| -> Result<usize, BenchError> {
        interrupt::check()?;
        let mut stream = vec![base.start()];
        for document in corpus.documents() {
            stream.extend(tokenizer.encode(&document?));
            stream.push(base.start());
        }
        let new = tokenizer.new_tokens();
        let mut params = adapt::weigh_rows(base.params(), new, adapt::PAPER_RATIO, adapt::Head::Untied)?;
        adapt::calibrate(&mut params, &stream, CALIBRATION_PLACES, &|| interrupt::check().is_ok())?;
        interrupt::check()?;
        points.push(Point::new(method, tokenizer, params)?);
        stage.step();
        Ok(points.last().map_or(0, |point| point.swaps))
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
    if let Some(tuned) = models.at(Stage::Adapted) {
        let tokenizer = Tokenizer::Patched(Box::new(tuned.subject.tokenizer.clone()));
        points.push(Point::new(Method::Tuned, tokenizer, tuned.subject.params().clone())?);
    }
    Ok(points)
}

/// Scores, counts and times every point.
pub(super) fn measure(
    points: &[Point],
    start: u32,
    pages: &Pages,
    documents: usize,
    texts: &[Text],
    rounds: usize,
    seed: u64,
) -> Result<FrontierData, BenchError> {
    let documents = quality::beginnings(pages, documents, seed);
    let stage = progress::Stage::new("bits per byte by swaps", points.len());
    let mut data = Vec::new();
    for point in points {
        let mut bits = Vec::new();
        for text in &documents {
            interrupt::check()?;
            bits.push(score(&point.params, start, &point.tokenizer.encode(text), text.len())?.bits);
        }
        let tokens = pages.texts.iter().map(|page| point.tokenizer.encode(page).len() as f64);
        data.push(PointData {
            method: point.method,
            swaps: point.swaps,
            tokens: tokens.collect(),
            bits,
            seconds: Vec::new(),
        });
        stage.step();
    }
    for (data, seconds) in data.iter_mut().zip(seconds(points, texts, rounds)?) {
        data.seconds = seconds;
    }
    Ok(FrontierData {
        page_bytes: pages.texts.iter().map(|page| page.len() as f64).collect(),
        document_bytes: documents.iter().map(|text| text.len() as f64).collect(),
        reply_bytes: texts.iter().map(|text| text.reply.len() as f64).sum(),
        points: data,
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
