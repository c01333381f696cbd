//! Requests over HTTP: who may ask, and which way each goes.

use std::{pin::Pin, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{
    accepted::Accepted,
    caller::Caller,
    gate::{self, Refused},
    guard, post,
    reply::{self, Reply},
};
use crate::bridge::{
    endpoint::Endpoint,
    limits::{
        account::{Charge, Holder},
        places::{CONNECTIONS_MAX, Place as Connection},
        share,
    },
    mux::exchange::LEASE_ENDED,
};

/// The longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// How long a client may take to send the body of a request.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Answers one request of a connection.
pub(crate) async fn handle(endpoint: &Arc<Endpoint>, connection: &Connection, request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    if let Err(why) = guard::check(&parts.uri, &parts.headers) {
        return reply::forbidden(why);
    }
    if !matches!(parts.uri.path(), "/" | "/mcp") {
        return reply::refusal(StatusCode::NOT_FOUND, "the server is at / and at /mcp");
    }
    if ![Method::POST, Method::GET, Method::DELETE].contains(&parts.method) {
        return reply::not_allowed("POST, GET, DELETE", "the method must be POST, GET or DELETE");
    }
    let allocation = match endpoint.gate.admit(gate::bearer(&parts.headers)).await {
        Ok(allocation) => allocation,
        Err(Refused(why)) => return reply::unauthorized(&why),
    };
    {
        let mut exchange = endpoint.exchange();
        if !exchange.usages.enter(allocation) {
            return match exchange.usages.is_ended(allocation) {
                true => reply::unauthorized(LEASE_ENDED),
                false => reply::crowded("too many allocations use this server"),
            };
        }
    }
    if let Err(held) = connection.show(allocation) {
        endpoint.exchange().usages.add_error(allocation, 0);
        let way_out = "close some, or use those that there are again";
        let why = share::crowded("connections", allocation.map(|_| held), CONNECTIONS_MAX, way_out);
        return reply::last(reply::crowded(&why));
    }
    let accepted = Accepted::of(&parts.headers);
    let caller = Caller { endpoint, allocation, headers: &parts.headers, accepted, until: endpoint.patience() };
    match parts.method {
        Method::POST => {
            if !is_json(&parts.headers) {
                let why = "the Content-Type header must be application/json";
                return reply::refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
            }
            if !accepted.json && !accepted.stream {
                let why = "the Accept header must have application/json or text/event-stream";
                return reply::refusal(StatusCode::NOT_ACCEPTABLE, why);
            }
            match tokio::time::timeout(BODY_WAIT_MAX, read_whole(body, &caller.holder())).await {
                Ok(Ok((text, charge))) => post::handle(&caller, text, charge).await,
                Ok(Err(refusal)) => {
                    endpoint.exchange().usages.add_error(allocation, 0);
                    refusal
                }
                Err(_) => reply::refusal(StatusCode::REQUEST_TIMEOUT, "the body did not come within 30 s"),
            }
        }
        Method::GET => caller.listen(),
        _ => caller.end_session(),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// The whole body, which counts from what is said of its length on; or why it is not taken.
async fn read_whole(mut body: Incoming, holder: &Holder) -> Result<(Bytes, Charge), Reply> {
    let too_long =
        || reply::refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body has more than 4 MiB: send less at a time");
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(BODY_BYTES_MAX);
    let crowded = || reply::last(reply::crowded(&holder.crowded()));
    let mut charge = holder.bytes(said).ok_or_else(crowded)?;
    let mut first = Bytes::new();
    let mut rest = Vec::new();
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let data = match frame {
            None => break,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) => return Err(reply::refusal(StatusCode::BAD_REQUEST, "the body ended early")),
        };
        let bytes = first.len() + rest.len() + data.len();
        if bytes > BODY_BYTES_MAX {
            return Err(too_long());
        }
        if !charge.reach(bytes) {
            return Err(crowded());
        }
        // A body usually comes whole.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok((if rest.is_empty() { first } else { rest.into() }, charge))
}
