//! The MCP server of a connection. All connections share one engine.

use super::notices::{WATCHED_MAX, Watched, Watcher};
use super::progress::Progress;
use super::resources::{self, PlannerFeed, ResourceUri};
use super::tools::{Invocation, Tools};
use super::transport::{Call, LISTENS_MAX};
use cortex_config::Toolset;
use cortex_core::time::TtlSeconds;
use cortex_engine::EngineHandle;
use cortex_managed::RuntimeHandle;
use cortex_util::program;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult, CustomRequest, CustomResult,
    ErrorCode, Implementation, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ResourceUpdatedNotificationParam,
    ServerCapabilities, ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{RequestContext, SubscriptionContext};
use rmcp::{ErrorData, Peer, RoleServer, ServerHandler};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio_util::sync::CancellationToken;

/// Settings of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// The enabled toolsets.
    pub toolsets: BTreeSet<Toolset>,
    /// The time to live of a request without `ttl_seconds`.
    pub default_ttl: TtlSeconds,
    /// The longest time to live that a request may have, in seconds.
    pub ttl_seconds_max: u64,
    /// The interval of an agent's heartbeats, in seconds.
    pub heartbeat_seconds: u64,
    /// The lease time of a task submitted without `lease_seconds`.
    pub task_lease: TtlSeconds,
    /// The most claims of one connection that may wait concurrently. It is less than the most calls in flight:
    /// otherwise a heartbeat or a report sent after the claims would not be read.
    pub claims_waiting_max: usize,
}

/// The server of one connection.
pub struct Server {
    engine: EngineHandle,
    planner_feed: PlannerFeed,
    /// Present where MCP servers and workers are managed.
    managed: Option<RuntimeHandle>,
    tools: Tools,
    /// Is cancelled when the connection begins to close.
    closing: CancellationToken,
    /// The resources that a client of an older protocol watches; set by its first subscription.
    subscriptions: OnceLock<Watched>,
    /// Watchers of accepted subscriptions whose `listen` has not begun yet: they collect the changes in between.
    accepted: Mutex<VecDeque<Watcher>>,
}

impl Server {
    /// Creates the server of a connection, which ends when `closing` is cancelled. `managed` is the handle on managed
    /// servers and workers, where there are any.
    #[must_use]
    pub fn new(
        engine: EngineHandle,
        planner_feed: PlannerFeed,
        managed: Option<RuntimeHandle>,
        options: &ServerOptions,
        closing: CancellationToken,
    ) -> Self {
        let tools = Tools::new(options, managed.is_some());
        Self {
            engine,
            planner_feed,
            managed,
            tools,
            closing,
            subscriptions: OnceLock::new(),
            accepted: Mutex::default(),
        }
    }

    fn instructions(&self) -> String {
        let mut instructions = INSTRUCTIONS.to_owned();
        if self.managed.is_some() {
            instructions.push_str(MANAGED_INSTRUCTIONS);
        }
        if self.tools.definitions().iter().any(|tool| tool.name == "claim_task") {
            instructions.push_str(TASK_INSTRUCTIONS);
        }
        instructions
    }

    fn watcher(&self, watched: Watched) -> Watcher {
        Watcher::new(&self.engine, self.planner_feed.clone(), watched)
    }

