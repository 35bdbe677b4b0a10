//! Batched greedy generation over any KV store.

use crate::error::ModelError;
use crate::kv::{KvError, KvId, KvMemory, KvStore};
use crate::model::{CausalLm, Chunk, Logits, argmax};

/// One text to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Tokens to read; at least one.
    pub prompt: Vec<u32>,
    /// What comes after them.
    pub reply: Reply,
}

/// How a request goes on after its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The most likely token at each step, up to `max_tokens` or until `stop` comes up (it is not part of the output).
    Greedy {
        /// Most new tokens.
        max_tokens: usize,
        /// Id that ends the text.
        stop: Option<u32>,
    },
    /// A given reply, replayed: each step computes logits and picks the most likely token as [`Reply::Greedy`] does, then
    /// continues with the given one. Two models with different tokenizers can so be made to produce the same text.
    Replay(Vec<u32>),
}

impl Reply {
    fn max_tokens(&self) -> usize {
        match self {
            Self::Greedy { max_tokens, .. } => *max_tokens,
            Self::Replay(ids) => ids.len(),
        }
    }
}

/// What happens while requests run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A request has its next output token.
    Token {
        /// Index of the request.
        request: usize,
        /// Position of the token in the output.
        index: usize,
        /// The token.
        id: u32,
    },
    /// A request is complete; its KV memory has been given back.
    Done {
        /// Index of the request.
        request: usize,
    },
    /// A pass through the model has ended and its rows are stored.
    Step {
        /// Sequences in the pass.
        sequences: usize,
        /// Tokens in the pass.
        tokens: usize,
        /// Memory of the store after it, before finished sequences are freed.
        memory: KvMemory,
    },
}

/// Continues every request and returns their outputs, in order.
///
/// At most `max_batch` requests run at once; the next one is admitted as soon as one ends. Prompts are read in a pass of
/// their own. When the store has no memory for another prompt, it waits for a running request to end.
///
/// # Errors
/// [`ModelError::Request`] when a request is empty or would outgrow the model's context, before anything runs;
/// [`ModelError::Kv`] when the store cannot hold even one sequence or fills up while all are running. The store is
/// left without the sequences of this call.
pub fn generate(
    model: &mut dyn CausalLm,
    kv: &mut dyn KvStore,
    requests: &[Request],
    max_batch: usize,
    observe: &mut dyn FnMut(Event),
) -> Result<Vec<Vec<u32>>, ModelError> {
    let context = model.context();
    for (index, request) in requests.iter().enumerate() {
        // The last output token is never read back.
        let tokens = request.prompt.len() + request.reply.max_tokens().saturating_sub(1);
        if request.prompt.is_empty() || request.reply.max_tokens() == 0 {
            return Err(ModelError::Request(format!(
                "request {index} has no prompt or asks for no tokens"
            )));
        }
        if tokens > context {
            return Err(ModelError::Request(format!(
                "request {index} needs {tokens} tokens of context; the model has {context}: shorten it"
            )));
        }
    }
    if max_batch == 0 {
        return Err(ModelError::Request("max_batch is 0; it must be at least 1".into()));
    }
    let mut run = Run {
        model,
        kv,
        requests,
        observe,
        live: Vec::new(),
        outputs: vec![Vec::new(); requests.len()],
    };
    let result = run.all(max_batch);
    for live in std::mem::take(&mut run.live) {
        run.kv.free(live.sequence)?;
    }
    result.map(|()| run.outputs)
}

/// A request in flight.
#[derive(Debug)]
struct Live {
    request: usize,
    sequence: KvId,
    /// The token to read next.
    next: u32,
}

struct Run<'a> {
    model: &'a mut dyn CausalLm,
    kv: &'a mut dyn KvStore,
    requests: &'a [Request],
    observe: &'a mut dyn FnMut(Event),
    live: Vec<Live>,
    outputs: Vec<Vec<u32>>,
}

impl Run<'_> {
    fn all(&mut self, max_batch: usize) -> Result<(), ModelError> {
        let mut waiting = 0..self.requests.len();
        while !(waiting.is_empty() && self.live.is_empty()) {
            while self.live.len() < max_batch && !waiting.is_empty() && self.admit(waiting.start)? {
                waiting.start += 1;
            }
            if !self.live.is_empty() {
                let ids: Vec<[u32; 1]> = self.live.iter().map(|live| [live.next]).collect();
                let sequences: Vec<KvId> = self.live.iter().map(|live| live.sequence).collect();
                let chunks: Vec<_> = sequences
                    .into_iter()
                    .zip(&ids)
                    .map(|(sequence, ids)| Chunk { sequence, ids })
                    .collect();
                let best = self.step(&chunks)?;
                self.take(0, &best)?;
            }
        }
        Ok(())
    }

    /// Reads a prompt; `false` when the store has no room for it now but others are running.
    fn admit(&mut self, request: usize) -> Result<bool, ModelError> {
        let others = !self.live.is_empty();
        let sequence = match self.kv.open() {
            Ok(sequence) => sequence,
            Err(KvError::NoSlot { .. }) if others => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        match self.step(&[Chunk {
            sequence,
            ids: &self.requests[request].prompt,
        }]) {
            Ok(best) => {
                self.live.push(Live {
                    request,
                    sequence,
                    next: 0,
                });
                self.take(self.live.len() - 1, &best)?;
                Ok(true)
            }
            Err(error) => {
                self.kv.free(sequence)?;
                match error {
                    ModelError::Kv(KvError::NeedMemory { .. }) if others => Ok(false),
                    error => Err(error),
                }
            }
        }
    }

    /// One pass; the most likely next token of each chunk.
    fn step(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<u32>, ModelError> {
        let width = self.model.vocab_size();
        let logits = self.model.forward(self.kv, chunks, Logits::Last)?;
        let best = logits.chunks_exact(width).map(argmax).collect();
        let tokens = chunks.iter().map(|chunk| chunk.ids.len()).sum();
        (self.observe)(Event::Step {
            sequences: chunks.len(),
            tokens,
            memory: self.kv.memory(),
        });
        Ok(best)
    }

    /// Gives the running requests from `first` on their next tokens and ends those that are complete.
    fn take(&mut self, first: usize, best: &[u32]) -> Result<(), ModelError> {
        for (live, &best) in self.live[first..].iter_mut().zip(best) {
            let output = &mut self.outputs[live.request];
            live.next = match &self.requests[live.request].reply {
                Reply::Replay(ids) => ids[output.len()],
                Reply::Greedy { stop, .. } if *stop == Some(best) => {
                    live.next = best;
                    continue;
                }
                Reply::Greedy { .. } => best,
            };
            output.push(live.next);
            let (request, index) = (live.request, output.len() - 1);
            (self.observe)(Event::Token {
                request,
                index,
                id: live.next,
            });
        }
        let mut index = first;
        while index < self.live.len() {
            let live = &self.live[index];
            let reply = &self.requests[live.request].reply;
            let stopped = matches!(reply, Reply::Greedy { stop, .. } if *stop == Some(live.next));
            if stopped || self.outputs[live.request].len() == reply.max_tokens() {
                let live = self.live.remove(index);
                self.kv.free(live.sequence)?;
                (self.observe)(Event::Done { request: live.request });
            } else {
                index += 1;
            }
        }
        Ok(())
    }
}
