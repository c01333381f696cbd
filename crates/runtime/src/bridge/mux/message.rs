//! A JSON-RPC message, parsed only as far as the bridge needs.
//!
//! Invariants: unknown parts are kept byte for byte, since a message is forwarded by replacing parts of its own text;
//! and a message for a child or an event stream is one line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use cortex_lines::ID_BYTES_MAX;

/// A message and the parts that matter for forwarding it.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) text: &'a str,
    pub(crate) kind: MessageKind<'a>,
    pub(crate) params: Option<&'a str>,
}

/// The kind of a message, with what identifies it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MessageKind<'a> {
    Request { id: &'a str, method: Cow<'a, str> },
    Notification { method: Cow<'a, str> },
    Response { id: &'a str, outcome: ResponseOutcome<'a> },
}

/// The content of a response, as JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseOutcome<'a> {
    Result(&'a str),
    Error(&'a str),
}

/// Why a text is not a JSON-RPC message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the message is not JSON ({0})")]
    NotJson(String),
    #[error("the message is not JSON-RPC: {0}")]
    NotRpc(&'static str),
}

impl MessageError {
    /// Returns the JSON-RPC error code.
    pub(crate) fn code(&self) -> i64 {
        match self {
            Self::NotJson(_) => -32_700,
            Self::NotRpc(_) => -32_600,
        }
    }
}

#[derive(Deserialize)]
struct RawMessage<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// The keys by which the bridge tells whose message it is. A server that ignores the case of keys must not receive
/// another key that it would read as one of these.
const OWN_KEYS: [&str; 9] =
    ["id", "method", "params", "result", "error", "jsonrpc", "_meta", "requestId", "progressToken"];

/// Reads the keys of an object and ignores the values.
struct KeyVisitor;

impl<'de> de::Visitor<'de> for KeyVisitor {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut case_variant = None;
        while let Some((key, _)) = map.next_entry::<Cow<'_, str>, de::IgnoredAny>()? {
            let is_variant = |own: &&&str| own.eq_ignore_ascii_case(&key) && ***own != *key;
            case_variant = case_variant.or(OWN_KEYS.iter().find(is_variant).copied());
        }
        Ok(case_variant)
    }
}

/// Returns the protocol key that a key of the object equals only without regard to case.
fn case_variant(object: Option<&str>) -> Option<&'static str> {
    let text = object.filter(|text| text.starts_with('{'))?;
    serde_json::Deserializer::from_str(text).deserialize_map(KeyVisitor).ok().flatten()
}

/// Distinguishes a `null` value from an absent key.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Message<'a> {
    /// Parses a message.
    ///
    /// # Errors
    /// The text is not a JSON-RPC message.
    pub(crate) fn parse(text: &'a str) -> Result<Self, MessageError> {
        let text = text.trim_ascii();
        let not_rpc = |why| Err(MessageError::NotRpc(why));
        if !text.starts_with('{') {
            // An array would deserialize as the fields in their order.
            let json = serde_json::from_str::<&RawValue>(text);
            return json.map_err(|error| MessageError::NotJson(error.to_string())).and(not_rpc("it must be an object"));
        }
        let parts: RawMessage<'a> = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => MessageError::NotRpc("a key is repeated"),
            _ => MessageError::NotJson(error.to_string()),
        })?;
        let id = parts.id.map(RawValue::get);
        if id.is_some_and(|id| !is_id(id)) {
            return not_rpc("id must be a string or a number of at most 1,024 bytes");
        }
        let kind = match (parts.method, id) {
            (Some(method), id) => {
                let Some(method) = string_value(method.get()) else {
                    return not_rpc("method must be a string");
                };
                match id {
                    Some("null") => return not_rpc("id must be a string or a number, not null"),
                    Some(id) => MessageKind::Request { id, method },
                    None => MessageKind::Notification { method },
                }
            }
            (None, Some(id)) => match (parts.error, parts.result) {
                (Some(error), _) => MessageKind::Response { id, outcome: ResponseOutcome::Error(error.get()) },
                (None, Some(result)) => MessageKind::Response { id, outcome: ResponseOutcome::Result(result.get()) },
                (None, None) => return not_rpc("it has neither method, result nor error"),
            },
            (None, None) => return not_rpc("it has neither id nor method"),
        };
        Ok(Self { text, kind, params: parts.params.map(RawValue::get) })
    }

    /// Returns the protocol key that the message has in another case, if any.
    pub(crate) fn case_variant_key(&self, params: &Parameters<'_>) -> Option<&'static str> {
        let meta = params.meta.map(RawValue::get);
        case_variant(Some(self.text)).or_else(|| case_variant(self.params)).or_else(|| case_variant(meta))
    }

    /// Returns the parameters that the bridge reads; none if `params` is not an object.
    ///
    /// # Errors
    /// A key is repeated, or a value has the wrong type.
    pub(crate) fn parameters(&self) -> Result<Parameters<'a>, serde_json::Error> {
        object(self.params)
    }
}

