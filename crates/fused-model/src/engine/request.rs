//! What a caller asks of the engine and what it hears back.

use std::sync::Arc;
use std::time::Instant;

use crate::error::ModelError;
use crate::kv::KvMemory;
use crate::train::check_ids;

/// Most alternatives [`Request::logprobs`] can ask for.
pub const MAX_LOGPROBS: usize = 20;

/// Names a request; numbers count up from 0 in the order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

impl RequestId {
    /// Requests submitted to the engine before this one.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// How the next token is drawn from the logits.
///
/// The steps come in the order of Hugging Face's generation: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token and ignores the three filters.
    pub temperature: f32,
    /// Keeps this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest most likely tokens whose probabilities reach this sum; 1 keeps all (Holtzman et al. 2020).
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits of tokens seen before, and multiplies negative ones; 1 changes nothing (Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// Seed of the draws; the same seed and request give the same tokens. Without one the engine picks it.
    pub seed: Option<u64>,
}

impl Sampling {
    /// The most likely token at each step.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: None,
    };

    fn check(&self) -> Result<(), String> {
        let ranges = [
            ("temperature", self.temperature, 0.0..=100.0, ""),
            ("top_p", self.top_p, 0.0..=1.0, "above "),
            ("min_p", self.min_p, 0.0..=1.0, ""),
            ("repetition_penalty", self.repetition_penalty, 0.0..=100.0, "above "),
        ];
        for (name, value, range, above) in ranges {
            if !range.contains(&value) || (!above.is_empty() && value <= 0.0) {
                let (low, high) = range.into_inner();
                return Err(format!("{name} is {value}; it must be {above}{low} and at most {high}"));
            }
        }
        Ok(())
    }
}

/// How a request goes on after its prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Tokens drawn from the model, up to [`Request::max_tokens`].
    Sampled(Sampling),
    /// A given reply, replayed: each step computes logits and picks the most likely token as a greedy request does, then
    /// continues with the given one. Two models with different tokenizers can so be made to produce the same text.
    Replay(Vec<u32>),
}

/// One text to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Tokens to read; at least one.
    pub prompt: Vec<u32>,
    /// What comes after them.
    pub reply: Reply,
    /// Most new tokens of each sample.
    pub max_tokens: usize,
    /// Independent continuations; the prompt is read once for all of them.
    pub samples: usize,
    /// Ids that end the text; they are not part of the output.
    pub stop_ids: Vec<u32>,
    /// Strings that end the text; the text ends before them. Needs an engine with a tokenizer.
    pub stop_strings: Vec<String>,
    /// Log probabilities of each token, with this many of the most likely alternatives.
    pub logprobs: Option<usize>,
    /// When to give up, whether running or waiting.
    pub deadline: Option<Instant>,
}

impl Request {
    /// The most likely continuation of `prompt`, of `max_tokens`.
    pub fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self::sampled(prompt, max_tokens, Sampling::GREEDY)
    }

    /// A continuation of `prompt` drawn from the model, of `max_tokens`.
    pub fn sampled(prompt: Vec<u32>, max_tokens: usize, sampling: Sampling) -> Self {
        Self {
            prompt,
            reply: Reply::Sampled(sampling),
            max_tokens,
            samples: 1,
            stop_ids: Vec::new(),
            stop_strings: Vec::new(),
            logprobs: None,
            deadline: None,
        }
    }

    /// `reply` as the given continuation of `prompt`.
    pub fn replay(prompt: Vec<u32>, reply: Vec<u32>) -> Self {
        Self {
            max_tokens: reply.len(),
            reply: Reply::Replay(reply),
            ..Self::greedy(prompt, 0)
        }
    }

    /// Refuses what a model of `vocab_size` ids and `context` tokens cannot do, and stop strings without text.
    pub(super) fn check(&self, vocab_size: usize, context: usize, has_text: bool) -> Result<(), ModelError> {
        self.check_shape(context, has_text).map_err(ModelError::Request)?;
        check_ids(&self.prompt, vocab_size)?;
        match &self.reply {
            Reply::Replay(ids) => check_ids(ids, vocab_size),
            Reply::Sampled(sampling) => sampling.check().map_err(ModelError::Request),
        }
    }

    fn check_shape(&self, context: usize, has_text: bool) -> Result<(), String> {
        if self.prompt.is_empty() {
            return Err("the prompt has no tokens; give at least one".into());
        }
        if self.max_tokens == 0 || self.samples == 0 {
            return Err(format!(
                "{} samples of at most {} tokens; ask for at least one of each",
                self.samples, self.max_tokens
            ));
        }
        // The last output token is never read back.
        let tokens = self.prompt.len().saturating_add(self.max_tokens - 1);
        if tokens > context {
            return Err(format!(
                "a prompt of {} tokens and {} new ones need {tokens} tokens of context; the model has {context}: shorten \
                 the prompt or ask for fewer new tokens",
                self.prompt.len(),
                self.max_tokens
            ));
        }
        if let Reply::Replay(ids) = &self.reply
            && (ids.len() < self.max_tokens || self.samples > 1)
        {
            return Err(format!(
                "{} samples of {} tokens from a given reply of {}; it gives one sample, and no more tokens than it has",
                self.samples,
                self.max_tokens,
                ids.len()
            ));
        }
        if self.stop_strings.iter().any(String::is_empty) {
            return Err("a stop string is empty; it would end every text before it starts".into());
        }
        if !self.stop_strings.is_empty() && !has_text {
            return Err("stop strings need a tokenizer; give the engine one".into());
        }
        match self.logprobs {
            Some(top) if top > MAX_LOGPROBS => Err(format!("{top} log probabilities; at most {MAX_LOGPROBS} a token")),
            _ => Ok(()),
        }
    }
}

/// Why a sample ended.
#[derive(Debug, Clone)]
pub enum Finish {
    /// A stop id or a stop string came up.
    Stop,
    /// It has [`Request::max_tokens`].
    Length,
    /// [`Request::deadline`] passed.
    Timeout,
    /// The model or the store refused; with [`ModelError::Kv`] not even this sample alone had room.
    Failed(Arc<ModelError>),
}

/// Tokens of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Those of them that were not computed, because another sequence had their rows.
    pub cached: usize,
    /// Tokens of the output.
    pub output: usize,
}

/// Log probabilities at one position: of the model itself, before penalty, temperature and filters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logprobs {
    /// Of the token that was taken.
    pub chosen: f32,
    /// Of the most likely tokens, in falling order.
    pub top: Vec<(u32, f32)>,
}

/// What happens while requests run, in order.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A sample has its next output token.
    Token {
        /// Its request.
        request: RequestId,
        /// Which of the request's samples.
        sample: usize,
        /// Position of the token in the output.
        index: usize,
        /// The token.
        id: u32,
        /// Text that is certain now: whole characters that no stop string can begin in. Empty without a tokenizer.
        text: &'a str,
        /// For [`Request::logprobs`].
        logprobs: Option<&'a Logprobs>,
    },
    /// A sample is complete; its KV memory is free, or kept as a prefix for others.
    Finished {
        /// Its request.
        request: RequestId,
        /// Which of the request's samples.
        sample: usize,
        /// Why.
        reason: Finish,
        /// Text that had been held back.
        text: &'a str,
        /// What it took.
        usage: Usage,
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
