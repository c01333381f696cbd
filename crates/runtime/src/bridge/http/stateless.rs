//! Requests of clients of 2026-07-28: no handshake and no session. Each request carries its context, and its headers
//! repeat what intermediaries need to route it.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use axum::{
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    caller::Caller,
    http_response,
    respond::{StatusOf, single_response, stateless_status},
    response_stream::{ResponseStream, StreamGuard, StreamOwner},
    session_requests,
};
use crate::bridge::mux::{
    call_handle::CallHandle,
    client_request::ClientRequest,
    connected_child::ChildInfo,
    mailbox::Mailbox,
    message::{Message, MessageKind, Meta, Parameters, string_param},
    protocol::{META_CAPABILITIES, META_SERVER, META_SUBSCRIPTION, META_VERSION, ProtocolMode, supported_versions},
    rpc_response::{HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, RpcResponse},
    session::{LimitReached, Listener, NotificationFilter, SUBSCRIPTIONS_MAX},
};

const METHOD_HEADER: &str = "mcp-method";
const NAME_HEADER: &str = "mcp-name";

/// Methods of earlier versions that 2026-07-28 removed.
const REMOVED_METHODS: [&str; 4] = ["ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// Accepts a message.
///
/// # Errors
/// Returns a response that needs no call, such as an error.
pub(crate) async fn accept(
    caller: &Caller,
    message: &Message<'_>,
    params: &Parameters<'_>,
    meta: &Meta<'_>,
) -> Result<(ResponseStream, StatusOf), Box<Response>> {
    let (id, method) = match &message.kind {
        MessageKind::Request { id, method } => (Some(*id), method),
        MessageKind::Notification { method } => (None, method),
        MessageKind::Response { .. } => return Err(Box::new(StatusCode::ACCEPTED.into_response())),
    };
    if let Err(why) = check_headers(&caller.headers, method, params) {
        return Err(Box::new(http_response::rpc_error(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &why)));
    }
    let Some(id) = id else {
        session_requests::handle_notification(caller, None, message, method, params);
        return Err(Box::new(StatusCode::ACCEPTED.into_response()));
    };
    let missing: Vec<_> = [(META_VERSION, meta.protocol_version), (META_CAPABILITIES, meta.client_capabilities)]
        .iter()
        .filter(|(_, value)| value.is_none())
        .map(|(key, _)| *key)
        .collect();
    if !missing.is_empty() {
        let why = format!("params._meta must include {}", missing.join(" and "));
        return Err(Box::new(http_response::rpc_error(StatusCode::BAD_REQUEST, Some(id), INVALID_PARAMS, &why)));
    }
    let request = ClientRequest {
        message,
        id,
        method,
        params,
        meta,
        mode: ProtocolMode::Stateless,
        session: None,
        allocation: caller.allocation,
    };
    match handle_request(caller, &request).await {
        Ok(StatelessOutcome::Call(call)) => Ok((ResponseStream::Call(call), stateless_status)),
        Ok(StatelessOutcome::Response(http_response)) => Err(Box::new(http_response)),
        Err(response) => {
            session_requests::count_error(caller, &response);
            let response =
                if response.error_code.is_none() { response.reserve_in(&caller.memory(), id) } else { response };
            let status = stateless_status(&response);
            Err(Box::new(single_response(caller, response, status)))
        }
    }
}

/// What became of a request that was accepted.
enum StatelessOutcome {
    Call(CallHandle),
    Response(Response),
}

async fn handle_request(caller: &Caller, request: &ClientRequest<'_>) -> Result<StatelessOutcome, RpcResponse> {
    let endpoint = &caller.endpoint;
    if REMOVED_METHODS.contains(&request.method) {
        let why = format!("{} is not part of 2026-07-28", request.method);
        return Err(RpcResponse::error(request.id, METHOD_NOT_FOUND, &why));
    }
    let info = endpoint
        .wait_for_child(caller.until, caller.allocation)
        .await
        .map_err(|unavailable| unavailable.response(request.id))?;
    match request.method {
        "server/discover" => Err(RpcResponse::result(request.id, &discovery(&info).to_string())),
        "subscriptions/listen" => listen(caller, request, &info).map(StatelessOutcome::Response),
        _ => {
            session_requests::reject_tasks(request, info.mode)?;
            let number = endpoint.multiplexer().calls.next_number();
            CallHandle::submit(endpoint, request.to_call(number, info.mode, None)?).map(StatelessOutcome::Call)
        }
    }
}

/// Returns the result of `server/discover`.
fn discovery(info: &ChildInfo) -> Value {
    let capabilities = info.result.get("capabilities").cloned().unwrap_or_else(|| json!({}));
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": supported_versions(),
        "capabilities": capabilities,
        "ttlMs": 0,
        "cacheScope": "private",
    });
    if let Some(server) = info.result.get("serverInfo") {
        result["_meta"] = json!({META_SERVER: server});
    }
    if let Some(instructions) = info.result.get("instructions") {
        result["instructions"] = instructions.clone();
    }
    result
}

