//! Sends the requests of a probe over HTTP.

use cortex_util::program;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use thiserror::Error;
use ureq::http::{self, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use ureq::{Agent, AsSendBody, Body};

use super::reply::{BODY_BYTES_MAX, ProbeReply};
use super::session::ProbeSession;

/// How long an idle connection is kept for the next request of a check. It is not kept until the next check, since the
/// server may have closed it by then.
const CONNECTION_KEPT: Duration = Duration::from_secs(2);

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// The URL and headers of a server.
pub(super) struct Target {
    agent: Agent,
    url: String,
    headers: BTreeMap<String, String>,
}

/// Why a probe failed. `Display` continues a sentence that begins with the name of the server.
#[derive(Debug, Error)]
pub(crate) enum ProbeFailure {
    #[error("did not answer in time")]
    Late,
    /// The server refused with this HTTP status.
    #[error("answered with {}", describe(*.0))]
    Status(u16),
    #[error("answered, but not with an MCP message: set the url of its MCP endpoint")]
    NoMessage,
    #[error("answered with more than {BODY_BYTES_MAX} bytes")]
    TooLong,
    #[error("has a url or a header that cannot be sent")]
    InvalidRequest,
    #[error("has a host name that cannot be found")]
    HostNotFound,
    #[error("did not answer with HTTP")]
    NotHttp,
    /// TLS failed, as the library describes it.
    #[error("cannot be reached over TLS ({0})")]
    Tls(String),
    #[error("cannot be reached through the proxy")]
    Proxy,
    #[error("is not reachable, since the connection was refused: start it, or correct its url")]
    Refused,
    #[error("closed the connection ({0})")]
    Closed(io::Error),
    /// The text of the library's error may contain the URL.
    #[error("cannot be reached")]
    Unreachable,
}

impl Target {
    pub(super) fn new(url: &str, headers: &BTreeMap<String, String>) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // The headers may be secret, and are only for the configured server.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_age(CONNECTION_KEPT)
            .max_idle_connections(1)
            .user_agent(format!("{}/{}", program::NAME, program::VERSION));
        if is_loopback(url) {
            // A proxy on another machine cannot reach a server on this one.
            config = config.proxy(None);
        }
        Self { agent: config.build().new_agent(), url: url.to_owned(), headers: headers.clone() }
    }

    /// Sends a message. Returns the reply, and the session id if the server assigns one.
    pub(super) fn post(
        &self,
        message: &Value,
        session: Option<&ProbeSession>,
        until: Instant,
    ) -> Result<(ProbeReply, Option<String>), ProbeFailure> {
        let mut request = self.request(Method::POST, session, message.to_string())?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let response = self.run(request, until)?;
        let status = response.status();
        let text_of = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
        let id = text_of(SESSION_ID).map(str::to_owned);
        let is_stream = text_of(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/event-stream"));
        let read = |response: Response<Body>| {
            let body = response.into_body().into_with_config().limit(BODY_BYTES_MAX).reader();
            if is_stream { ProbeReply::from_events(body) } else { ProbeReply::from_json(body) }
        };
        match status.as_u16() {
            200..=299 => Ok((read(response)?, id)),
            // A server refuses an unsupported protocol version with an MCP error and this status.
            400 => match read(response) {
                Ok(reply @ ProbeReply::Error { .. }) if session.is_none() => Ok((reply, id)),
                _ => Err(ProbeFailure::Status(400)),
            },
            status => Err(ProbeFailure::Status(status)),
        }
    }

    /// Deletes a session.
    pub(super) fn delete(&self, session: &ProbeSession, until: Instant) -> Result<(), ProbeFailure> {
        let request = self.request(Method::DELETE, Some(session), ())?;
        // Many servers do not support DELETE, and drop the session when it expires.
        self.run(request, until).map(drop)
    }

    fn request<B>(&self, method: Method, session: Option<&ProbeSession>, body: B) -> Result<Request<B>, ProbeFailure> {
        let mut builder = Request::builder().method(method).uri(&self.url);
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        if let Some(session) = session {
            builder = builder.header(PROTOCOL_VERSION, &session.version);
            if let Some(id) = &session.id {
                builder = builder.header(SESSION_ID, id);
            }
        }
        builder.body(body).map_err(|_: http::Error| ProbeFailure::InvalidRequest)
    }

    fn run(&self, request: Request<impl AsSendBody>, until: Instant) -> Result<Response<Body>, ProbeFailure> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ProbeFailure::Late);
        }
        let request = self.agent.configure_request(request).timeout_global(Some(left)).build();
        self.agent.run(request).map_err(ProbeFailure::from)
    }
}

impl From<ureq::Error> for ProbeFailure {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Timeout(_) => Self::Late,
            ureq::Error::BodyExceedsLimit(_) => Self::TooLong,
            ureq::Error::Io(error) => Self::from(error),
            ureq::Error::HostNotFound => Self::HostNotFound,
            ureq::Error::Protocol(_) => Self::NotHttp,
            ureq::Error::Rustls(error) => Self::Tls(error.to_string()),
            ureq::Error::Tls(error) => Self::Tls(error.to_owned()),
            ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => Self::Proxy,
            _ => Self::Unreachable,
        }
    }
}

impl From<io::Error> for ProbeFailure {
    fn from(error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<ureq::Error>()) {
            return match error.into_inner().and_then(|inner| inner.downcast::<ureq::Error>().ok()) {
                // Only one level is unwrapped, so that this always ends.
                Some(inner) if !matches!(*inner, ureq::Error::Io(_)) => Self::from(*inner),
                _ => Self::Unreachable,
            };
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Late,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Closed(error),
        }
    }
}

/// Returns an HTTP status with its name and what to do.
fn describe(status: u16) -> String {
    let name = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let name = name.map_or_else(String::new, |name| format!(" ({name})"));
    let advice = match status {
        300..=399 => ": set the url that it redirects to",
        401 | 403 => ": set the headers that it requires",
        404 => ": set the url of its MCP endpoint",
        405 => ": set the url of its Streamable HTTP endpoint, which accepts POST",
        _ => "",
    };
    format!("{status}{name}{advice}")
}

/// Returns whether the host of a URL is this machine.
fn is_loopback(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}
