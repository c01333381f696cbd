//! `restart_mcp_server`: restarts an MCP server.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, Wait, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::{ListedServer, list_servers};
use cortex_core::ids::{AllocationId, ServerName};
use cortex_managed::{RuntimeRequest, ServerReport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct RestartMcpServer {
    name: Parameter<ServerName>,
    allocation_id: Parameter<Result<AllocationId, arguments::UnknownAllocation>>,
}

impl RestartMcpServer {
    pub(super) fn new() -> Self {
        let allocation = "Only the run this allocation holds; all if absent.";
        Self { name: arguments::server_name(), allocation_id: arguments::allocation_id_for(allocation) }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 2] {
        [&self.name, &self.allocation_id]
    }
}

impl ToolHandler for RestartMcpServer {
    fn name(&self) -> &'static str {
        "restart_mcp_server"
    }

    fn describe(&self) -> Tool {
        definition::<RestartResult>(
            self.name(),
            "Restart MCP server",
            "Stop an MCP server that hangs or has failed, and start it again at the same endpoint for all its \
             holders. Calls in flight fail and its state in memory is lost; leases and access tokens stay. Returns when it \
             runs again, or an error with the reason; the restart goes on even if the call ends.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: true, is_idempotent: false },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let Invocation { engine, managed, arguments, progress, closing, .. } = invocation;
            let arguments = Arguments::new(arguments, &self.parameters())?;
            let name = arguments.required(&self.name)?;
            let allocation = arguments.optional(&self.allocation_id)?;
            let managed = managed.ok_or(ToolError::NoCatalog)?;
            let allocation = allocation.transpose().map_err(ToolError::NotFound)?;
            let wait = Wait { engine, progress, closing };
            let mut restart = {
                let (managed, name) = (managed.clone(), name.clone());
                Box::pin(async move {
                    managed.request(|reply| RuntimeRequest::RestartServer(name, allocation, reply)).await
                })
            };
            match wait.for_reply(&format!("restarting {name}"), restart.as_mut()).await {
                Some(restarted) => restarted??,
                None => {
                    // It may not be sent yet.
                    tokio::spawn(restart);
                    return Err(ToolError::Closing("the restart goes on"));
                }
            }
            let reports = managed.request(|reply| RuntimeRequest::Server(name.clone(), allocation, reply)).await?;
            ToolOutput::new(&RestartResult::new(&name, &reports))
        }
        .boxed()
    }
}

/// The result of restart_mcp_server.
#[derive(Serialize, JsonSchema)]
struct RestartResult {
    /// `restarted`.
    status: &'static str,
    name: String,
    /// The restarted runs.
    runs: Vec<ListedServer>,
    count: u64,
    /// Entries left out because the list would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
}

impl RestartResult {
    fn new(name: &ServerName, reports: &[ServerReport]) -> Self {
        let (runs, omitted) = list_servers(reports);
        Self { status: "restarted", name: name.to_string(), count: runs.len() as u64, runs, omitted }
    }
}