/// Opens an event stream for `subscriptions/listen`.
fn listen(caller: &Caller, request: &ClientRequest<'_>, info: &ChildInfo) -> Result<Response, RpcResponse> {
    let requested =
        request.params.notifications.map(|requested| serde_json::from_str::<NotificationFilter>(requested.get()));
    let Some(Ok(requested)) = requested else {
        return Err(request.invalid_params("params.notifications must be an object with the notifications to receive"));
    };
    if requested.resource_subscriptions.len() > SUBSCRIPTIONS_MAX {
        let why = format!("params.notifications.resourceSubscriptions has more than {SUBSCRIPTIONS_MAX} entries");
        return Err(request.invalid_params(&why));
    }
    if !caller.accepted.stream {
        let why = "the Accept header must include text/event-stream";
        return Ok(http_response::error(StatusCode::NOT_ACCEPTABLE, why));
    }
    let can_subscribe = info.has_capability("/resources/subscribe");
    let filter = NotificationFilter {
        tools_list_changed: requested.tools_list_changed && info.has_capability("/tools/listChanged"),
        prompts_list_changed: requested.prompts_list_changed && info.has_capability("/prompts/listChanged"),
        resources_list_changed: requested.resources_list_changed && info.has_capability("/resources/listChanged"),
        resource_subscriptions: if can_subscribe { requested.resource_subscriptions } else { BTreeSet::new() },
    };
    let mailbox = Mailbox::for_client(caller.memory());
    // The id is copied verbatim.
    let params = format!(r#"{{"_meta":{{"{META_SUBSCRIPTION}":{}}},"notifications":{}}}"#, request.id, json!(filter));
    let method = "notifications/subscriptions/acknowledged";
    if !mailbox.push(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#).into()) {
        return Ok(caller.over_limit(&caller.memory().exhausted_message()));
    }
    let mut multiplexer = caller.endpoint.multiplexer();
    if let Err(LimitReached(why)) = multiplexer.sessions.check_listener_limit(caller.allocation) {
        drop(multiplexer);
        return Ok(caller.over_limit(&why));
    }
    let number = multiplexer.calls.next_number();
    let listener =
        Listener { allocation: caller.allocation, id: request.id.into(), filter, mailbox: Arc::clone(&mailbox) };
    multiplexer.sessions.listeners.insert(number, listener);
    multiplexer.sync_subscriptions();
    drop(multiplexer);
    let guard = StreamGuard { endpoint: Arc::clone(&caller.endpoint), mailbox, owner: StreamOwner::Listener(number) };
    Ok(http_response::event_stream(ResponseStream::Notifications(guard).into_events(None)))
}

/// Checks that the headers match the body.
fn check_headers(headers: &HeaderMap, method: &str, params: &Parameters<'_>) -> Result<(), String> {
    if single_header(headers, METHOD_HEADER)?.as_deref() != Some(method) {
        return Err(format!("the Mcp-Method header must be {method}, as in the body"));
    }
    let name = match method {
        "tools/call" | "prompts/get" => params.name,
        "resources/read" => params.uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" => params.task_id,
        _ => None,
    };
    let Some(name) = string_param(name) else {
        return Ok(());
    };
    if single_header(headers, NAME_HEADER)?.as_deref() != Some(name.as_ref()) {
        return Err(format!("the Mcp-Name header must be the name, uri or taskId in the params of {method}"));
    }
    Ok(())
}

/// Returns the value of a header that may appear once, decoded.
fn single_header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<Cow<'a, str>>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(format!("the {name} header must not be repeated"));
    }
    let value = value.to_str().map_err(|_| format!("the {name} header has characters that are not visible ASCII"))?;
    match value.strip_prefix("=?base64?").and_then(|value| value.strip_suffix("?=")) {
        None => Ok(Some(Cow::Borrowed(value))),
        Some(encoded) => match BASE64_STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(decoded) => Ok(Some(Cow::Owned(decoded))),
            None => Err(format!("the {name} header is not Base64 of UTF-8 text")),
        },
    }
}
