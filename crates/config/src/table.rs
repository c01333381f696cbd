//! The table of settings: the only place that names a setting.
//!
//! A row declares the field of [`Settings`] with its type and default, and the help, the placeholder and the bounds of
//! the flag. The key is the field's name; the flag and the variable follow from it. The type of the field parses and
//! prints the value. Only the rules between two settings name settings elsewhere.
//!
//! ```text
//! /// Help, in one line without a full stop
//! key: Type = default, "PLACEHOLDER" in bounds, follows other_key, note "end of the text about the bounds";
//! ```

use super::setting::{Setting, SettingValue, settings};
use super::values::{DaemonMode, Durability, EndpointAuth, LogFormat, LogLevel, Toolset, WorkerReady};
use cortex_core::ports::WORKER_PORT_COUNT;
use cortex_core::units::{CpuMillis, MemoryMb};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Upper bound of the CPU settings, in thousandths of a core: a million cores.
const CPU_MILLIS_MAX: u64 = 1_000_000_000;

/// Upper bound of the memory settings, in MB: 2^60 bytes.
const MEMORY_MB_MAX: u64 = 1_099_511_627_776;

/// The longest period of a loop, in seconds: a day.
const PERIOD_SECONDS_MAX: u64 = 86_400;

/// The longest lease that a setting can allow, in seconds: ten years.
const TTL_SECONDS_MAX: u64 = 315_360_000;

/// The longest time for which released allocations are kept, in seconds: a year.
const HISTORY_SECONDS_MAX: u64 = 31_536_000;

/// The largest token budget. It is below 2^53, from which on JSON readers lose the last digit of a number.
const TOKENS_MAX: u64 = 1_000_000_000_000_000;

/// The longest window of a token budget, in seconds: a year.
const WINDOW_SECONDS_MAX: u64 = 31_536_000;

/// The longest time for which events can be kept, in days: a hundred years.
const KEEP_EVENTS_DAYS_MAX: u64 = 36_500;

/// The longest grace period of a worker, in seconds: ten minutes.
const WORKER_GRACE_SECONDS_MAX: u64 = 600;

/// Follows the bounds of worker counts and explains where they come from.
const PORTS_NOTE: &str = ", the number of worker ports (8000-65535 without 9000-9099)";

