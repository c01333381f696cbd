//! Messages that clients send.

use hyper::{StatusCode, body::Bytes};

use super::{
    caller::Caller,
    http_response::{self, HttpResponse},
    respond::{StatusOf, plain, respond},
    response_stream::{Batch, ResponseStream},
    session_requests, stateless,
};
use crate::bridge::{
    limits::memory_budget::MemoryReservation,
    mux::{
        message::{Message, MessageKind, Meta, Parameters, text_of},
        protocol::{ProtocolMode, supported_versions},
        rpc_response::{HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, RpcResponse, VERSION_UNSUPPORTED},
        session::SessionId,
    },
};

/// The most messages of a batch.
const BATCH_MAX: usize = 100;

/// Answers a body.
pub(crate) async fn handle(caller: &Caller<'_>, body: Bytes, reservation: MemoryReservation) -> HttpResponse {
    let taken = accept(caller, &body).await;
    // What waits for its answer need not keep its request.
    drop((body, reservation));
    match taken {
        Ok((responses, status)) => respond(caller, responses, status).await,
        Err(http_response) => *http_response,
    }
}

/// Takes in what a body asks for.
///
/// # Errors
/// The reply, where there is one at once.
async fn accept(caller: &Caller<'_>, body: &Bytes) -> Result<(ResponseStream, StatusOf), Box<HttpResponse>> {
    let fault = |id, code, why: &str| Err(Box::new(http_response::rpc_error(StatusCode::BAD_REQUEST, id, code, why)));
    let Ok(text) = std::str::from_utf8(body) else {
        return fault(None, -32_700, "the message is not UTF-8");
    };
    if text.trim_ascii_start().starts_with('[') {
        return batch(caller, text).await;
    }
    let message = match Message::parse(text) {
        Ok(message) => message,
        Err(error) => return fault(None, error.code(), &error.to_string()),
    };
    let id = match &message.kind {
        MessageKind::Request { id, .. } => Some(*id),
        _ => None,
    };
    let (params, meta) = match read_params(&message) {
        Ok(read_params) => read_params,
        Err(why) => return fault(id, INVALID_PARAMS, &why),
    };
    if matches!(&message.kind, MessageKind::Request { method, .. } if method == "initialize") {
        return Err(Box::new(session_requests::initialize(caller, id.unwrap_or_default(), &params).await));
    }
    match protocol_mode(caller, id, &meta)? {
        ProtocolMode::Stateless => stateless::accept(caller, &message, &params, &meta).await,
        ProtocolMode::Handshake => match accept_message(caller, caller.session()?, &message, &params, &meta).await {
            None => Err(Box::new(http_response::empty(StatusCode::ACCEPTED))),
            Some(Err(response)) => Err(Box::new(plain(caller, response, StatusCode::OK))),
            Some(Ok(responses)) => Ok((responses, |_| StatusCode::OK)),
        },
    }
}

fn read_params<'a>(message: &Message<'a>) -> Result<(Parameters<'a>, Meta<'a>), String> {
    let read_params = message.parameters().and_then(|params| params.meta().map(|meta| (params, meta)));
    let (params, meta) = read_params.map_err(|error| format!("params cannot be read ({error})"))?;
    match message.case_variant_key(&params) {
        Some(key) => Err(format!("a key is {key} but for the case of its letters: write it as it is, or leave it out")),
        None => Ok((params, meta)),
    }
}

/// How the client speaks, by the headers and the message.
fn protocol_mode(caller: &Caller<'_>, id: Option<&str>, meta: &Meta<'_>) -> Result<ProtocolMode, Box<HttpResponse>> {
    let unsupported = |version: &str| {
        let data = serde_json::json!({"supported": supported_versions(), "requested": version}).to_string();
        let why = format!("protocol version {version} is not supported");
        let response = RpcResponse::error_with(id.unwrap_or("null"), VERSION_UNSUPPORTED, &why, Some(&data));
        Box::new(http_response::json(StatusCode::BAD_REQUEST, response.text))
    };
    let header = caller.version().map_err(|version| unsupported(&version))?;
    let Some(said) = text_of(meta.protocol_version) else {
        return Ok(header.map_or(ProtocolMode::Handshake, |(_, protocol_mode)| protocol_mode));
    };
    match header {
        Some((version, protocol_mode)) if version == said => Ok(protocol_mode),
        _ if ProtocolMode::of_version(&said).is_none() => Err(unsupported(&said.chars().take(64).collect::<String>())),
        _ => {
            let why = format!("the MCP-Protocol-Version header must be there and say {said}, as _meta does");
            Err(Box::new(http_response::rpc_error(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &why)))
        }
    }
}

/// Takes one message of a session. Nothing comes of what is no request.
async fn accept_message(
    caller: &Caller<'_>,
    session: SessionId,
    message: &Message<'_>,
    params: &Parameters<'_>,
    meta: &Meta<'_>,
) -> Option<Result<ResponseStream, RpcResponse>> {
    match &message.kind {
        MessageKind::Request { id, method } => {
            let asked = session_requests::submit_request(caller, session, message, (id, method), params, meta).await;
            Some(asked.map(ResponseStream::One))
        }
        MessageKind::Notification { method } => {
            session_requests::handle_notification(caller, Some(session), message, method, params);
            None
        }
        // The bridge asks clients nothing.
        MessageKind::Response { .. } => None,
    }
}

async fn batch(caller: &Caller<'_>, text: &str) -> Result<(ResponseStream, StatusOf), Box<HttpResponse>> {
    let fault = |code, why: &str| Err(Box::new(http_response::rpc_error(StatusCode::BAD_REQUEST, None, code, why)));
    let texts: Vec<&serde_json::value::RawValue> = match serde_json::from_str(text) {
        Ok(texts) => texts,
        Err(error) => return fault(-32_700, &format!("the batch is not JSON ({error})")),
    };
    if texts.is_empty() || texts.len() > BATCH_MAX {
        return fault(INVALID_REQUEST, &format!("a batch of {} messages: send 1 to {BATCH_MAX}", texts.len()));
    }
    match caller.version() {
        Ok(Some((version, ProtocolMode::Stateless))) => {
            return fault(INVALID_REQUEST, &format!("{version} has no batches"));
        }
        Ok(_) => {}
        Err(version) => return fault(VERSION_UNSUPPORTED, &format!("protocol version {version} is not supported")),
    }
    let session = caller.session()?;
    let mut batch = Batch::default();
    for text in texts {
        let message = match Message::parse(text.get()) {
            Ok(message) => message,
            Err(error) => {
                batch.responses.push(RpcResponse::error("null", error.code(), &error.to_string()));
                continue;
            }
        };
        match read_params(&message) {
            Ok((params, meta)) => match accept_message(caller, session, &message, &params, &meta).await {
                Some(Ok(ResponseStream::One(ticket))) => batch.tickets.push_back(ticket),
                Some(Err(response)) => batch.responses.push(response),
                _ => {}
            },
            Err(why) => batch.responses.push(RpcResponse::error("null", INVALID_PARAMS, &why)),
        }
    }
    if batch.tickets.is_empty() && batch.responses.is_empty() {
        return Err(Box::new(http_response::empty(StatusCode::ACCEPTED)));
    }
    Ok((ResponseStream::Batch(batch), |_| StatusCode::OK))
}
