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
use crate::bridge::mux::rpc_response::RpcResponse;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How long a client that found no room is told to wait, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

pub(crate) type HttpResponse = Response<ResponseBody>;

/// The body of a reply. While it is being sent, its connection is at work.
pub(crate) struct ResponseBody {
    kind: BodyKind,
    activity: Option<Arc<Activity>>,
}

enum BodyKind {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Bytes>),
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Content").finish_non_exhaustive()
    }
}

impl ResponseBody {
    /// Has the connection be at work until this is sent.
    pub(crate) fn track(&mut self, activity: Arc<Activity>) {
        self.activity = Some(activity);
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.end_request();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().kind {
            BodyKind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodyKind::Stream(stream) => {
                stream.as_mut().poll_next(context).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, BodyKind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            BodyKind::Stream(_) => SizeHint::default(),
        }
    }
}

fn http_response(status: StatusCode, kind: BodyKind) -> HttpResponse {
    let mut http_response = Response::new(ResponseBody { kind, activity: None });
    *http_response.status_mut() = status;
    http_response
}

/// A reply without content.
pub(crate) fn empty(status: StatusCode) -> HttpResponse {
    http_response(status, BodyKind::Whole(None))
}

pub(crate) fn json(status: StatusCode, text: Bytes) -> HttpResponse {
    let mut http_response = http_response(status, BodyKind::Whole(Some(text)));
    http_response.headers_mut().insert(CONTENT_TYPE, JSON);
    http_response
}

pub(crate) fn event_stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> HttpResponse {
    let mut http_response = http_response(StatusCode::OK, BodyKind::Stream(Box::pin(stream)));
    http_response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    http_response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    http_response
}

/// A refusal that says why.
pub(crate) fn error(status: StatusCode, why: &str) -> HttpResponse {
    json(status, format!(r#"{{"error":{}}}"#, serde_json::Value::from(why)).into())
}

/// A refusal of a message: an answer to nobody in particular, unless its id is known.
pub(crate) fn rpc_error(status: StatusCode, id: Option<&str>, code: i64, why: &str) -> HttpResponse {
    json(status, RpcResponse::error(id.unwrap_or("null"), code, why).text)
}

pub(crate) fn method_not_allowed(allowed: &'static str, why: &str) -> HttpResponse {
    let mut http_response = error(StatusCode::METHOD_NOT_ALLOWED, why);
    http_response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    http_response
}

pub(crate) fn unauthorized(why: &str) -> HttpResponse {
    // A stranger is not to keep a connection that a holder may want.
    let mut http_response = closing(error(StatusCode::UNAUTHORIZED, why));
    http_response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    http_response
}

pub(crate) fn forbidden(why: &str) -> HttpResponse {
    closing(error(StatusCode::FORBIDDEN, why))
}

/// The same as the last reply of its connection.
pub(crate) fn closing(mut http_response: HttpResponse) -> HttpResponse {
    http_response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    http_response
}

/// A refusal for want of room.
pub(crate) fn service_unavailable(why: &str) -> HttpResponse {
    let mut http_response = error(StatusCode::SERVICE_UNAVAILABLE, why);
    http_response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    http_response
}
