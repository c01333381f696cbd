//! An engine with a host of servers, and clients of them.

use cortex_core::allocation::{Metadata, State};
use cortex_core::command::{DistinctServers, Request};
use cortex_core::ids::{AllocationId, FencingToken, JobId, RequestId, ServerName};
use cortex_core::priority::Priority;
use cortex_core::time::TtlSeconds;
use cortex_core::units::{CpuMillis, MemoryMb, Resources};
use cortex_core::view::{AllocationView, CapacityView, Filter};
use cortex_engine::clock::EngineClock;
use cortex_engine::{CancelHandle, Engine, EngineError, EngineHandle, EngineOptions, Grant};
use cortex_journal::NullJournal;
use cortex_managed::{ProcessState, RuntimeHandle, RuntimeRequest, ServerReport};
use cortex_runtime::{Host, HostOptions, PreparedHost, Timing};
use rmcp::ServiceExt;
use rmcp::model::{CallToolRequestParams, JsonObject};
use rmcp::service::{RoleClient, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::support::{WAIT_MAX, http, misbehaving::misbehaving_server, wait_until_async, within};

/// Periods short enough to wait for.
pub(crate) fn hasty() -> Timing {
    Timing {
        health: Duration::from_millis(200),
        misses_max: 2,
        backoff: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        stable_after: Duration::from_secs(60),
        failures_max: 2,
    }
}

/// Returns a catalog entry: the misbehaving server with these arguments and this `cortex` block.
pub(crate) fn entry(arguments: &[&str], cortex: Value) -> Value {
    json!({ "command": misbehaving_server(), "args": arguments, "cortex": cortex })
}

/// The engine and host of a manager, with a catalog.
pub(crate) struct Rig {
    pub(crate) engine: EngineHandle,
    pub(crate) host: Host,
    pub(crate) managed: RuntimeHandle,
    pub(crate) folder: TempDir,
}

pub(crate) fn write_catalog(folder: &Path, servers: &Value) -> PathBuf {
    let path = folder.join("catalog.json");
    // Renamed into place, so that a reader never sees a part of it.
    let new = folder.join("catalog.json.new");
    std::fs::write(&new, json!({ "mcpServers": servers }).to_string()).expect("a file");
    std::fs::rename(new, &path).expect("a file");
    path
}

fn options(folder: &TempDir, servers: &Value) -> HostOptions {
    let mut options = HostOptions::new(Some(write_catalog(folder.path(), servers)));
    options.program = Some(env!("CARGO_BIN_EXE_cortex-resource-manager").into());
    options.timing = hasty();
    options
}

impl Rig {
    pub(crate) async fn capacity(&self) -> CapacityView {
        self.engine.read(|state, now| state.cluster.capacity(now)).await.expect("an engine")
    }

    /// The allocations in a state, oldest first.
    pub(crate) async fn in_state(&self, state: State) -> Vec<AllocationView> {
        let filter = Filter { state: Some(state), job: None };
        let read = self.engine.read(move |state, now| state.cluster.list(now, &filter, FencingToken::new(0)).collect());
        read.await.expect("an engine")
    }

    pub(crate) async fn new(servers: Value) -> Self {
        Self::with(servers, |_| {}).await
    }

    pub(crate) async fn with(servers: Value, change: impl FnOnce(&mut HostOptions)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = options(&folder, &servers);
        change(&mut options);
        let capacity =
            Resources { cpu_millis: CpuMillis::from_millis(16_000), memory_mb: MemoryMb(32_768), workers: 10 };
        let started = Engine::start(EngineOptions::fixed(capacity), NullJournal, EngineClock::system()).await;
        let (running, engine) = started.expect("a state in memory");
        tokio::spawn(running.run());
        let prepared = PreparedHost::prepare(options).expect("a good catalog");
        let host = prepared.start(engine.clone()).await.expect("a host");
        Self { managed: host.handle().clone(), engine, host, folder }
    }

    /// Ends the host, and starts the next one for the same state with another catalog.
    pub(crate) async fn succeeded(self, servers: &Value) -> Self {
        let Self { engine, host, folder, .. } = self;
        host.end(WAIT_MAX).await;
        let prepared = PreparedHost::prepare(options(&folder, servers)).expect("a good catalog");
        let host = prepared.start(engine.clone()).await.expect("a host");
        Self { managed: host.handle().clone(), engine, host, folder }
    }

    pub(crate) async fn lease(&self, job: &str, servers: &[&str]) -> Lease {
        let grant = within(self.request(job, servers, 3_600, None)).await.expect("a grant");
        self.lease_of(&grant)
    }

    pub(crate) fn lease_of(&self, grant: &Grant) -> Lease {
        let reservation = &grant.view.allocation.reservation;
        let ports = reservation.servers.iter().map(|hold| (hold.name.to_string(), hold.port.0)).collect();
        let token = self.managed.access_token(reservation.allocation, reservation.fencing_token);
        Lease { allocation: reservation.allocation, ports, token }
    }

    pub(crate) async fn request(
        &self,
        job: &str,
        servers: &[&str],
        ttl: u64,
        key: Option<&str>,
    ) -> Result<Grant, EngineError> {
        let request = Request {
            job: JobId::new(job).expect("a name"),
            servers: DistinctServers::new(servers.iter().map(|name| ServerName::new(name).expect("a name"))),
            workers: 0,
            priority: Priority::Normal,
            ttl_seconds: TtlSeconds::new(ttl).expect("a time to live"),
            request_id: key.map(|key| RequestId::new(key).expect("a name")),
            metadata: Metadata::empty(),
        };
        self.engine.request(request, CancelHandle::default()).await
    }

    pub(crate) async fn release(&self, lease: &Lease) {
        within(self.engine.release(lease.allocation)).await.expect("a lease");
    }

    /// Reports the instances of a server.
    pub(crate) async fn reports(&self, name: &str) -> Vec<ServerReport> {
        let name = ServerName::new(name).expect("a name");
        within(self.managed.request(|reply| RuntimeRequest::Server(name, None, reply))).await.expect("a host")
    }

    pub(crate) async fn report(&self, name: &str) -> ServerReport {
        let mut reports = self.reports(name).await;
        assert_eq!(reports.len(), 1, "{reports:?}");
        reports.remove(0)
    }

    pub(crate) async fn until_state(&self, name: &str, state: ProcessState) -> ServerReport {
        wait_until_async(&format!("{name} to be {}", state.as_str()), async || self.report(name).await.state == state)
            .await;
        self.report(name).await
    }

    /// Waits until the engine has an allocation in this state.
    pub(crate) async fn until_allocation(&self, allocation: AllocationId, state: State) {
        wait_until_async(&format!("the allocation to be {state}"), async || {
            let views = self.in_state(state).await;
            views.iter().any(|view| view.allocation.reservation.allocation == allocation)
        })
        .await;
    }

    pub(crate) async fn end(self) {
        self.host.end(WAIT_MAX).await;
    }
}

/// A lease with the ports and the token of its servers.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) allocation: AllocationId,
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) token: Option<String>,
}

