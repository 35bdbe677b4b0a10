//! OpenAI's requests as the engine's.

use std::time::Instant;

use axum::http::StatusCode;
use fused_model::chat::{self, Template};
use fused_model::engine::{Request, Sampling};
use patchtok::PatchTokenizer;
use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;

/// Most samples of one request.
const MAX_SAMPLES: usize = 16;
/// Most stop strings, and the longest, in bytes.
const MAX_STOPS: (usize, usize) = (16, 256);
/// Tokens of a completion that does not say how many, as OpenAI has it.
const DEFAULT_COMPLETION_TOKENS: usize = 16;

/// One value or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// `stream_options`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamOptions {
    #[serde(default)]
    pub(crate) include_usage: bool,
}

/// What both kinds of requests have in common.
#[derive(Debug, Deserialize)]
pub(crate) struct Common {
    pub(crate) model: Option<String>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<i64>,
    n: Option<usize>,
    stop: Option<OneOrMany<String>>,
    #[serde(default)]
    ignore_eos: bool,
    #[serde(default)]
    pub(crate) stream: bool,
    pub(crate) stream_options: Option<StreamOptions>,
    // What this server does not do is refused rather than ignored.
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    best_of: Option<usize>,
    #[serde(default)]
    echo: bool,
    suffix: Option<String>,
    logit_bias: Option<serde_json::Map<String, Value>>,
    tools: Option<Vec<Value>>,
    response_format: Option<Value>,
}

/// `POST /v1/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct CompletionBody {
    #[serde(flatten)]
    pub(crate) common: Common,
    prompt: Option<Prompt>,
    logprobs: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    IdLists(Vec<Vec<u32>>),
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatBody {
    #[serde(flatten)]
    pub(crate) common: Common,
    messages: Vec<Message>,
    #[serde(default)]
    logprobs: bool,
    top_logprobs: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: Role,
    content: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    #[serde(alias = "developer")]
    System,
    User,
    Assistant,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ContentPart {
    Text { text: String },
}

/// `POST /tokenize`.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenizeBody {
    pub(crate) prompt: String,
    /// Whether `<|endoftext|>` in the text is the special token, as in a completion.
    #[serde(default = "yes")]
    pub(crate) add_special_tokens: bool,
}

fn yes() -> bool {
    true
}

/// `POST /detokenize`.
#[derive(Debug, Deserialize)]
pub(crate) struct DetokenizeBody {
    pub(crate) tokens: Vec<u32>,
}

/// What the server adds to a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) tokenizer: &'a PatchTokenizer,
    /// Tokens of prompt and reply together.
    pub(crate) context: usize,
    pub(crate) max_prompt_tokens: usize,
    pub(crate) deadline: Instant,
}

impl CompletionBody {
    pub(crate) fn into_request(self, terms: Terms<'_>) -> Result<Request, ApiError> {
        let one = || ApiError::bad("several prompts in one request; send a request for each");
        let mut prompt = match self.prompt.unwrap_or(Prompt::Text(String::new())) {
            Prompt::Text(text) => terms.tokenizer.encode(&text),
            Prompt::Ids(ids) => ids,
            Prompt::Texts(texts) => match &texts[..] {
                [text] => terms.tokenizer.encode(text),
                _ => return Err(one()),
            },
            Prompt::IdLists(mut lists) => match lists.pop() {
                Some(ids) if lists.is_empty() => ids,
                _ => return Err(one()),
            },
        };
        if prompt.is_empty() {
            // As OpenAI has it: the beginning of a document.
            prompt.extend(terms.tokenizer.eos_id());
        }
        self.common
            .into_request(prompt, Some(DEFAULT_COMPLETION_TOKENS), self.logprobs, &[], terms)
    }
}

impl ChatBody {
    pub(crate) fn into_request(self, terms: Terms<'_>) -> Result<Request, ApiError> {
        let top = match (self.logprobs, self.top_logprobs) {
            (true, top) => Some(top.unwrap_or(0)),
            (false, None | Some(0)) => None,
            (false, Some(_)) => return Err(ApiError::bad("top_logprobs needs logprobs: true")),
        };
        if self.messages.is_empty() {
            return Err(ApiError::bad("messages is empty"));
        }
        let turns: Vec<_> = self.messages.into_iter().map(Message::into_turn).collect();
        let template = Template::of(terms.tokenizer);
        let prompt = template.prompt(terms.tokenizer, turns.iter().map(|(role, said)| (*role, said.as_str())));
        self.common
            .into_request(prompt, None, top, template.stop_strings(), terms)
    }
}

