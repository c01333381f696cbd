//! Messages that clients send.

use hyper::{StatusCode, body::Bytes};

use super::{
    caller::Caller,
    flow::{Batch, Flow},
    reply::{self, Reply},
    respond::{StatusOf, plain, respond},
    shared, stateless,
};
use crate::bridge::{
    limits::account::Charge,
    mux::{
        answer::{Answer, HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, VERSION_UNSUPPORTED},
        message::{Kind, Message, Meta, Parameters, text_of},
        session::SessionId,
        version::{Era, supported_versions},
    },
};

/// The most messages of a batch.
const BATCH_MAX: usize = 100;

/// Answers a body.
pub(crate) async fn handle(caller: &Caller<'_>, body: Bytes, charge: Charge) -> Reply {
    let taken = take(caller, &body).await;
    // What waits for its answer need not keep its request.
    drop((body, charge));
    match taken {
        Ok((flow, status)) => respond(caller, flow, status).await,
        Err(reply) => *reply,
    }
}

/// Takes in what a body asks for.
///
/// # Errors
/// The reply, where there is one at once.
async fn take(caller: &Caller<'_>, body: &Bytes) -> Result<(Flow, StatusOf), Box<Reply>> {
    let fault = |id, code, why: &str| Err(Box::new(reply::fault(StatusCode::BAD_REQUEST, id, code, why)));
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
        Kind::Request { id, .. } => Some(*id),
        _ => None,
    };
    let (params, meta) = match read(&message) {
        Ok(read) => read,
        Err(why) => return fault(id, INVALID_PARAMS, &why),
    };
    if matches!(&message.kind, Kind::Request { method, .. } if method == "initialize") {
        return Err(Box::new(shared::initialize(caller, id.unwrap_or_default(), &params).await));
    }
    match era(caller, id, &meta)? {
        Era::Stateless => stateless::take(caller, &message, &params, &meta).await,
        Era::Handshake => match one(caller, caller.session()?, &message, &params, &meta).await {
            None => Err(Box::new(reply::empty(StatusCode::ACCEPTED))),
            Some(Err(answer)) => Err(Box::new(plain(caller, answer, StatusCode::OK))),
            Some(Ok(flow)) => Ok((flow, |_| StatusCode::OK)),
        },
    }
}

fn read<'a>(message: &Message<'a>) -> Result<(Parameters<'a>, Meta<'a>), String> {
    let read = message.parameters().and_then(|params| params.meta().map(|meta| (params, meta)));
    let (params, meta) = read.map_err(|error| format!("params cannot be read ({error})"))?;
    match message.disguised_key(&params) {
        Some(key) => Err(format!("a key is {key} but for the case of its letters: write it as it is, or leave it out")),
        None => Ok((params, meta)),
    }
}

/// How the client speaks, by the headers and the message.
fn era(caller: &Caller<'_>, id: Option<&str>, meta: &Meta<'_>) -> Result<Era, Box<Reply>> {
    let unsupported = |version: &str| {
        let data = serde_json::json!({"supported": supported_versions(), "requested": version}).to_string();
        let why = format!("protocol version {version} is not supported");
        let answer = Answer::error_with(id.unwrap_or("null"), VERSION_UNSUPPORTED, &why, Some(&data));
        Box::new(reply::json(StatusCode::BAD_REQUEST, answer.text))
    };
    let header = caller.version().map_err(|version| unsupported(&version))?;
    let Some(said) = text_of(meta.protocol_version) else {
        return Ok(header.map_or(Era::Handshake, |(_, era)| era));
    };
    match header {
        Some((version, era)) if version == said => Ok(era),
        _ if Era::of(&said).is_none() => Err(unsupported(&said.chars().take(64).collect::<String>())),
        _ => {
            let why = format!("the MCP-Protocol-Version header must be there and say {said}, as _meta does");
            Err(Box::new(reply::fault(StatusCode::BAD_REQUEST, id, HEADER_MISMATCH, &why)))
        }
    }
}

/// Takes one message of a session. Nothing comes of what is no request.
async fn one(
    caller: &Caller<'_>,
    session: SessionId,
    message: &Message<'_>,
    params: &Parameters<'_>,
    meta: &Meta<'_>,
) -> Option<Result<Flow, Answer>> {
    match &message.kind {
        Kind::Request { id, method } => {
            let asked = shared::ask(caller, session, message, (id, method), params, meta).await;
            Some(asked.map(Flow::One))
        }
        Kind::Notification { method } => {
            shared::notice(caller, Some(session), message, method, params);
            None
        }
        // The bridge asks clients nothing.
        Kind::Answer { .. } => None,
    }
}

async fn batch(caller: &Caller<'_>, text: &str) -> Result<(Flow, StatusOf), Box<Reply>> {
    let fault = |code, why: &str| Err(Box::new(reply::fault(StatusCode::BAD_REQUEST, None, code, why)));
    let texts: Vec<&serde_json::value::RawValue> = match serde_json::from_str(text) {
        Ok(texts) => texts,
        Err(error) => return fault(-32_700, &format!("the batch is not JSON ({error})")),
    };
    if texts.is_empty() || texts.len() > BATCH_MAX {
        return fault(INVALID_REQUEST, &format!("a batch of {} messages: send 1 to {BATCH_MAX}", texts.len()));
    }
    match caller.version() {
        Ok(Some((version, Era::Stateless))) => return fault(INVALID_REQUEST, &format!("{version} has no batches")),
        Ok(_) => {}
        Err(version) => return fault(VERSION_UNSUPPORTED, &format!("protocol version {version} is not supported")),
    }
    let session = caller.session()?;
    let mut batch = Batch::default();
    for text in texts {
        let message = match Message::parse(text.get()) {
            Ok(message) => message,
            Err(error) => {
                batch.answers.push(Answer::error("null", error.code(), &error.to_string()));
                continue;
            }
        };
        match read(&message) {
            Ok((params, meta)) => match one(caller, session, &message, &params, &meta).await {
                Some(Ok(Flow::One(ticket))) => batch.tickets.push_back(ticket),
                Some(Err(answer)) => batch.answers.push(answer),
                _ => {}
            },
            Err(why) => batch.answers.push(Answer::error("null", INVALID_PARAMS, &why)),
        }
    }
    if batch.tickets.is_empty() && batch.answers.is_empty() {
        return Err(Box::new(reply::empty(StatusCode::ACCEPTED)));
    }
    Ok((Flow::Batch(batch), |_| StatusCode::OK))
}
