//! KV stores from close by: what the size of a frame costs in memory, and what a step costs as sequences grow.

use std::time::Instant;

use fused_model::kv::{KvStore, PagedKv, StaticKv};
use fused_model::{CausalLm, Event, ModelError, Request, generate};

use crate::arms::KvChoice;
use crate::error::BenchError;
use crate::inputs::Subject;
use crate::interrupt;
use crate::measure::store::{FRAME_BYTES, virtual_store, whole_budget};
use crate::measure::turns;
use crate::progress;
use crate::workload::{Pages, Text};

/// Sizes of a frame that are tried, in bytes: from the system's page to a huge page, which is what a GPU maps.
const FRAMES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 2 << 20];
/// Sequences that grow together.
const GROWING: usize = 4;
/// Tokens that they begin with.
const FIRST_TOKENS: usize = 16;
/// Tokens that they grow to at most; a model may have a context of thousands.
const MOST_TOKENS: usize = 1024;
/// Steps whose times are taken together.
pub(crate) const BIN: usize = 32;

/// One size of frame: memory of a batch at its peak, and times of the calls that map memory.
#[derive(Debug, Clone)]
pub(crate) struct FrameData {
    pub(crate) frame: usize,
    pub(crate) physical: usize,
    pub(crate) used: usize,
    /// Seconds of each call that makes room for the next token of all sequences that grow together, by round.
    pub(crate) calls: Vec<Vec<f64>>,
}

/// Steps of sequences that grow together from a few tokens to the model's context, or [`MOST_TOKENS`].
#[derive(Debug, Clone)]
pub(crate) struct DepthData {
    pub(crate) kv_store: KvChoice,
    /// Tokens of each sequence in the end.
    pub(crate) last: usize,
    /// Mean seconds of a step in each [`BIN`] of steps, by round.
    pub(crate) rounds: Vec<Vec<f64>>,
}

/// One batch through virtual stores that differ in the size of their frames; then the stores' own calls without a model, by turns.
pub(super) fn by_frame(subject: &Subject, texts: &[Text], rounds: usize) -> Result<Vec<FrameData>, BenchError> {
    let geometry = subject.model.kv_geometry(texts.len());
    let encode = |text: &Text| {
        let [prompt, reply] = [&text.prompt, &text.reply].map(|part| subject.tokenizer.encode(part));
        Request::replay(prompt, reply)
    };
    let requests: Vec<Request> = texts.iter().map(encode).collect();
    let of_frame = |frame| {
        interrupt::check()?;
        let budget = whole_budget(&[subject], frame, texts.len());
        let mut store = virtual_store(&geometry, frame, budget).map_err(ModelError::from)?;
        let mut peak = FrameData {
            frame,
            physical: 0,
            used: 0,
            calls: Vec::new(),
        };
        let mut model = subject.model.clone();
        generate(&mut model, &mut store, &requests, requests.len(), &mut |event| {
            if let Event::Step { memory, .. } = event
                && (memory.physical_bytes, memory.used_bytes) > (peak.physical, peak.used)
            {
                (peak.physical, peak.used) = (memory.physical_bytes, memory.used_bytes);
            }
        })?;
        Ok(peak)
    };
    let mut data = FRAMES
        .into_iter()
        .map(of_frame)
        .collect::<Result<Vec<_>, BenchError>>()?;
    for round in 0..=rounds {
        for index in turns(round, FRAMES.len()) {
            interrupt::check()?;
            let seconds = calls(subject, FRAMES[index])?;
            if round > 0 {
                data[index].calls.push(seconds);
            }
        }
    }
    Ok(data)
}

/// Seconds of each call of a new store while sequences grow together, token by token, from their first to the model's context, or
/// [`MOST_TOKENS`].
fn calls(subject: &Subject, frame: usize) -> Result<Vec<f64>, BenchError> {
    let geometry = subject.model.kv_geometry(GROWING);
    let budget = whole_budget(&[subject], frame, GROWING);
    let mut store = virtual_store(&geometry, frame, budget).map_err(ModelError::from)?;
    let mut lengths = Vec::new();
    for _ in 0..GROWING {
        lengths.push((store.open().map_err(ModelError::from)?, 0));
    }
    let mut seconds = Vec::new();
    for tokens in 1..=deepest(subject) {
        lengths.iter_mut().for_each(|(_, length)| *length = tokens);
        let start = Instant::now();
        store.grow(&lengths).map_err(ModelError::from)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

fn deepest(subject: &Subject) -> usize {
    subject.model.context().min(MOST_TOKENS)
}

/// Times of steps by depth with every store, which take turns in an order that is reversed every other round, after one round
/// that is not counted.
pub(super) fn by_depth(subject: &Subject, pages: &Pages, rounds: usize) -> Result<Vec<DepthData>, BenchError> {
    let stores = [KvChoice::Static, KvChoice::Paged, KvChoice::Virtual];
    let stage = progress::Stage::new("steps by depth", (rounds + 1) * stores.len());
    let last = deepest(subject);
    // One long text, from which every sequence takes its own part.
    let ids: Vec<u32> = pages
        .texts
        .iter()
        .flat_map(|page| subject.tokenizer.encode(page))
        .collect();
    let part = |i: usize| -> Vec<u32> { ids.iter().copied().cycle().skip(i * last).take(last).collect() };
    let requests: Vec<Request> = (0..GROWING)
        .map(|i| {
            let mut ids = part(i);
            let reply = ids.split_off(FIRST_TOKENS.min(last / 2));
            Request::replay(ids, reply)
        })
        .collect();
    let mut data = stores.map(|kv_store| DepthData {
        kv_store,
        last,
        rounds: Vec::new(),
    });
    for round in 0..=rounds {
        for index in turns(round, stores.len()) {
            interrupt::check()?;
            let seconds = grow(subject, stores[index], &requests)?;
            if round > 0 {
                data[index].rounds.push(seconds);
            }
            stage.step();
        }
    }
    Ok(data.into())
}

fn grow(subject: &Subject, kv_store: KvChoice, requests: &[Request]) -> Result<Vec<f64>, BenchError> {
    let geometry = &subject.model.kv_geometry(requests.len());
    let budget = whole_budget(&[subject], FRAME_BYTES, requests.len());
    let store: Result<Box<dyn KvStore>, _> = match kv_store {
        KvChoice::Static => StaticKv::new(geometry).map(|kv| Box::new(kv) as _),
        KvChoice::Paged => PagedKv::new(geometry).map(|kv| Box::new(kv) as _),
        KvChoice::Virtual => virtual_store(geometry, FRAME_BYTES, budget).map(|kv| Box::new(kv) as _),
    };
    let mut store = store.map_err(ModelError::from)?;
    let mut model = subject.model.clone();
    let (mut last, mut steps) = (Instant::now(), Vec::new());
    generate(&mut model, store.as_mut(), requests, requests.len(), &mut |event| {
        if let Event::Step { .. } = event {
            let now = Instant::now();
            steps.push(now.duration_since(last).as_secs_f64());
            last = now;
        }
    })?;
    // The first step reads the prompts; then what does not fill a bin is left out, so that the last bin ends with the sequences.
    let steps = steps.get(1..).unwrap_or_default();
    let bins = steps[steps.len() % BIN..].chunks(BIN);
    Ok(bins.map(crate::stats::mean).collect())
}
