//! The protocol versions, and the two modes in which a connection begins.

use cortex_util::program;
use serde_json::{Value, json};

/// The versions that begin with a handshake.
pub(crate) const HANDSHAKE_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", NEWEST_HANDSHAKE];

/// The newest version with a handshake. The bridge offers it to a child, and to a client that requests an unknown
/// version.
pub(crate) const NEWEST_HANDSHAKE: &str = "2025-11-25";

/// The version without a handshake, in which each request carries its own context.
pub(crate) const STATELESS: &str = "2026-07-28";

/// The keys of `_meta` in which a request of [`STATELESS`] identifies its client and version.
pub(crate) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
pub(crate) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(crate) const META_LEVEL: &str = "io.modelcontextprotocol/logLevel";
pub(crate) const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// The key of `_meta` in which a notification names its subscription.
pub(crate) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// How a peer begins: with a handshake and a session, or without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolMode {
    /// `initialize`, then all other requests within a session.
    Handshake,
    /// No handshake: each request carries its context.
    Stateless,
}

impl ProtocolMode {
    /// Returns the mode of a version, if it is supported.
    pub(crate) fn of_version(version: &str) -> Option<Self> {
        if version == STATELESS {
            return Some(Self::Stateless);
        }
        HANDSHAKE_VERSIONS.contains(&version).then_some(Self::Handshake)
    }
}

/// Returns the supported versions, the newest first.
pub(crate) fn supported_versions() -> Vec<&'static str> {
    let mut versions = vec![STATELESS];
    versions.extend(HANDSHAKE_VERSIONS.iter().rev());
    versions
}

/// Returns the `clientInfo` of the bridge.
pub(crate) fn client_info() -> Value {
    json!({"name": program::NAME, "version": program::VERSION})
}

/// Returns the client capabilities of the bridge: roots, if any are configured.
pub(crate) fn capabilities(roots: &[String]) -> Value {
    if roots.is_empty() { json!({}) } else { json!({"roots": {}}) }
}

/// Returns the `_meta` of a request of the bridge to a stateless child. Such a child requests roots within its results,
/// which the bridge does not support, so that it offers no roots.
pub(crate) fn stateless_meta() -> Value {
    json!({META_VERSION: STATELESS, META_CLIENT: client_info(), META_CAPABILITIES: capabilities(&[])})
}
