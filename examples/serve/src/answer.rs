//! The engine's updates as OpenAI's answers, whole or as a stream of events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use fused_model::engine::{Finish, Logprobs, Usage};
use futures_util::stream;
use patchtok::PatchTokenizer;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::runner::{Update, Updates};

/// Which of the two interfaces is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Completion,
    Chat,
}

/// An answer that is under way.
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    pub(crate) updates: Updates,
    pub(crate) tokenizer: Arc<PatchTokenizer>,
    pub(crate) model: String,
    pub(crate) samples: usize,
    pub(crate) include_usage: bool,
    id: String,
    created: u64,
}

/// One sample of a whole answer.
#[derive(Default)]
struct Choice {
    text: String,
    logprobs: Vec<(u32, Logprobs)>,
    reason: Option<&'static str>,
}

impl Answer {
    pub(crate) fn new(
        kind: Kind,
        updates: Updates,
        tokenizer: Arc<PatchTokenizer>,
        model: String,
        samples: usize,
        include_usage: bool,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            kind,
            updates,
            tokenizer,
            model,
            samples,
            include_usage,
            id: format!("{name}-{:024x}", now.as_nanos()),
            created: now.as_secs(),
        }
    }

    /// Waits for all samples.
    pub(crate) async fn whole(mut self) -> Result<Response, ApiError> {
        let mut choices: Vec<Choice> = (0..self.samples).map(|_| Choice::default()).collect();
        let mut total = Usage::default();
        let mut left = self.samples;
        while left > 0 {
            match self.updates.recv().await {
                None => return Err(stopped()),
                Some(Update::Token {
                    sample,
                    id,
                    text,
                    logprobs,
                }) => {
                    choices[sample].text.push_str(&text);
                    choices[sample].logprobs.extend(logprobs.map(|logprobs| (id, logprobs)));
                }
                Some(Update::Finished {
                    sample,
                    reason,
                    text,
                    usage,
                }) => {
                    choices[sample].text.push_str(&text);
                    choices[sample].reason = Some(word(&reason)?);
                    add(&mut total, usage);
                    left -= 1;
                }
            }
        }
        let choices = choices.into_iter().enumerate().map(|(index, choice)| {
            let logprobs = self.logprobs(&choice.logprobs);
            let mut value = json!({"index": index, "logprobs": logprobs, "finish_reason": choice.reason});
            match self.kind {
                Kind::Completion => value["text"] = choice.text.into(),
                Kind::Chat => value["message"] = json!({"role": "assistant", "content": choice.text}),
            }
            value
        });
        let choices = choices.collect();
        let mut body = self.envelope(choices, false);
        body["usage"] = usage_json(total);
        Ok(Json(body).into_response())
    }

    /// Gives text as it comes. An error after the first byte is the last event.
    pub(crate) fn streamed(self) -> Response {
        let mut first = VecDeque::new();
        if self.kind == Kind::Chat {
            for sample in 0..self.samples {
                first.push_back(self.chunk(sample, "", None, None, true));
            }
        }
        let state = Streaming {
            left: self.samples,
            answer: self,
            ready: first,
            total: Usage::default(),
            done: false,
        };
        let events = stream::unfold(state, |mut state| async move {
            let data = state.next().await?;
            Some((Ok::<_, Infallible>(sse::Event::default().data(data)), state))
        });
        Sse::new(events).keep_alive(sse::KeepAlive::default()).into_response()
    }

    /// The fields every answer has.
    fn envelope(&self, choices: Vec<Value>, chunk: bool) -> Value {
        let object = match (self.kind, chunk) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        })
    }

    fn chunk(
        &self,
        sample: usize,
        text: &str,
        logprobs: Option<(u32, Logprobs)>,
        reason: Option<&'static str>,
        opening: bool,
    ) -> String {
        let logprobs = self.logprobs(logprobs.as_slice());
        let mut choice = json!({"index": sample, "logprobs": logprobs, "finish_reason": reason});
        match self.kind {
            Kind::Completion => choice["text"] = text.into(),
            Kind::Chat if opening => choice["delta"] = json!({"role": "assistant", "content": ""}),
            Kind::Chat if text.is_empty() => choice["delta"] = json!({}),
            Kind::Chat => choice["delta"] = json!({"content": text}),
        }
        let mut chunk = self.envelope(vec![choice], true);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk.to_string()
    }

    fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.tokenizer.token_bytes(id).unwrap_or(&[])).into_owned()
    }

    fn logprobs(&self, tokens: &[(u32, Logprobs)]) -> Value {
        if tokens.is_empty() {
            return Value::Null;
        }
        match self.kind {
            Kind::Completion => {
                let texts: Vec<String> = tokens.iter().map(|&(id, _)| self.token_text(id)).collect();
                let tops: Vec<Value> = tokens
                    .iter()
                    .map(|(_, logprobs)| {
                        let top = logprobs
                            .top
                            .iter()
                            .map(|&(id, value)| (self.token_text(id), value.into()));
                        Value::Object(top.collect())
                    })
                    .collect();
                let values: Vec<f32> = tokens.iter().map(|(_, logprobs)| logprobs.chosen).collect();
                json!({"tokens": texts, "token_logprobs": values, "top_logprobs": tops})
            }
            Kind::Chat => {
                let entry = |id: u32, value: f32| {
                    json!({
                        "token": self.token_text(id),
                        "logprob": value,
                        "bytes": self.tokenizer.token_bytes(id),
                    })
                };
                let content = tokens.iter().map(|(id, logprobs)| {
                    let mut token = entry(*id, logprobs.chosen);
                    let top = logprobs.top.iter().map(|&(id, value)| entry(id, value));
                    token["top_logprobs"] = top.collect();
                    token
                });
                json!({"content": content.collect::<Vec<_>>()})
            }
        }
    }
}

