//! POST requests: parses their messages and dispatches them by protocol mode.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::{
    caller::Caller,
    http_response, request_body,
    respond::{StatusOf, respond, single_response},
    response_stream::{Batch, ResponseStream},
    session_requests, stateless,
};
use crate::bridge::mux::{
    message::{Message, MessageKind, Meta, Parameters, string_param},
    protocol::{ProtocolMode, supported_versions},
    rpc_response::{HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, RpcResponse, VERSION_UNSUPPORTED},
    session::SessionId,
};

/// The most messages of a batch.
const BATCH_MAX: usize = 100;

pub(crate) async fn handle(caller: Caller, body: Body) -> Response {
    if !is_json(&caller.headers) {
        let why = "the Content-Type header must be application/json";
        return http_response::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, why);
    }
    if !caller.accepted.json && !caller.accepted.stream {
        let why = "the Accept header must include application/json or text/event-stream";
        return http_response::error(StatusCode::NOT_ACCEPTABLE, why);
    }
    let (text, reservation) = match request_body::read(body, &caller).await {
        Ok(text_and_reservation) => text_and_reservation,
        Err(rejection) => return rejection,
    };
    let accepted = accept(&caller, &text).await;
    // A call does not need the body while it waits for its response.
    drop((text, reservation));
    match accepted {
        Ok((responses, status)) => respond(&caller, responses, status).await,
        Err(response) => *response,
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let media_type = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// Accepts the messages of a body.
///
/// # Errors
/// Returns a response that needs no call, such as an error.
async fn accept(caller: &Caller, body: &[u8]) -> Result<(ResponseStream, StatusOf), Box<Response>> {
    let rpc_error =
        |id, code, why: &str| Err(Box::new(http_response::rpc_error(StatusCode::BAD_REQUEST, id, code, why)));
    let Ok(text) = std::str::from_utf8(body) else {
        return rpc_error(None, -32_700, "the message is not UTF-8");
    };
    if text.trim_ascii_start().starts_with('[') {
        return accept_batch(caller, text).await;
    }
    let message = match Message::parse(text) {
        Ok(message) => message,
        Err(error) => return rpc_error(None, error.code(), &error.to_string()),
    };
    let id = match &message.kind {
        MessageKind::Request { id, .. } => Some(*id),
        _ => None,
    };
    let (params, meta) = match read_params(&message) {
        Ok(params_and_meta) => params_and_meta,
        Err(why) => return rpc_error(id, INVALID_PARAMS, &why),
    };
    if matches!(&message.kind, MessageKind::Request { method, .. } if method == "initialize") {
        return Err(Box::new(session_requests::initialize(caller, id.unwrap_or_default(), &params).await));
    }
    match protocol_mode(caller, id, &meta)? {
        ProtocolMode::Stateless => stateless::accept(caller, &message, &params, &meta).await,
        ProtocolMode::Handshake => match accept_message(caller, caller.session()?, &message, &params, &meta).await {
            None => Err(Box::new(StatusCode::ACCEPTED.into_response())),
            Some(Err(response)) => Err(Box::new(single_response(caller, response, StatusCode::OK))),
            Some(Ok(responses)) => Ok((responses, |_| StatusCode::OK)),
        },
    }
}

fn read_params<'a>(message: &Message<'a>) -> Result<(Parameters<'a>, Meta<'a>), String> {
    let params_and_meta = message.parameters().and_then(|params| params.meta().map(|meta| (params, meta)));
    let (params, meta) = params_and_meta.map_err(|error| format!("params are not valid ({error})"))?;
    match message.case_variant_key(&params) {
        Some(key) => Err(format!("a key differs from {key} only in case: write {key} exactly, or omit the key")),
        None => Ok((params, meta)),
    }
}

/// Returns the protocol mode of the client, from the headers and the message.
fn protocol_mode(caller: &Caller, id: Option<&str>, meta: &Meta<'_>) -> Result<ProtocolMode, Box<Response>> {
    let unsupported = |version: &str| {
        let data = serde_json::json!({"supported": supported_versions(), "requested": version}).to_string();
        let why = format!("protocol version {version} is not supported");
        let response = RpcResponse::error_with(id.unwrap_or("null"), VERSION_UNSUPPORTED, &why, Some(&data));
        Box::new(http_response::json(StatusCode::BAD_REQUEST, response.text))
    };
    let header = caller.version().map_err(|version| unsupported(&version))?;
    let Some(version_in_meta) = string_param(meta.protocol_version) else {
        return Ok(header.map_or(ProtocolMode::Handshake, |(_, mode)| mode));
    };
    match header {
        Some((version, mode)) if version == version_in_meta => Ok(mode),
        _ if ProtocolMode::of_version(&version_in_meta).is_none() => {
            Err(unsupported(&version_in_meta.chars().take(64).collect::<String>()))
        }
        _ => {
            let why = format!("the MCP-Protocol-Version header must be {version_in_meta}, as in _meta");
            Err(Box::new(http_response::rpc_error(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &why)))
        }
    }
}

/// Accepts one message of a session. Returns `None` if it is not a request, so that it has no response.
async fn accept_message(
    caller: &Caller,
    session: SessionId,
    message: &Message<'_>,
    params: &Parameters<'_>,
    meta: &Meta<'_>,
) -> Option<Result<ResponseStream, RpcResponse>> {
    match &message.kind {
        MessageKind::Request { id, method } => {
            let submitted =
                session_requests::submit_request(caller, session, message, (id, method), params, meta).await;
            Some(submitted.map(ResponseStream::Call))
        }
        MessageKind::Notification { method } => {
            session_requests::handle_notification(caller, Some(session), message, method, params);
            None
        }
        // The bridge sends no requests to clients.
        MessageKind::Response { .. } => None,
    }
}

async fn accept_batch(caller: &Caller, text: &str) -> Result<(ResponseStream, StatusOf), Box<Response>> {
    let rpc_error = |code, why: &str| Err(Box::new(http_response::rpc_error(StatusCode::BAD_REQUEST, None, code, why)));
    let texts: Vec<&serde_json::value::RawValue> = match serde_json::from_str(text) {
        Ok(texts) => texts,
        Err(error) => return rpc_error(-32_700, &format!("the batch is not JSON ({error})")),
    };
    if texts.is_empty() || texts.len() > BATCH_MAX {
        return rpc_error(INVALID_REQUEST, &format!("the batch has {} messages: send 1 to {BATCH_MAX}", texts.len()));
    }
    match caller.version() {
        Ok(Some((version, ProtocolMode::Stateless))) => {
            return rpc_error(INVALID_REQUEST, &format!("{version} has no batches"));
        }
        Ok(_) => {}
        Err(version) => return rpc_error(VERSION_UNSUPPORTED, &format!("protocol version {version} is not supported")),
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
                Some(Ok(ResponseStream::Call(call))) => batch.calls.push_back(call),
                Some(Err(response)) => batch.responses.push(response),
                _ => {}
            },
            Err(why) => batch.responses.push(RpcResponse::error("null", INVALID_PARAMS, &why)),
        }
    }
    if batch.calls.is_empty() && batch.responses.is_empty() {
        return Err(Box::new(StatusCode::ACCEPTED.into_response()));
    }
    Ok((ResponseStream::Batch(batch), |_| StatusCode::OK))
}
