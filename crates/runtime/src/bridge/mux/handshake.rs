//! The handshake of the bridge with a child.

use serde_json::{Map, Value, json};

use super::{
    connected_child::ChildInfo,
    link::Link,
    message::{Message, MessageKind, ResponseOutcome},
    protocol::{
        HANDSHAKE_VERSIONS, META_SERVER, NEWEST_HANDSHAKE, ProtocolMode, STATELESS, capabilities, client_info,
        stateless_meta,
    },
    rpc_response::error_code_of,
};

/// The longest quotation of a child's error, in characters.
const QUOTED_CHARACTERS_MAX: usize = 300;

/// Performs `initialize`, or `server/discover` if the child rejects that, and returns what the child reported.
///
/// # Errors
/// The child has no supported protocol version, rejects both requests, or closes its pipes.
pub(crate) async fn shake_hands(link: &Link, roots: &[String]) -> Result<ChildInfo, String> {
    let params = json!({
        "protocolVersion": NEWEST_HANDSHAKE,
        "capabilities": capabilities(roots),
        "clientInfo": client_info(),
    });
    let rejection = match result_of(&link.request("initialize", &params.to_string()).await?)? {
        Ok(mut result) => {
            // The child has one client, so its task list would show the tasks of all clients.
            if let Some(capabilities) = result.get_mut("capabilities").and_then(Value::as_object_mut) {
                capabilities.remove("tasks");
            }
            let version = result.get("protocolVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
            if !HANDSHAKE_VERSIONS.contains(&version.as_str()) {
                return Err(format!(
                    "its initialize result has protocol version \"{version}\": supported are {}",
                    HANDSHAKE_VERSIONS.join(", ")
                ));
            }
            link.notify("notifications/initialized", "{}");
            return Ok(ChildInfo { mode: ProtocolMode::Handshake, version, result });
        }
        Err(rejection) => rejection,
    };
    // Any error code: servers differ in how they reject an unknown method.
    let params = json!({"_meta": stateless_meta()}).to_string();
    match result_of(&link.request("server/discover", &params).await?)? {
        Ok(result) => info_from_discovery(&result),
        Err(_) => Err(format!("it rejected initialize: {rejection}")),
    }
}

/// Returns the equivalent of an `initialize` result for a `server/discover` result.
fn info_from_discovery(discovered: &Map<String, Value>) -> Result<ChildInfo, String> {
    let versions = discovered.get("supportedVersions").and_then(Value::as_array);
    if !versions.is_some_and(|versions| versions.iter().any(|version| version == STATELESS)) {
        return Err(format!("it supports neither {STATELESS} nor a version with a handshake"));
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

/// Returns the result of a response, or the text of its error.
fn result_of(text: &str) -> Result<Result<Map<String, Value>, String>, String> {
    let message = Message::parse(text).map_err(|error| error.to_string())?;
    match message.kind {
        MessageKind::Response { outcome: ResponseOutcome::Result(result), .. } => {
            let result = serde_json::from_str(result);
            result.map(Ok).map_err(|error| format!("its result is not an object ({error})"))
        }
        MessageKind::Response { outcome: ResponseOutcome::Error(error), .. } => {
            let quoted: String = error.chars().take(QUOTED_CHARACTERS_MAX).collect();
            tracing::debug!(code = error_code_of(error), "handshake request rejected by the server");
            Ok(Err(quoted))
        }
        _ => Err("it sent a message that is not a response".to_owned()),
    }
}
