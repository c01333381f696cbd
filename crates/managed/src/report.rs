//! How a real server or worker stands.

use cortex_core::ids::{AllocationId, JobId, ServerName};
use cortex_core::ports::Port;
use cortex_core::provisioning::Sharing;
use cortex_core::time::Timestamp;
use cortex_core::units::MemoryMb;

/// Where in its life a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// Nobody needs it.
    Stopped,
    /// It was started, and has not answered yet.
    Starting,
    /// It answers.
    Running,
    /// It ended or did not answer, and is started again.
    Restarting,
    /// It cannot be kept running; it is tried again when it is asked for.
    Failed,
    /// It is being ended.
    Stopping,
}

impl ProcessState {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
        }
    }
}

/// What was called through an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallFigures {
    /// Requests.
    pub calls: u64,
    /// Those of them that were answered with an error, or not at all.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// How long requests took together, in milliseconds.
    pub busy_ms: u64,
}

/// A bound on the memory of a process, and what holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The bound.
    pub memory: MemoryMb,
    /// `cgroup`, `rlimit`, or `none`, where the system cannot hold it.
    pub held_by: &'static str,
}

/// How a run of an MCP server stands, or one that nobody runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReport {
    /// Its name in the catalog.
    pub name: ServerName,
    /// Who has a run of it.
    pub sharing: Sharing,
    /// Whose own it is; absent if it is shared or nobody runs it.
    pub owner: Option<(AllocationId, JobId)>,
    /// Whether it runs elsewhere and is only handed out.
    pub is_remote: bool,
    /// Where clients reach it, if anybody can.
    pub endpoint: Option<String>,
    /// Its port on this machine, if it is run here.
    pub port: Option<Port>,
    /// What clients are to send along to a server that runs elsewhere.
    pub headers: Vec<(String, String)>,
    /// Where in its life it is.
    pub state: ProcessState,
    /// Why it is restarting or failed.
    pub reason: Option<String>,
    /// Who holds it.
    pub holders: Vec<AllocationId>,
    /// Since when it runs.
    pub running_since: Option<Timestamp>,
    /// How often it was started again by itself.
    pub restarts: u64,
    /// What its processes take.
    pub memory: Option<MemoryMb>,
    /// How many processes it has.
    pub processes: Option<u64>,
    /// The bound on its memory, if it has one.
    pub memory_limit: Option<MemoryLimit>,
    /// What was called in all.
    pub calls: CallFigures,
    /// What each of its holders called.
    pub calls_by_holder: Vec<(AllocationId, CallFigures)>,
    /// The last lines of its standard error, oldest first.
    pub last_lines: Vec<String>,
}

/// How a worker stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerReport {
    /// Its id.
    pub worker: String,
    /// The lease that it belongs to; absent for one of the pool.
    pub allocation: Option<AllocationId>,
    /// Whose lease that is.
    pub job: Option<JobId>,
    /// Its port.
    pub port: Port,
    /// Where in its life it is.
    pub state: ProcessState,
    /// Why it is restarting or failed.
    pub reason: Option<String>,
    /// Since when it runs.
    pub running_since: Option<Timestamp>,
    /// How often it was started again by itself.
    pub restarts: u64,
    /// What its processes take.
    pub memory: Option<MemoryMb>,
    /// The last lines of its output and its standard error, oldest first.
    pub last_lines: Vec<String>,
}
