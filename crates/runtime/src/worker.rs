//! Workers: the command that all of them run, and the environment of each.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::json;

use super::process::child::{ChildSpec, Input};
use cortex_core::allocation::Reservation;
use cortex_core::ids::WorkerNumber;
use cortex_core::ports::Port;

/// The time limit for a worker to become ready.
pub(super) const WORKER_START_TIMEOUT: Duration = Duration::from_secs(30);

/// When a worker counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// When it accepts connections on its port.
    Tcp,
    /// When it answers a GET of this path on its port with a status of 2xx.
    Http(String),
    /// As soon as it is started.
    Immediately,
}

/// The command that all workers run.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program: a path, or a name to search in `PATH`.
    pub command: String,
    pub arguments: Vec<String>,
    /// Variables in addition to those that each worker gets.
    pub environment: BTreeMap<String, String>,
    pub ready: Ready,
    /// The time between asking a worker to end and killing it.
    pub grace: Duration,
}

impl fmt::Debug for WorkerCommand {
    /// Leaves out arguments and values of variables, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerCommand")
            .field("command", &self.command)
            .field("arguments", &self.arguments.len())
            .field("environment", &self.environment.keys())
            .field("ready", &self.ready)
            .field("grace", &self.grace)
            .finish()
    }
}

/// The pool of agents. An agent starts this program as its MCP server, which finds the daemon by the variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    pub environment: Vec<(String, String)>,
    /// The most agents in the pool.
    pub agents_max: usize,
}

/// A worker to run.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) spec: ChildSpec,
    pub(super) port: Port,
    pub(super) ready: Ready,
}

impl WorkerCommand {
    /// Returns a worker of an allocation. The memory that the state counts for a worker does not limit its process.
    pub(super) fn worker(
        &self,
        reservation: &Reservation,
        number: WorkerNumber,
        port: Port,
        servers: String,
    ) -> Worker {
        let id = number.worker_id(&reservation.job);
        let own = [
            ("CORTEX_WORKER_ID", id.clone()),
            ("CORTEX_JOB_ID", reservation.job.to_string()),
            ("CORTEX_ALLOCATION_ID", reservation.allocation.to_string()),
            ("CORTEX_PORT", port.to_string()),
            ("CORTEX_SERVERS", servers),
        ];
        self.process(id, port, own.map(|(name, value)| (name.to_owned(), value)))
    }

    /// Returns an agent of the pool: it belongs to no allocation, and registers itself with its id.
    pub(super) fn agent(&self, id: String, port: Port, pool: &PoolOptions) -> Worker {
        let own = [("CORTEX_WORKER_ID".to_owned(), id.clone()), ("CORTEX_PORT".to_owned(), port.to_string())];
        self.process(id, port, pool.environment.iter().cloned().chain(own))
    }

    fn process(&self, id: String, port: Port, own: impl IntoIterator<Item = (String, String)>) -> Worker {
        let configured = self.environment.iter().map(|(name, value)| (name.clone(), value.clone()));
        let spec = ChildSpec {
            name: id,
            command: self.command.clone(),
            arguments: self.arguments.clone(),
            // Its own variables come last, so that the configured ones cannot override them.
            environment: configured.chain(own).collect(),
            folder: None,
            memory: None,
            grace: self.grace,
            input: Input::Nothing,
        };
        Worker { spec, port, ready: self.ready.clone() }
    }
}

/// Returns the value of `CORTEX_SERVERS`: names and endpoints of the servers of a lease, and the token for them, as
/// JSON.
pub(super) fn servers_json(servers: &[(String, String)], access_token: Option<&str>) -> String {
    let servers: Vec<_> = servers.iter().map(|(name, endpoint)| json!({"name": name, "endpoint": endpoint})).collect();
    json!({"mcp_servers": servers, "access_token": access_token}).to_string()
}
