//! What a caller gets in the end: the child's own answer under the caller's id, or an error of the bridge's.

use hyper::body::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    call::{Call, Kept},
    message::{Message, Outcome, plain_text, spliced},
    version::Era,
};
use crate::bridge::limits::account::{Charge, Holder, charged};

/// The code of an error whose cause is the server's process, not the request.
pub(crate) const UNAVAILABLE: i64 = -32_000;
pub(crate) const INVALID_REQUEST: i64 = -32_600;
pub(crate) const METHOD_NOT_FOUND: i64 = -32_601;
pub(crate) const INVALID_PARAMS: i64 = -32_602;
const INTERNAL_ERROR: i64 = -32_603;
/// The headers of a request say something else than its body.
pub(crate) const HEADER_MISMATCH: i64 = -32_020;
pub(crate) const VERSION_UNSUPPORTED: i64 = -32_022;

/// The hints that a list or a resource carries for a 2026-07-28 client, where the server gave none: not to be kept.
const CACHE_HINTS: [(&str, &str); 2] = [("ttlMs", "0"), ("cacheScope", "\"private\"")];

/// A whole JSON-RPC answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: Bytes,
    /// The code of the error, if it is one. Of a child's own errors it is read only where the answer depends on it.
    pub(crate) error_code: Option<i64>,
    /// What it takes of the endpoint's account. Errors of the bridge's own are too short to count.
    pub(crate) charge: Option<Charge>,
}

impl Answer {
    pub(crate) fn new(text: impl Into<Bytes>, error_code: Option<i64>) -> Self {
        Self { text: text.into(), error_code, charge: None }
    }

    /// The same answer to the request with `id`, counted as one that `holder` has; or, if there is no room, an error.
    pub(crate) fn held(mut self, holder: &Holder, id: &str) -> Self {
        self.charge = holder.message(self.text.len());
        match self.charge {
            Some(_) => self,
            None => Self::unavailable(id, &holder.crowded(), true),
        }
    }

    /// What is written. It counts until it was.
    pub(crate) fn into_text(self) -> Bytes {
        charged(self.text, self.charge)
    }

    /// An answer to the request with `id`, which is JSON.
    pub(crate) fn result(id: &str, result: &str) -> Self {
        Self::new(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#), None)
    }

    pub(crate) fn error(id: &str, code: i64, message: &str) -> Self {
        Self::error_with(id, code, message, None)
    }

    /// An error that says whether the same request may have better luck later.
    pub(crate) fn unavailable(id: &str, message: &str, retryable: bool) -> Self {
        let data = if retryable { r#"{"retryable":true}"# } else { r#"{"retryable":false}"# };
        Self::error_with(id, UNAVAILABLE, message, Some(data))
    }

    pub(crate) fn error_with(id: &str, code: i64, message: &str, data: Option<&str>) -> Self {
        let message = serde_json::Value::from(message);
        let data = data.map(|data| format!(r#","data":{data}"#)).unwrap_or_default();
        let error = format!(r#"{{"code":{code},"message":{message}{data}}}"#);
        Self::new(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#), Some(code))
    }

    /// The child's answer to a call, as its caller wants it.
    pub(crate) fn of_child(call: &Call, id: &str, outcome: Outcome<'_>, message: &Message<'_>, child: Era) -> Self {
        match outcome {
            Outcome::Error(error) => {
                let text = spliced(message.text, &mut [(id, &call.client_id)]);
                Self::new(text, Some(code_of(error).unwrap_or(INTERNAL_ERROR)))
            }
            Outcome::Result(result) => match (call.era, child) {
                (Era::Stateless, Era::Handshake) => {
                    let opened = opened(result, call.kept);
                    Self::new(spliced(message.text, &mut [(id, &call.client_id), (&result[..1], &opened)]), None)
                }
                (Era::Handshake, Era::Stateless) if asks_for_input(result) => Self::error(
                    &call.client_id,
                    UNAVAILABLE,
                    "the server wants input of its client, which it cannot have from a client of this version",
                ),
                _ => Self::new(spliced(message.text, &mut [(id, &call.client_id)]), None),
            },
        }
    }
}

#[derive(Deserialize)]
struct Code {
    code: i64,
}

pub(crate) fn code_of(error: &str) -> Option<i64> {
    serde_json::from_str(error).ok().map(|error: Code| error.code)
}

/// How a result must be read, and for how long it may be kept.
#[derive(Default, Deserialize)]
struct Hints<'a> {
    #[serde(borrow, default, rename = "resultType")]
    result_type: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "ttlMs")]
    ttl_ms: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "cacheScope")]
    cache_scope: Option<&'a RawValue>,
}

/// The opening brace of a result, with what a 2026-07-28 client expects and an older server does not say.
fn opened(result: &str, kept: Kept) -> String {
    let Some(inner) = result.strip_prefix('{') else {
        return result.get(..1).unwrap_or_default().to_owned();
    };
    let hints: Hints<'_> = serde_json::from_str(result).unwrap_or_default();
    let mut added = Vec::new();
    if hints.result_type.is_none() {
        added.push(r#""resultType":"complete""#.to_owned());
    }
    if kept == Kept::WithHints {
        for ((key, value), given) in CACHE_HINTS.iter().zip([hints.ttl_ms, hints.cache_scope]) {
            if given.is_none() {
                added.push(format!("\"{key}\":{value}"));
            }
        }
    }
    let is_empty = inner.trim_ascii_start().starts_with('}');
    let comma = if added.is_empty() || is_empty { "" } else { "," };
    format!("{{{}{comma}", added.join(","))
}

fn asks_for_input(result: &str) -> bool {
    let hints: Hints<'_> = serde_json::from_str(result).unwrap_or_default();
    hints.result_type.and_then(|kind| plain_text(kind.get())).is_some_and(|kind| kind == "input_required")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_completed_for_those_who_expect_more() {
        assert_eq!(opened("{}", Kept::Not), r#"{"resultType":"complete""#);
        assert_eq!(opened(r#"{"a":1}"#, Kept::Not), r#"{"resultType":"complete","#);
        assert_eq!(opened(r#"{"resultType":"task"}"#, Kept::Not), "{");
        let all = r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","#;
        assert_eq!(opened(r#"{"tools":[]}"#, Kept::WithHints), all);
        let some = r#"{"resultType":"complete","cacheScope":"private","#;
        assert_eq!(opened(r#"{"ttlMs":9}"#, Kept::WithHints), some);
        assert_eq!(opened("null", Kept::Not), "n");
    }

    #[test]
    fn an_error_says_its_message_whatever_is_in_it() {
        let answer = Answer::unavailable("\"a\"", "line\n\"quoted\"", true);
        let expected = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32000,"message":"line\n\"quoted\"","data":{"retryable":true}}}"#;
        assert_eq!(answer.text, expected);
        assert_eq!(code_of(r#"{"message":"x","code":-7}"#), Some(-7));
    }
}
