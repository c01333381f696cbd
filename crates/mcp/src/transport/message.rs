//! Parsing of a line into a message, or into the error reply to it.
//!
//! rmcp parses a message by trying every type, and gives no reason if none fits. Here the envelope is
//! parsed first, borrowing from the line, and the method decides the type of the parameters.
//! Invariant: every line results in one of [`Incoming`]; nothing panics, and no reply repeats more than
//! an excerpt of the line.

use std::{borrow::Cow, fmt};

use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, CustomRequest, ErrorData, JsonRpcMessage, JsonRpcRequest,
    JsonRpcVersion2_0, RequestId,
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::{params, text};
use cortex_lines::{ID_BYTES_MAX, parse_id};

/// A parsed request.
pub(super) struct IncomingRequest {
    pub(super) message: JsonRpcRequest<ClientRequest>,
    /// Whether it is a `subscriptions/listen`, which stays in flight until it is cancelled.
    pub(super) is_listen: bool,
}

/// The result of parsing a line.
pub(super) enum Incoming {
    Request(IncomingRequest),
    /// A notification that rmcp knows, or a reply to a request of ours.
    Other(ClientJsonRpcMessage),
    /// The line gets an error reply immediately.
    Refused {
        id: Option<RequestId>,
        error: ErrorData,
    },
    /// The line gets no reply under JSON-RPC and is dropped, for this reason.
    Ignored(&'static str),
}

impl Incoming {
    fn invalid(id: Option<RequestId>, text: impl Into<Cow<'static, str>>) -> Self {
        let error = ErrorData::invalid_request(text, None);
        Self::Refused { id, error }
    }

    fn unparsable(why: impl fmt::Display) -> Self {
        let error = ErrorData::parse_error(format!("Parse error: {why}"), None);
        Self::Refused { id: None, error }
    }
}

/// Parses one line.
pub(super) fn parse(line: &[u8]) -> Incoming {
    let line = match str::from_utf8(line) {
        Ok(line) => line,
        Err(error) => {
            let position = error.valid_up_to();
            return Incoming::unparsable(format_args!("byte {position} of the line is not UTF-8"));
        }
    };
    match serde_json::from_str::<TopLevel<'_>>(line) {
        Ok(TopLevel::Object(envelope)) => envelope.into_incoming(line),
        Ok(TopLevel::Array) => Incoming::invalid(
            None,
            "JSON-RPC batches (arrays) are not supported: send each message as a line of its own",
        ),
        Ok(TopLevel::Scalar) => Incoming::invalid(
            None,
            "the line is not a JSON-RPC 2.0 message: give a JSON object with \"jsonrpc\", \"id\" and \
             \"method\"",
        ),
        Err(error) => Incoming::unparsable(error),
    }
}

/// The outermost JSON value of a line.
enum TopLevel<'a> {
    Object(Envelope<'a>),
    Array,
    Scalar,
}

/// The members of a message, each as its JSON text.
#[derive(Default)]
struct Envelope<'a> {
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    has_result: bool,
    has_error: bool,
    /// A member given twice. Parsers differ in which one counts, so such a message is refused.
    repeated: Option<&'static str>,
}

impl<'a> Envelope<'a> {
    fn into_incoming(self, line: &str) -> Incoming {
        if self.method.is_none() && (self.has_result || self.has_error) {
            return other(line);
        }
        if let Some(member) = self.repeated {
            let text = format!("the member \"{member}\" is given twice: give it once");
            return Incoming::invalid(None, text);
        }
        let id = match self.id.map(|id| parse_id(id.get())).transpose() {
            Ok(id) => id,
            Err(what) => {
                let text = format!(
                    "the id is {what}: give an integer, or a string of up to \
                     {ID_BYTES_MAX} bytes, or no id \
                     at all for a notification"
                );
                return Incoming::invalid(None, text);
            }
        };
        match self.jsonrpc.map(RawValue::get) {
            Some("\"2.0\"") => {}
            Some(json) if serde_json::from_str::<String>(json).is_ok_and(|it| it == "2.0") => {}
            Some(json) => {
                let text = format!("jsonrpc is {}: give \"2.0\"", text::shortened(json));
                return Incoming::invalid(id, text);
            }
            None => return Incoming::invalid(id, "jsonrpc is missing: give \"jsonrpc\":\"2.0\""),
        }
        let Some(method) = self.method else {
            return Incoming::invalid(id, "method is missing: give the name of a method");
        };
        if self.has_result || self.has_error {
            let text = "the message has a method and a result or an error: give one of them";
            return Incoming::invalid(id, text);
        }
        let Some(method) = method_name(method.get()) else {
            let shown = text::shortened(method.get());
            return Incoming::invalid(id, format!("method is {shown}: give the name of a method, a string"));
        };
        match id {
            Some(id) => request(line, id, &method, self.params.map(RawValue::get)),
            None => other(line),
        }
    }
}

