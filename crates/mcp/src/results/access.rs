//! How a client connects to the MCP servers of its lease.

use cortex_core::allocation::ServerHold;
use cortex_managed::ServerReport;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;

/// The MCP servers of a lease, in the form of an MCP client's configuration.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct McpConfig {
    /// Each server by its name.
    mcp_servers: BTreeMap<String, ReachedServer>,
}

/// How a client reaches one MCP server.
#[derive(Serialize, JsonSchema)]
struct ReachedServer {
    /// `http`: it speaks Streamable HTTP.
    #[serde(rename = "type")]
    transport: &'static str,
    /// Its address.
    url: String,
    /// HTTP headers of each request.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
}

impl McpConfig {
    /// Builds the configuration for the servers of a lease, each with its report if there is one; nothing without
    /// servers.
    pub(super) fn new<'a>(
        servers: impl Iterator<Item = (&'a ServerHold, Option<&'a ServerReport>)>,
        access_token: Option<&str>,
    ) -> Option<Self> {
        let reached = |(hold, report): (&ServerHold, Option<&ServerReport>)| {
            let server = match report {
                Some(ServerReport { is_remote: true, endpoint: Some(url), headers, .. }) => {
                    ReachedServer { transport: "http", url: url.clone(), headers: headers.iter().cloned().collect() }
                }
                _ => ReachedServer {
                    transport: "http",
                    url: format!("{}/mcp", hold.port.endpoint()),
                    headers: access_token
                        .map(|token| ("Authorization".to_owned(), format!("Bearer {token}")))
                        .into_iter()
                        .collect(),
                },
            };
            (hold.name.to_string(), server)
        };
        let mcp_servers: BTreeMap<_, _> = servers.map(reached).collect();
        (!mcp_servers.is_empty()).then_some(Self { mcp_servers })
    }
}

/// Returns a URL without its parts that may be secret, for callers that do not lease the server: user information,
/// query and fragment.
pub(super) fn public_url(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = plain.split_once("://") else { return plain.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_may_be_secret() {
        for (url, shown) in [
            ("https://example.com/mcp", "https://example.com/mcp"),
            ("https://example.com", "https://example.com"),
            ("https://me:secret@example.com:8443/a@b/mcp?key=secret#part", "https://example.com:8443/a@b/mcp"),
            ("http://a@b@[::1]:9000?key=secret", "http://[::1]:9000"),
            ("http://localhost#x/y", "http://localhost"),
        ] {
            assert_eq!(public_url(url), shown, "{url}");
        }
    }
}
