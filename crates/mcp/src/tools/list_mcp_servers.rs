//! `list_mcp_servers`: the MCP servers that may be asked for, and how each stands.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::arguments::Arguments;
use crate::results::McpServersResult;
use cortex_managed::RuntimeRequest;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct ListMcpServers;

impl Run for ListMcpServers {
    fn name(&self) -> &'static str {
        "list_mcp_servers"
    }

    fn describe(&self) -> Tool {
        definition::<McpServersResult>(
            self.name(),
            "List MCP servers",
            "List the MCP servers that request_resources can lease, by name: whether each runs now (state), whether it is shared by \
             all who lease it, where it is, how many allocations hold it, and how often it was started again. A server starts when \
             it is leased: \"stopped\" is no fault. get_mcp_server tells more of one.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            Answer::new(&McpServersResult::new(managed.request(RuntimeRequest::Servers).await?))
        }
        .boxed()
    }
}
