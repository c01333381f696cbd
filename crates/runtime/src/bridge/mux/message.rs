//! One JSON-RPC message, read only as far as it must be.
//!
//! Invariants: what is not understood is kept to the letter, since a message is passed on by replacing parts of its own
//! text; and a message given to a child or into an event stream is one line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;

use cortex_lines::ID_BYTES_MAX;

/// A message and the parts of it that matter to whoever passes it on.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    pub(crate) text: &'a str,
    pub(crate) kind: MessageKind<'a>,
    pub(crate) params: Option<&'a str>,
}

/// What a message is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MessageKind<'a> {
    Request { id: &'a str, method: Cow<'a, str> },
    Notification { method: Cow<'a, str> },
    Response { id: &'a str, outcome: ResponseOutcome<'a> },
}

/// What an answer holds, as it is in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseOutcome<'a> {
    Result(&'a str),
    Error(&'a str),
}

/// Why a text is no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the message is not JSON ({0})")]
    NotJson(String),
    #[error("the message is no JSON-RPC: {0}")]
    NotRpc(&'static str),
}

impl MessageError {
    /// The code of JSON-RPC for it.
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

/// The keys by which the bridge tells whose message is whose. Servers that do not mind the case of letters must not be shown
/// others that read as these.
const OWN_KEYS: [&str; 9] =
    ["id", "method", "params", "result", "error", "jsonrpc", "_meta", "requestId", "progressToken"];

/// Looks at the keys of an object, and at nothing else of it.
struct KeyVisitor;

impl<'de> de::Visitor<'de> for KeyVisitor {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut case_variant = None;
        while let Some((key, _)) = map.next_entry::<Cow<'_, str>, de::IgnoredAny>()? {
            let is_own = |own: &&&str| own.eq_ignore_ascii_case(&key) && ***own != *key;
            case_variant = case_variant.or(OWN_KEYS.iter().find(is_own).copied());
        }
        Ok(case_variant)
    }
}

/// The key of the protocol that a key of an object would be if the case of letters did not matter.
fn case_variant(object: Option<&str>) -> Option<&'static str> {
    let text = object.filter(|text| text.starts_with('{'))?;
    serde_json::Deserializer::from_str(text).deserialize_map(KeyVisitor).ok().flatten()
}

/// Keeps a `null` that is there apart from a key that is not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Message<'a> {
    /// Reads a message.
    pub(crate) fn parse(text: &'a str) -> Result<Self, MessageError> {
        let text = text.trim_ascii();
        let not_rpc = |why| Err(MessageError::NotRpc(why));
        if !text.starts_with('{') {
            // Anything else that is JSON would read as the fields of a message in their order.
            let json = serde_json::from_str::<&RawValue>(text);
            return json.map_err(|error| MessageError::NotJson(error.to_string())).and(not_rpc("it must be an object"));
        }
        let parts: RawMessage<'a> = serde_json::from_str(text).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => MessageError::NotRpc("a key is there twice"),
            _ => MessageError::NotJson(error.to_string()),
        })?;
        let id = parts.id.map(RawValue::get);
        if id.is_some_and(|id| !is_id(id)) {
            return not_rpc("id must be a string or a number of at most 1,024 bytes");
        }
        let kind = match (parts.method, id) {
            (Some(method), id) => {
                let Some(method) = plain_text(method.get()) else {
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

    /// The key of the protocol that stands in it in other letters, if one does.
    pub(crate) fn case_variant_key(&self, params: &Parameters<'_>) -> Option<&'static str> {
        let meta = params.meta.map(RawValue::get);
        case_variant(Some(self.text)).or_else(|| case_variant(self.params)).or_else(|| case_variant(meta))
    }

    /// What of the parameters matters to the bridge; nothing where they are no object.
    ///
    /// # Errors
    /// A key is there twice, or a value is of another type than the protocol says.
    pub(crate) fn parameters(&self) -> Result<Parameters<'a>, serde_json::Error> {
        object(self.params)
    }
}

fn is_id(id: &str) -> bool {
    id.len() <= ID_BYTES_MAX
        && (id == "null" || id.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit()))
}

/// The parameters that the bridge looks at, each as it is in the text.
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

/// The keys of `_meta` that the bridge looks at.
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
    /// What of `_meta` matters; nothing where it is no object.
    pub(crate) fn meta(&self) -> Result<Meta<'a>, serde_json::Error> {
        object(self.meta.map(RawValue::get))
    }
}

/// Reads an object; whatever else is there has none of its keys.
fn object<'a, T: Deserialize<'a> + Default>(text: Option<&'a str>) -> Result<T, serde_json::Error> {
    match text {
        Some(text) if text.starts_with('{') => serde_json::from_str(text),
        _ => Ok(T::default()),
    }
}

/// What a JSON string says; nothing if the value is no string.
pub(crate) fn plain_text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(json).ok().map(Cow::Owned)
}

/// What a JSON string among the parameters says.
pub(crate) fn text_of(value: Option<&RawValue>) -> Option<Cow<'_, str>> {
    value.and_then(|value| plain_text(value.get()))
}

/// The number that an id is, also where the peer made a fraction of it.
pub(crate) fn number_of(id: &str) -> Option<u64> {
    id.strip_suffix(".0").unwrap_or(id).parse().ok()
}

/// The text with some of its parts replaced, as one line. Each part is a slice of the text itself; they do not overlap.
pub(crate) fn spliced(text: &str, edits: &mut [(&str, &str)]) -> Vec<u8> {
    edits.sort_unstable_by_key(|(part, _)| part.as_ptr().addr());
    let longer: usize = edits.iter().map(|(_, instead)| instead.len()).sum();
    let mut out = Vec::with_capacity(text.len() + longer + 1);
    let mut done = 0;
    for (part, instead) in edits.iter() {
        let start = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
        let (Some(before), Some(end)) = (text.get(done..start), start.checked_add(part.len())) else {
            debug_assert!(false, "a part is no slice of its text");
            continue;
        };
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(instead.as_bytes());
        done = end;
    }
    out.extend_from_slice(text.get(done..).unwrap_or_default().as_bytes());
    join_lines(&mut out);
    out
}

/// Makes one line of a JSON text. A line break within JSON is only ever white space between its parts.
fn join_lines(text: &mut [u8]) {
    if memchr::memchr2(b'\n', b'\r', text).is_some() {
        for byte in text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
    }
}

/// The parameters with another `_meta`: without the keys that `dropped` says, and with those of `added`.
///
/// # Errors
/// The parameters or their `_meta` are no objects.
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

/// The message with other parameters, as one line, and with its id replaced where one is given.
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
    fn a_key_that_is_there_twice_is_no_way_around_the_mapping() {
        let text = r#"{"id":1,"method":"m","params":{"_meta":{},"_meta":{"progressToken":1}}}"#;
        assert!(Message::parse(text).expect("a message").parameters().is_err());
        let text = r#"{"id":1,"method":"m","params":{"_\u006deta":{"progress\u0054oken":1}}}"#;
        let meta = Message::parse(text).expect("a message").parameters().expect("fine").meta().expect("fine");
        assert_eq!(meta.progress_token.map(RawValue::get), Some("1"));
    }
}
