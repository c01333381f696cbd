//! Requests over HTTP: who may ask, and which way each goes.

use std::{pin::Pin, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{
    accepted::Accepted,
    auth::{self, AuthError},
    caller::Caller,
    http_response::{self, HttpResponse},
    origin_check, post,
};
use crate::bridge::{
    endpoint::Endpoint,
    limits::{
        connection_permits::{CONNECTIONS_MAX, ConnectionPermit},
        fair_share,
        memory_budget::{LeaseMemory, MemoryReservation},
    },
    mux::multiplexer::LEASE_ENDED,
};

/// The longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// How long a client may take to send the body of a request.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Answers one request of a connection.
pub(crate) async fn handle(
    endpoint: &Arc<Endpoint>,
    permit: &ConnectionPermit,
    request: Request<Incoming>,
) -> HttpResponse {
    let (parts, body) = request.into_parts();
    if let Err(why) = origin_check::check(&parts.uri, &parts.headers) {
        return http_response::forbidden(why);
    }
    if !matches!(parts.uri.path(), "/" | "/mcp") {
        return http_response::error(StatusCode::NOT_FOUND, "the server is at / and at /mcp");
    }
    if ![Method::POST, Method::GET, Method::DELETE].contains(&parts.method) {
        return http_response::method_not_allowed("POST, GET, DELETE", "the method must be POST, GET or DELETE");
    }
    let allocation = match endpoint.authenticator.authenticate(auth::bearer(&parts.headers)).await {
        Ok(allocation) => allocation,
        Err(AuthError(why)) => return http_response::unauthorized(&why),
    };
    {
        let mut multiplexer = endpoint.multiplexer();
        if !multiplexer.usages.admit(allocation) {
            return match multiplexer.usages.is_ended(allocation) {
                true => http_response::unauthorized(LEASE_ENDED),
                false => http_response::service_unavailable("too many allocations use this server"),
            };
        }
    }
    if let Err(held) = permit.assign(allocation) {
        endpoint.multiplexer().usages.add_error(allocation, 0);
        let way_out = "close some, or use those that there are again";
        let why = fair_share::limit_reached("connections", allocation.map(|_| held), CONNECTIONS_MAX, way_out);
        return http_response::closing(http_response::service_unavailable(&why));
    }
    let accepted = Accepted::of(&parts.headers);
    let caller = Caller { endpoint, allocation, headers: &parts.headers, accepted, until: endpoint.start_deadline() };
    match parts.method {
        Method::POST => {
            if !is_json(&parts.headers) {
                let why = "the Content-Type header must be application/json";
                return http_response::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
            }
            if !accepted.json && !accepted.stream {
                let why = "the Accept header must have application/json or text/event-stream";
                return http_response::error(StatusCode::NOT_ACCEPTABLE, why);
            }
            match tokio::time::timeout(BODY_WAIT_MAX, read_whole(body, &caller.memory())).await {
                Ok(Ok((text, reservation))) => post::handle(&caller, text, reservation).await,
                Ok(Err(refusal)) => {
                    endpoint.multiplexer().usages.add_error(allocation, 0);
                    refusal
                }
                Err(_) => http_response::error(StatusCode::REQUEST_TIMEOUT, "the body did not come within 30 s"),
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
async fn read_whole(mut body: Incoming, memory: &LeaseMemory) -> Result<(Bytes, MemoryReservation), HttpResponse> {
    let too_long =
        || http_response::error(StatusCode::PAYLOAD_TOO_LARGE, "the body has more than 4 MiB: send less at a time");
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(BODY_BYTES_MAX);
    let crowded = || http_response::closing(http_response::service_unavailable(&memory.exhausted_message()));
    let mut reservation = memory.reserve(said).ok_or_else(crowded)?;
    let mut first = Bytes::new();
    let mut rest = Vec::new();
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let data = match frame {
            None => break,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) => return Err(http_response::error(StatusCode::BAD_REQUEST, "the body ended early")),
        };
        let bytes = first.len() + rest.len() + data.len();
        if bytes > BODY_BYTES_MAX {
            return Err(too_long());
        }
        if !reservation.grow_to(bytes) {
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
    Ok((if rest.is_empty() { first } else { rest.into() }, reservation))
}
