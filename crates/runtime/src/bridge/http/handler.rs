//! Handles one HTTP request: checks, authentication, limits, then dispatch by method.

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

/// The longest time a client may take to send the body of a request.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Responds to one request of a connection.
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
        return http_response::error(StatusCode::NOT_FOUND, "not found: the server is at / and /mcp");
    }
    if ![Method::POST, Method::GET, Method::DELETE].contains(&parts.method) {
        return http_response::method_not_allowed("POST, GET, DELETE", "the method must be POST, GET or DELETE");
    }
    let allocation = match endpoint.authenticator.authenticate(auth::bearer_token(&parts.headers)).await {
        Ok(allocation) => allocation,
        Err(AuthError(why)) => return http_response::unauthorized(&why),
    };
    {
        let mut multiplexer = endpoint.multiplexer();
        if !multiplexer.usages.admit(allocation) {
            return match multiplexer.usages.is_ended(allocation) {
                true => http_response::unauthorized(LEASE_ENDED),
                false => http_response::service_unavailable("too many allocations use this server: try again later"),
            };
        }
    }
    if let Err(held) = permit.assign(allocation) {
        endpoint.multiplexer().usages.add_error(allocation, 0);
        let remedy = "close some, or reuse open ones";
        let why = fair_share::limit_reached("connections", allocation.map(|_| held), CONNECTIONS_MAX, remedy);
        return http_response::closing(http_response::service_unavailable(&why));
    }
    let accepted = Accepted::from_headers(&parts.headers);
    let caller = Caller { endpoint, allocation, headers: &parts.headers, accepted, until: endpoint.start_deadline() };
    match parts.method {
        Method::POST => {
            if !is_json(&parts.headers) {
                let why = "the Content-Type header must be application/json";
                return http_response::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
            }
            if !accepted.json && !accepted.stream {
                let why = "the Accept header must include application/json or text/event-stream";
                return http_response::error(StatusCode::NOT_ACCEPTABLE, why);
            }
            match tokio::time::timeout(BODY_WAIT_MAX, read_body(body, &caller.memory())).await {
                Ok(Ok((text, reservation))) => post::handle(&caller, text, reservation).await,
                Ok(Err(rejection)) => {
                    endpoint.multiplexer().usages.add_error(allocation, 0);
                    rejection
                }
                Err(_) => http_response::error(StatusCode::REQUEST_TIMEOUT, "the body was not received within 30 s"),
            }
        }
        Method::GET => caller.listen(),
        _ => caller.end_session(),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// Reads the whole body. Its bytes are reserved from the announced length on.
///
/// # Errors
/// Returns the response for a body that is too long, ends early, or exceeds the memory budget.
async fn read_body(mut body: Incoming, memory: &LeaseMemory) -> Result<(Bytes, MemoryReservation), HttpResponse> {
    let too_long = || {
        http_response::error(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 4 MiB: send less in one request")
    };
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_long());
    }
    let announced_bytes = usize::try_from(body.size_hint().lower()).unwrap_or(BODY_BYTES_MAX);
    let over_budget = || http_response::closing(http_response::service_unavailable(&memory.exhausted_message()));
    let mut reservation = memory.reserve(announced_bytes).ok_or_else(over_budget)?;
    let mut first = Bytes::new();
    let mut rest = Vec::new();
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let data = match frame {
            None => break,
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) => {
                return Err(http_response::error(
                    StatusCode::BAD_REQUEST,
                    "the connection ended before the end of the body",
                ));
            }
        };
        let bytes = first.len() + rest.len() + data.len();
        if bytes > BODY_BYTES_MAX {
            return Err(too_long());
        }
        if !reservation.grow_to(bytes) {
            return Err(over_budget());
        }
        // Most bodies arrive in one frame, which is not copied.
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
