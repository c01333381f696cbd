//! How the answers to one body are sent: alone, or as an event stream.

use std::time::Duration;

use hyper::StatusCode;

use super::{
    caller::Caller,
    flow::{Flow, event},
    reply::{self, Reply},
};
use crate::bridge::mux::{
    answer::{Answer, HEADER_MISMATCH, METHOD_NOT_FOUND, VERSION_UNSUPPORTED},
    ticket::Piece,
};

/// How long a call may say nothing before its client, if it can, gets a stream to hold on to.
const PLAIN_WAIT: Duration = Duration::from_secs(5);

/// The status that an answer is sent with.
pub(crate) type StatusOf = fn(&Answer) -> StatusCode;

/// Answers as plainly as it can be done: a stream only for what comes before the answer, or for one that takes long.
pub(crate) async fn respond(caller: &Caller<'_>, mut flow: Flow, status: StatusOf) -> Reply {
    let accepted = caller.accepted;
    let first = loop {
        let piece = if accepted.stream {
            tokio::time::timeout(PLAIN_WAIT, flow.next()).await.ok()
        } else {
            Some(flow.next().await)
        };
        match piece {
            Some(Piece::Notice(_)) if !accepted.stream => {}
            piece => break piece,
        }
    };
    match first {
        Some(Piece::Answer(answer)) => {
            let status = status(&answer);
            plain(caller, answer, status)
        }
        Some(Piece::Silence) => reply::empty(StatusCode::ACCEPTED),
        first => reply::event_stream(flow.into_events(first)),
    }
}

/// An answer on its own.
pub(crate) fn plain(caller: &Caller<'_>, answer: Answer, status: StatusCode) -> Reply {
    if caller.accepted.json || status != StatusCode::OK {
        return reply::json(status, answer.into_text());
    }
    let only = event(&answer.text, answer.charge);
    reply::event_stream(futures_util::stream::once(std::future::ready(only)))
}

/// The status for an answer to a client without a session, which can be routed without being read.
pub(crate) fn stateless_status(answer: &Answer) -> StatusCode {
    match answer.error_code {
        Some(METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        Some(code) if (VERSION_UNSUPPORTED..=HEADER_MISMATCH).contains(&code) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
