//! The handshake of the bridge with a child.

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{
    connected_child::ChildInfo,
    link::{Link, LinkError},
    message::{Message, MessageKind, ResponseOutcome},
    protocol::{
        HANDSHAKE_VERSIONS, META_SERVER, NEWEST_HANDSHAKE, ProtocolMode, STATELESS, capabilities, client_info,
        stateless_meta,
    },
    rpc_response::error_code_of,
};

/// The longest quotation of a child's error, in characters.
const QUOTED_CHARACTERS_MAX: usize = 300;

/// Why the handshake with a child failed. `Display` continues a sentence that begins with its name.
#[derive(Debug, Error)]
pub enum HandshakeError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("it sent a message that is not a response")]
    NotAResponse,
    #[error("its result is not an object ({0})")]
    NotAnObject(serde_json::Error),
    /// The child rejected `initialize` with this error, as shortened JSON text.
    #[error("it rejected initialize: {error}")]
    Rejected { error: String },
    #[error(
        "its initialize result has protocol version \"{version}\": supported are {}",
        HANDSHAKE_VERSIONS.join(", ")
    )]
    UnsupportedVersion { version: String },
    #[error("it supports neither {STATELESS} nor a version with a handshake")]
    NoSupportedVersion,
}

/// Performs `initialize`, or `server/discover` if the child rejects that, and returns what the child reported.
///
/// # Errors
/// The child has no supported protocol version, rejects both requests, or closes its pipes.
pub(crate) async fn shake_hands(link: &Link, roots: &[String]) -> Result<ChildInfo, HandshakeError> {
    let params = json!({
        "protocolVersion": NEWEST_HANDSHAKE,
        "capabilities": capabilities(roots),
        "clientInfo": client_info(),
    });
    let rejection = match result_of(&link.request("initialize", &params.to_string()).await?) {
        Ok(mut result) => {
            // The child has one client, so its task list would show the tasks of all clients.
            if let Some(capabilities) = result.get_mut("capabilities").and_then(Value::as_object_mut) {
                capabilities.remove("tasks");
            }
            let version = result.get("protocolVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
            if !HANDSHAKE_VERSIONS.contains(&version.as_str()) {
                return Err(HandshakeError::UnsupportedVersion { version });
            }
            link.notify("notifications/initialized", "{}");
            return Ok(ChildInfo { mode: ProtocolMode::Handshake, version, result });
        }
        Err(rejection @ HandshakeError::Rejected { .. }) => rejection,
        Err(error) => return Err(error),
    };
    // Any error code: servers differ in how they reject an unknown method.
    let params = json!({"_meta": stateless_meta()}).to_string();
    match result_of(&link.request("server/discover", &params).await?) {
        Ok(result) => info_from_discovery(&result),
        Err(HandshakeError::Rejected { .. }) => Err(rejection),
        Err(error) => Err(error),
    }
}

/// Returns the equivalent of an `initialize` result for a `server/discover` result.
fn info_from_discovery(discovered: &Map<String, Value>) -> Result<ChildInfo, HandshakeError> {
    let versions = discovered.get("supportedVersions").and_then(Value::as_array);
    if !versions.is_some_and(|versions| versions.iter().any(|version| version == STATELESS)) {
        return Err(HandshakeError::NoSupportedVersion);
    }
    let mut result = Map::new();
    let server = discovered.get("_meta").and_then(|meta| meta.get(META_SERVER)).cloned();
    result.insert("serverInfo".to_owned(), server.unwrap_or_else(|| json!({"name": "unnamed", "version": "0"})));
    result.insert("capabilities".to_owned(), discovered.get("capabilities").cloned().unwrap_or_else(|| json!({})));
    if let Some(instructions) = discovered.get("instructions") {
        result.insert("instructions".to_owned(), instructions.clone());
    }
    Ok(ChildInfo { mode: ProtocolMode::Stateless, version: STATELESS.to_owned(), result })
}

/// Returns the result of a response.
fn result_of(text: &str) -> Result<Map<String, Value>, HandshakeError> {
    let Ok(Message { kind: MessageKind::Response { outcome, .. }, .. }) = Message::parse(text) else {
        return Err(HandshakeError::NotAResponse);
    };
    match outcome {
        ResponseOutcome::Result(result) => serde_json::from_str(result).map_err(HandshakeError::NotAnObject),
        ResponseOutcome::Error(error) => {
            tracing::debug!(code = error_code_of(error), "handshake request rejected by the server");
            Err(HandshakeError::Rejected { error: error.chars().take(QUOTED_CHARACTERS_MAX).collect() })
        }
    }
}