fn is_id(id: &str) -> bool {
    id.len() <= ID_BYTES_MAX
        && (id == "null" || id.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit()))
}

/// The parameters that the bridge reads, each as JSON text.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Parameters<'a> {
    #[serde(borrow, default, rename = "_meta")]
    pub(crate) meta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) uri: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "taskId")]
    pub(crate) task_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) level: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "requestId")]
    pub(crate) request_id: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "progressToken")]
    pub(crate) progress_token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) notifications: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "protocolVersion")]
    pub(crate) protocol_version: Option<&'a RawValue>,
}

/// The keys of `_meta` that the bridge reads.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Meta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    pub(crate) progress_token: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/protocolVersion")]
    pub(crate) protocol_version: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/clientCapabilities")]
    pub(crate) client_capabilities: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "io.modelcontextprotocol/logLevel")]
    pub(crate) log_level: Option<&'a RawValue>,
}

impl<'a> Parameters<'a> {
    /// Returns the keys of `_meta` that the bridge reads; none if it is not an object.
    pub(crate) fn meta(&self) -> Result<Meta<'a>, serde_json::Error> {
        object(self.meta.map(RawValue::get))
    }
}

/// Parses an object. Any other value counts as an object without keys.
fn object<'a, T: Deserialize<'a> + Default>(text: Option<&'a str>) -> Result<T, serde_json::Error> {
    match text {
        Some(text) if text.starts_with('{') => serde_json::from_str(text),
        _ => Ok(T::default()),
    }
}

/// Returns the value of a JSON string; `None` if the JSON is not a string.
pub(crate) fn string_value(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(json).ok().map(Cow::Owned)
}

/// Returns the value of a parameter that is a JSON string.
pub(crate) fn string_param(value: Option<&RawValue>) -> Option<Cow<'_, str>> {
    value.and_then(|value| string_value(value.get()))
}

/// Returns the number of an id, also if the peer has turned it into a decimal such as `7.0`.
pub(crate) fn number_of(id: &str) -> Option<u64> {
    id.strip_suffix(".0").unwrap_or(id).parse().ok()
}

/// Returns the text with parts replaced, as one line. Each part must be a slice of `text`, and parts must not overlap.
pub(crate) fn spliced(text: &str, edits: &mut [(&str, &str)]) -> Vec<u8> {
    edits.sort_unstable_by_key(|(part, _)| part.as_ptr().addr());
    let added_bytes: usize = edits.iter().map(|(_, replacement)| replacement.len()).sum();
    let mut out = Vec::with_capacity(text.len() + added_bytes + 1);
    let mut done = 0;
    for (part, replacement) in edits.iter() {
        let start = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
        let (Some(before), Some(end)) = (text.get(done..start), start.checked_add(part.len())) else {
            debug_assert!(false, "a part is not a slice of its text");
            continue;
        };
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(replacement.as_bytes());
        done = end;
    }
    out.extend_from_slice(text.get(done..).unwrap_or_default().as_bytes());
    join_lines(&mut out);
    out
}

/// Joins the lines of a JSON text. A line break in JSON is always white space between tokens.
fn join_lines(text: &mut [u8]) {
    if memchr::memchr2(b'\n', b'\r', text).is_some() {
        for byte in text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
    }
}

/// Returns the parameters with `_meta` changed: without the keys that `dropped` matches, and with the keys of `added`.
///
/// # Errors
/// The parameters or their `_meta` are not an object.
pub(crate) fn with_meta(
    params: Option<&str>,
    dropped: impl Fn(&str) -> bool,
    added: &[(&str, &str)],
) -> Result<String, serde_json::Error> {
    let mut params: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(params.unwrap_or("{}"))?;
    let mut meta: BTreeMap<Cow<'_, str>, &RawValue> = match params.get("_meta") {
        Some(meta) => serde_json::from_str(meta.get())?,
        None => BTreeMap::new(),
    };
    meta.retain(|key, _| !dropped(key));
    for (key, value) in added {
        meta.insert(Cow::Borrowed(key), serde_json::from_str(value)?);
    }
    let meta = serde_json::value::to_raw_value(&meta)?;
    params.insert(Cow::Borrowed("_meta"), &meta);
    serde_json::to_string(&params)
}

