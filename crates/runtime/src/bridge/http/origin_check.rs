//! Rejects requests that are not addressed to this machine or come from a web page of another host, as in DNS
//! rebinding.
//!
//! A browser sends the page's origin in `Origin`, and a name that was pointed at this machine in `Host`.

use axum::http::{
    HeaderMap, Uri,
    header::{HOST, ORIGIN},
};

/// Checks the `Host` and `Origin` headers of a request.
///
/// # Errors
/// Returns the error text for a request that must be rejected.
pub(crate) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_some() || !host.is_some_and(is_loopback) {
        return Err("the Host header must be localhost, 127.0.0.1 or [::1], with or without a port");
    }
    if uri.authority().is_some_and(|authority| !is_loopback(authority.as_str())) {
        return Err("the host of the request target must be localhost, 127.0.0.1 or [::1]");
    }
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !host.is_some_and(is_loopback) {
            return Err(
                "the Origin header must be absent, or an http or https origin on localhost, 127.0.0.1 or [::1]",
            );
        }
    }
    Ok(())
}

/// Returns whether `host` or `host:port` names this machine's loopback interface.
fn is_loopback(host: &str) -> bool {
    let (name, rest) = match host.strip_prefix('[') {
        Some(_) => host.split_at(host.find(']').map_or(0, |end| end + 1)),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_name = name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]";
    let is_port = |port: &str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    is_name && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
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
}
