//! The response types that a client accepts, from its `Accept` header.

use axum::http::{HeaderMap, header::ACCEPT};

/// The response types that a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) json: bool,
    /// Set only if the type is named: a client that sends `*/*` may not be able to read a stream.
    pub(crate) stream: bool,
}

impl Accepted {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut accepted = Self { json: false, stream: false };
        let mut has_header = false;
        for value in headers.get_all(ACCEPT) {
            has_header = true;
            for range in value.to_str().unwrap_or_default().split(',') {
                let mut parts = range.split(';').map(str::trim);
                let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
                let is_refused = parts.any(|part| {
                    let quality = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
                    quality.is_some_and(|quality| quality.parse() == Ok(0.0_f32))
                });
                match media_type.as_str() {
                    _ if is_refused => {}
                    "application/json" | "application/*" | "*/*" => accepted.json = true,
                    "text/event-stream" => accepted.stream = true,
                    _ => {}
                }
            }
        }
        accepted.json |= !has_header;
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers_are_read_leniently() {
        let accepted = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, axum::http::HeaderValue::from_static(value));
            }
            let Accepted { json, stream } = Accepted::from_headers(&headers);
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
