//! Reads the bodies of requests, within the limits of time, length and memory.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    http::StatusCode,
    response::Response,
};
use futures_util::StreamExt;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::{caller::Caller, http_response};
use crate::bridge::limits::memory_budget::{LeaseMemory, MemoryReservation};

/// The longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 4 << 20;

/// The longest time a client may take to send the body of a request.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Reads the whole body. Its bytes are reserved from the announced length on.
///
/// # Errors
/// Returns the response for a body that is too long, ends early, takes too long, or exceeds the memory budget.
pub(crate) async fn read(body: Body, caller: &Caller) -> Result<(Vec<u8>, MemoryReservation), Response> {
    match tokio::time::timeout(BODY_WAIT_MAX, collect(body, &caller.memory())).await {
        Ok(Ok(collected)) => Ok(collected),
        Ok(Err(rejection)) => {
            caller.endpoint.multiplexer().usages.add_error(caller.allocation, 0);
            Err(rejection)
        }
        Err(_) => Err(http_response::error(StatusCode::REQUEST_TIMEOUT, "the body was not received within 30 s")),
    }
}

async fn collect(body: Body, memory: &LeaseMemory) -> Result<(Vec<u8>, MemoryReservation), Response> {
    let too_long = || {
        http_response::error(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 4 MiB: send less in one request")
    };
    let over_budget = || http_response::closing(http_response::service_unavailable(&memory.exhausted_message()));
    let announced_bytes = match usize::try_from(body.size_hint().lower()) {
        Ok(announced_bytes) if announced_bytes <= BODY_BYTES_MAX => announced_bytes,
        _ => return Err(too_long()),
    };
    let mut reservation = memory.reserve(announced_bytes).ok_or_else(over_budget)?;
    // Not `BodyExt::collect`, which keeps each frame: a body of many small ones would take many times its length.
    let mut text = Vec::with_capacity(announced_bytes);
    let mut frames = Limited::new(body, BODY_BYTES_MAX).into_data_stream();
    while let Some(data) = frames.next().await {
        let data = data.map_err(|error| match error.is::<LengthLimitError>() {
            true => too_long(),
            false => http_response::error(StatusCode::BAD_REQUEST, "the connection ended before the end of the body"),
        })?;
        if !reservation.grow_to(text.len() + data.len()) {
            return Err(over_budget());
        }
        text.extend_from_slice(&data);
    }
    Ok((text, reservation))
}
