//! What lies between the books and real processes: how clients get at MCP servers, and what can be asked of whoever runs
//! servers and workers.
//!
//! Whoever runs them answers; whoever asks knows nothing of processes.

mod access;
mod report;

pub use access::{AccessKey, allocation_of};
pub use report::{CallFigures, MemoryLimit, ProcessState, ServerReport, WorkerReport};

use cortex_core::ids::{AllocationId, FencingToken, ServerName};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// How many questions may wait for an answer; whoever asks one more waits.
const ASKS_WAITING_MAX: usize = 256;

/// A question, with where its answer goes.
#[derive(Debug)]
pub enum Ask {
    /// How do all servers stand? Those that nobody runs are told of too. The last lines are left out.
    Servers(oneshot::Sender<Vec<ServerReport>>),
    /// How does each run of this server stand, or only that which an allocation holds? None, if there is no such run.
    Server(ServerName, Option<AllocationId>, oneshot::Sender<Vec<ServerReport>>),
    /// How do the servers and workers of this allocation stand?
    Allocation(AllocationId, oneshot::Sender<(Vec<ServerReport>, Vec<WorkerReport>)>),
    /// Start this server again, each run of it, or only that of an allocation. It is answered when they run again, or not.
    RestartServer(ServerName, Option<AllocationId>, oneshot::Sender<Result<(), AskError>>),
    /// How do all workers stand? The last lines are left out.
    Workers(oneshot::Sender<Vec<WorkerReport>>),
    /// How does this worker stand?
    Worker(String, oneshot::Sender<Option<WorkerReport>>),
    /// Let this worker come to its end: an agent is given no more tasks, and ended when it has none.
    DrainWorker(String, oneshot::Sender<Result<WorkerReport, AskError>>),
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// The catalog has no such server, and none runs.
    #[error("there is no MCP server {name:?}: list_mcp_servers names those that there are")]
    NoServer {
        /// The name.
        name: String,
    },
    /// Nobody holds the server, so that it does not run.
    #[error("MCP server {name:?} does not run: it is started for whoever leases it")]
    NotRunning {
        /// The name.
        name: String,
    },
    /// The server was ended, and does not run again.
    #[error("MCP server {server} was restarted and cannot be used: {why}")]
    NotRestarted {
        /// Which run of it.
        server: String,
        /// Why.
        why: String,
    },
    /// An allocation holds no run of the server.
    #[error("{allocation} does not hold MCP server {name:?}: get_mcp_server without allocation_id tells who does")]
    NotHeld {
        /// The name.
        name: String,
        /// The allocation.
        allocation: AllocationId,
    },
    /// There is no such worker.
    #[error("there is no worker {worker:?}: list_workers names those that there are")]
    NoWorker {
        /// Its id.
        worker: String,
    },
    /// The worker belongs to a lease.
    #[error("worker {worker} is leased by {allocation}: release_resources ends it with its lease")]
    Leased {
        /// Its id.
        worker: String,
        /// The lease.
        allocation: AllocationId,
    },
    /// Whoever runs them has ended.
    #[error("the server is shutting down")]
    Stopped,
}

/// A way to whoever runs servers and workers.
#[derive(Clone, Debug)]
pub struct Managed {
    asks: mpsc::Sender<Ask>,
    /// Absent where endpoints ask for no token.
    key: Option<AccessKey>,
}

impl Managed {
    /// A way, and its other end. Without a key endpoints ask for no token.
    #[must_use]
    pub fn new(key: Option<AccessKey>) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(ASKS_WAITING_MAX);
        (Self { asks, key }, asked)
    }

    /// What a client shows at the endpoints of a lease; nothing where none is asked for.
    #[must_use]
    pub fn access_token(&self, allocation: AllocationId, fencing_token: FencingToken) -> Option<String> {
        self.key.as_ref().map(|key| key.token(allocation, fencing_token))
    }

    /// Asks a question.
    ///
    /// # Errors
    /// [`AskError::Stopped`] if nobody is there to answer.
    pub async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, AskError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| AskError::Stopped)?;
        answer.await.map_err(|_| AskError::Stopped)
    }
}
