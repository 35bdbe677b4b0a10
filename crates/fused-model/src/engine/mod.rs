//! Serving many requests with one model and one KV store: continuous batching.
//!
//! Each [`Engine::step`] is one pass through the model. It carries the next token of every sample that is past its prompt
//! (Orca, Yu et al. 2022) and at most [`EngineConfig::prompt_chunk`] tokens of prompts beside them (Sarathi-Serve, Agrawal
//! et al. 2024): a long prompt delays the others by one chunk at a time, and the others do not keep it from being read.
//!
//! When the store refuses a pass, the engine first frees kept prefixes, then puts the youngest sample back into the queue.
//! Its rows are computed again later, or, with [`EngineConfig::swap_bytes`], copied out and back; its tokens and its random
//! numbers are kept, so it goes on as if nothing had been.
//! With a model that gives the same logits for a row whatever else is in the pass, the output of a request depends
//! on the request alone: not on its neighbours, the store, the chunks or the memory.
//!
//! Sequences that begin alike share rows through [`KvStore::fork`]: the samples of one request, and with
//! [`EngineConfig::kept_prefixes`] a prompt and what runs or has run before it.

use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use patchtok::PatchTokenizer;

mod beam;
mod prefix;
mod request;
mod sampler;
mod scheduler;
mod sequence;
mod text;

pub use beam::{Beams, Hypothesis, beam_search};
pub use request::{Event, Finish, Logprobs, MAX_LOGPROBS, Reply, Request, RequestId, Sampling, Usage};

use crate::error::ModelError;
use crate::kv::{KvMemory, KvStore};
use crate::model::{CausalLm, Chunk, Logits};
use sampler::Sampler;
use scheduler::{Scheduler, lacks_memory};
use sequence::Sequence;

/// Limits of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most samples in a pass.
    pub max_batch: usize,
    /// Most prompt tokens in a pass, on top of one token for each sample that is past its prompt.
    pub prompt_chunk: usize,
    /// Most requests that wait; [`Engine::submit`] refuses more.
    pub max_waiting: usize,
    /// Finished sequences whose rows stay for requests that begin alike; each takes a place in the store, beside
    /// `max_batch`. 0 shares nothing between requests.
    pub kept_prefixes: usize,
    /// Bytes of ordinary memory, beside the store's, for rows of samples that were put back for lack of memory in the store.
    /// Rows that find no room here are computed again.
    pub swap_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch: 16,
            prompt_chunk: 64,
            max_waiting: 256,
            kept_prefixes: 16,
            swap_bytes: 0,
        }
    }
}

/// Counts since the engine was made, and what is in it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Samples in the store.
    pub running: usize,
    /// Samples in the queue.
    pub waiting: usize,
    /// Finished sequences kept as prefixes.
    pub kept_prefixes: usize,
    /// Requests taken on.
    pub requests: u64,
    /// Passes through the model.
    pub steps: u64,
    /// Tokens computed: prompts, outputs, and again after a preemption.
    pub computed_tokens: u64,
    /// Tokens whose rows another sequence had.
    pub shared_tokens: u64,
    /// Tokens of outputs.
    pub output_tokens: u64,
    /// Samples put back into the queue for lack of memory.
    pub preemptions: u64,
    /// Those of them whose rows were kept in ordinary memory; see [`EngineConfig::swap_bytes`].
    pub swaps: u64,
}

