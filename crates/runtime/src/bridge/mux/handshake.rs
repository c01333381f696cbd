//! How the bridge and a child get to know each other.

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

/// The most of what a child says that is repeated in an error, in characters.
const QUOTED_CHARACTERS_MAX: usize = 300;

/// Learns what the child is.
///
/// # Errors
/// It speaks no version that is spoken here, refuses, or ends; in words.
pub(crate) async fn shake_hands(link: &Link, roots: &[String]) -> Result<ChildInfo, String> {
    let params = json!({
        "protocolVersion": NEWEST_HANDSHAKE,
        "capabilities": capabilities(roots),
        "clientInfo": client_info(),
    });
    let refusal = match answer_of(&link.request("initialize", &params.to_string()).await?)? {
        Ok(mut result) => {
            // Whoever lists them would see those of all clients, since the server knows of one.
            if let Some(capabilities) = result.get_mut("capabilities").and_then(Value::as_object_mut) {
                capabilities.remove("tasks");
            }
            let version = result.get("protocolVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
            if !HANDSHAKE_VERSIONS.contains(&version.as_str()) {
                return Err(format!(
                    "it answered initialize with protocol version \"{version}\": known are {}",
                    HANDSHAKE_VERSIONS.join(", ")
                ));
            }
            link.notify("notifications/initialized", "{}");
            return Ok(ChildInfo { mode: ProtocolMode::Handshake, version, result });
        }
        Err(refusal) => refusal,
    };
    // Whatever the code: servers differ in how they refuse a method they do not know.
    let params = json!({"_meta": stateless_meta()}).to_string();
    match answer_of(&link.request("server/discover", &params).await?)? {
        Ok(result) => discovered(&result),
        Err(_) => Err(format!("it refused initialize: {refusal}")),
    }
}

/// Makes of what `server/discover` says what `initialize` would have said.
fn discovered(found: &Map<String, Value>) -> Result<ChildInfo, String> {
    let versions = found.get("supportedVersions").and_then(Value::as_array);
    if !versions.is_some_and(|versions| versions.iter().any(|version| version == STATELESS)) {
        return Err(format!("it speaks neither {STATELESS} nor a version with a handshake"));
    }
    let mut result = Map::new();
    let server = found.get("_meta").and_then(|meta| meta.get(META_SERVER)).cloned();
    result.insert("serverInfo".to_owned(), server.unwrap_or_else(|| json!({"name": "unnamed", "version": "0"})));
    result.insert("capabilities".to_owned(), found.get("capabilities").cloned().unwrap_or_else(|| json!({})));
    if let Some(instructions) = found.get("instructions") {
        result.insert("instructions".to_owned(), instructions.clone());
    }
    Ok(ChildInfo { mode: ProtocolMode::Stateless, version: STATELESS.to_owned(), result })
}

/// What an answer says: a result, or the error in words.
fn answer_of(text: &str) -> Result<Result<Map<String, Value>, String>, String> {
    let message = Message::parse(text).map_err(|error| error.to_string())?;
    match message.kind {
        MessageKind::Response { outcome: ResponseOutcome::Result(result), .. } => {
            let result = serde_json::from_str(result);
            result.map(Ok).map_err(|error| format!("its answer is no object ({error})"))
        }
        MessageKind::Response { outcome: ResponseOutcome::Error(error), .. } => {
            let quoted: String = error.chars().take(QUOTED_CHARACTERS_MAX).collect();
            tracing::debug!(code = error_code_of(error), "a server refused a question at its start");
            Ok(Err(quoted))
        }
        _ => Err("it answered with something else than an answer".to_owned()),
    }
}