settings! {
    /// CPU available for leases, in cores
    total_cpu: CpuMillis = CpuMillis::from_millis(16_000), "CORES" in 0..=CPU_MILLIS_MAX;
    /// Memory available for leases, in MB
    total_memory: MemoryMb = MemoryMb(32_768), "MB" in 0..=MEMORY_MB_MAX;
    /// Workers available for leases at startup
    total_workers: u32 = 10, "COUNT" in 0..=WORKER_PORT_COUNT, note PORTS_NOTE;
    /// CPU of each leased worker, in cores
    worker_cpu: CpuMillis = CpuMillis::from_millis(1_000), "CORES" in 1..=CPU_MILLIS_MAX;
    /// Memory of each leased worker, in MB
    worker_memory: MemoryMb = MemoryMb(2_048), "MB" in 1..=MEMORY_MB_MAX;
    /// Minimum number of workers that the planner may scale to; at most total_workers
    min_workers: u32 = 10, "COUNT" in 0..=WORKER_PORT_COUNT, follows total_workers, note PORTS_NOTE;
    /// Maximum number of workers that the planner may scale to; at least total_workers
    max_workers: u32 = 10, "COUNT" in 0..=WORKER_PORT_COUNT, follows total_workers, note PORTS_NOTE;
    /// Duration of a lease if its request gives none; at most max_ttl_seconds
    default_ttl_seconds: u64 = 3_600, "SECONDS" in 1..=TTL_SECONDS_MAX;
    /// Longest duration that a request for a lease may give
    max_ttl_seconds: u64 = 604_800, "SECONDS" in 1..=TTL_SECONDS_MAX;
    /// Interval between sweeps of expired leases
    sweep_seconds: u64 = 300, "SECONDS" in 1..=PERIOD_SECONDS_MAX;
    /// Interval between runs of the planner
    plan_seconds: u64 = 30, "SECONDS" in 1..=PERIOD_SECONDS_MAX;
    /// Maximum number of live allocations
    max_live_allocations: usize = 1_000_000, "COUNT" in 1..=10_000_000;
    /// Maximum number of released allocations that are kept
    history_count: usize = 10_000, "COUNT" in 0..=1_000_000;
    /// How long released allocations are kept
    history_seconds: u64 = 86_400, "SECONDS" in 1..=HISTORY_SECONDS_MAX;
    /// Tokens that all tasks may use together, per window if token_window_seconds is set
    token_budget: u64 = 200_000, "TOKENS" in 0..=TOKENS_MAX;
    /// Window of the token budget: usage is reset each time it ends; 0 for never
    token_window_seconds: u64 = 0, "SECONDS" in 0..=WINDOW_SECONDS_MAX;
    /// Interval between heartbeats of an agent; one that misses three in a row is lost
    heartbeat_seconds: u64 = 10, "SECONDS" in 1..=3_600;
    /// Waiting time after which a task's priority rises by one level; 0 for never
    priority_aging_seconds: u64 = 300, "SECONDS" in 0..=604_800;
    /// Target duration of a task, against which the health of agents is measured
    response_target_ms: u64 = 3_000, "MILLISECONDS" in 1..=86_400_000;
    /// Time limit of an attempt if its task gives none; at most max_ttl_seconds
    task_lease_seconds: u64 = 300, "SECONDS" in 1..=604_800;
    /// Maximum number of queued and running tasks
    max_tasks: u64 = 100_000, "COUNT" in 1..=10_000_000;
    /// Maximum total size of the texts of queued and running tasks
    max_task_bytes: u64 = 268_435_456, "BYTES" in 65_536..=1_099_511_627_776;
    /// State file; a server creates it if missing, or without it keeps its state in memory until it ends
    state: Option<PathBuf> = None, "FILE";
    /// What committed changes survive; full: crashes and power loss; normal: crashes only, but faster
    durability: Durability = Durability::Full, "LEVEL";
    /// Days to keep events for audits; events that recovery needs are kept longer
    keep_events: u64 = 30, "DAYS" in 0..=KEEP_EVENTS_DAYS_MAX;
    /// Minimum time after an outage in which leases that expired during it can still be renewed
    recovery_grace_seconds: u64 = 60, "SECONDS" in 0..=PERIOD_SECONDS_MAX;
    /// If the given totals differ from those of the state: yes changes the state, no refuses to start
    resize: bool = false, "YES_OR_NO";
    /// Whether to use a daemon; auto: only with a state, a catalog or a worker command
    daemon: DaemonMode = DaemonMode::Auto, "MODE";
    /// How long the daemon stays up without a session, a live lease and a managed process
    daemon_idle_seconds: u64 = 300, "SECONDS" in 1..=HISTORY_SECONDS_MAX;
    /// MCP servers to run, as an mcpServers file
    catalog: Option<PathBuf> = None, "FILE";
    /// Authentication on managed-server endpoints: token requires the lease's token; none disables it
    endpoint_auth: EndpointAuth = EndpointAuth::Token, "MODE";
    /// Command that each leased worker runs; without one, no worker processes are started
    worker_command: Vec<String> = Vec::new(), "COMMAND";
    /// Environment variables of managed workers, in addition to those that identify the worker
    worker_env: BTreeMap<String, String> = BTreeMap::new(), "JSON";
    /// Readiness check of a managed worker: its port accepts connections, a path answers 2xx, or none
    worker_ready: WorkerReady = WorkerReady::Tcp, "CHECK";
    /// Time between asking a managed worker to exit and killing it
    worker_grace_seconds: u64 = 5, "SECONDS" in 0..=WORKER_GRACE_SECONDS_MAX;
    /// Calls of one client that may be in flight before the server stops reading
    max_calls_in_flight: usize = 256, "COUNT" in 1..=65_536;
    /// Longest line that a client may send, in bytes
    max_line_bytes: usize = 1_048_576, "BYTES" in 1_024..=16_777_216;
    /// Toolsets to enable: the groups of tools that clients see
    toolsets: BTreeSet<Toolset> = BTreeSet::from([Toolset::Allocation]), "LIST";
    /// Minimum severity of log lines on standard error
    log_level: LogLevel = LogLevel::Info, "LEVEL";
    /// Format of log lines
    log_format: LogFormat = LogFormat::Text, "FORMAT";
}
