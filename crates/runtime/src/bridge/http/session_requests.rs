//! What clients with a session ask, and what of it the bridge answers itself because it concerns all of them.

use std::{sync::Arc, time::Instant};

use hyper::{StatusCode, header::HeaderValue};
use serde_json::Value;

use super::{
    caller::{Caller, SESSION_HEADER},
    http_response::HttpResponse,
    respond::plain,
};
use crate::bridge::mux::{
    call_handle::CallHandle,
    client_request::ClientRequest,
    log_level::LogLevel,
    message::{Message, Meta, Parameters, spliced, text_of},
    protocol::{HANDSHAKE_VERSIONS, NEWEST_HANDSHAKE, ProtocolMode},
    rpc_response::{INVALID_REQUEST, METHOD_NOT_FOUND, RpcResponse},
    session::{LimitReached, SUBSCRIPTIONS_MAX, SessionId},
    usage::Usage,
};

/// Opens a session.
pub(crate) async fn initialize(caller: &Caller<'_>, id: &str, params: &Parameters<'_>) -> HttpResponse {
    let endpoint = caller.endpoint;
    let info = match endpoint.wait_for_child(caller.until, caller.allocation).await {
        Ok(info) => info,
        Err(down) => return plain(caller, down.response(id), StatusCode::OK),
    };
    let asked = text_of(params.protocol_version).unwrap_or_default();
    let version = HANDSHAKE_VERSIONS.iter().find(|known| **known == asked).unwrap_or(&NEWEST_HANDSHAKE);
    let mut result = info.result.clone();
    result.insert("protocolVersion".to_owned(), Value::from(*version));
    let response = RpcResponse::result(id, &Value::Object(result).to_string()).reserved_in(&caller.memory(), id);
    if response.error_code.is_some() {
        count_error(caller, &response);
        return plain(caller, response, StatusCode::OK);
    }
    let opened = {
        let mut multiplexer = endpoint.multiplexer();
        let now = Instant::now();
        multiplexer.sessions.select_evicted(caller.allocation, now).map(|idle| {
            for session in idle {
                multiplexer.end_session(session);
            }
            multiplexer.sessions.insert(caller.allocation, now)
        })
    };
    let session = match opened {
        Ok(session) => session,
        Err(LimitReached(why)) => return caller.over_limit(&why),
    };
    let mut http_response = plain(caller, response, StatusCode::OK);
    if let Ok(session) = HeaderValue::try_from(session.to_string()) {
        http_response.headers_mut().insert(SESSION_HEADER, session);
    }
    http_response
}

/// Takes a request of a session.
///
/// # Errors
/// The answer, where there is one at once.
pub(crate) async fn submit_request(
    caller: &Caller<'_>,
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
        "initialize" => return Err(RpcResponse::error(id, INVALID_REQUEST, "initialize must come on its own")),
        _ => {}
    }
    let asked = submit(caller, &request).await;
    if let Err(response) = &asked {
        count_error(caller, response);
    }
    asked
}

async fn submit(caller: &Caller<'_>, request: &ClientRequest<'_>) -> Result<CallHandle, RpcResponse> {
    let endpoint = caller.endpoint;
    let info =
        endpoint.wait_for_child(caller.until, caller.allocation).await.map_err(|down| down.response(request.id))?;
    reject_tasks(request, info.mode)?;
    match request.method {
        "logging/setLevel" if info.has_capability("/logging") || info.mode == ProtocolMode::Stateless => {
            return Err(set_level(caller, request));
        }
        "resources/subscribe"
            if info.mode == ProtocolMode::Stateless && !info.has_capability("/resources/subscribe") =>
        {
            return Err(RpcResponse::error(request.id, METHOD_NOT_FOUND, "the server has no subscriptions"));
        }
        "resources/subscribe" => subscribe(caller, request, info.mode)?,
        "resources/unsubscribe" => unsubscribe(caller, request, info.mode)?,
        _ => {}
    }
    let (number, level) = {
        let mut multiplexer = endpoint.multiplexer();
        let session = request.session.and_then(|session| multiplexer.sessions.by_id.get(&session));
        let level = session.and_then(|session| session.level);
        (multiplexer.calls.number(), level)
    };
    CallHandle::submit(endpoint, request.to_call(number, info.mode, level)?)
}

/// Refuses to ask a server for tasks of the older kind: it would list and end those of all clients alike.
pub(crate) fn reject_tasks(request: &ClientRequest<'_>, child: ProtocolMode) -> Result<(), RpcResponse> {
    if child == ProtocolMode::Handshake && request.method.starts_with("tasks/") {
        let why = "this server is shared by several clients through cortex-resource-manager, which has no tasks";
        return Err(RpcResponse::error(request.id, METHOD_NOT_FOUND, why));
    }
    Ok(())
}

/// Counts an answer of the bridge's own, if it is an error.
pub(crate) fn count_error(caller: &Caller<'_>, response: &RpcResponse) {
    if response.error_code.is_some() {
        caller.endpoint.multiplexer().usages.add_error(caller.allocation, response.text.len());
    }
}

fn set_level(caller: &Caller<'_>, request: &ClientRequest<'_>) -> RpcResponse {
    let Some(level) = text_of(request.params.level).and_then(|name| LogLevel::named(&name)) else {
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

/// Notes what a session wants to hear of, before the child is asked for it, so that nothing is missed between. The
/// child's own answer decides.
fn subscribe(caller: &Caller<'_>, request: &ClientRequest<'_>, child: ProtocolMode) -> Result<(), RpcResponse> {
    let Some(uri) = text_of(request.params.uri) else {
        return Err(request.invalid_params("params.uri must be a string"));
    };
    let mut multiplexer = caller.endpoint.multiplexer();
    if let Some(session) = request.session.and_then(|session| multiplexer.sessions.by_id.get_mut(&session)) {
        if session.subscriptions.len() >= SUBSCRIPTIONS_MAX && !session.subscriptions.contains(uri.as_ref()) {
            let why = format!("{SUBSCRIPTIONS_MAX} resources are subscribed already: unsubscribe from some first");
            return Err(request.invalid_params(&why));
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

/// The child is only told if nobody else hears of the resource.
fn unsubscribe(caller: &Caller<'_>, request: &ClientRequest<'_>, child: ProtocolMode) -> Result<(), RpcResponse> {
    let (Some(uri), Some(session)) = (text_of(request.params.uri), request.session) else {
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

/// Takes a notice of a client.
pub(crate) fn handle_notification(
    caller: &Caller<'_>,
    session: Option<SessionId>,
    message: &Message<'_>,
    method: &str,
    params: &Parameters<'_>,
) {
    match method {
        "notifications/cancelled" => {
            if let (Some(session), Some(id)) = (session, params.request_id) {
                let reason = "the client cancelled it";
                caller.endpoint.multiplexer().cancel(
                    reason,
                    |call| call.session == Some(session) && *call.client_id == *id.get(),
                    |_| crate::bridge::mux::mailbox::Completion::NoResponse,
                );
            }
        }
        // The child has one client, the bridge, of which none of these is true.
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