/// Runs requests on a model over a KV store. It is a state machine without threads or clock: the caller submits, cancels
/// and steps. Dropping it frees everything it has in the store.
///
/// ```
/// use std::time::Instant;
/// use fused_model::engine::{Engine, EngineConfig, Event, Request};
/// use fused_model::kv::{KvStore, VirtualKv};
/// use fused_model::{CausalLm, Gpt2, Gpt2Config, Options, Params};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut model = Gpt2::new(&Params::random(Gpt2Config::new(64, 32, 16, 2, 2), 1), Options::default())?;
/// let mut kv = VirtualKv::new(&model.kv_geometry(4), 64 << 10, 16 << 20)?;
/// let mut engine = Engine::new(&mut model, &mut kv, EngineConfig { max_batch: 4, ..EngineConfig::default() })?;
///
/// let first = engine.submit(Request::greedy(vec![3, 14, 15], 8))?;
/// let second = engine.submit(Request { samples: 2, ..Request::greedy(vec![9, 2, 6], 4) })?;
/// let mut tokens = 0;
/// while !engine.is_idle() {
///     engine.step(Instant::now(), &mut |event| match event {
///         Event::Token { request, .. } => tokens += usize::from(request == first || request == second),
///         _ => {}
///     });
/// }
/// assert_eq!(tokens, 8 + 2 * 4);
/// drop(engine);
/// assert_eq!(kv.memory().used_bytes, 0);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Engine<'a> {
    model: &'a mut dyn CausalLm,
    tokenizer: Option<&'a PatchTokenizer>,
    scheduler: Scheduler<'a>,
    sampler: Sampler,
    max_waiting: usize,
    context: usize,
    seeds: RandomState,
    stats: EngineStats,
    /// Empty; memory for the chunks of a pass.
    chunks: Vec<Chunk<'static>>,
    /// (live sample, row of logits) of the samples that get a token.
    picks: Vec<(usize, usize)>,
}

impl<'a> Engine<'a> {
    /// An engine with nothing to do, for requests in tokens.
    ///
    /// # Errors
    /// [`ModelError::Request`] for a limit of 0; [`ModelError::Mismatch`] for a store of another shape than the model's.
    pub fn new(model: &'a mut dyn CausalLm, kv: &'a mut dyn KvStore, config: EngineConfig) -> Result<Self, ModelError> {
        if config.max_batch == 0 || config.prompt_chunk == 0 {
            return Err(ModelError::Request(format!(
                "max_batch is {} and prompt_chunk is {}; each must be at least 1",
                config.max_batch, config.prompt_chunk
            )));
        }
        let (shape, want) = (*kv.geometry(), model.kv_geometry(1));
        if shape.layers != want.layers || shape.row_floats != want.row_floats {
            return Err(ModelError::Mismatch(format!(
                "the KV store has {} layers of {} floats a row; the model needs {} of {}",
                shape.layers, shape.row_floats, want.layers, want.row_floats
            )));
        }
        Ok(Self {
            context: model.context().min(shape.max_tokens),
            model,
            tokenizer: None,
            scheduler: Scheduler::new(kv, &config),
            sampler: Sampler::default(),
            max_waiting: config.max_waiting,
            seeds: RandomState::new(),
            stats: EngineStats::default(),
            chunks: Vec::new(),
            picks: Vec::new(),
        })
    }

    /// Gives events text, and requests stop strings.
    ///
    /// # Errors
    /// [`ModelError::Mismatch`] when the tokenizer has ids that the model lacks.
    pub fn with_tokenizer(mut self, tokenizer: &'a PatchTokenizer) -> Result<Self, ModelError> {
        let (ids, model) = (tokenizer.vocab_size(), self.model.vocab_size());
        if ids > model {
            return Err(ModelError::Mismatch(format!(
                "the tokenizer has {ids} ids and the model {model}: they do not belong together"
            )));
        }
        self.tokenizer = Some(tokenizer);
        Ok(self)
    }

