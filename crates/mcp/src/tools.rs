//! The tools, by toolset. Each tool is a file with its description, its arguments, its work and its result. Results of
//! several tools are in `results`.

mod assign_task;
mod cancel_task;
mod claim_task;
mod cleanup_expired;
mod complete_task;
mod detect_bottlenecks;
mod drain_worker;
mod get_allocation;
mod get_capacity;
mod get_forecast;
mod get_mcp_server;
mod get_plan;
mod get_resource_usage;
mod get_scaling_history;
mod get_task;
mod get_worker;
mod heartbeat_agent;
mod list_agents;
mod list_allocations;
mod list_mcp_servers;
mod list_tasks;
mod list_workers;
mod register_agent;
mod release_resources;
mod renew_allocation;
mod request_resources;
mod restart_mcp_server;
mod set_agent_quota;
mod set_scaling_policy;
mod set_token_budget;
mod submit_task;
mod unregister_agent;
mod update_task;

use super::arguments::{AnyParameter, ArgumentError, UnknownAllocation, input_schema};
use super::progress::Progress;
use super::results::output_schema;
use super::server::ServerOptions;
use super::transport::Call;
use super::wait::Wait;
use cortex_config::Toolset;
use cortex_core::command::{Command, Denied, Outcome};
use cortex_core::fleet::command::{FleetCommand, FleetDenied, FleetOutcome};
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::TaskId;
use cortex_engine::{EngineError, EngineHandle, EngineState};
use cortex_managed::{RuntimeError, RuntimeHandle};
use cortex_planning::Planner;
use cortex_util::suggest::suggest;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::ErrorData;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use schemars::JsonSchema;
use serde::Serialize;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// Why a call of a tool failed. The model gets it as a result, so that it can correct the call.
#[derive(Debug, Error)]
pub(super) enum ToolError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("Allocation {} not found", .0.0)]
    NotFound(UnknownAllocation),
    #[error(transparent)]
    Ask(#[from] RuntimeError),
    #[error(
        "no catalog is configured, so no MCP servers or workers are managed, and endpoints are reserved addresses \
         only: start the server with --catalog FILE, an mcpServers file, or set CORTEX_CATALOG"
    )]
    NoCatalog,
    #[error("the connection is closing: {0}")]
    Closing(&'static str),
}

/// The result of a call: the same JSON once as data and once as text.
pub(super) struct ToolOutput {
    structured: serde_json::Value,
    text: String,
}

impl ToolOutput {
    pub(super) fn new<T: Serialize>(result: &T) -> Result<Self, ToolError> {
        // Our own results always have a JSON form, so that a failure here is an internal error.
        let fault = |_| ToolError::Engine(EngineError::Fault);
        Ok(Self {
            structured: serde_json::to_value(result).map_err(fault)?,
            text: serde_json::to_string(result).map_err(fault)?,
        })
    }
}

pub(super) use detect_bottlenecks::BottlenecksResult;
pub(super) use get_allocation::AllocationResult;
pub(super) use get_capacity::CapacityResult;
pub(super) use get_forecast::ForecastResult;
pub(super) use get_plan::{PlanResult, dry_run};

/// The inputs of one call of a tool.
pub(super) struct Invocation {
    pub(super) engine: EngineHandle,
    pub(super) planner: Arc<Mutex<Planner>>,
    /// Present where MCP servers and workers are managed.
    pub(super) managed: Option<RuntimeHandle>,
    pub(super) arguments: Option<JsonObject>,
    /// The call's state in the transport; absent with a transport that is not ours.
    pub(super) call: Option<Call>,
    /// Present if the caller asked for progress.
    pub(super) progress: Option<Progress>,
    /// Is cancelled when the connection begins to close: a tool that waits ends then.
    pub(super) closing: CancellationToken,
}

/// What an MCP client may assume about a tool before a call.
struct Hints {
    is_read_only: bool,
    is_destructive: bool,
    is_idempotent: bool,
}

trait ToolHandler: Send + Sync {
    fn name(&self) -> &'static str;
    fn describe(&self) -> Tool;
    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>>;
}

