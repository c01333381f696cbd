//! What a caller gets in the end: the child's own answer under the caller's id, or an error of the bridge's.

use hyper::body::Bytes;
use serde::Deserialize;

use crate::bridge::limits::memory_budget::{LeaseMemory, MemoryReservation, with_reservation};

/// The code of an error whose cause is the server's process, not the request.
pub(crate) const UNAVAILABLE: i64 = -32_000;
pub(crate) const INVALID_REQUEST: i64 = -32_600;
pub(crate) const METHOD_NOT_FOUND: i64 = -32_601;
pub(crate) const INVALID_PARAMS: i64 = -32_602;
pub(crate) const INTERNAL_ERROR: i64 = -32_603;
/// The headers of a request say something else than its body.
pub(crate) const HEADER_MISMATCH: i64 = -32_020;
pub(crate) const VERSION_UNSUPPORTED: i64 = -32_022;

/// A whole JSON-RPC answer.
#[derive(Debug)]
pub(crate) struct RpcResponse {
    pub(crate) text: Bytes,
    /// The code of the error, if it is one. Of a child's own errors it is read only where the answer depends on it.
    pub(crate) error_code: Option<i64>,
    /// What it takes of the endpoint's account. Errors of the bridge's own are too short to count.
    pub(crate) reservation: Option<MemoryReservation>,
}

impl RpcResponse {
    pub(crate) fn new(text: impl Into<Bytes>, error_code: Option<i64>) -> Self {
        Self { text: text.into(), error_code, reservation: None }
    }

    /// The same answer to the request with `id`, counted as one that `memory` has; or, if there is no room, an error.
    pub(crate) fn reserved_in(mut self, memory: &LeaseMemory, id: &str) -> Self {
        self.reservation = memory.reserve_message(self.text.len());
        match self.reservation {
            Some(_) => self,
            None => Self::unavailable(id, &memory.exhausted_message(), true),
        }
    }

    /// What is written. It counts until it was.
    pub(crate) fn into_text(self) -> Bytes {
        with_reservation(self.text, self.reservation)
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
}

#[derive(Deserialize)]
struct Code {
    code: i64,
}

pub(crate) fn error_code_of(error: &str) -> Option<i64> {
    serde_json::from_str(error).ok().map(|error: Code| error.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_its_message_whatever_is_in_it() {
        let response = RpcResponse::unavailable("\"a\"", "line\n\"quoted\"", true);
        let expected = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32000,"message":"line\n\"quoted\"","data":{"retryable":true}}}"#;
        assert_eq!(response.text, expected);
        assert_eq!(error_code_of(r#"{"message":"x","code":-7}"#), Some(-7));
    }
}
