//! One request over HTTP, and what can go wrong about it.

use cortex_util::program;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::{self, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use ureq::{Agent, AsSendBody, Body};

use super::answer::{BODY_BYTES_MAX, Reply};
use super::session::Session;

/// How long a connection is kept for the next request: within a check, and not until the next one, by when the server may
/// have closed it.
const CONNECTION_KEPT: Duration = Duration::from_secs(2);

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Where requests go, and what goes with them.
pub(super) struct Target {
    agent: Agent,
    url: String,
    headers: BTreeMap<String, String>,
}

/// Why there is no answer that says that the server lives.
#[derive(Debug)]
pub(super) enum Failure {
    /// It took too long.
    Late,
    /// The server refused with this status.
    Status(u16),
    /// What came is no message of MCP.
    NoMessage,
    /// More came than is read.
    TooLong,
    /// There was no request, no connection or no answer.
    Failed(String),
}

impl Target {
    pub(super) fn new(url: &str, headers: &BTreeMap<String, String>) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // The headers are for the server that was named, and not for whoever it points to.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_age(CONNECTION_KEPT)
            .max_idle_connections(1)
            .user_agent(format!("{}/{}", program::NAME, program::VERSION));
        if is_loopback(url) {
            // What runs on this machine is not reached through another.
            config = config.proxy(None);
        }
        Self { agent: config.build().new_agent(), url: url.to_owned(), headers: headers.clone() }
    }

    /// Sends a message. What the server answers, and the id of the session if it gives one.
    pub(super) fn post(
        &self,
        message: &Value,
        session: Option<&Session>,
        until: Instant,
    ) -> Result<(Reply, Option<String>), Failure> {
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
            if is_stream { Reply::from_events(body) } else { Reply::from_json(body) }
        };
        match status.as_u16() {
            200..=299 => Ok((read(response)?, id)),
            // Versions that are not spoken are refused so, in a message that says it.
            400 => match read(response) {
                Ok(reply @ Reply::Error { .. }) if session.is_none() => Ok((reply, id)),
                _ => Err(Failure::Status(400)),
            },
            status => Err(Failure::Status(status)),
        }
    }

    /// Ends a session.
    pub(super) fn delete(&self, session: &Session, until: Instant) -> Result<(), Failure> {
        let request = self.request(Method::DELETE, Some(session), ())?;
        // Many servers answer that they know no such method, and forget the session in time.
        self.run(request, until).map(drop)
    }

    fn request<B>(&self, method: Method, session: Option<&Session>, body: B) -> Result<Request<B>, Failure> {
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
        builder
            .body(body)
            .map_err(|_: http::Error| Failure::Failed("has a url or a header that cannot be sent".to_owned()))
    }

    fn run(&self, request: Request<impl AsSendBody>, until: Instant) -> Result<Response<Body>, Failure> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Late);
        }
        let request = self.agent.configure_request(request).timeout_global(Some(left)).build();
        self.agent.run(request).map_err(Failure::from)
    }
}

impl Failure {
    /// What goes on after the name of the server.
    pub(super) fn in_words(self, timeout: Duration) -> String {
        match self {
            Self::Late => format!("did not answer within {} s", timeout.as_secs_f64()),
            Self::Status(status) => {
                let name = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
                let name = name.map_or_else(String::new, |name| format!(" ({name})"));
                let advice = match status {
                    300..=399 => ": give the url that it points to",
                    401 | 403 => ": give the headers that it wants",
                    404 => ": give the url of its MCP endpoint",
                    405 => ": give the url of its endpoint for Streamable HTTP, which takes POST",
                    _ => "",
                };
                format!("answered with {status}{name}{advice}")
            }
            Self::NoMessage => "answered, but not with a message of MCP: give the url of its MCP endpoint".to_owned(),
            Self::TooLong => format!("answered with more than {BODY_BYTES_MAX} bytes"),
            Self::Failed(reason) => reason,
        }
    }
}

impl From<ureq::Error> for Failure {
    fn from(error: ureq::Error) -> Self {
        let reason = match error {
            ureq::Error::Timeout(_) => return Self::Late,
            ureq::Error::BodyExceedsLimit(_) => return Self::TooLong,
            ureq::Error::Io(error) => return Self::from(error),
            ureq::Error::HostNotFound => "has a host name that cannot be found".to_owned(),
            ureq::Error::Protocol(_) => "did not answer in HTTP".to_owned(),
            ureq::Error::Rustls(error) => format!("cannot be spoken to over TLS ({error})"),
            ureq::Error::Tls(error) => format!("cannot be spoken to over TLS ({error})"),
            ureq::Error::ConnectProxyFailed(_) | ureq::Error::InvalidProxyUrl => {
                "cannot be reached through the proxy".to_owned()
            }
            // What others say may have a URL in it.
            _ => "cannot be reached".to_owned(),
        };
        Self::Failed(reason)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<ureq::Error>()) {
            return match error.into_inner().and_then(|inner| inner.downcast::<ureq::Error>().ok()) {
                // One within the other, and so on, does not occur; if it does, it is not followed.
                Some(inner) if !matches!(*inner, ureq::Error::Io(_)) => Self::from(*inner),
                _ => Self::Failed("cannot be reached".to_owned()),
            };
        }
        Self::Failed(match error.kind() {
            io::ErrorKind::TimedOut => return Self::Late,
            io::ErrorKind::ConnectionRefused => {
                "is not there, since the connection was refused: start it, or mend its url".to_owned()
            }
            _ => format!("broke off the connection ({error})"),
        })
    }
}

/// Whether a URL is one of this machine.
fn is_loopback(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}