/// Returns the message with other parameters, as one line. Replaces the id too if one is given.
pub(crate) fn with_params(message: &Message<'_>, id: Option<&str>, params: &str) -> Vec<u8> {
    let mut edits: Vec<(&str, &str)> = Vec::new();
    if let (MessageKind::Request { id: old, .. }, Some(new)) = (&message.kind, id) {
        edits.push((old, new));
    }
    let closing;
    if let Some(old) = message.params {
        edits.push((old, params));
    } else {
        closing = format!(",\"params\":{params}}}");
        edits.push((&message.text[message.text.len() - 1..], &closing));
    }
    spliced(message.text, &mut edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Result<MessageKind<'_>, MessageError> {
        Message::parse(text).map(|message| message.kind)
    }

    #[test]
    fn a_message_is_known_by_its_keys() {
        let method = || Cow::Borrowed("a/b");
        assert_eq!(kind(r#"{"id":7,"method":"a/b"}"#), Ok(MessageKind::Request { id: "7", method: method() }));
        assert_eq!(kind(r#" {"method":"a\/b","id":"x"} "#), Ok(MessageKind::Request { id: "\"x\"", method: method() }));
        assert_eq!(kind(r#"{"method":"a/b"}"#), Ok(MessageKind::Notification { method: method() }));
        assert_eq!(
            kind(r#"{"id":1,"result":null}"#),
            Ok(MessageKind::Response { id: "1", outcome: ResponseOutcome::Result("null") })
        );
        assert_eq!(
            kind(r#"{"id":null,"error":{}}"#),
            Ok(MessageKind::Response { id: "null", outcome: ResponseOutcome::Error("{}") })
        );
        for refused in [
            "[]",
            "7",
            "[1,\"a\"]",
            r#"{"id":{},"method":"a"}"#,
            r#"{"id":null,"method":"a"}"#,
            r#"{"method":1}"#,
            "{}",
        ] {
            assert_eq!(kind(refused).expect_err("no message").code(), -32_600, "{refused}");
        }
        assert_eq!(kind(r#"{"id":1,"id":2,"method":"a"}"#).expect_err("twice").code(), -32_600);
        for refused in ["", "{", "nonsense", "{\"id\":1,}"] {
            assert_eq!(kind(refused).expect_err("no JSON").code(), -32_700, "{refused}");
        }
        let long = format!("{{\"id\":\"{}\",\"method\":\"a\"}}", "x".repeat(ID_BYTES_MAX));
        assert_eq!(kind(&long).expect_err("a long id").code(), -32_600);
    }

    #[test]
    fn parts_are_replaced_and_the_rest_is_kept_in_one_line() {
        let text = "{\"x\": 1.50,\n \"id\":\"a\",\"method\":\"m\",\r\"params\":{\"_meta\":{\"progressToken\":9}}}";
        let message = Message::parse(text).expect("a message");
        let token = message.parameters().expect("fine").meta().expect("fine").progress_token.expect("a token");
        let MessageKind::Request { id, .. } = message.kind else { panic!("a request") };
        let out = spliced(message.text, &mut [(token.get(), "31"), (id, "31")]);
        let expected = "{\"x\": 1.50,  \"id\":31,\"method\":\"m\", \"params\":{\"_meta\":{\"progressToken\":31}}}";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
    }

    #[test]
    fn metadata_is_dropped_and_added() {
        let params = r#"{"name":"t","_meta":{"io.modelcontextprotocol/x":1,"mine":2}}"#;
        let out = with_meta(Some(params), |key| key.starts_with("io."), &[("progressToken", "5")]).expect("fine");
        assert_eq!(out, r#"{"_meta":{"mine":2,"progressToken":5},"name":"t"}"#);
        let message = Message::parse(r#"{"id":1,"method":"m"}"#).expect("a message");
        let out = with_params(&message, Some("8"), &with_meta(None, |_| false, &[("a", "1")]).expect("fine"));
        assert_eq!(String::from_utf8_lossy(&out), r#"{"id":8,"method":"m","params":{"_meta":{"a":1}}}"#);
        assert!(with_meta(Some("[1]"), |_| false, &[]).is_err());
    }

    #[test]
    fn a_repeated_key_does_not_bypass_the_mapping() {
        let text = r#"{"id":1,"method":"m","params":{"_meta":{},"_meta":{"progressToken":1}}}"#;
        assert!(Message::parse(text).expect("a message").parameters().is_err());
        let text = r#"{"id":1,"method":"m","params":{"_\u006deta":{"progress\u0054oken":1}}}"#;
        let meta = Message::parse(text).expect("a message").parameters().expect("fine").meta().expect("fine");
        assert_eq!(meta.progress_token.map(RawValue::get), Some("1"));
    }
}
