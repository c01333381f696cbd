//! An HTTP client for single requests. Requests that a library would not send have their own in `bridge::http`.

use super::WAIT_MAX;
use serde_json::Value;

/// Returns the status and the body of the response to a GET; `None` if there is no complete response.
pub(crate) fn get(url: &str) -> Option<(u16, String)> {
    complete(agent().get(url).call())
}

/// Returns the status and the body of the response to a POST of a JSON-RPC message; `None` if there is no complete
/// response.
pub(crate) fn post(url: &str, headers: &[(&str, &str)], message: &Value) -> Option<(u16, String)> {
    let request = agent()
        .post(url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    complete(request.send(message.to_string()))
}

fn complete(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Option<(u16, String)> {
    let mut response = response.ok()?;
    let body = response.body_mut().read_to_string().ok()?;
    Some((response.status().as_u16(), body))
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(WAIT_MAX))
        .proxy(None)
        .build()
        .new_agent()
}
