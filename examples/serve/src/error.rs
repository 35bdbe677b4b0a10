//! Errors as OpenAI's clients read them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fused_model::ModelError;
use serde_json::{Value, json};

use crate::runner::Refused;

/// An answer that is not the one asked for.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// With a status and a reason.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// 400.
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// What went wrong inside the engine after it took the request on.
    pub(crate) fn failed(error: &ModelError) -> Self {
        match error {
            ModelError::Kv(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the request does not fit into the server's KV memory: {error}"),
            ),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// 504.
    pub(crate) fn timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "the request took longer than the server allows; ask for fewer tokens or try again later",
        )
    }

    /// The body, also the last event of a stream that broke.
    pub(crate) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": null, "code": self.status.as_u16()}})
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Engine(error @ ModelError::Busy { .. }) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, error.to_string())
            }
            Refused::Engine(error @ ModelError::Request(_)) => Self::bad(error.to_string()),
            Refused::Engine(error) => Self::failed(&error),
            Refused::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