    /// Takes a request on; it runs from the next step that has room.
    ///
    /// # Errors
    /// [`ModelError::Request`] when it cannot be served, whatever the load; [`ModelError::Busy`] when too many wait.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, ModelError> {
        request.check(self.model.vocab_size(), self.context, self.tokenizer.is_some())?;
        let waiting = self.scheduler.waiting.len();
        if waiting >= self.max_waiting {
            return Err(ModelError::Busy {
                waiting,
                limit: self.max_waiting,
            });
        }
        let id = RequestId(self.stats.requests);
        self.stats.requests += 1;
        let seed = match &request.reply {
            Reply::Sampled(Sampling { seed: Some(seed), .. }) => *seed,
            _ => self.seeds.hash_one(id.0),
        };
        self.scheduler.enqueue(Sequence::new(id, Arc::new(request), seed));
        Ok(id)
    }

    /// Ends a request, wherever it is, without a further event; its memory is free at once. `false` when it had ended.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        self.scheduler.drop_where(|sequence| sequence.id == id)
    }

    /// Whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.scheduler.live.is_empty() && self.scheduler.waiting.is_empty()
    }

    /// One pass through the model, after samples past their deadline at `now` have ended. Does nothing when idle.
    ///
    /// `observe` hears what happens, in order. A sample that cannot go on ends with [`Finish::Failed`]; the engine goes on
    /// with the others. Allocates nothing in steady state, except what the model and `observe` do.
    pub fn step(&mut self, now: Instant, observe: &mut dyn FnMut(Event<'_>)) {
        self.expire(now, observe);
        self.admit(observe);
        let tokens = self.pass(observe);
        if tokens > 0 {
            self.stats.steps += 1;
            self.stats.computed_tokens += tokens as u64;
        }
        self.report_ended(observe);
    }

    /// What is in the engine and what it has done. O(1).
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            running: self.scheduler.live.len(),
            waiting: self.scheduler.waiting.len(),
            kept_prefixes: self.scheduler.prefixes.len(),
            preemptions: self.scheduler.preemptions,
            swaps: self.scheduler.swaps,
            ..self.stats
        }
    }

    /// Memory of the store now. Costs one system call.
    pub fn memory(&self) -> KvMemory {
        self.scheduler.kv.memory()
    }

    /// Frees the rows of finished sequences that were kept for others.
    pub fn clear_prefixes(&mut self) {
        self.scheduler.clear_prefixes();
    }

    fn expire(&mut self, now: Instant, observe: &mut dyn FnMut(Event<'_>)) {
        let late = |sequence: &Sequence| sequence.request.deadline.is_some_and(|deadline| deadline <= now);
        for sequence in self.scheduler.end_where(&Finish::Timeout, late) {
            finish(sequence, Finish::Timeout, observe);
        }
        self.report_ended(observe);
    }

    fn admit(&mut self, observe: &mut dyn FnMut(Event<'_>)) {
        loop {
            match self.scheduler.admit() {
                Ok(shared) => {
                    self.stats.shared_tokens += shared as u64;
                    return;
                }
                Err(refused) => {
                    let (sequence, error) = *refused;
                    finish(sequence, Finish::Failed(Arc::new(error.into())), observe);
                }
            }
        }
    }

    /// Runs what the scheduler plans, with less and less in the store until it fits, and hands out the tokens. Returns the
    /// tokens read.
    fn pass(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> usize {
        let Self {
            model,
            scheduler,
            sampler,
            ..
        } = self;
        let width = model.vocab_size();
        let logits = loop {
            scheduler.plan();
            if scheduler.pass.is_empty() {
                return 0;
            }
            let mut chunks = recycle(mem::take(&mut self.chunks));
            chunks.extend(
                scheduler
                    .pass
                    .iter()
                    .map(|part| scheduler.live[part.live].chunk(part.tokens)),
            );
            let result = model.forward(&mut *scheduler.kv, &chunks, Logits::Last);
            self.chunks = recycle(chunks);
            match result {
                Ok(logits) => break logits,
                Err(error) if lacks_memory(&error) && scheduler.make_room() => {}
                Err(error) => {
                    let reason = Finish::Failed(Arc::new(error));
                    for part in &scheduler.pass {
                        scheduler.live[part.live].end = Some(reason.clone());
                    }
                    return 0;
                }
            }
        };
        let tokens = scheduler.pass.iter().map(|part| part.tokens).sum();
        observe(Event::Step {
            sequences: scheduler.pass.len(),
            tokens,
            memory: scheduler.kv.memory(),
        });
        self.picks.clear();
        for row in 0..scheduler.pass.len() {
            let part = scheduler.pass[row];
            scheduler.live[part.live].rows += part.tokens;
            if scheduler.live[part.live].unread() == 0 {
                self.picks.push((part.live, row));
                let first_new = scheduler.live.len();
                scheduler.split(part.live);
                self.picks
                    .extend((first_new..scheduler.live.len()).map(|live| (live, row)));
            }
        }
        for &(live, row) in &self.picks {
            let live = &mut scheduler.live[live];
            let logits = &logits[row * width..][..width];
            let before = live.sequence.tokens.len();
            live.end = live.sequence.next(logits, sampler, self.tokenizer, observe);
            self.stats.output_tokens += (live.sequence.tokens.len() - before) as u64;
        }
        tokens
    }

    fn report_ended(&mut self, observe: &mut dyn FnMut(Event<'_>)) {
        while let Some((sequence, reason)) = self.scheduler.take_ended() {
            finish(sequence, reason, observe);
        }
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        self.scheduler.drop_where(|_| true);
        self.scheduler.clear_prefixes();
    }
}

/// Reports the end of a sample, and of those that were to split off it.
fn finish(mut sequence: Sequence, reason: Finish, observe: &mut dyn FnMut(Event<'_>)) {
    let unborn = sequence.split();
    sequence.finish(reason.clone(), observe);
    unborn.for_each(|sample| sample.finish(reason.clone(), observe));
}

/// The memory of a vector for elements of another lifetime: collecting in place keeps the allocation.
fn recycle<'b>(mut chunks: Vec<Chunk<'_>>) -> Vec<Chunk<'b>> {
    chunks.clear();
    chunks.into_iter().map_while(|_| None).collect()
}

/// Continues every request and returns the outputs of their samples, in order.
///
/// At most `max_batch` samples run at once; the next is admitted as soon as one ends. Prompts are read whole, and nothing is
/// shared or kept between requests.
///
/// # Errors
/// [`ModelError::Request`] when a request cannot be served, before anything runs; what ended a sample with
/// [`Finish::Failed`], for example [`ModelError::Kv`] when the store cannot hold it even alone. The store is left without
/// the sequences of this call.
pub fn generate(
    model: &mut dyn CausalLm,
    kv: &mut dyn KvStore,
    requests: &[Request],
    max_batch: usize,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Vec<Vec<u32>>, ModelError> {
    let config = EngineConfig {
        max_batch,
        prompt_chunk: usize::MAX,
        max_waiting: usize::MAX,
        kept_prefixes: 0,
        swap_bytes: 0,
    };
    let mut engine = Engine::new(model, kv, config)?;
    // Outputs of the samples of all requests, and where those of each request start.
    let mut starts = Vec::with_capacity(requests.len());
    let mut outputs = Vec::new();
    for request in requests {
        engine.submit(request.clone())?;
        starts.push(outputs.len());
        outputs.resize_with(outputs.len() + request.samples, Vec::new);
    }
    let mut failed = None;
    while !engine.is_idle() && failed.is_none() {
        engine.step(Instant::now(), &mut |event| {
            match &event {
                Event::Token {
                    request, sample, id, ..
                } => {
                    outputs[starts[request.number() as usize] + sample].push(*id);
                }
                Event::Finished {
                    reason: Finish::Failed(error),
                    ..
                } => failed = Some(error.clone()),
                _ => {}
            }
            observe(event);
        });
    }
    match failed {
        None => Ok(outputs),
        // Shared only if `observe` has kept it.
        Some(error) => Err(Arc::try_unwrap(error).unwrap_or_else(|error| ModelError::Request(error.to_string()))),
    }
}
