//! `restart_mcp_server`: starts an MCP server again.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::core::{AllocationId, ServerName};
use crate::managed::Ask;
use crate::mcp::arguments::{self, Arguments, Described, Parameter};
use crate::mcp::results::RestartResult;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct RestartMcpServer {
    name: Parameter<ServerName>,
    allocation_id: Parameter<Result<AllocationId, String>>,
}

impl RestartMcpServer {
    pub(super) fn new() -> Self {
        let allocation = "Only the run that this allocation holds; every run of the server if absent.";
        Self { name: arguments::server_name(), allocation_id: arguments::allocation_id_for(allocation) }
    }

    fn parameters(&self) -> [&dyn Described; 2] {
        [&self.name, &self.allocation_id]
    }
}

impl Run for RestartMcpServer {
    fn name(&self) -> &'static str {
        "restart_mcp_server"
    }

    fn describe(&self) -> Tool {
        definition::<RestartResult>(
            self.name(),
            "Restart MCP server",
            "End an MCP server that runs, and start it again at the same endpoint, for all who hold it. Calls in flight get an error, \
             and what the server kept in memory is gone: do it when it hangs or has failed. Leases and access tokens stay as \
             they are. get_mcp_server tells when it runs again.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: true, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let name = arguments.required(&self.name)?;
            let allocation = arguments.optional(&self.allocation_id)?;
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            let allocation = allocation.transpose().map_err(ToolError::NotFound)?;
            let reports = managed.ask(|reply| Ask::RestartServer(name.clone(), allocation, reply)).await??;
            Answer::new(&RestartResult::new(&name, &reports))
        }
        .boxed()
    }
}
