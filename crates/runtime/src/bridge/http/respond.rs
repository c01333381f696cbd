//! How the answers to one body are sent: alone, or as an event stream.

use std::time::Duration;

use hyper::StatusCode;

use super::{
    caller::Caller,
    http_response::{self, HttpResponse},
    response_stream::{ResponseStream, event},
};
use crate::bridge::mux::{
    call_handle::StreamItem,
    rpc_response::{HEADER_MISMATCH, METHOD_NOT_FOUND, RpcResponse, VERSION_UNSUPPORTED},
};

/// How long a call may say nothing before its client, if it can, gets a stream to hold on to.
const PLAIN_WAIT: Duration = Duration::from_secs(5);

/// The status that an answer is sent with.
pub(crate) type StatusOf = fn(&RpcResponse) -> StatusCode;

/// Answers as plainly as it can be done: a stream only for what comes before the answer, or for one that takes long.
pub(crate) async fn respond(caller: &Caller<'_>, mut flow: ResponseStream, status: StatusOf) -> HttpResponse {
    let accepted = caller.accepted;
    let first = loop {
        let item = if accepted.stream {
            tokio::time::timeout(PLAIN_WAIT, flow.next()).await.ok()
        } else {
            Some(flow.next().await)
        };
        match item {
            Some(StreamItem::Notification(_)) if !accepted.stream => {}
            item => break item,
        }
    };
    match first {
        Some(StreamItem::Response(response)) => {
            let status = status(&response);
            plain(caller, response, status)
        }
        Some(StreamItem::NoResponse) => http_response::empty(StatusCode::ACCEPTED),
        first => http_response::event_stream(flow.into_events(first)),
    }
}

/// An answer on its own.
pub(crate) fn plain(caller: &Caller<'_>, response: RpcResponse, status: StatusCode) -> HttpResponse {
    if caller.accepted.json || status != StatusCode::OK {
        return http_response::json(status, response.into_text());
    }
    let only = event(&response.text, response.reservation);
    http_response::event_stream(futures_util::stream::once(std::future::ready(only)))
}

/// The status for an answer to a client without a session, which can be routed without being read.
pub(crate) fn stateless_status(response: &RpcResponse) -> StatusCode {
    match response.error_code {
        Some(METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        Some(code) if (VERSION_UNSUPPORTED..=HEADER_MISMATCH).contains(&code) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
