//! What a worker is: the command that all workers run, and what each finds in its environment.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::json;

use super::process::child::{ChildSpec, Input};
use cortex_core::allocation::Reservation;
use cortex_core::ids::WorkerNumber;
use cortex_core::ports::Port;

/// How long a worker may take until it is ready.
pub(super) const WORKER_START_TIMEOUT: Duration = Duration::from_secs(30);

/// When a worker counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// When it takes connections at its port.
    Tcp,
    /// When it answers a GET of this path at its port with a status of 2xx.
    Http(String),
    /// As soon as it runs.
    AtOnce,
}

/// The command that all workers run.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program, as a path or as a name that is looked for in `PATH`.
    pub command: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The variables that it gets besides those that each worker gets.
    pub environment: BTreeMap<String, String>,
    /// When it is ready.
    pub ready: Ready,
    /// How long it has to end after it was asked to.
    pub grace: Duration,
}

impl fmt::Debug for WorkerCommand {
    /// Without arguments and values of variables, which may be secrets.
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

/// How agents of the pool reach the manager: variables by which this same program, started by an agent as its MCP server,
/// finds the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// The variables.
    pub environment: Vec<(String, String)>,
    /// The most agents that are run.
    pub agents_max: usize,
}

/// A worker that is to be run.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) launch: ChildSpec,
    pub(super) port: Port,
    pub(super) ready: Ready,
}

impl WorkerCommand {
    /// A worker of a lease. The memory that a worker takes in the books is no bound on what its process takes.
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

    /// An agent of the pool: it belongs to no lease, and registers itself by its id.
    pub(super) fn agent(&self, id: String, port: Port, pool: &PoolOptions) -> Worker {
        let own = [("CORTEX_WORKER_ID".to_owned(), id.clone()), ("CORTEX_PORT".to_owned(), port.to_string())];
        self.process(id, port, pool.environment.iter().cloned().chain(own))
    }

    fn process(&self, id: String, port: Port, own: impl IntoIterator<Item = (String, String)>) -> Worker {
        let given = self.environment.iter().map(|(name, value)| (name.clone(), value.clone()));
        let launch = ChildSpec {
            name: id,
            command: self.command.clone(),
            arguments: self.arguments.clone(),
            // What says which worker it is cannot be overridden.
            environment: given.chain(own).collect(),
            folder: None,
            memory: None,
            grace: self.grace,
            input: Input::Nothing,
        };
        Worker { launch, port, ready: self.ready.clone() }
    }
}

/// The servers of a lease as a worker finds them: names, endpoints, and the token to show there.
pub(super) fn servers_text(servers: &[(String, String)], access_token: Option<&str>) -> String {
    let servers: Vec<_> = servers.iter().map(|(name, endpoint)| json!({"name": name, "endpoint": endpoint})).collect();
    json!({"mcp_servers": servers, "access_token": access_token}).to_string()
}
