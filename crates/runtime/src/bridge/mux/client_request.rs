//! A client's request, and the text that the child gets for it.

use std::{borrow::Cow, sync::Arc};

use serde_json::value::RawValue;

use super::{
    call::{CacheHints, Call},
    log_level::LogLevel,
    message::{Message, Meta, Parameters, spliced, string_param, with_meta, with_params},
    protocol::{META_CAPABILITIES, META_CLIENT, META_LEVEL, META_VERSION, ProtocolMode},
    rpc_response::{INVALID_PARAMS, RpcResponse},
    session::SessionId,
};
use cortex_core::ids::AllocationId;
use cortex_lines::ID_BYTES_MAX;

/// The methods whose results clients of 2026-07-28 may cache.
const CACHEABLE_METHODS: [&str; 5] =
    ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"];

#[derive(Debug)]
pub(crate) struct ClientRequest<'a> {
    pub(crate) message: &'a Message<'a>,
    pub(crate) id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) params: &'a Parameters<'a>,
    pub(crate) meta: &'a Meta<'a>,
    pub(crate) mode: ProtocolMode,
    pub(crate) session: Option<SessionId>,
    pub(crate) allocation: Option<AllocationId>,
}

impl ClientRequest<'_> {
    /// Returns the call for a child of mode `child`. `level` is the log level that the session has set.
    ///
    /// # Errors
    /// Returns a response that says what is wrong with the request.
    pub(crate) fn to_call(
        &self,
        number: u64,
        child: ProtocolMode,
        level: Option<LogLevel>,
    ) -> Result<Box<Call>, RpcResponse> {
        let token = self.meta.progress_token.map(RawValue::get);
        if token.is_some_and(|token| token.len() > ID_BYTES_MAX || token.starts_with(['{', '[', 't', 'f'])) {
            return Err(self.invalid_params("_meta.progressToken must be a string or a number of at most 1,024 bytes"));
        }
        let number_text = number.to_string();
        let text = if self.mode == child {
            let mut edits = vec![(self.id, number_text.as_str())];
            edits.extend(token.map(|token| (token, number_text.as_str())));
            spliced(self.message.text, &mut edits)
        } else {
            self.translate(&number_text, token.is_some(), level)?
        };
        let own_level = string_param(self.meta.log_level).and_then(|name| LogLevel::from_name(&name));
        let subscribes = (self.method == "resources/subscribe").then(|| string_param(self.params.uri)).flatten();
        Ok(Box::new(Call {
            number,
            text,
            client_id: self.id.into(),
            progress_token: token.filter(|token| *token != "null").map(Into::into),
            session: self.session,
            allocation: self.allocation,
            mode: self.mode,
            cache_hints: if CACHEABLE_METHODS.contains(&self.method) { CacheHints::Add } else { CacheHints::Omit },
            subscribes: subscribes.map(|uri: Cow<'_, str>| Arc::from(uri.as_ref())),
            level: own_level.filter(|_| self.mode == ProtocolMode::Stateless),
            mailbox: None,
            sent_at: None,
        }))
    }

    /// Returns the text for a child whose mode differs from the client's.
    fn translate(&self, number: &str, has_token: bool, level: Option<LogLevel>) -> Result<Vec<u8>, RpcResponse> {
        let context = super::protocol::stateless_meta();
        let context: Vec<_> = [META_VERSION, META_CLIENT, META_CAPABILITIES]
            .map(|key| (key, context.get(key).map(ToString::to_string).unwrap_or_default()))
            .into();
        let level = level.map(|level| format!("\"{}\"", level.name()));
        let mut added: Vec<(&str, &str)> = Vec::new();
        if has_token {
            added.push(("progressToken", number));
        }
        let is_context = |key: &str| [META_VERSION, META_CLIENT, META_CAPABILITIES, META_LEVEL].contains(&key);
        if self.mode == ProtocolMode::Handshake {
            added.extend(context.iter().map(|(key, value)| (*key, value.as_str())));
            added.extend(level.as_deref().map(|level| (META_LEVEL, level)));
        }
        let params = with_meta(self.message.params, is_context, &added)
            .map_err(|error| self.invalid_params(&format!("params and params._meta must be objects ({error})")))?;
        Ok(with_params(self.message, Some(number), &params))
    }

    /// Returns an error response for parameters that are not valid.
    pub(crate) fn invalid_params(&self, why: &str) -> RpcResponse {
        RpcResponse::error(self.id, INVALID_PARAMS, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, mode: ProtocolMode, child: ProtocolMode, expected: &str) {
        let message = Message::parse(text).expect("a message");
        let params = message.parameters().expect("fine");
        let meta = params.meta().expect("fine");
        let crate::bridge::mux::message::MessageKind::Request { id, method } = &message.kind else {
            panic!("a request")
        };
        let request = ClientRequest {
            message: &message,
            id,
            method,
            params: &params,
            meta: &meta,
            mode,
            session: None,
            allocation: None,
        };
        let call = request.to_call(31, child, Some(LogLevel::Error));
        let text = match call {
            Ok(call) => String::from_utf8(call.text).expect("text"),
            Err(response) => String::from_utf8(response.text.to_vec()).expect("text"),
        };
        assert_eq!(text.replace(env!("CARGO_PKG_VERSION"), "VERSION"), expected);
    }

    #[test]
    fn only_ids_and_tokens_are_replaced() {
        let (handshake, stateless) = (ProtocolMode::Handshake, ProtocolMode::Stateless);
        check(
            concat!(
                r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","#,
                r#""params":{"name":"x","_meta":{"progressToken":"p","k":1}},"extra":0.10}"#
            ),
            handshake,
            handshake,
            concat!(
                r#"{"jsonrpc":"2.0","id":31,"method":"tools/call","#,
                r#""params":{"name":"x","_meta":{"progressToken":31,"k":1}},"extra":0.10}"#
            ),
        );
        check(
            r#"{"id":1,"method":"m","params":{"_meta":{"progressToken":{}}}}"#,
            handshake,
            handshake,
            concat!(
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"#,
                r#""message":"_meta.progressToken must be a string or a number of at most 1,024 bytes"}}"#
            ),
        );
        check(
            concat!(
                r#"{"id":1,"method":"m","params":{"a":1,"_meta":{"#,
                r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
                r#""io.modelcontextprotocol/clientCapabilities":{},"progressToken":7,"k":2}}}"#
            ),
            stateless,
            handshake,
            r#"{"id":31,"method":"m","params":{"_meta":{"k":2,"progressToken":31},"a":1}}"#,
        );
        check(
            r#"{"id":1,"method":"m"}"#,
            handshake,
            stateless,
            concat!(
                r#"{"id":31,"method":"m","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{},"#,
                r#""io.modelcontextprotocol/clientInfo":{"name":"cortex-resource-manager","version":"VERSION"},"#,
                r#""io.modelcontextprotocol/logLevel":"error","#,
                r#""io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#
            ),
        );
    }
}
