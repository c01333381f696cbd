//! Requests of clients with a session, and those that the bridge answers itself because they concern all clients.

use std::{sync::Arc, time::Instant};

use axum::{
    http::{HeaderValue, StatusCode},
    response::Response,
};
use serde_json::Value;

use super::{
    caller::{Caller, SESSION_HEADER},
    respond::single_response,
};
use crate::bridge::mux::{
    call_handle::CallHandle,
    client_request::ClientRequest,
    log_level::LogLevel,
    mailbox::Completion,
    message::{Message, Meta, Parameters, spliced, string_param},
    protocol::{HANDSHAKE_VERSIONS, NEWEST_HANDSHAKE, ProtocolMode},
    rpc_response::{INVALID_REQUEST, METHOD_NOT_FOUND, RpcResponse},
    session::{LimitReached, SUBSCRIPTIONS_MAX, SessionId},
    usage::Usage,
};

/// Opens a session with the child's own answer to `initialize`.
pub(crate) async fn initialize(caller: &Caller, id: &str, params: &Parameters<'_>) -> Response {
    let endpoint = &caller.endpoint;
    let info = match endpoint.wait_for_child(caller.until, caller.allocation).await {
        Ok(info) => info,
        Err(unavailable) => return single_response(caller, unavailable.response(id), StatusCode::OK),
    };
    let requested_version = string_param(params.protocol_version).unwrap_or_default();
    let version = HANDSHAKE_VERSIONS.iter().find(|known| **known == requested_version).unwrap_or(&NEWEST_HANDSHAKE);
    let mut result = info.result.clone();
    result.insert("protocolVersion".to_owned(), Value::from(*version));
    let response = RpcResponse::result(id, &Value::Object(result).to_string()).reserve_in(&caller.memory(), id);
    if response.error_code.is_some() {
        count_error(caller, &response);
        return single_response(caller, response, StatusCode::OK);
    }
    let opened = {
        let mut multiplexer = endpoint.multiplexer();
        let now = Instant::now();
        multiplexer.sessions.select_evicted(caller.allocation, now).map(|evicted| {
            for session in evicted {
                multiplexer.end_session(session);
            }
            multiplexer.sessions.insert(caller.allocation, now)
        })
    };
    let session = match opened {
        Ok(session) => session,
        Err(LimitReached(reason)) => return caller.over_limit(&reason),
    };
    let mut http_response = single_response(caller, response, StatusCode::OK);
    if let Ok(session) = HeaderValue::try_from(session.to_string()) {
        http_response.headers_mut().insert(SESSION_HEADER, session);
    }
    http_response
}

/// Submits a request of a session.
///
/// # Errors
/// Returns a response that needs no call, such as an error.
pub(crate) async fn submit_request(
    caller: &Caller,
    session: SessionId,
    message: &Message<'_>,
    (id, method): (&str, &str),
    params: &Parameters<'_>,
    meta: &Meta<'_>,
) -> Result<CallHandle, RpcResponse> {
    let request = ClientRequest {
        message,
        id,
        method,
        params,
        meta,
        mode: ProtocolMode::Handshake,
        session: Some(session),
        allocation: caller.allocation,
    };
    match method {
        "ping" => return Err(RpcResponse::result(id, "{}")),
        "initialize" => return Err(RpcResponse::error(id, INVALID_REQUEST, "initialize must not be part of a batch")),
        _ => {}
    }
    let submitted = submit(caller, &request).await;
    if let Err(response) = &submitted {
        count_error(caller, response);
    }
    submitted
}

async fn submit(caller: &Caller, request: &ClientRequest<'_>) -> Result<CallHandle, RpcResponse> {
    let endpoint = &caller.endpoint;
    let info = endpoint
        .wait_for_child(caller.until, caller.allocation)
        .await
        .map_err(|unavailable| unavailable.response(request.id))?;
    reject_tasks(request, info.mode)?;
    match request.method {
        "logging/setLevel" if info.has_capability("/logging") || info.mode == ProtocolMode::Stateless => {
            return Err(set_level(caller, request));
        }
        "resources/subscribe"
            if info.mode == ProtocolMode::Stateless && !info.has_capability("/resources/subscribe") =>
        {
            return Err(RpcResponse::error(request.id, METHOD_NOT_FOUND, "the server does not support subscriptions"));
        }
        "resources/subscribe" => subscribe(caller, request, info.mode)?,
        "resources/unsubscribe" => unsubscribe(caller, request, info.mode)?,
        _ => {}
    }
    let (number, level) = {
        let mut multiplexer = endpoint.multiplexer();
        let session = request.session.and_then(|session| multiplexer.sessions.by_id.get(&session));
        let level = session.and_then(|session| session.level);
        (multiplexer.calls.next_number(), level)
    };
    CallHandle::submit(endpoint, request.to_call(number, info.mode, level)?)
}