    /// Returns the set that a client of an older protocol watches. The first call starts the task that sends the
    /// notices.
    fn subscriptions(&self, peer: &Peer<RoleServer>) -> &Watched {
        self.subscriptions.get_or_init(|| {
            let watched = Watched::default();
            let mut watcher = self.watcher(watched.clone());
            let (peer, closing) = (peer.clone(), self.closing.clone());
            tokio::spawn(async move {
                let notify = async {
                    while let Some(uri) = watcher.next().await {
                        let update = ResourceUpdatedNotificationParam::new(uri.to_string());
                        if peer.notify_resource_updated(update).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = closing.cancelled() => {}
                    () = notify => {}
                }
            });
            watched
        })
    }
}

/// The most watchers that may wait for their `listen`. The transport admits far fewer concurrent listens.
const ACCEPTED_MAX: usize = 16 * LISTENS_MAX;

const INSTRUCTIONS: &str = "Leases workers and shared MCP servers to jobs. Typical use: get_capacity to see what is \
    available; request_resources for a job (workers and/or mcp_servers, with a ttl_seconds that fits the job); use the \
    endpoints; release_resources when done, also after a failure. A lease that is not released ends at its expires_at. \
    A refused request returns status \"failed\" with the reason. Subscribe to cluster://capacity or \
    cluster://allocations/{allocation_id} for changes.";

/// Added where MCP servers are managed.
const MANAGED_INSTRUCTIONS: &str = " The MCP servers of a grant are running: give its mcp_config to an MCP client as \
    its server list, and send its access_token, if there is one, to their endpoints. Both end with the lease.";

/// Added where the queue of tasks is on.
const TASK_INSTRUCTIONS: &str = " Tasks: submit_task queues one. A worker calls register_agent once; then it repeats \
    claim_task (with wait_seconds), does the task and calls complete_task with its fencing_token. While it works it \
    calls heartbeat_agent in time, and at the end unregister_agent. The tasks of a silent agent go to another. \
    get_resource_usage shows quotas, tokens and the queue.";

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let capabilities =
            ServerCapabilities::builder().enable_tools().enable_resources().enable_resources_subscribe().build();
        let implementation = Implementation::new(program::NAME, program::VERSION)
            .with_title("Cortex Resource Manager")
            .with_description(program::DESCRIPTION);
        ServerConfig::new(capabilities).with_server_info(implementation).with_instructions(self.instructions())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let call = context.extensions.get::<Call>().cloned();
        let progress = context.meta.get_progress_token().map(|token| Progress::new(context.peer, token));
        let invocation = Invocation {
            engine: self.engine.clone(),
            planner: Arc::clone(&self.planner_feed.planner),
            managed: self.managed.clone(),
            arguments: request.arguments,
            call,
            progress,
            closing: self.closing.clone(),
        };
        self.tools.call(&request.name, invocation).await.map(CallToolResponse::Complete)
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.definitions().to_vec()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.definitions().iter().find(|tool| tool.name == name).cloned()
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(resources::listed()))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates(self.managed.is_some())))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let managed = self.managed.as_ref();
        resources::read(&self.engine, &self.planner_feed, managed, &request.uri)
            .await
            .map(ReadResourceResponse::Complete)
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        let watched = Watched::default();
        let uris = requested.resource_subscriptions.iter().flatten();
        let accepted: Vec<String> =
            uris.filter(|uri| uri.parse().is_ok_and(|uri: ResourceUri| watched.insert(uri))).cloned().collect();
        // The watcher is created now, so that no change between the acknowledgement and `listen` is missed.
        let watcher = self.watcher(watched);
        let mut waiting = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back(watcher);
        // The `listen` of a call cancelled since then never comes; the oldest watchers are of such calls.
        while waiting.len() > ACCEPTED_MAX {
            waiting.pop_front();
        }
        Some(SubscriptionFilter::builder().resource_subscriptions(accepted).build())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let uris: BTreeSet<ResourceUri> =
            context.accepted().resource_subscriptions.iter().flatten().filter_map(|uri| uri.parse().ok()).collect();
        let is_ours = |watcher: &Watcher| {
            uris.iter().all(|uri| watcher.watched().contains(*uri)) && watcher.watched().len() == uris.len()
        };
        let mut watcher = {
            let mut waiting = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            let index = waiting.iter().position(is_ours);
            index.and_then(|index| waiting.remove(index))
        }
        .ok_or_else(|| {
            ErrorData::internal_error(
                "the accepted subscription was dropped before it began: send subscriptions/listen again",
                None,
            )
        })?;
        let notify = async {
            while let Some(uri) = watcher.next().await {
                if context.sink().notify_resource_updated(uri.to_string()).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = context.cancelled() => {}
            () = self.closing.cancelled() => {}
            () = notify => {}
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let uri: ResourceUri = request.uri.parse().map_err(|_| resources::not_found(&request.uri))?;
        if let ResourceUri::Allocation(id) = uri {
            let is_known = self.engine.read(move |state, now| state.record(now, id).is_some()).await;
            if !is_known.map_err(|error| ErrorData::internal_error(error.to_string(), None))? {
                return Err(resources::not_found(&request.uri));
            }
        }
        if self.subscriptions(&context.peer).insert(uri) {
            Ok(())
        } else {
            let text = format!(
                "{WATCHED_MAX} resources are subscribed to, the most for one connection: unsubscribe from one first"
            );
            Err(ErrorData::invalid_params(text, None))
        }
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let uri = request.uri.parse().map_err(|_| resources::not_found(&request.uri))?;
        self.subscriptions(&context.peer).remove(uri);
        Ok(())
    }

    async fn list_prompts(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Err(no_such_method("prompts/list"))
    }

    async fn complete(
        &self,
        _request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        Err(no_such_method("completion/complete"))
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        Err(no_such_method(&request.method))
    }
}

fn no_such_method(method: &str) -> ErrorData {
    let excerpt: String = method.chars().take(100).collect();
    ErrorData::new(ErrorCode::METHOD_NOT_FOUND, format!("unknown method {excerpt}"), None)
}
