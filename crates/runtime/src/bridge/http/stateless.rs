//! Clients that speak 2026-07-28: no handshake and no session, everything is in the request, and its headers repeat what
//! whoever only routes it has to know.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use hyper::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{
    base64,
    caller::Caller,
    flow::{Flow, Hold, Place},
    reply::{self, Reply},
    respond::{StatusOf, plain, stateless_status},
    shared,
};
use crate::bridge::mux::{
    answer::{Answer, HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND},
    child::About,
    mailbox::Mailbox,
    message::{Kind, Message, Meta, Parameters, text_of},
    request::Request,
    session::{Crowded, Filter, Listener, SUBSCRIPTIONS_MAX},
    ticket::Ticket,
    version::{Era, META_CAPABILITIES, META_SERVER, META_SUBSCRIPTION, META_VERSION, supported_versions},
};

const METHOD_HEADER: &str = "mcp-method";
const NAME_HEADER: &str = "mcp-name";

/// What there was before, and is no more.
const GONE_METHODS: [&str; 4] = ["ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// Takes in a message.
///
/// # Errors
/// The reply, where there is one at once.
pub(crate) async fn take(
    caller: &Caller<'_>,
    message: &Message<'_>,
    params: &Parameters<'_>,
    meta: &Meta<'_>,
) -> Result<(Flow, StatusOf), Box<Reply>> {
    let (id, method) = match &message.kind {
        Kind::Request { id, method } => (Some(*id), method),
        Kind::Notification { method } => (None, method),
        Kind::Answer { .. } => return Err(Box::new(reply::empty(StatusCode::ACCEPTED))),
    };
    if let Err(why) = check_headers(caller.headers, method, params) {
        return Err(Box::new(reply::fault(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &why)));
    }
    let Some(id) = id else {
        shared::notice(caller, None, message, method, params);
        return Err(Box::new(reply::empty(StatusCode::ACCEPTED)));
    };
    let missing: Vec<_> = [(META_VERSION, meta.protocol_version), (META_CAPABILITIES, meta.client_capabilities)]
        .iter()
        .filter(|(_, value)| value.is_none())
        .map(|(key, _)| *key)
        .collect();
    if !missing.is_empty() {
        let why = format!("params._meta must have {}", missing.join(" and "));
        return Err(Box::new(reply::fault(StatusCode::BAD_REQUEST, Some(id), INVALID_PARAMS, &why)));
    }
    let request = Request {
        message,
        id,
        method,
        params,
        meta,
        era: Era::Stateless,
        session: None,
        allocation: caller.allocation,
    };
    match ask(caller, &request).await {
        Ok(Asked::Call(ticket)) => Ok((Flow::One(ticket), stateless_status)),
        Ok(Asked::Reply(reply)) => Err(Box::new(reply)),
        Err(answer) => {
            shared::count(caller, &answer);
            let answer = if answer.error_code.is_none() { answer.held(&caller.holder(), id) } else { answer };
            let status = stateless_status(&answer);
            Err(Box::new(plain(caller, answer, status)))
        }
    }
}

enum Asked {
    Call(Ticket),
    Reply(Reply),
}

async fn ask(caller: &Caller<'_>, request: &Request<'_>) -> Result<Asked, Answer> {
    let endpoint = caller.endpoint;
    if GONE_METHODS.contains(&request.method) {
        let why = format!("{} is not part of 2026-07-28", request.method);
        return Err(Answer::error(request.id, METHOD_NOT_FOUND, &why));
    }
    let about = endpoint.up(caller.until, caller.allocation).await.map_err(|down| down.answer(request.id))?;
    match request.method {
        "server/discover" => Err(Answer::result(request.id, &discovery(&about).to_string())),
        "subscriptions/listen" => listen(caller, request, &about).map(Asked::Reply),
        _ => {
            shared::refuse_tasks(request, about.era)?;
            let number = endpoint.exchange().calls.number();
            Ticket::take(endpoint, request.call(number, about.era, None)?).map(Asked::Call)
        }
    }
}

/// What the server is and can do, as these clients ask for it.
fn discovery(about: &About) -> Value {
    let capabilities = about.result.get("capabilities").cloned().unwrap_or_else(|| json!({}));
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": supported_versions(),
        "capabilities": capabilities,
        "ttlMs": 0,
        "cacheScope": "private",
    });
    if let Some(server) = about.result.get("serverInfo") {
        result["_meta"] = json!({META_SERVER: server});
    }
    if let Some(instructions) = about.result.get("instructions") {
        result["instructions"] = instructions.clone();
    }
    result
}