pub(crate) type Client = RunningService<RoleClient, ()>;

impl Lease {
    pub(crate) fn port(&self, server: &str) -> u16 {
        self.ports.iter().find(|(name, _)| name == server).expect("a server of this lease").1
    }

    pub(crate) async fn client(&self, server: &str) -> Client {
        let uri = format!("http://localhost:{}/mcp", self.port(server));
        let mut config = StreamableHttpClientTransportConfig::with_uri(uri);
        if let Some(token) = &self.token {
            config = config.auth_header(token.clone());
        }
        within(().serve(StreamableHttpClientTransport::from_config(config))).await.expect("a session")
    }

    /// Sends a request without a handshake to a server with this token, and returns the status and the body of the
    /// response.
    pub(crate) async fn knock(&self, server: &str, token: Option<&str>) -> (u16, String) {
        let url = format!("http://localhost:{}/mcp", self.port(server));
        let authorization = token.map(|token| format!("Bearer {token}"));
        let knock = move || {
            let headers = authorization.as_deref().map(|value| ("authorization", value));
            http::post(&url, headers.as_slice(), &json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}))
        };
        spawn_blocking(knock).await.expect("no panic").expect("an answer")
    }

    /// Does the same with the token of the lease.
    pub(crate) async fn knock_as_holder(&self, server: &str) -> (u16, String) {
        self.knock(server, self.token.as_deref()).await
    }
}

/// Calls a tool, and returns the JSON of its result.
pub(crate) async fn call(client: &Client, tool: &str, arguments: Value) -> Value {
    try_call(client, tool, arguments).await.unwrap_or_else(|error| panic!("{tool}: {error}"))
}

pub(crate) async fn try_call(client: &Client, tool: &str, arguments: Value) -> Result<Value, String> {
    let arguments: JsonObject = serde_json::from_value(arguments).expect("an object");
    let call = client.call_tool(CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments));
    let result = within(call).await.map_err(|error| error.to_string())?;
    let text = result.content[0].as_text().expect("text").text.clone();
    Ok(serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Returns the pid of the server that answers a client.
pub(crate) async fn pid(client: &Client) -> u64 {
    let state = call(client, "state", json!({})).await;
    state["pid"].as_u64().unwrap_or_else(|| panic!("{state} has no pid"))
}

pub(crate) fn lives(pid: u64) -> bool {
    // A zombie has ended.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
