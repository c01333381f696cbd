//! HTTP responses, with their status codes and headers.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderValue, StatusCode,
        header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use futures_util::{Stream, StreamExt};

use crate::bridge::mux::rpc_response::RpcResponse;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How long a client must wait after a 503 response, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

pub(crate) fn json(status: StatusCode, text: Bytes) -> Response {
    (status, [(CONTENT_TYPE, JSON)], Body::from(text)).into_response()
}

/// Returns a response of server-sent events. Not `Sse`, whose events cannot carry the memory reservations of messages.
pub(crate) fn event_stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(stream.map(Ok::<_, Infallible>))).into_response()
}

/// Returns an error response with its text in `error`.
pub(crate) fn error(status: StatusCode, reason: &str) -> Response {
    json(status, format!(r#"{{"error":{}}}"#, serde_json::Value::from(reason)).into())
}

/// Returns a JSON-RPC error as a response. Its id is `null` if the id of the request is not known.
pub(crate) fn rpc_error(status: StatusCode, id: Option<&str>, code: i64, reason: &str) -> Response {
    json(status, RpcResponse::error(id.unwrap_or("null"), code, reason).text)
}

pub(crate) fn method_not_allowed(allowed: &'static str, reason: &str) -> Response {
    ([(ALLOW, allowed)], error(StatusCode::METHOD_NOT_ALLOWED, reason)).into_response()
}

pub(crate) fn unauthorized(reason: &str) -> Response {
    // An unauthenticated client must not keep a connection that a lease may need.
    closing(([(WWW_AUTHENTICATE, "Bearer")], error(StatusCode::UNAUTHORIZED, reason)))
}

pub(crate) fn forbidden(reason: &str) -> Response {
    closing(error(StatusCode::FORBIDDEN, reason))
}

/// Marks a response as the last one of its connection.
pub(crate) fn closing(response: impl IntoResponse) -> Response {
    ([(CONNECTION, "close")], response).into_response()
}

/// Returns a 503 response with `retry-after`.
pub(crate) fn service_unavailable(reason: &str) -> Response {
    ([(RETRY_AFTER, RETRY_AFTER_SECONDS)], error(StatusCode::SERVICE_UNAVAILABLE, reason)).into_response()
}
