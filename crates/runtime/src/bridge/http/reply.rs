//! What goes back over HTTP.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, stream::BoxStream};
use hyper::{
    Response, StatusCode,
    body::{Body, Bytes, Frame, SizeHint},
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::activity::Activity;
use crate::bridge::mux::answer::Answer;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How long a client that found no room is told to wait, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

pub(crate) type Reply = Response<Content>;

/// The body of a reply. While it is being sent, its connection is at work.
pub(crate) struct Content {
    kind: Kind,
    activity: Option<Arc<Activity>>,
}

enum Kind {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Bytes>),
}

impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Content").finish_non_exhaustive()
    }
}

impl Content {
    /// Has the connection be at work until this is sent.
    pub(crate) fn at_work(&mut self, activity: Arc<Activity>) {
        self.activity = Some(activity);
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.rest();
        }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream(stream) => {
                stream.as_mut().poll_next(context).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

fn reply(status: StatusCode, kind: Kind) -> Reply {
    let mut reply = Response::new(Content { kind, activity: None });
    *reply.status_mut() = status;
    reply
}

/// A reply without content.
pub(crate) fn empty(status: StatusCode) -> Reply {
    reply(status, Kind::Whole(None))
}

pub(crate) fn json(status: StatusCode, text: Bytes) -> Reply {
    let mut reply = reply(status, Kind::Whole(Some(text)));
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}

pub(crate) fn event_stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Reply {
    let mut reply = reply(StatusCode::OK, Kind::Stream(Box::pin(stream)));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    reply
}

/// A refusal that says why.
pub(crate) fn refusal(status: StatusCode, why: &str) -> Reply {
    json(status, format!(r#"{{"error":{}}}"#, serde_json::Value::from(why)).into())
}

/// A refusal of a message: an answer to nobody in particular, unless its id is known.
pub(crate) fn fault(status: StatusCode, id: Option<&str>, code: i64, why: &str) -> Reply {
    json(status, Answer::error(id.unwrap_or("null"), code, why).text)
}

pub(crate) fn not_allowed(allowed: &'static str, why: &str) -> Reply {
    let mut reply = refusal(StatusCode::METHOD_NOT_ALLOWED, why);
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    reply
}

pub(crate) fn unauthorized(why: &str) -> Reply {
    // A stranger is not to keep a connection that a holder may want.
    let mut reply = last(refusal(StatusCode::UNAUTHORIZED, why));
    reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    reply
}

pub(crate) fn forbidden(why: &str) -> Reply {
    last(refusal(StatusCode::FORBIDDEN, why))
}

/// The same as the last reply of its connection.
pub(crate) fn last(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// A refusal for want of room.
pub(crate) fn crowded(why: &str) -> Reply {
    let mut reply = refusal(StatusCode::SERVICE_UNAVAILABLE, why);
    reply.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    reply
}
