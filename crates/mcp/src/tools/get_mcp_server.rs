//! `get_mcp_server`: returns the status of one MCP server.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::McpServerResult;
use cortex_core::ids::{AllocationId, ServerName};
use cortex_managed::{RuntimeError, RuntimeRequest};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct GetMcpServer {
    name: Parameter<ServerName>,
    allocation_id: Parameter<Result<AllocationId, arguments::UnknownAllocation>>,
    last_lines: Parameter<u64>,
}

impl GetMcpServer {
    pub(super) fn new() -> Self {
        let allocation = "Only the run this allocation holds; all if absent.";
        Self {
            name: arguments::server_name(),
            allocation_id: arguments::allocation_id_for(allocation),
            last_lines: arguments::last_lines(),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 3] {
        [&self.name, &self.allocation_id, &self.last_lines]
    }
}

impl ToolHandler for GetMcpServer {
    fn name(&self) -> &'static str {
        "get_mcp_server"
    }

    fn describe(&self) -> Tool {
        definition::<McpServerResult>(
            self.name(),
            "Get MCP server",
            "Show each run of an MCP server: state and why it failed, holders, calls of each and in total, \
             restarts, memory, processes and last lines of standard error. Check it when calls to a leased \
             endpoint fail. A server that is not shared has one run per allocation: give allocation_id to select \
             yours.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let name = arguments.required(&self.name)?;
            let allocation = arguments.optional(&self.allocation_id)?;
            let lines_max = usize::try_from(arguments.or_default(&self.last_lines)?).unwrap_or(usize::MAX);
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            let allocation = allocation.transpose().map_err(ToolError::NotFound)?;
            let reports = managed.request(|reply| RuntimeRequest::Server(name.clone(), allocation, reply)).await?;
            let none = || match (name.to_string(), allocation) {
                (name, Some(allocation)) => RuntimeError::NotHeld { name, allocation },
                (name, None) => RuntimeError::UnknownServer { name },
            };
            ToolOutput::new(&McpServerResult::new(&reports, lines_max).ok_or_else(none)?)
        }
        .boxed()
    }
}
