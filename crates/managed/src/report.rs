//! The reported status of a server or worker process.

use cortex_core::ids::{AllocationId, JobId, ServerName};
use cortex_core::ports::Port;
use cortex_core::provisioning::Sharing;
use cortex_core::time::Timestamp;
use cortex_core::units::MemoryMb;

/// The state of a supervised process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// It is not needed.
    Stopped,
    /// It was started and is not ready yet.
    Starting,
    Running,
    /// It ended or did not answer, and is started again.
    Restarting,
    /// It failed too often in a row; a new lease or a restart request starts it again.
    Failed,
    /// It is being ended.
    Stopping,
}

impl ProcessState {
    /// Returns its name on the wire.
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

/// Counts of the requests through an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    pub calls: u64,
    /// The calls that were answered with an error, or not at all.
    pub errors: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// The sum of the durations of all calls, in milliseconds.
    pub busy_ms: u64,
}

/// A memory limit and the mechanism that enforces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    pub memory: MemoryMb,
    /// `cgroup`, `rlimit`, or `none` where the system cannot enforce it.
    pub held_by: &'static str,
}

/// The status of an instance of an MCP server, or of a server of the catalog that no allocation holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReport {
    /// Its name in the catalog.
    pub name: ServerName,
    /// Whether allocations share an instance or each has its own.
    pub sharing: Sharing,
    /// The allocation and job that the instance belongs to; absent if it is shared or does not run.
    pub owner: Option<(AllocationId, JobId)>,
    /// Whether it is reached by a URL and not run here.
    pub is_remote: bool,
    /// The URL for clients, if it can be reached.
    pub endpoint: Option<String>,
    /// Its port on this machine, if it is run here.
    pub port: Option<Port>,
    /// The headers that clients send to a remote server.
    pub headers: Vec<(String, String)>,
    pub state: ProcessState,
    /// Why it is restarting or failed.
    pub reason: Option<String>,
    /// The allocations that hold it.
    pub holders: Vec<AllocationId>,
    pub running_since: Option<Timestamp>,
    /// The number of automatic restarts; requested ones do not count.
    pub restarts: u64,
    /// The memory that its processes use together.
    pub memory: Option<MemoryMb>,
    /// The number of its processes.
    pub processes: Option<u64>,
    pub memory_limit: Option<MemoryLimit>,
    /// The calls of all clients since the instance was created.
    pub calls: CallStats,
    /// The calls of each current holder.
    pub calls_by_holder: Vec<(AllocationId, CallStats)>,
    /// The last lines of its standard error, oldest first.
    pub last_lines: Vec<String>,
}

/// The status of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerReport {
    /// Its id.
    pub worker: String,
    /// The allocation that it belongs to; absent for an agent of the pool.
    pub allocation: Option<AllocationId>,
    /// The job of that allocation.
    pub job: Option<JobId>,
    pub port: Port,
    pub state: ProcessState,
    /// Why it is restarting or failed.
    pub reason: Option<String>,
    pub running_since: Option<Timestamp>,
    /// The number of automatic restarts.
    pub restarts: u64,
    /// The memory that its processes use together.
    pub memory: Option<MemoryMb>,
    /// The last lines of its output and its standard error, oldest first.
    pub last_lines: Vec<String>,
}