/// Rejects task requests to a child with a handshake: it would list and cancel the tasks of all clients.
pub(crate) fn reject_tasks(request: &ClientRequest<'_>, child: ProtocolMode) -> Result<(), RpcResponse> {
    if child == ProtocolMode::Handshake && request.method.starts_with("tasks/") {
        let reason =
            "this server is shared by several clients through cortex-resource-manager, which does not support tasks";
        return Err(RpcResponse::error(request.id, METHOD_NOT_FOUND, reason));
    }
    Ok(())
}

/// Counts a response of the bridge itself, if it is an error.
pub(crate) fn count_error(caller: &Caller, response: &RpcResponse) {
    if response.error_code.is_some() {
        caller.endpoint.multiplexer().usages.add_error(caller.allocation, response.text.len());
    }
}

fn set_level(caller: &Caller, request: &ClientRequest<'_>) -> RpcResponse {
    let Some(level) = string_param(request.params.level).and_then(|name| LogLevel::from_name(&name)) else {
        return request
            .invalid_params("params.level must be debug, info, notice, warning, error, critical, alert or emergency");
    };
    let mut multiplexer = caller.endpoint.multiplexer();
    if let Some(session) = request.session.and_then(|session| multiplexer.sessions.by_id.get_mut(&session)) {
        session.level = Some(level);
    }
    multiplexer.sync_subscriptions();
    RpcResponse::result(request.id, "{}")
}

/// Registers a subscription before the child receives the request, so that no update is missed. If the child responds
/// with an error, the subscription is removed.
///
/// # Errors
/// Returns a response that needs no call to the child.
fn subscribe(caller: &Caller, request: &ClientRequest<'_>, child: ProtocolMode) -> Result<(), RpcResponse> {
    let Some(uri) = string_param(request.params.uri) else {
        return Err(request.invalid_params("params.uri must be a string"));
    };
    let mut multiplexer = caller.endpoint.multiplexer();
    if let Some(session) = request.session.and_then(|session| multiplexer.sessions.by_id.get_mut(&session)) {
        if session.subscriptions.len() >= SUBSCRIPTIONS_MAX && !session.subscriptions.contains(uri.as_ref()) {
            let reason =
                format!("the limit of {SUBSCRIPTIONS_MAX} subscriptions is reached: unsubscribe from some first");
            return Err(request.invalid_params(&reason));
        }
        session.subscriptions.insert(Arc::from(uri.as_ref()));
    }
    match child {
        ProtocolMode::Handshake => Ok(()),
        ProtocolMode::Stateless => {
            multiplexer.sync_subscriptions();
            Err(RpcResponse::result(request.id, "{}"))
        }
    }
}

/// Removes a subscription. The child gets the request only if no other client has the same subscription.
///
/// # Errors
/// Returns a response that needs no call to the child.
fn unsubscribe(caller: &Caller, request: &ClientRequest<'_>, child: ProtocolMode) -> Result<(), RpcResponse> {
    let (Some(uri), Some(session)) = (string_param(request.params.uri), request.session) else {
        return Err(request.invalid_params("params.uri must be a string"));
    };
    let mut multiplexer = caller.endpoint.multiplexer();
    match child {
        ProtocolMode::Handshake if multiplexer.unsubscribe(session, &uri) => Ok(()),
        ProtocolMode::Handshake => Err(RpcResponse::result(request.id, "{}")),
        ProtocolMode::Stateless => {
            if let Some(session) = multiplexer.sessions.by_id.get_mut(&session) {
                session.subscriptions.remove(uri.as_ref());
            }
            multiplexer.sync_subscriptions();
            Err(RpcResponse::result(request.id, "{}"))
        }
    }
}

/// Handles a notification of a client.
pub(crate) fn handle_notification(
    caller: &Caller,
    session: Option<SessionId>,
    message: &Message<'_>,
    method: &str,
    params: &Parameters<'_>,
) {
    match method {
        "notifications/cancelled" => {
            if let (Some(session), Some(id)) = (session, params.request_id) {
                let reason = "the client cancelled the request";
                caller.endpoint.multiplexer().cancel(
                    reason,
                    |call| call.session == Some(session) && *call.client_id == *id.get(),
                    |_| Completion::NoResponse,
                );
            }
        }
        // These concern the bridge's connection to its client. The child has one client, the bridge.
        "notifications/initialized" | "notifications/roots/list_changed" | "notifications/progress" => {}
        _ => {
            let text = spliced(message.text, &mut []);
            let usage = Usage { bytes_in: text.len() as u64, ..Usage::default() };
            let mut multiplexer = caller.endpoint.multiplexer();
            if multiplexer.child_info().is_some()
                && let Some(child) = &mut multiplexer.child
                && child.write(&text)
            {
                multiplexer.usages.add(caller.allocation, &usage);
            }
        }
    }
}
