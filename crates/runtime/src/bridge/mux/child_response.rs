//! Translates the child's responses into the form that the client's protocol version requires.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    call::{CacheHints, Call},
    message::{Message, ResponseOutcome, spliced, string_value},
    protocol::ProtocolMode,
    rpc_response::{INTERNAL_ERROR, RpcResponse, UNAVAILABLE, error_code_of},
};

/// The cache hints of a result for a client of 2026-07-28 if the server gave none: do not cache.
const DEFAULT_CACHE_HINTS: [(&str, &str); 2] = [("ttlMs", "0"), ("cacheScope", "\"private\"")];

impl RpcResponse {
    /// Returns the child's response to a call, translated for its client.
    pub(crate) fn from_child(
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
                    let opening_with_hints = opening_with_hints(result, call.cache_hints);
                    Self::new(
                        spliced(message.text, &mut [(id, &call.client_id), (&result[..1], &opening_with_hints)]),
                        None,
                    )
                }
                (ProtocolMode::Handshake, ProtocolMode::Stateless) if requires_input(result) => Self::error(
                    &call.client_id,
                    UNAVAILABLE,
                    "the server requires input, which clients of this protocol version cannot give",
                ),
                _ => Self::new(spliced(message.text, &mut [(id, &call.client_id)]), None),
            },
        }
    }
}

/// The fields of a result that say how to read and cache it.
#[derive(Default, Deserialize)]
struct Hints<'a> {
    #[serde(borrow, default, rename = "resultType")]
    result_type: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "ttlMs")]
    ttl_ms: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "cacheScope")]
    cache_scope: Option<&'a RawValue>,
}

/// Returns the opening brace of a result and the fields that a 2026-07-28 client requires and an older server does not
/// send.
fn opening_with_hints(result: &str, cache_hints: CacheHints) -> String {
    let Some(inner) = result.strip_prefix('{') else {
        return result.get(..1).unwrap_or_default().to_owned();
    };
    let hints: Hints<'_> = serde_json::from_str(result).unwrap_or_default();
    let mut added = Vec::new();
    if hints.result_type.is_none() {
        added.push(r#""resultType":"complete""#.to_owned());
    }
    if cache_hints == CacheHints::Add {
        for ((key, value), existing) in DEFAULT_CACHE_HINTS.iter().zip([hints.ttl_ms, hints.cache_scope]) {
            if existing.is_none() {
                added.push(format!("\"{key}\":{value}"));
            }
        }
    }
    let is_empty = inner.trim_ascii_start().starts_with('}');
    let comma = if added.is_empty() || is_empty { "" } else { "," };
    format!("{{{}{comma}", added.join(","))
}

fn requires_input(result: &str) -> bool {
    let hints: Hints<'_> = serde_json::from_str(result).unwrap_or_default();
    hints
        .result_type
        .and_then(|result_type| string_value(result_type.get()))
        .is_some_and(|result_type| result_type == "input_required")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_fields_are_added_to_results() {
        assert_eq!(opening_with_hints("{}", CacheHints::Omit), r#"{"resultType":"complete""#);
        assert_eq!(opening_with_hints(r#"{"a":1}"#, CacheHints::Omit), r#"{"resultType":"complete","#);
        assert_eq!(opening_with_hints(r#"{"resultType":"task"}"#, CacheHints::Omit), "{");
        let all = r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","#;
        assert_eq!(opening_with_hints(r#"{"tools":[]}"#, CacheHints::Add), all);
        let some = r#"{"resultType":"complete","cacheScope":"private","#;
        assert_eq!(opening_with_hints(r#"{"ttlMs":9}"#, CacheHints::Add), some);
        assert_eq!(opening_with_hints("null", CacheHints::Omit), "n");
    }
}
