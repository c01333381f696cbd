//! Which requests are let in at all: from this machine, to this machine, and not from a page of elsewhere.
//!
//! A browser sends its page's name as `Origin`, and a name that was made to point here as `Host`.

use hyper::{
    HeaderMap, Uri,
    header::{ACCEPT, AUTHORIZATION, HOST, ORIGIN},
};

/// Checks where a request comes from and whom it means.
///
/// # Errors
/// Why it is not let in.
pub(crate) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() || !host.is_some_and(is_loopback) {
        return Err("the Host header must be localhost, 127.0.0.1 or [::1], with or without a port");
    }
    if uri.authority().is_some_and(|authority| !is_loopback(authority.as_str())) {
        return Err("the address must be of localhost, 127.0.0.1 or [::1]");
    }
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !host.is_some_and(is_loopback) {
            return Err("the Origin header must be absent, or http or https of localhost, 127.0.0.1 or [::1]");
        }
    }
    Ok(())
}

/// Whether `host`, or `host:port`, is this machine by one of its own names.
fn is_loopback(host: &str) -> bool {
    let (name, rest) = match host.strip_prefix('[') {
        Some(_) => host.split_at(host.find(']').map_or(0, |end| end + 1)),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_name = name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]";
    let is_port = |port: &str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    is_name && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// What a client can take for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) json: bool,
    /// Only where it is named: a client that takes anything may well not be able to read a stream.
    pub(crate) stream: bool,
}

impl Accepted {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut accepted = Self { json: false, stream: false };
        let mut is_said = false;
        for value in headers.get_all(ACCEPT) {
            is_said = true;
            for range in value.to_str().unwrap_or_default().split(',') {
                let mut parts = range.split(';').map(str::trim);
                let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
                let refused = parts.any(|part| {
                    let quality = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
                    quality.is_some_and(|quality| quality.parse() == Ok(0.0_f32))
                });
                match kind.as_str() {
                    _ if refused => {}
                    "application/json" | "application/*" | "*/*" => accepted.json = true,
                    "text/event-stream" => accepted.stream = true,
                    _ => {}
                }
            }
        }
        accepted.json |= !is_said;
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        for host in ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "127.0.0.1", "[::1]", "[::1]:9000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "localhost.",
            "localhost:",
            "localhost:x",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil",
            "[::1",
            "[::1]x",
            "[::2]",
            "::1",
            "localhost:9000/x",
            "127.0.0.2",
            "localhost:123456",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn what_a_client_takes_is_read_leniently() {
        let accepted = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, hyper::header::HeaderValue::from_static(value));
            }
            let Accepted { json, stream } = Accepted::of(&headers);
            (json, stream)
        };
        assert_eq!(accepted(&[]), (true, false));
        assert_eq!(accepted(&["*/*"]), (true, false));
        assert_eq!(accepted(&["application/json, text/event-stream"]), (true, true));
        assert_eq!(accepted(&["application/json", "Text/Event-Stream; q=0.5"]), (true, true));
        assert_eq!(accepted(&["text/event-stream, application/json;q=0"]), (false, true));
        assert_eq!(accepted(&["text/html"]), (false, false));
    }
}