/// Opens a stream of notices.
fn listen(caller: &Caller<'_>, request: &Request<'_>, about: &About) -> Result<Reply, Answer> {
    let wanted = request.params.notifications.map(|wanted| serde_json::from_str::<Filter>(wanted.get()));
    let Some(Ok(wanted)) = wanted else {
        return Err(request.refused("params.notifications must be an object that says what to listen to"));
    };
    if wanted.resource_subscriptions.len() > SUBSCRIPTIONS_MAX {
        let why = format!("params.notifications.resourceSubscriptions has more than {SUBSCRIPTIONS_MAX}");
        return Err(request.refused(&why));
    }
    if !caller.accepted.stream {
        let why = "the Accept header must have text/event-stream";
        return Ok(reply::refusal(StatusCode::NOT_ACCEPTABLE, why));
    }
    let can_subscribe = about.can("/resources/subscribe");
    let filter = Filter {
        tools_list_changed: wanted.tools_list_changed && about.can("/tools/listChanged"),
        prompts_list_changed: wanted.prompts_list_changed && about.can("/prompts/listChanged"),
        resources_list_changed: wanted.resources_list_changed && about.can("/resources/listChanged"),
        resource_subscriptions: if can_subscribe { wanted.resource_subscriptions } else { BTreeSet::new() },
    };
    let mailbox = Mailbox::of(caller.holder());
    // The id is kept to the letter, like any other.
    let params = format!(r#"{{"_meta":{{"{META_SUBSCRIPTION}":{}}},"notifications":{}}}"#, request.id, json!(filter));
    let method = "notifications/subscriptions/acknowledged";
    if !mailbox.notice(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#).into()) {
        return Ok(caller.crowded(&caller.holder().crowded()));
    }
    let mut exchange = caller.endpoint.exchange();
    if let Err(Crowded(why)) = exchange.sessions.may_listen(caller.allocation) {
        drop(exchange);
        return Ok(caller.crowded(&why));
    }
    let number = exchange.calls.number();
    let listener =
        Listener { allocation: caller.allocation, id: request.id.into(), filter, mailbox: Arc::clone(&mailbox) };
    exchange.sessions.listeners.insert(number, listener);
    exchange.sync_interests();
    drop(exchange);
    let hold = Hold { endpoint: Arc::clone(caller.endpoint), mailbox, place: Place::Listener(number) };
    Ok(reply::event_stream(Flow::Notices(hold).into_events(None)))
}

/// Checks that the headers say what the body does.
fn check_headers(headers: &HeaderMap, method: &str, params: &Parameters<'_>) -> Result<(), String> {
    if one_of(headers, METHOD_HEADER)?.as_deref() != Some(method) {
        return Err(format!("the Mcp-Method header must be there and say {method}, as the body does"));
    }
    let name = match method {
        "tools/call" | "prompts/get" => params.name,
        "resources/read" => params.uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" => params.task_id,
        _ => None,
    };
    let Some(name) = text_of(name) else {
        return Ok(());
    };
    if one_of(headers, NAME_HEADER)?.as_deref() != Some(name.as_ref()) {
        return Err(format!("the Mcp-Name header must be there and say what the body of {method} does"));
    }
    Ok(())
}

/// The only value of a header, decoded.
fn one_of<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<Cow<'a, str>>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(format!("the {name} header is there twice"));
    }
    let value = value.to_str().map_err(|_| format!("the {name} header has characters that it may not"))?;
    match value.strip_prefix("=?base64?").and_then(|value| value.strip_suffix("?=")) {
        None => Ok(Some(Cow::Borrowed(value))),
        Some(encoded) => match base64::decoded(encoded).and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(decoded) => Ok(Some(Cow::Owned(decoded))),
            None => Err(format!("the {name} header is no Base64 of UTF-8")),
        },
    }
}