/// Returns the definition of a tool as clients see it.
fn definition<T: JsonSchema>(
    name: &'static str,
    title: &str,
    description: &'static str,
    parameters: &[&dyn AnyParameter],
    hints: &Hints,
) -> Tool {
    let annotations = ToolAnnotations::with_title(title)
        .read_only(hints.is_read_only)
        .destructive(hints.is_destructive)
        .idempotent(hints.is_idempotent)
        .open_world(false);
    Tool::new(name, description, Arc::new(input_schema(parameters)))
        .with_title(title)
        .with_raw_output_schema(Arc::new(output_schema::<T>()))
        .with_annotations(annotations)
}

/// The enabled tools.
pub(super) struct Tools {
    tools: Vec<Arc<dyn ToolHandler>>,
    definitions: Vec<Tool>,
    /// Disabled tools, each with its toolset.
    off: Vec<(&'static str, &'static str)>,
}

impl Tools {
    /// Creates the enabled tools, for a server that manages MCP servers and workers or one that does not.
    pub(super) fn new(options: &ServerOptions, is_managed: bool) -> Self {
        let mut tools: Vec<Arc<dyn ToolHandler>> = Vec::new();
        let mut off = Vec::new();
        for (name, toolset) in Toolset::ALL {
            let of_set: Vec<Arc<dyn ToolHandler>> = match toolset {
                Toolset::Allocation => vec![
                    Arc::new(request_resources::RequestResources::new(options, is_managed)),
                    Arc::new(release_resources::ReleaseResources::new(is_managed)),
                    Arc::new(get_capacity::GetCapacity),
                    Arc::new(get_allocation::GetAllocation::new(is_managed)),
                    Arc::new(list_allocations::ListAllocations::new()),
                    Arc::new(cleanup_expired::CleanupExpired),
                ],
                Toolset::Leases => vec![Arc::new(renew_allocation::RenewAllocation::new(options))],
                Toolset::Agents => vec![
                    Arc::new(register_agent::RegisterAgent::new(options)),
                    Arc::new(heartbeat_agent::HeartbeatAgent::new(options)),
                    Arc::new(unregister_agent::UnregisterAgent::new()),
                    Arc::new(list_agents::ListAgents::new()),
                ],
                Toolset::Tasks => vec![
                    Arc::new(submit_task::SubmitTask::new(options)),
                    Arc::new(claim_task::ClaimTask::new(options)),
                    Arc::new(assign_task::AssignTask::new()),
                    Arc::new(get_task::GetTask::new()),
                    Arc::new(complete_task::CompleteTask::new()),
                    Arc::new(cancel_task::CancelTask::new()),
                    Arc::new(update_task::UpdateTask::new()),
                    Arc::new(list_tasks::ListTasks::new()),
                ],
                Toolset::Usage => vec![
                    Arc::new(get_resource_usage::GetResourceUsage),
                    Arc::new(detect_bottlenecks::DetectBottlenecks),
                    Arc::new(set_token_budget::SetTokenBudget::new()),
                    Arc::new(set_agent_quota::SetAgentQuota::new()),
                ],
                Toolset::Planning => vec![
                    Arc::new(get_plan::GetPlan::new()),
                    Arc::new(get_forecast::GetForecast::new()),
                    Arc::new(get_scaling_history::GetScalingHistory::new()),
                    Arc::new(set_scaling_policy::SetScalingPolicy::new()),
                ],
                Toolset::Servers => vec![
                    Arc::new(list_mcp_servers::ListMcpServers),
                    Arc::new(get_mcp_server::GetMcpServer::new()),
                    Arc::new(restart_mcp_server::RestartMcpServer::new()),
                    Arc::new(list_workers::ListWorkers::new()),
                    Arc::new(get_worker::GetWorker::new()),
                    Arc::new(drain_worker::DrainWorker::new()),
                ],
            };
            if options.toolsets.contains(toolset) {
                tools.extend(of_set);
            } else {
                off.extend(of_set.iter().map(|tool| (tool.name(), *name)));
            }
        }
        let definitions = tools.iter().map(|tool| tool.describe()).collect();
        Self { tools, definitions, off }
    }