impl Message {
    fn into_turn(self) -> (chat::Role, String) {
        let role = match self.role {
            Role::System => chat::Role::System,
            Role::User => chat::Role::User,
            Role::Assistant => chat::Role::Assistant,
        };
        let said = match self.content {
            Content::Text(text) => text,
            Content::Parts(parts) => parts.into_iter().map(|ContentPart::Text { text }| text).collect(),
        };
        (role, said)
    }
}

impl Common {
    fn into_request(
        self,
        prompt: Vec<u32>,
        default_tokens: Option<usize>,
        logprobs: Option<usize>,
        template_stops: &[&str],
        terms: Terms<'_>,
    ) -> Result<Request, ApiError> {
        let unsupported = [
            (
                "presence_penalty",
                self.presence_penalty.is_some_and(|penalty| penalty != 0.0),
            ),
            (
                "frequency_penalty",
                self.frequency_penalty.is_some_and(|penalty| penalty != 0.0),
            ),
            ("best_of", self.best_of.is_some_and(|best| best != self.n.unwrap_or(1))),
            ("echo", self.echo),
            ("suffix", self.suffix.is_some_and(|suffix| !suffix.is_empty())),
            ("logit_bias", self.logit_bias.is_some_and(|bias| !bias.is_empty())),
            ("tools", self.tools.is_some_and(|tools| !tools.is_empty())),
            (
                "response_format",
                self.response_format.is_some_and(|format| format["type"] != "text"),
            ),
        ];
        if let Some((name, _)) = unsupported.iter().find(|(_, asked)| *asked) {
            return Err(ApiError::bad(format!(
                "{name} is not supported by this server; leave it out"
            )));
        }
        if prompt.len() > terms.max_prompt_tokens {
            return Err(ApiError::bad(format!(
                "the prompt has {} tokens; this server takes at most {}: shorten it",
                prompt.len(),
                terms.max_prompt_tokens
            )));
        }
        let samples = self.n.unwrap_or(1);
        if samples > MAX_SAMPLES {
            return Err(ApiError::bad(format!(
                "n is {samples}; at most {MAX_SAMPLES} a request"
            )));
        }
        let mut stop_strings = self.stop.map(OneOrMany::into_vec).unwrap_or_default();
        let (most, longest) = MAX_STOPS;
        if stop_strings.len() > most || stop_strings.iter().any(|stop| stop.len() > longest) {
            return Err(ApiError::bad(format!(
                "at most {most} stop strings of {longest} bytes each"
            )));
        }
        stop_strings.extend(template_stops.iter().map(|&stop| stop.into()));
        // The last token is never read back.
        let room = (terms.context + 1).saturating_sub(prompt.len());
        let max_tokens = self
            .max_completion_tokens
            .or(self.max_tokens)
            .unwrap_or_else(|| default_tokens.unwrap_or(room).min(room));
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            // vLLM's clients say -1 for all.
            top_k: self.top_k.map_or(0, |k| k.max(0) as usize),
            top_p: self.top_p.unwrap_or(1.0),
            min_p: self.min_p.unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            seed: self.seed.map(|seed| seed as u64),
        };
        let stop_ids = match self.ignore_eos {
            true => Vec::new(),
            false => Template::of(terms.tokenizer).stop_ids(terms.tokenizer),
        };
        Ok(Request {
            samples,
            stop_ids,
            stop_strings,
            logprobs,
            deadline: Some(terms.deadline),
            ..Request::sampled(prompt, max_tokens, sampling)
        })
    }

    /// Refuses another model than the one that is there.
    pub(crate) fn check_model(&self, served: &str) -> Result<(), ApiError> {
        match &self.model {
            Some(model) if model != served => Err(ApiError::new(
                StatusCode::NOT_FOUND,
                format!("there is no model {model:?}; this server has {served:?}"),
            )),
            _ => Ok(()),
        }
    }

    pub(crate) fn include_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }
}
