//! The child's answers, in the form in which their callers expect them.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    call::{CacheHints, Call},
    message::{Message, ResponseOutcome, plain_text, spliced},
    protocol::ProtocolMode,
    rpc_response::{INTERNAL_ERROR, RpcResponse, UNAVAILABLE, error_code_of},
};

/// The hints that a list or a resource carries for a 2026-07-28 client, where the server gave none: not to be kept.
const DEFAULT_CACHE_HINTS: [(&str, &str); 2] = [("ttlMs", "0"), ("cacheScope", "\"private\"")];

impl RpcResponse {
    /// The child's answer to a call, as its caller wants it.
    pub(crate) fn of_child(
        call: &Call,
        id: &str,
        outcome: ResponseOutcome<'_>,
        message: &Message<'_>,
        child: ProtocolMode,
    ) -> Self {
        match outcome {
            ResponseOutcome::Error(error) => {
                let text = spliced(message.text, &mut [(id, &call.client_id)]);
                Self::new(text, Some(error_code_of(error).unwrap_or(INTERNAL_ERROR)))
            }
            ResponseOutcome::Result(result) => match (call.mode, child) {
                (ProtocolMode::Stateless, ProtocolMode::Handshake) => {
                    let opened = opened(result, call.cache_hints);
                    Self::new(spliced(message.text, &mut [(id, &call.client_id), (&result[..1], &opened)]), None)
                }
                (ProtocolMode::Handshake, ProtocolMode::Stateless) if asks_for_input(result) => Self::error(
                    &call.client_id,
                    UNAVAILABLE,
                    "the server wants input of its client, which it cannot have from a client of this version",
                ),
                _ => Self::new(spliced(message.text, &mut [(id, &call.client_id)]), None),
            },
        }
    }
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
fn opened(result: &str, cache_hints: CacheHints) -> String {
    let Some(inner) = result.strip_prefix('{') else {
        return result.get(..1).unwrap_or_default().to_owned();
    };
    let hints: Hints<'_> = serde_json::from_str(result).unwrap_or_default();
    let mut added = Vec::new();
    if hints.result_type.is_none() {
        added.push(r#""resultType":"complete""#.to_owned());
    }
    if cache_hints == CacheHints::WithHints {
        for ((key, value), given) in DEFAULT_CACHE_HINTS.iter().zip([hints.ttl_ms, hints.cache_scope]) {
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
        assert_eq!(opened("{}", CacheHints::Not), r#"{"resultType":"complete""#);
        assert_eq!(opened(r#"{"a":1}"#, CacheHints::Not), r#"{"resultType":"complete","#);
        assert_eq!(opened(r#"{"resultType":"task"}"#, CacheHints::Not), "{");
        let all = r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","#;
        assert_eq!(opened(r#"{"tools":[]}"#, CacheHints::WithHints), all);
        let some = r#"{"resultType":"complete","cacheScope":"private","#;
        assert_eq!(opened(r#"{"ttlMs":9}"#, CacheHints::WithHints), some);
        assert_eq!(opened("null", CacheHints::Not), "n");
    }
}
