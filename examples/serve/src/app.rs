//! Paths and what is done for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use patchtok::PatchTokenizer;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::answer::{Answer, Kind};
use crate::api::{ChatBody, CompletionBody, DetokenizeBody, Terms, TokenizeBody};
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::runner::{Handle, Refused};

/// What a client may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Time for a client to send its body.
    pub body_time: Duration,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Time from a request to its last token.
    pub request_time: Duration,
    /// Requests for text at once, waiting and running.
    pub open_requests: usize,
}

/// Everything an answer needs.
#[derive(Debug)]
pub struct App {
    /// The engine.
    pub engine: Handle,
    /// Text to tokens and back.
    pub tokenizer: Arc<PatchTokenizer>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Name of the model.
    pub model: String,
    /// Longest sequence in tokens.
    pub context: usize,
    /// What a client may ask for.
    pub limits: Limits,
    /// Requests for text that have no answer yet.
    pub open: AtomicUsize,
    /// Set when no more requests are taken.
    pub stopping: AtomicBool,
}

type Shared = State<Arc<App>>;

impl App {
    /// Routes every path.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/v1/completions", post(completions))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .route("/v1/models/{*model}", get(model))
            .route("/tokenize", post(tokenize))
            .route("/detokenize", post(detokenize))
            .route("/health", get(health))
            .route("/metrics", get(metrics))
            .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
            .method_not_allowed_fallback(|| async {
                ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method")
            })
            .with_state(self)
    }

    /// The body as JSON of one shape, within the limits.
    async fn read<T: DeserializeOwned>(&self, body: Body) -> Result<T, ApiError> {
        let limit = self.limits.body_bytes;
        let bytes = tokio::time::timeout(self.limits.body_time, to_bytes(body, limit));
        let bytes = bytes.await.map_err(|_| {
            let seconds = self.limits.body_time.as_secs();
            ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not come within {seconds} seconds"),
            )
        })?;
        let bytes = bytes.map_err(|_| {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is incomplete or has more than {limit} bytes"),
            )
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ApiError::bad(format!("the body is not what this path takes: {error}")))
    }

    fn terms(&self) -> Terms<'_> {
        Terms {
            tokenizer: &self.tokenizer,
            context: self.context,
            max_prompt_tokens: self.limits.prompt_tokens,
            deadline: Instant::now() + self.limits.request_time,
        }
    }

    /// Takes a place among the open requests; it is free again when the guard is dropped.
    fn enter(self: &Arc<Self>) -> Result<Open, ApiError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Refused::Stopped.into());
        }
        let limit = self.limits.open_requests;
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let guard = Open(self.clone());
        if before >= limit {
            self.metrics.refused();
            return Err(ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!("{before} requests are open and the limit is {limit}; try again later"),
            ));
        }
        Ok(guard)
    }

    async fn answer(
        self: Arc<Self>,
        kind: Kind,
        request: fused_model::Request,
        stream: bool,
        include_usage: bool,
    ) -> Result<Response, ApiError> {
        let samples = request.samples;
        let updates = self.engine.submit(request).await?;
        let (tokenizer, model) = (self.tokenizer.clone(), self.model.clone());
        let answer = Answer::new(kind, updates, tokenizer, model, samples, include_usage);
        if stream {
            Ok(answer.streamed())
        } else {
            answer.whole().await
        }
    }
}

/// A place among the open requests, until the engine has the request or the answer is there.
struct Open(Arc<App>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn completions(State(app): Shared, body: Body) -> Result<Response, ApiError> {
    let _open = app.enter()?;
    let body: CompletionBody = app.read(body).await?;
    body.common.check_model(&app.model)?;
    let (stream, usage) = (body.common.stream, body.common.include_usage());
    let request = body.into_request(app.terms())?;
    app.answer(Kind::Completion, request, stream, usage).await
}

async fn chat(State(app): Shared, body: Body) -> Result<Response, ApiError> {
    let _open = app.enter()?;
    let body: ChatBody = app.read(body).await?;
    body.common.check_model(&app.model)?;
    let (stream, usage) = (body.common.stream, body.common.include_usage());
    let request = body.into_request(app.terms())?;
    app.answer(Kind::Chat, request, stream, usage).await
}

fn model_json(app: &App) -> Value {
    json!({"id": app.model, "object": "model", "created": 0, "owned_by": "local", "max_model_len": app.context})
}

async fn models(State(app): Shared) -> Json<Value> {
    Json(json!({"object": "list", "data": [model_json(&app)]}))
}

async fn model(State(app): Shared, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    if name != app.model {
        let message = format!("there is no model {name:?}; this server has {:?}", app.model);
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    }
    Ok(Json(model_json(&app)))
}

async fn tokenize(State(app): Shared, body: Body) -> Result<Json<Value>, ApiError> {
    let body: TokenizeBody = app.read(body).await?;
    let tokens = if body.add_special_tokens {
        app.tokenizer.encode(&body.prompt)
    } else {
        app.tokenizer.encode_ordinary(&body.prompt)
    };
    Ok(Json(
        json!({"count": tokens.len(), "max_model_len": app.context, "tokens": tokens}),
    ))
}

async fn detokenize(State(app): Shared, body: Body) -> Result<Json<Value>, ApiError> {
    let body: DetokenizeBody = app.read(body).await?;
    let text = app.tokenizer.decode(&body.tokens);
    let text = text.map_err(|error| ApiError::bad(error.to_string()))?;
    Ok(Json(json!({"prompt": text})))
}

async fn health(State(app): Shared) -> Result<(), ApiError> {
    if app.stopping.load(Ordering::Relaxed) {
        return Err(Refused::Stopped.into());
    }
    Ok(())
}

async fn metrics(State(app): Shared) -> Result<Response, ApiError> {
    let text = app.metrics.text();
    let text = text.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
