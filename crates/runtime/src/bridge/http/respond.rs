//! Sends the responses to one body: alone as JSON, or as an event stream.

use std::time::Duration;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    caller::Caller,
    http_response,
    response_stream::{ResponseStream, event},
};
use crate::bridge::mux::{
    call_handle::StreamItem,
    rpc_response::{HEADER_MISMATCH, METHOD_NOT_FOUND, RpcResponse, VERSION_UNSUPPORTED},
};

/// How long a call may run before a client that accepts it gets an event stream, so that the connection is kept alive.
const JSON_WAIT_MAX: Duration = Duration::from_secs(5);

/// Chooses the HTTP status for a JSON-RPC response.
pub(crate) type StatusOf = fn(&RpcResponse) -> StatusCode;

/// Responds with JSON if possible. Uses a stream only for notifications before the response, or for a call that takes
/// long.
pub(crate) async fn respond(caller: &Caller, mut responses: ResponseStream, status: StatusOf) -> Response {
    let accepted = caller.accepted;
    let first = loop {
        let item = if accepted.stream {
            tokio::time::timeout(JSON_WAIT_MAX, responses.next()).await.ok()
        } else {
            Some(responses.next().await)
        };
        match item {
            Some(StreamItem::Notification(_)) if !accepted.stream => {}
            item => break item,
        }
    };
    match first {
        Some(StreamItem::Response(response)) => {
            let status = status(&response);
            single_response(caller, response, status)
        }
        Some(StreamItem::NoResponse) => StatusCode::ACCEPTED.into_response(),
        first => http_response::event_stream(responses.into_events(first)),
    }
}

/// Returns one JSON-RPC response as JSON, or as a stream of one event if the client accepts only that.
pub(crate) fn single_response(caller: &Caller, response: RpcResponse, status: StatusCode) -> Response {
    if caller.accepted.json || status != StatusCode::OK {
        return http_response::json(status, response.into_text());
    }
    let only = event(&response.text, response.reservation);
    http_response::event_stream(futures_util::stream::once(std::future::ready(only)))
}

/// Returns the HTTP status for a client without a session. Intermediaries can route such responses without reading
/// them.
pub(crate) fn stateless_status(response: &RpcResponse) -> StatusCode {
    match response.error_code {
        Some(METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        Some(code) if (VERSION_UNSUPPORTED..=HEADER_MISMATCH).contains(&code) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
