//! `list_mcp_servers`: returns the MCP servers of the catalog with their status.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use crate::results::McpServersResult;
use cortex_managed::RuntimeRequest;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
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
