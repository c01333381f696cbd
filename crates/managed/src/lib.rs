//! The interface between the tools and the runtime: reports on running servers and workers, requests about them, and
//! the access tokens of their endpoints.
//!
//! Invariant: nothing here knows of processes. The runtime answers the requests; the tools only send them.

mod access;
mod report;

pub use access::{AccessKey, allocation_of};
pub use report::{CallStats, MemoryLimit, ProcessState, ServerReport, WorkerReport};

use cortex_core::ids::{AllocationId, FencingToken, ServerName};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// The most requests that wait for the runtime; sending another one waits.
const REQUESTS_WAITING_MAX: usize = 256;

/// A request to the runtime, with the channel for its reply.
#[derive(Debug)]
pub enum RuntimeRequest {
    /// Reports all servers, including those that no allocation holds, without their last lines.
    Servers(oneshot::Sender<Vec<ServerReport>>),
    /// Reports each instance of a server, or only the instance that an allocation holds. The reply is empty if there is
    /// none.
    Server(ServerName, Option<AllocationId>, oneshot::Sender<Vec<ServerReport>>),
    /// Reports the servers and workers of an allocation.
    Allocation(AllocationId, oneshot::Sender<(Vec<ServerReport>, Vec<WorkerReport>)>),
    /// Restarts each instance of a server, or only the instance that an allocation holds. The reply comes when they run
    /// again or have failed.
    RestartServer(ServerName, Option<AllocationId>, oneshot::Sender<Result<(), RuntimeError>>),
    /// Reports all workers, without their last lines.
    Workers(oneshot::Sender<Vec<WorkerReport>>),
    /// Reports one worker.
    Worker(String, oneshot::Sender<Option<WorkerReport>>),
    /// Drains an agent of the pool: it is given no more tasks, and ended when it has none.
    DrainWorker(String, oneshot::Sender<Result<WorkerReport, RuntimeError>>),
}

/// Why the runtime refused a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuntimeError {
    /// The server is not in the catalog and does not run.
    #[error("MCP server {name:?} not found: list_mcp_servers lists the known servers")]
    UnknownServer { name: String },
    /// The server is in the catalog, but no allocation holds it.
    #[error("MCP server {name:?} is not running: lease it with request_resources to start it")]
    NotRunning { name: String },
    /// The server was ended and did not start again.
    #[error("MCP server {server} was restarted and cannot be used: {why}")]
    NotRestarted {
        /// The name, followed by the owner if the instance has one.
        server: String,
        why: String,
    },
    /// The allocation holds no instance of the server.
    #[error("{allocation} does not hold MCP server {name:?}: get_mcp_server without allocation_id lists its holders")]
    NotHeld { name: String, allocation: AllocationId },
    #[error("worker {worker:?} not found: list_workers lists the known workers")]
    UnknownWorker { worker: String },
    /// The worker belongs to an allocation, so that it cannot be drained by itself.
    #[error("worker {worker} is leased by {allocation}: release_resources ends it with its lease")]
    Leased { worker: String, allocation: AllocationId },
    /// The runtime has ended.
    #[error("the server is shutting down")]
    Stopped,
}

/// Sends requests to the runtime. Clones send to the same runtime.
#[derive(Clone, Debug)]
pub struct RuntimeHandle {
    requests: mpsc::Sender<RuntimeRequest>,
    /// Absent where endpoints require no token.
    key: Option<AccessKey>,
}

impl RuntimeHandle {
    /// Returns a handle and the receiver of its requests. Without a key, endpoints require no token.
    #[must_use]
    pub fn new(key: Option<AccessKey>) -> (Self, mpsc::Receiver<RuntimeRequest>) {
        let (requests, received) = mpsc::channel(REQUESTS_WAITING_MAX);
        (Self { requests, key }, received)
    }

    /// Returns the token that the endpoints of a lease require; none where they require none.
    #[must_use]
    pub fn access_token(&self, allocation: AllocationId, fencing_token: FencingToken) -> Option<String> {
        self.key.as_ref().map(|key| key.token(allocation, fencing_token))
    }

    /// Sends a request and waits for its reply. `request` builds it from the channel for the reply.
    ///
    /// # Errors
    /// [`RuntimeError::Stopped`] if the runtime has ended.
    pub async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> RuntimeRequest,
    ) -> Result<T, RuntimeError> {
        let (reply, replied) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| RuntimeError::Stopped)?;
        replied.await.map_err(|_| RuntimeError::Stopped)
    }
}
