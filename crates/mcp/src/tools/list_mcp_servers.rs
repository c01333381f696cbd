//! `list_mcp_servers`: returns the MCP servers of the catalog with their status.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use crate::results::{ListedServer, list_servers};
use cortex_managed::{RuntimeRequest, ServerReport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct ListMcpServers;

impl ToolHandler for ListMcpServers {
    fn name(&self) -> &'static str {
        "list_mcp_servers"
    }

    fn describe(&self) -> Tool {
        definition::<McpServersResult>(
            self.name(),
            "List MCP servers",
            "List the MCP servers that request_resources can lease: state, sharing, endpoint, number of holders, \
             restarts. A server starts when it is leased: \"stopped\" is not a fault. get_mcp_server shows more.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            ToolOutput::new(&McpServersResult::new(managed.request(RuntimeRequest::Servers).await?))
        }
        .boxed()
    }
}

/// The result of list_mcp_servers.
#[derive(Serialize, JsonSchema)]
struct McpServersResult {
    /// The servers of the catalog by name, and those that were removed from it but still run. A server that is run per
    /// allocation has an entry for each run.
    servers: Vec<ListedServer>,
    count: u64,
    /// Entries left out because the list would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
}

impl McpServersResult {
    fn new(mut reports: Vec<ServerReport>) -> Self {
        reports.sort_by(|one, other| one.name.cmp(&other.name));
        let (servers, omitted) = list_servers(&reports);
        Self { count: servers.len() as u64, servers, omitted }
    }
}
