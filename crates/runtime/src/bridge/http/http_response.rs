//! HTTP responses, with their status codes and headers.

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

/// How long a client must wait after a 503 response, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

pub(crate) type HttpResponse = Response<ResponseBody>;

/// The body of a response. Until it is dropped, its connection counts as working on a request.
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
        formatter.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl ResponseBody {
    /// Marks the end of the request in `activity` when this body is dropped.
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

fn with_body(status: StatusCode, kind: BodyKind) -> HttpResponse {
    let mut http_response = Response::new(ResponseBody { kind, activity: None });
    *http_response.status_mut() = status;
    http_response
}

/// Returns a response without a body.
pub(crate) fn empty(status: StatusCode) -> HttpResponse {
    with_body(status, BodyKind::Whole(None))
}

pub(crate) fn json(status: StatusCode, text: Bytes) -> HttpResponse {
    let mut http_response = with_body(status, BodyKind::Whole(Some(text)));
    http_response.headers_mut().insert(CONTENT_TYPE, JSON);
    http_response
}

pub(crate) fn event_stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> HttpResponse {
    let mut http_response = with_body(StatusCode::OK, BodyKind::Stream(Box::pin(stream)));
    http_response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    http_response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    http_response
}

/// Returns an error response with its text in `error`.
pub(crate) fn error(status: StatusCode, reason: &str) -> HttpResponse {
    json(status, format!(r#"{{"error":{}}}"#, serde_json::Value::from(reason)).into())
}

/// Returns a JSON-RPC error as a response. Its id is `null` if the id of the request is not known.
pub(crate) fn rpc_error(status: StatusCode, id: Option<&str>, code: i64, reason: &str) -> HttpResponse {
    json(status, RpcResponse::error(id.unwrap_or("null"), code, reason).text)
}

pub(crate) fn method_not_allowed(allowed: &'static str, reason: &str) -> HttpResponse {
    let mut http_response = error(StatusCode::METHOD_NOT_ALLOWED, reason);
    http_response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    http_response
}

pub(crate) fn unauthorized(reason: &str) -> HttpResponse {
    // An unauthenticated client must not keep a connection that a lease may need.
    let mut http_response = closing(error(StatusCode::UNAUTHORIZED, reason));
    http_response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    http_response
}

pub(crate) fn forbidden(reason: &str) -> HttpResponse {
    closing(error(StatusCode::FORBIDDEN, reason))
}

/// Marks a response as the last one of its connection.
pub(crate) fn closing(mut http_response: HttpResponse) -> HttpResponse {
    http_response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    http_response
}

/// Returns a 503 response with `retry-after`.
pub(crate) fn service_unavailable(reason: &str) -> HttpResponse {
    let mut http_response = error(StatusCode::SERVICE_UNAVAILABLE, reason);
    http_response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    http_response
}