/// A stream between two events.
struct Streaming {
    answer: Answer,
    ready: VecDeque<String>,
    left: usize,
    total: Usage,
    done: bool,
}

impl Streaming {
    /// Data of the next event.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            if self.done {
                return None;
            }
            match self.answer.updates.recv().await {
                None => self.fail(&stopped()),
                Some(Update::Token {
                    sample,
                    id,
                    text,
                    logprobs,
                }) => {
                    // Half a character is no event, unless somebody wants to know how likely it was.
                    if !text.is_empty() || logprobs.is_some() {
                        let logprobs = logprobs.map(|logprobs| (id, logprobs));
                        let data = self.answer.chunk(sample, &text, logprobs, None, false);
                        self.ready.push_back(data);
                    }
                }
                Some(Update::Finished {
                    sample,
                    reason,
                    text,
                    usage,
                }) => match word(&reason) {
                    Ok(word) => {
                        if !text.is_empty() {
                            self.ready
                                .push_back(self.answer.chunk(sample, &text, None, None, false));
                        }
                        self.ready
                            .push_back(self.answer.chunk(sample, "", None, Some(word), false));
                        add(&mut self.total, usage);
                        self.left -= 1;
                        if self.left == 0 {
                            self.end();
                        }
                    }
                    Err(error) => self.fail(&error),
                },
            }
        }
    }

    fn end(&mut self) {
        if self.answer.include_usage {
            let mut last = self.answer.envelope(Vec::new(), true);
            last["usage"] = usage_json(self.total);
            self.ready.push_back(last.to_string());
        }
        self.ready.push_back("[DONE]".into());
        self.done = true;
    }

    fn fail(&mut self, error: &ApiError) {
        self.ready.push_back(error.body().to_string());
        self.done = true;
        self.answer.updates.close();
    }
}

fn stopped() -> ApiError {
    ApiError::new(
        axum::http::StatusCode::SERVICE_UNAVAILABLE,
        "the server stopped before the answer was complete",
    )
}

/// `finish_reason`.
fn word(reason: &Finish) -> Result<&'static str, ApiError> {
    match reason {
        Finish::Stop => Ok("stop"),
        Finish::Length => Ok("length"),
        Finish::Timeout => Err(ApiError::timeout()),
        Finish::Failed(error) => Err(ApiError::failed(error)),
    }
}

/// Samples share one prompt.
fn add(total: &mut Usage, sample: Usage) {
    total.prompt = sample.prompt;
    total.cached = total.cached.max(sample.cached);
    total.output += sample.output;
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.output,
        "total_tokens": usage.prompt + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    })
}
