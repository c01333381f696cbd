//! JSON-RPC responses to clients: the child's own, with the client's id, or an error of the bridge.

use hyper::body::Bytes;
use serde::Deserialize;

use crate::bridge::limits::memory_budget::{LeaseMemory, MemoryReservation, with_reservation};

/// An error that the server process causes, not the request.
pub(crate) const UNAVAILABLE: i64 = -32_000;
pub(crate) const INVALID_REQUEST: i64 = -32_600;
pub(crate) const METHOD_NOT_FOUND: i64 = -32_601;
pub(crate) const INVALID_PARAMS: i64 = -32_602;
pub(crate) const INTERNAL_ERROR: i64 = -32_603;
/// The headers of a request do not match its body.
pub(crate) const HEADER_MISMATCH: i64 = -32_020;
pub(crate) const VERSION_UNSUPPORTED: i64 = -32_022;

/// A complete JSON-RPC response.
#[derive(Debug)]
pub(crate) struct RpcResponse {
    pub(crate) text: Bytes,
    /// The code, if the response is an error.
    pub(crate) error_code: Option<i64>,
    /// The bytes reserved for it. The bridge's own errors are short and have no reservation.
    pub(crate) reservation: Option<MemoryReservation>,
}

impl RpcResponse {
    pub(crate) fn new(text: impl Into<Bytes>, error_code: Option<i64>) -> Self {
        Self { text: text.into(), error_code, reservation: None }
    }

    /// Reserves memory for the response to the request with `id`. Returns an error response instead if the lease's
    /// budget does not allow it.
    pub(crate) fn reserve_in(mut self, memory: &LeaseMemory, id: &str) -> Self {
        self.reservation = memory.reserve_message(self.text.len());
        match self.reservation {
            Some(_) => self,
            None => Self::unavailable(id, &memory.exhausted_message(), true),
        }
    }

    /// Returns the text, which keeps the reservation until it is written.
    pub(crate) fn into_text(self) -> Bytes {
        with_reservation(self.text, self.reservation)
    }

    /// Returns a result for the request with `id`. Both are JSON.
    pub(crate) fn result(id: &str, result: &str) -> Self {
        Self::new(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#), None)
    }

    pub(crate) fn error(id: &str, code: i64, message: &str) -> Self {
        Self::error_with(id, code, message, None)
    }

    /// Returns an error that states whether the same request may succeed later.
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
    fn the_message_of_an_error_is_escaped() {
        let response = RpcResponse::unavailable("\"a\"", "line\n\"quoted\"", true);
        let expected = concat!(
            r#"{"jsonrpc":"2.0","id":"a","#,
            r#""error":{"code":-32000,"message":"line\n\"quoted\"","data":{"retryable":true}}}"#
        );
        assert_eq!(response.text, expected);
        assert_eq!(error_code_of(r#"{"message":"x","code":-7}"#), Some(-7));
    }
}