    pub(super) fn definitions(&self) -> &[Tool] {
        &self.definitions
    }

    /// Calls a tool. A panic of the tool is an error of this call alone.
    pub(super) async fn call(&self, name: &str, invocation: Invocation) -> Result<CallToolResult, ErrorData> {
        let tool = self.tools.iter().find(|tool| tool.name() == name).ok_or_else(|| self.unknown(name))?;
        // The transport replies to a call whose handler panics, unless a clone of the call is still held, as here.
        let call = invocation.call.clone();
        let result = catch_panic(name, Arc::clone(tool).run(invocation)).await;
        drop(call);
        Ok(result)
    }

    fn unknown(&self, name: &str) -> ErrorData {
        let excerpt: String = name.chars().take(60).collect();
        let known: Vec<&'static str> = self.tools.iter().map(|tool| tool.name()).collect();
        let message = match self.off.iter().find(|(tool, _)| *tool == name) {
            Some((tool, set)) => {
                format!(
                    "tool {tool} is in the toolset {set}, which is off: start the server with --toolsets all or \
                     --toolsets …,{set}"
                )
            }
            None => match suggest(name, known.iter().copied()) {
                Some(near) => format!("unknown tool {excerpt}: did you mean {near}?"),
                None => format!("unknown tool {excerpt}: call one of {}", known.join(", ")),
            },
        };
        ErrorData::invalid_params(message, None)
    }
}

/// Runs a tool's future to its result, an error or a panic included.
async fn catch_panic(name: &str, run: BoxFuture<'_, Result<ToolOutput, ToolError>>) -> CallToolResult {
    let error = match AssertUnwindSafe(run).catch_unwind().await {
        Ok(Ok(ToolOutput { structured, text })) => {
            let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
            result.structured_content = Some(structured);
            return result;
        }
        Ok(Err(error)) => error,
        Err(_) => {
            tracing::error!(tool = name, "tool panicked");
            ToolError::Engine(EngineError::Fault)
        }
    };
    // Text only: some clients check the structured content of an error against the output schema.
    let mut body = serde_json::json!({"status": "error", "error": error.to_string()});
    let is_retryable = matches!(
        error,
        ToolError::Engine(EngineError::NotCommitted | EngineError::Stopped)
            | ToolError::Ask(RuntimeError::Stopped)
            | ToolError::Closing(_)
    );
    if is_retryable {
        body["retryable"] = true.into();
    }
    CallToolResult::error(vec![ContentBlock::text(body.to_string())])
}

/// Returns the denial of an unknown allocation id.
fn unknown_allocation(allocation: cortex_core::ids::AllocationId) -> ToolError {
    ToolError::Engine(EngineError::Denied(Denied::UnknownAllocation(allocation)))
}

/// Returns the denial of an unknown task id.
fn unknown_task(task: TaskId) -> ToolError {
    ToolError::Engine(FleetDenied::UnknownTask(task).into())
}

/// Executes a command that changes a task, and returns its outcome with the task after it.
async fn change_task(
    engine: &EngineHandle,
    task: TaskId,
    command: FleetCommand,
) -> Result<(FleetOutcome, TaskView), ToolError> {
    let (changed, command) = (task.clone(), Command::Fleet(command));
    let read = move |outcome, state: &EngineState<'_>, now| (outcome, state.cluster.task(now, &changed));
    match engine.execute(command, read).await? {
        (Outcome::Fleet(outcome), Some(view)) => Ok((outcome, view)),
        (_, None) => Err(unknown_task(task)),
        _ => Err(EngineError::Fault.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_that_panics_is_an_error_result() {
        let result = catch_panic("test", async { panic!("on purpose") }.boxed()).await;
        assert_eq!(result.is_error, Some(true));
        assert_eq!(result.structured_content, None);
        let text = serde_json::to_value(&result.content).expect("JSON")[0]["text"].to_string();
        assert!(text.contains("internal error"), "{text}");
    }
}