/// Returns the method's name, if the value is a string.
fn method_name(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(json).map(Cow::Owned).ok()
}

/// Parses a request whose envelope is valid.
fn request(line: &str, id: RequestId, method: &str, params: Option<&str>) -> Incoming {
    let request = if method == params::CALL_METHOD {
        params::call_tool(params).map(ClientRequest::CallToolRequest)
    } else {
        any_request(line, method, params)
    };
    match request {
        Ok(request) => Incoming::Request(IncomingRequest {
            is_listen: matches!(request, ClientRequest::SubscriptionsListenRequest(_)),
            message: JsonRpcRequest { jsonrpc: JsonRpcVersion2_0, id, request },
        }),
        Err(params::ParamsError::Syntax(why)) => Incoming::unparsable(why),
        Err(params::ParamsError::Params(text)) => {
            Incoming::Refused { id: Some(id), error: ErrorData::invalid_params(text, None) }
        }
    }
}

/// Parses a request as rmcp does. Where rmcp falls back to a custom request because the parameters of a
/// known method do not fit, this returns the reason.
fn any_request(line: &str, method: &str, params: Option<&str>) -> Result<ClientRequest, params::ParamsError> {
    let parsed = serde_json::from_str::<ClientJsonRpcMessage>(line);
    match parsed {
        Ok(JsonRpcMessage::Request(JsonRpcRequest { request: ClientRequest::CustomRequest(request), .. })) => {
            match params::check(method, params) {
                Some(error) => Err(error),
                None => Ok(ClientRequest::CustomRequest(request)),
            }
        }
        Ok(JsonRpcMessage::Request(message)) => match params::check_list(&message.request, params) {
            Some(error) => Err(error),
            None => Ok(message.request),
        },
        Err(error) if error.classify() != Category::Data => Err(params::ParamsError::Syntax(text::reason(&error))),
        // The envelope is valid, so that only parameters that are not an object can be wrong. The handler
        // still decides whether the method exists.
        Ok(_) | Err(_) => match params::check(method, params) {
            Some(error) => Err(error),
            None => Ok(ClientRequest::CustomRequest(CustomRequest::new(method, None))),
        },
    }
}

/// Parses a message without a reply: a notification or a response.
fn other(line: &str) -> Incoming {
    match serde_json::from_str::<ClientJsonRpcMessage>(line) {
        Ok(JsonRpcMessage::Notification(message)) => match message.notification {
            ClientNotification::CustomNotification(_) => Incoming::Ignored("unknown notification"),
            _ => Incoming::Other(JsonRpcMessage::Notification(message)),
        },
        Ok(message @ (JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_))) => Incoming::Other(message),
        Err(error) if error.classify() != Category::Data => Incoming::unparsable(text::reason(&error)),
        Ok(JsonRpcMessage::Request(_)) | Err(_) => Incoming::Ignored("malformed notification or response"),
    }
}

impl<'de> Deserialize<'de> for TopLevel<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TopLevelVisitor)
    }
}

struct TopLevelVisitor;

impl<'de> Visitor<'de> for TopLevelVisitor {
    type Value = TopLevel<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut envelope = Envelope::default();
        while let Some(member) = map.next_key::<Member>()? {
            let (slot, name) = match member {
                Member::Jsonrpc => (&mut envelope.jsonrpc, "jsonrpc"),
                Member::Id => (&mut envelope.id, "id"),
                Member::Method => (&mut envelope.method, "method"),
                Member::Params => (&mut envelope.params, "params"),
                Member::Result | Member::Error | Member::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                    envelope.has_result |= matches!(member, Member::Result);
                    envelope.has_error |= matches!(member, Member::Error);
                    continue;
                }
            };
            if slot.replace(map.next_value()?).is_some() {
                envelope.repeated = Some(name);
            }
        }
        Ok(TopLevel::Object(envelope))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(TopLevel::Array)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(TopLevel::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(TopLevel::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(TopLevel::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(TopLevel::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(TopLevel::Scalar)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(TopLevel::Scalar)
    }
}

/// The members of a message's object.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Member {
    Jsonrpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    #[serde(other)]
    Unknown,
}
