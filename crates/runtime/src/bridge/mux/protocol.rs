//! The versions of the protocol, and the two ways in which they begin.

use cortex_util::program;
use serde_json::{Value, json};

/// The versions that begin with a handshake.
pub(crate) const HANDSHAKE_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", NEWEST_HANDSHAKE];

/// The newest version with a handshake: offered to a child, and to a client that asks for one that is not known.
pub(crate) const NEWEST_HANDSHAKE: &str = "2025-11-25";

/// The version in which each request says for itself what it needs to.
pub(crate) const STATELESS: &str = "2026-07-28";

/// The keys of `_meta` by which a request of [`STATELESS`] says who asks, and how.
pub(crate) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(crate) const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
pub(crate) const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub(crate) const META_LEVEL: &str = "io.modelcontextprotocol/logLevel";
pub(crate) const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";
/// The key of `_meta` by which a notice says which request it belongs to.
pub(crate) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// How a peer begins: with a handshake and then a session, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolMode {
    /// `initialize`, then everything else within a session.
    Handshake,
    /// No handshake: each request carries its context.
    Stateless,
}

impl ProtocolMode {
    /// The era of a version, if it is one that is spoken here.
    pub(crate) fn of_version(version: &str) -> Option<Self> {
        if version == STATELESS {
            return Some(Self::Stateless);
        }
        HANDSHAKE_VERSIONS.contains(&version).then_some(Self::Handshake)
    }
}

/// Every version that is spoken here, the newest first.
pub(crate) fn supported_versions() -> Vec<&'static str> {
    let mut versions = vec![STATELESS];
    versions.extend(HANDSHAKE_VERSIONS.iter().rev());
    versions
}

/// What the bridge says of itself.
pub(crate) fn client_info() -> Value {
    json!({"name": program::NAME, "version": program::VERSION})
}

/// What the bridge can do for a server: tell it roots, if there are any.
pub(crate) fn capabilities(roots: &[String]) -> Value {
    if roots.is_empty() { json!({}) } else { json!({"roots": {}}) }
}

/// The `_meta` of a request of the bridge's own to a child without handshake. Such a child asks for roots in its results,
/// which the bridge does not answer, so that it offers none.
pub(crate) fn stateless_meta() -> Value {
    json!({META_VERSION: STATELESS, META_CLIENT: client_info(), META_CAPABILITIES: capabilities(&[])})
}
