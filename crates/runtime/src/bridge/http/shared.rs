//! What clients with a session ask, and what of it the bridge answers itself because it concerns all of them.

use std::{sync::Arc, time::Instant};

use hyper::{StatusCode, header::HeaderValue};
use serde_json::Value;

use super::{
    caller::{Caller, SESSION_HEADER},
    reply::Reply,
    respond::plain,
};
use crate::bridge::mux::{
    answer::{Answer, INVALID_REQUEST, METHOD_NOT_FOUND},
    level::Level,
    message::{Message, Meta, Parameters, spliced, text_of},
    request::Request,
    session::{Crowded, SUBSCRIPTIONS_MAX, SessionId},
    ticket::Ticket,
    usage::Usage,
    version::{Era, HANDSHAKE_VERSIONS, NEWEST_HANDSHAKE},
};

/// Opens a session.
pub(crate) async fn initialize(caller: &Caller<'_>, id: &str, params: &Parameters<'_>) -> Reply {
    let endpoint = caller.endpoint;
    let about = match endpoint.up(caller.until, caller.allocation).await {
        Ok(about) => about,
        Err(down) => return plain(caller, down.answer(id), StatusCode::OK),
    };
    let asked = text_of(params.protocol_version).unwrap_or_default();
    let version = HANDSHAKE_VERSIONS.iter().find(|known| **known == asked).unwrap_or(&NEWEST_HANDSHAKE);
    let mut result = about.result.clone();
    result.insert("protocolVersion".to_owned(), Value::from(*version));
    let answer = Answer::result(id, &Value::Object(result).to_string()).held(&caller.holder(), id);
    if answer.error_code.is_some() {
        count(caller, &answer);
        return plain(caller, answer, StatusCode::OK);
    }
    let opened = {
        let mut exchange = endpoint.exchange();
        let now = Instant::now();
        exchange.sessions.to_end(caller.allocation, now).map(|idle| {
            for session in idle {
                exchange.end_session(session);
            }
            exchange.sessions.insert(caller.allocation, now)
        })
    };
    let session = match opened {
        Ok(session) => session,
        Err(Crowded(why)) => return caller.crowded(&why),
    };
    let mut reply = plain(caller, answer, StatusCode::OK);
    if let Ok(session) = HeaderValue::try_from(session.to_string()) {
        reply.headers_mut().insert(SESSION_HEADER, session);
    }
    reply
}

/// Takes a request of a session.
///
/// # Errors
/// The answer, where there is one at once.
pub(crate) async fn ask(
    caller: &Caller<'_>,
    session: SessionId,
    message: &Message<'_>,
    (id, method): (&str, &str),
    params: &Parameters<'_>,
    meta: &Meta<'_>,
) -> Result<Ticket, Answer> {
    let request = Request {
        message,
        id,
        method,
        params,
        meta,
        era: Era::Handshake,
        session: Some(session),
        allocation: caller.allocation,
    };
    match method {
        "ping" => return Err(Answer::result(id, "{}")),
        "initialize" => return Err(Answer::error(id, INVALID_REQUEST, "initialize must come on its own")),
        _ => {}
    }
    let asked = take(caller, &request).await;
    if let Err(answer) = &asked {
        count(caller, answer);
    }
    asked
}

async fn take(caller: &Caller<'_>, request: &Request<'_>) -> Result<Ticket, Answer> {
    let endpoint = caller.endpoint;
    let about = endpoint.up(caller.until, caller.allocation).await.map_err(|down| down.answer(request.id))?;
    refuse_tasks(request, about.era)?;
    match request.method {
        "logging/setLevel" if about.can("/logging") || about.era == Era::Stateless => {
            return Err(set_level(caller, request));
        }
        "resources/subscribe" if about.era == Era::Stateless && !about.can("/resources/subscribe") => {
            return Err(Answer::error(request.id, METHOD_NOT_FOUND, "the server has no subscriptions"));
        }
        "resources/subscribe" => subscribe(caller, request, about.era)?,
        "resources/unsubscribe" => unsubscribe(caller, request, about.era)?,
        _ => {}
    }
    let (number, level) = {
        let mut exchange = endpoint.exchange();
        let session = request.session.and_then(|session| exchange.sessions.by_id.get(&session));
        let level = session.and_then(|session| session.level);
        (exchange.calls.number(), level)
    };
    Ticket::take(endpoint, request.call(number, about.era, level)?)
}

