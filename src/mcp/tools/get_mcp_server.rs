//! `get_mcp_server`: how one MCP server stands.

use super::{Answer, Hints, Invocation, Run, ToolError, definition};
use crate::core::ServerName;
use crate::managed::{Ask, AskError};
use crate::mcp::arguments::{self, Arguments, Described, Parameter};
use crate::mcp::results::McpServerResult;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct GetMcpServer {
    name: Parameter<ServerName>,
    last_lines: Parameter<u64>,
}

impl GetMcpServer {
    pub(super) fn new() -> Self {
        Self { name: arguments::server_name(), last_lines: arguments::last_lines() }
    }

    fn parameters(&self) -> [&dyn Described; 2] {
        [&self.name, &self.last_lines]
    }
}

impl Run for GetMcpServer {
    fn name(&self) -> &'static str {
        "get_mcp_server"
    }

    fn describe(&self) -> Tool {
        definition::<McpServerResult>(
            self.name(),
            "Get MCP server",
            "Tell how one MCP server stands, each run of it: its state and the reason if it does not work, who holds it, what was \
             called by each and in all, how often it was started again, the memory and the processes that it takes, and the last \
             lines of its standard error. Look here when calls to a leased endpoint fail.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<Answer, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let name = arguments.required(&self.name)?;
            let lines_max = usize::try_from(arguments.or_default(&self.last_lines)?).unwrap_or(usize::MAX);
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            let reports = managed.ask(|reply| Ask::Server(name.clone(), reply)).await?;
            let result = McpServerResult::new(&reports, lines_max);
            Answer::new(&result.ok_or_else(|| AskError::NoServer { name: name.to_string() })?)
        }
        .boxed()
    }
}
