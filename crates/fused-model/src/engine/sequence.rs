//! One sample of a request, waiting or running.

use std::sync::Arc;

use patchtok::PatchTokenizer;

use super::request::{Event, Finish, Reply, Request, RequestId, Usage};
use super::sampler::Sampler;
use super::text::TextStream;
use crate::kv::{KvId, RowsCopy};
use crate::model::{Chunk, argmax};
use crate::rng::Rng;

/// A sample: everything of it that does not lie in the store, so that it can leave the store and come back.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: RequestId,
    pub(super) sample: usize,
    pub(super) request: Arc<Request>,
    /// Prompt and output.
    pub(super) tokens: Vec<u32>,
    /// Samples that split off when the prompt has been read.
    pub(super) unborn: usize,
    /// Tokens of the prompt whose rows came from another sequence.
    pub(super) cached: usize,
    /// Its rows, while it waits after it was put back, where there was memory for them.
    pub(super) swapped: Option<RowsCopy>,
    seed: u64,
    rng: Rng,
    text: TextStream,
}

impl Sequence {
    pub(super) fn new(id: RequestId, request: Arc<Request>, seed: u64) -> Self {
        let unborn = request.samples - 1;
        let first = Self::sample(id, request, 0, seed);
        Self { unborn, ..first }
    }

    fn sample(id: RequestId, request: Arc<Request>, sample: usize, seed: u64) -> Self {
        let mut seeds = Rng::new(seed);
        for _ in 0..sample {
            seeds.next_u64();
        }
        // Room for the whole output, so that no step has to find it.
        let mut tokens = Vec::with_capacity(request.prompt.len() + request.max_tokens);
        tokens.extend_from_slice(&request.prompt);
        Self {
            id,
            sample,
            tokens,
            unborn: 0,
            cached: 0,
            swapped: None,
            seed,
            rng: Rng::new(seeds.next_u64()),
            text: TextStream::new(&request.stop_strings),
            request,
        }
    }

    /// The samples that split off now.
    pub(super) fn split(&mut self) -> impl Iterator<Item = Self> + use<> {
        let (id, request, seed, cached) = (self.id, self.request.clone(), self.seed, self.cached);
        let unborn = std::mem::take(&mut self.unborn);
        (1..=unborn).map(move |sample| Self {
            cached,
            ..Self::sample(id, request.clone(), sample, seed)
        })
    }

    /// Its place in the queue: requests in the order they came, and so their samples.
    pub(super) fn turn(&self) -> (RequestId, usize) {
        (self.id, self.sample)
    }

    pub(super) fn usage(&self) -> Usage {
        let prompt = self.request.prompt.len();
        Usage {
            prompt,
            cached: self.cached,
            output: self.tokens.len() - prompt,
        }
    }

    /// Takes the next token from `logits`, tells `observe`, and says whether that was the last.
    pub(super) fn next(
        &mut self,
        logits: &[f32],
        sampler: &mut Sampler,
        tokenizer: Option<&PatchTokenizer>,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Option<Finish> {
        let request = &*self.request;
        let index = self.tokens.len() - request.prompt.len();
        let id = match &request.reply {
            Reply::Sampled(sampling) => sampler.pick(logits, &self.tokens, sampling, &mut self.rng),
            Reply::Replay(ids) => {
                // What a greedy request would do, so that a replay costs the same.
                std::hint::black_box(argmax(logits));
                ids[index]
            }
        };
        if request.stop_ids.contains(&id) {
            return Some(Finish::Stop);
        }
        self.tokens.push(id);
        let bytes = tokenizer.and_then(|tokenizer| tokenizer.token_bytes(id)).unwrap_or(&[]);
        let stopped = self.text.push(bytes, &request.stop_strings);
        observe(Event::Token {
            request: self.id,
            sample: self.sample,
            index,
            id,
            text: self.text.ready(),
            logprobs: request.logprobs.map(|top| sampler.logprobs(logits, id, top)),
        });
        match stopped {
            true => Some(Finish::Stop),
            false => (index + 1 == request.max_tokens).then_some(Finish::Length),
        }
    }

    /// Tells `observe` that the sample has ended.
    pub(super) fn finish(mut self, reason: Finish, observe: &mut dyn FnMut(Event<'_>)) {
        self.text.finish();
        observe(Event::Finished {
            request: self.id,
            sample: self.sample,
            reason,
            text: self.text.ready(),
            usage: self.usage(),
        });
    }
}

/// A sample with rows in the store.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) sequence: Sequence,
    pub(super) kv: KvId,
    /// Tokens whose rows are stored; the others are still to be read.
    pub(super) rows: usize,
    /// Set when it ends; the scheduler takes it out after the step.
    pub(super) end: Option<Finish>,
}

impl Live {
    /// Tokens to be read.
    pub(super) fn unread(&self) -> usize {
        self.sequence.tokens.len() - self.rows
    }

    /// The next `tokens` of them.
    pub(super) fn chunk(&self, tokens: usize) -> Chunk<'_> {
        Chunk {
            sequence: self.kv,
            ids: &self.sequence.tokens[self.rows..self.rows + tokens],
        }
    }
}