/// Refuses to ask a server for tasks of the older kind: it would list and end those of all clients alike.
pub(crate) fn refuse_tasks(request: &Request<'_>, child: Era) -> Result<(), Answer> {
    if child == Era::Handshake && request.method.starts_with("tasks/") {
        let why = "this server is shared by several clients through cortex-resource-manager, which has no tasks";
        return Err(Answer::error(request.id, METHOD_NOT_FOUND, why));
    }
    Ok(())
}

/// Counts an answer of the bridge's own, if it is an error.
pub(crate) fn count(caller: &Caller<'_>, answer: &Answer) {
    if answer.error_code.is_some() {
        caller.endpoint.exchange().usages.add_error(caller.allocation, answer.text.len());
    }
}

fn set_level(caller: &Caller<'_>, request: &Request<'_>) -> Answer {
    let Some(level) = text_of(request.params.level).and_then(|name| Level::named(&name)) else {
        return request
            .refused("params.level must be debug, info, notice, warning, error, critical, alert or emergency");
    };
    let mut exchange = caller.endpoint.exchange();
    if let Some(session) = request.session.and_then(|session| exchange.sessions.by_id.get_mut(&session)) {
        session.level = Some(level);
    }
    exchange.sync_interests();
    Answer::result(request.id, "{}")
}

/// Notes what a session wants to hear of, before the child is asked for it, so that nothing is missed between. The
/// child's own answer decides.
fn subscribe(caller: &Caller<'_>, request: &Request<'_>, child: Era) -> Result<(), Answer> {
    let Some(uri) = text_of(request.params.uri) else {
        return Err(request.refused("params.uri must be a string"));
    };
    let mut exchange = caller.endpoint.exchange();
    if let Some(session) = request.session.and_then(|session| exchange.sessions.by_id.get_mut(&session)) {
        if session.subscriptions.len() >= SUBSCRIPTIONS_MAX && !session.subscriptions.contains(uri.as_ref()) {
            let why = format!("{SUBSCRIPTIONS_MAX} resources are subscribed already: unsubscribe from some first");
            return Err(request.refused(&why));
        }
        session.subscriptions.insert(Arc::from(uri.as_ref()));
    }
    match child {
        Era::Handshake => Ok(()),
        Era::Stateless => {
            exchange.sync_interests();
            Err(Answer::result(request.id, "{}"))
        }
    }
}

/// The child is only told if nobody else hears of the resource.
fn unsubscribe(caller: &Caller<'_>, request: &Request<'_>, child: Era) -> Result<(), Answer> {
    let (Some(uri), Some(session)) = (text_of(request.params.uri), request.session) else {
        return Err(request.refused("params.uri must be a string"));
    };
    let mut exchange = caller.endpoint.exchange();
    match child {
        Era::Handshake if exchange.unsubscribe(session, &uri) => Ok(()),
        Era::Handshake => Err(Answer::result(request.id, "{}")),
        Era::Stateless => {
            if let Some(session) = exchange.sessions.by_id.get_mut(&session) {
                session.subscriptions.remove(uri.as_ref());
            }
            exchange.sync_interests();
            Err(Answer::result(request.id, "{}"))
        }
    }
}

/// Takes a notice of a client.
pub(crate) fn notice(
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
                caller.endpoint.exchange().cancel(
                    reason,
                    |call| call.session == Some(session) && *call.client_id == *id.get(),
                    |_| crate::bridge::mux::mailbox::End::Silence,
                );
            }
        }
        // The child has one client, the bridge, of which none of these is true.
        "notifications/initialized" | "notifications/roots/list_changed" | "notifications/progress" => {}
        _ => {
            let text = spliced(message.text, &mut []);
            let usage = Usage { bytes_in: text.len() as u64, ..Usage::default() };
            let mut exchange = caller.endpoint.exchange();
            if exchange.about().is_some()
                && let Some(child) = &mut exchange.child
                && child.write(&text)
            {
                exchange.usages.add(caller.allocation, &usage);
            }
        }
    }
}
