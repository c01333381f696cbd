//! The one table of settings: key, flag, variable, help, and the kind with its bounds.
//!
//! Adding a setting means a field with its default in [`Settings`](super::Settings) and a row here. Nothing else names it, save
//! the rules that hold between two settings.

use super::parse::choice;
use super::setting::{Extra, Kind, Setting, names_of};
use super::values::{DaemonMode, Durability, EndpointAuth, LogFormat, LogLevel, YES_NO};
use cortex_core::ports::WORKER_PORT_COUNT;
use cortex_core::units::MemoryMb;

/// The most CPU that can be counted, in thousandths of a core: a million cores.
const CPU_MILLIS_MAX: u64 = 1_000_000_000;

/// The most memory that can be counted, in MB: 2^60 bytes.
const MEMORY_MB_MAX: u64 = 1_099_511_627_776;

/// The longest period of a loop, in seconds: a day.
const PERIOD_SECONDS_MAX: u64 = 86_400;

/// The longest lease that a setting can allow, in seconds: ten years.
const TTL_SECONDS_MAX: u64 = 315_360_000;

/// The longest memory of released allocations, in seconds: a year.
const HISTORY_SECONDS_MAX: u64 = 31_536_000;

/// The largest token budget: far more than is spent in a life, and far below where a figure of JSON loses its last digit.
const TOKENS_MAX: u64 = 1_000_000_000_000_000;

/// The longest window of a token budget, in seconds: a year.
const WINDOW_SECONDS_MAX: u64 = 31_536_000;

/// The longest that events can be kept, in days: a hundred years.
const KEEP_EVENTS_DAYS_MAX: u64 = 36_500;

/// The longest that a worker may take to end, in seconds: ten minutes.
const WORKER_GRACE_SECONDS_MAX: u64 = 600;

/// Behind the bounds of the counts of workers, to say where they come from.
const PORTS_NOTE: &str = ", the number of worker ports (8000-65535 without 9000-9099)";

/// The file of settings.
pub const CONFIG: Extra = Extra {
    key: "config",
    flag: "--config",
    variable: "CORTEX_CONFIG",
    placeholder: "FILE",
    help: "TOML file with any of the settings below as keys (total_workers = 12)",
};

/// The request to print the settings.
pub const PRINT_CONFIG: Extra = Extra {
    key: "print_config",
    flag: "--print-config",
    variable: "",
    placeholder: "",
    help: "Print the settings in force as TOML, each with where it came from, and exit",
};

/// Every setting, in the order in which it is shown.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "total_cpu",
        flag: "--total-cpu",
        variable: "CORTEX_TOTAL_CPU",
        placeholder: "CORES",
        help: "CPU that may be leased, in cores",
        follows: None,
        kind: Kind::Cores {
            least: 0,
            most: CPU_MILLIS_MAX,
            get: |settings| settings.total_cpu,
            set: |settings, value| settings.total_cpu = value,
        },
    },
    Setting {
        key: "total_memory",
        flag: "--total-memory",
        variable: "CORTEX_TOTAL_MEMORY",
        placeholder: "MB",
        help: "Memory that may be leased, in MB",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: MEMORY_MB_MAX,
            note: "",
            get: |settings| settings.total_memory.0,
            set: |settings, value| settings.total_memory = MemoryMb(value),
        },
    },
    Setting {
        key: "total_workers",
        flag: "--total-workers",
        variable: "CORTEX_TOTAL_WORKERS",
        placeholder: "COUNT",
        help: "Workers that may be leased at the start",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: WORKER_PORT_COUNT,
            note: PORTS_NOTE,
            get: |settings| settings.total_workers.into(),
            set: |settings, value| settings.total_workers = workers(value),
        },
    },
    Setting {
        key: "worker_cpu",
        flag: "--worker-cpu",
        variable: "CORTEX_WORKER_CPU",
        placeholder: "CORES",
        help: "CPU that each leased worker takes, in cores",
        follows: None,
        kind: Kind::Cores {
            least: 1,
            most: CPU_MILLIS_MAX,
            get: |settings| settings.worker_cpu,
            set: |settings, value| settings.worker_cpu = value,
        },
    },
    Setting {
        key: "worker_memory",
        flag: "--worker-memory",
        variable: "CORTEX_WORKER_MEMORY",
        placeholder: "MB",
        help: "Memory that each leased worker takes, in MB",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: MEMORY_MB_MAX,
            note: "",
            get: |settings| settings.worker_memory.0,
            set: |settings, value| settings.worker_memory = MemoryMb(value),
        },
    },
    Setting {
        key: "min_workers",
        flag: "--min-workers",
        variable: "CORTEX_MIN_WORKERS",
        placeholder: "COUNT",
        help: "The planner never goes below this many workers; at most total_workers",
        follows: Some("total_workers"),
        kind: Kind::Whole {
            least: 0,
            most: WORKER_PORT_COUNT,
            note: PORTS_NOTE,
            get: |settings| settings.min_workers.into(),
            set: |settings, value| settings.min_workers = workers(value),
        },
    },
    Setting {
        key: "max_workers",
        flag: "--max-workers",
        variable: "CORTEX_MAX_WORKERS",
        placeholder: "COUNT",
        help: "The planner never goes above this many workers; at least total_workers",
        follows: Some("total_workers"),
        kind: Kind::Whole {
            least: 0,
            most: WORKER_PORT_COUNT,
            note: PORTS_NOTE,
            get: |settings| settings.max_workers.into(),
            set: |settings, value| settings.max_workers = workers(value),
        },
    },
    Setting {
        key: "default_ttl_seconds",
        flag: "--default-ttl-seconds",
        variable: "CORTEX_DEFAULT_TTL_SECONDS",
        placeholder: "SECONDS",
        help: "How long a lease lasts when a request does not say; at most max_ttl_seconds",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: TTL_SECONDS_MAX,
            note: "",
            get: |settings| settings.default_ttl_seconds,
            set: |settings, value| settings.default_ttl_seconds = value,
        },
    },
    Setting {
        key: "max_ttl_seconds",
        flag: "--max-ttl-seconds",
        variable: "CORTEX_MAX_TTL_SECONDS",
        placeholder: "SECONDS",
        help: "The longest lease that a request may ask for",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: TTL_SECONDS_MAX,
            note: "",
            get: |settings| settings.max_ttl_seconds,
            set: |settings, value| settings.max_ttl_seconds = value,
        },
    },
    Setting {
        key: "sweep_seconds",
        flag: "--sweep-seconds",
        variable: "CORTEX_SWEEP_SECONDS",
        placeholder: "SECONDS",
        help: "Time between two sweeps of expired leases",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: PERIOD_SECONDS_MAX,
            note: "",
            get: |settings| settings.sweep_seconds,
            set: |settings, value| settings.sweep_seconds = value,
        },
    },
    Setting {
        key: "plan_seconds",
        flag: "--plan-seconds",
        variable: "CORTEX_PLAN_SECONDS",
        placeholder: "SECONDS",
        help: "Time between two plans of the planner",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: PERIOD_SECONDS_MAX,
            note: "",
            get: |settings| settings.plan_seconds,
            set: |settings, value| settings.plan_seconds = value,
        },
    },
    Setting {
        key: "max_live_allocations",
        flag: "--max-live-allocations",
        variable: "CORTEX_MAX_LIVE_ALLOCATIONS",
        placeholder: "COUNT",
        help: "How many allocations may be live at once",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: 10_000_000,
            note: "",
            get: |settings| settings.max_live_allocations as u64,
            set: |settings, value| settings.max_live_allocations = size(value),
        },
    },
    Setting {
        key: "history_count",
        flag: "--history-count",
        variable: "CORTEX_HISTORY_COUNT",
        placeholder: "COUNT",
        help: "How many released allocations are remembered",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: 1_000_000,
            note: "",
            get: |settings| settings.history_count as u64,
            set: |settings, value| settings.history_count = size(value),
        },
    },
    Setting {
        key: "history_seconds",
        flag: "--history-seconds",
        variable: "CORTEX_HISTORY_SECONDS",
        placeholder: "SECONDS",
        help: "How long a released allocation is remembered",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: HISTORY_SECONDS_MAX,
            note: "",
            get: |settings| settings.history_seconds,
            set: |settings, value| settings.history_seconds = value,
        },
    },
    Setting {
        key: "token_budget",
        flag: "--token-budget",
        variable: "CORTEX_TOKEN_BUDGET",
        placeholder: "TOKENS",
        help: "How many tokens all tasks may take together, in each window if there are any",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: TOKENS_MAX,
            note: "",
            get: |settings| settings.token_budget,
            set: |settings, value| settings.token_budget = value,
        },
    },
    Setting {
        key: "token_window_seconds",
        flag: "--token-window-seconds",
        variable: "CORTEX_TOKEN_WINDOW_SECONDS",
        placeholder: "SECONDS",
        help: "After how long what was taken of the token budget is cleared, each time; 0 for never",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: WINDOW_SECONDS_MAX,
            note: "",
            get: |settings| settings.token_window_seconds,
            set: |settings, value| settings.token_window_seconds = value,
        },
    },
    Setting {
        key: "heartbeat_seconds",
        flag: "--heartbeat-seconds",
        variable: "CORTEX_HEARTBEAT_SECONDS",
        placeholder: "SECONDS",
        help: "How often an agent sends a heartbeat; one that misses three in a row is lost",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: 3_600,
            note: "",
            get: |settings| settings.heartbeat_seconds,
            set: |settings, value| settings.heartbeat_seconds = value,
        },
    },
    Setting {
        key: "priority_aging_seconds",
        flag: "--priority-aging-seconds",
        variable: "CORTEX_PRIORITY_AGING_SECONDS",
        placeholder: "SECONDS",
        help: "How long a task waits before it counts as one level more urgent; 0 for never",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: 604_800,
            note: "",
            get: |settings| settings.priority_aging_seconds,
            set: |settings, value| settings.priority_aging_seconds = value,
        },
    },
    Setting {
        key: "response_target_ms",
        flag: "--response-target-ms",
        variable: "CORTEX_RESPONSE_TARGET_MS",
        placeholder: "MILLISECONDS",
        help: "How long a task should take; the health of agents is measured against it",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: 86_400_000,
            note: "",
            get: |settings| settings.response_target_ms,
            set: |settings, value| settings.response_target_ms = value,
        },
    },
    Setting {
        key: "task_lease_seconds",
        flag: "--task-lease-seconds",
        variable: "CORTEX_TASK_LEASE_SECONDS",
        placeholder: "SECONDS",
        help: "How long an attempt at a task may take that does not say; at most max_ttl_seconds",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: 604_800,
            note: "",
            get: |settings| settings.task_lease_seconds,
            set: |settings, value| settings.task_lease_seconds = value,
        },
    },
    Setting {
        key: "max_tasks",
        flag: "--max-tasks",
        variable: "CORTEX_MAX_TASKS",
        placeholder: "COUNT",
        help: "How many tasks may be queued or running at once",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: 10_000_000,
            note: "",
            get: |settings| settings.max_tasks,
            set: |settings, value| settings.max_tasks = value,
        },
    },
    Setting {
        key: "max_task_bytes",
        flag: "--max-task-bytes",
        variable: "CORTEX_MAX_TASK_BYTES",
        placeholder: "BYTES",
        help: "How many bytes the texts of queued and running tasks may take together",
        follows: None,
        kind: Kind::Whole {
            least: 65_536,
            most: 1_099_511_627_776,
            note: "",
            get: |settings| settings.max_task_bytes,
            set: |settings, value| settings.max_task_bytes = value,
        },
    },
    Setting {
        key: "state",
        flag: "--state",
        variable: "CORTEX_STATE",
        placeholder: "FILE",
        help: "Where the state lasts; made if there is none, and without one nothing outlives the process",
        follows: None,
        kind: Kind::Path {
            get: |settings| settings.state.as_ref(),
            set: |settings, value| settings.state = Some(value),
        },
    },
    Setting {
        key: "durability",
        flag: "--durability",
        variable: "CORTEX_DURABILITY",
        placeholder: "LEVEL",
        help: "What an answer survives: full is a power cut too, normal is a crash of the process only and faster",
        follows: None,
        kind: Kind::Choice {
            names: || names_of(Durability::ALL),
            get: |settings| settings.durability.name(),
            set: |settings, text| choice(text, Durability::ALL).map(|value| settings.durability = value),
        },
    },
    Setting {
        key: "keep_events",
        flag: "--keep-events",
        variable: "CORTEX_KEEP_EVENTS",
        placeholder: "DAYS",
        help: "How many days the events of the state are kept for audits; what is needed to recover stays longer",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: KEEP_EVENTS_DAYS_MAX,
            note: "",
            get: |settings| settings.keep_events_days,
            set: |settings, value| settings.keep_events_days = value,
        },
    },
    Setting {
        key: "recovery_grace_seconds",
        flag: "--recovery-grace-seconds",
        variable: "CORTEX_RECOVERY_GRACE_SECONDS",
        placeholder: "SECONDS",
        help: "How long leases that ran out while nothing ran are spared at least, so that holders can renew",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: PERIOD_SECONDS_MAX,
            note: "",
            get: |settings| settings.recovery_grace_seconds,
            set: |settings, value| settings.recovery_grace_seconds = value,
        },
    },
    Setting {
        key: "resize",
        flag: "--resize",
        variable: "CORTEX_RESIZE",
        placeholder: "ANSWER",
        help: "Whether a state with other totals is changed to those given here, rather than refused",
        follows: None,
        kind: Kind::Choice {
            names: || names_of(YES_NO),
            get: |settings| if settings.resize { "yes" } else { "no" },
            set: |settings, text| choice(text, YES_NO).map(|value| settings.resize = value),
        },
    },
    Setting {
        key: "daemon",
        flag: "--daemon",
        variable: "CORTEX_DAEMON",
        placeholder: "WHEN",
        help: "Whether sessions share a daemon: auto is with a state or what is run, never serves in the process",
        follows: None,
        kind: Kind::Choice {
            names: || names_of(DaemonMode::ALL),
            get: |settings| settings.daemon.name(),
            set: |settings, text| choice(text, DaemonMode::ALL).map(|value| settings.daemon = value),
        },
    },
    Setting {
        key: "daemon_idle_seconds",
        flag: "--daemon-idle-seconds",
        variable: "CORTEX_DAEMON_IDLE_SECONDS",
        placeholder: "SECONDS",
        help: "How long the daemon stays without a session and a live lease before it ends by itself",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: HISTORY_SECONDS_MAX,
            note: "",
            get: |settings| settings.daemon_idle_seconds,
            set: |settings, value| settings.daemon_idle_seconds = value,
        },
    },
    Setting {
        key: "catalog",
        flag: "--catalog",
        variable: "CORTEX_CATALOG",
        placeholder: "FILE",
        help: "MCP servers that are really run, as an mcpServers file",
        follows: None,
        kind: Kind::Path {
            get: |settings| settings.catalog.as_ref(),
            set: |settings, value| settings.catalog = Some(value),
        },
    },
    Setting {
        key: "endpoint_auth",
        flag: "--endpoint-auth",
        variable: "CORTEX_ENDPOINT_AUTH",
        placeholder: "WAY",
        help: "What endpoints of servers that are run ask for: token is that of the lease, none is nothing",
        follows: None,
        kind: Kind::Choice {
            names: || names_of(EndpointAuth::ALL),
            get: |settings| settings.endpoint_auth.name(),
            set: |settings, text| choice(text, EndpointAuth::ALL).map(|value| settings.endpoint_auth = value),
        },
    },
    Setting {
        key: "worker_command",
        flag: "--worker-command",
        variable: "CORTEX_WORKER_COMMAND",
        placeholder: "WORDS",
        help: "What each leased worker runs; without it workers are only kept in the books",
        follows: None,
        kind: Kind::Command {
            get: |settings| &settings.worker_command,
            set: |settings, value| settings.worker_command = value,
        },
    },
    Setting {
        key: "worker_env",
        flag: "--worker-env",
        variable: "CORTEX_WORKER_ENV",
        placeholder: "JSON",
        help: "Variables for workers that are run, besides those that say which worker it is",
        follows: None,
        kind: Kind::Pairs { get: |settings| &settings.worker_env, set: |settings, value| settings.worker_env = value },
    },
    Setting {
        key: "worker_ready",
        flag: "--worker-ready",
        variable: "CORTEX_WORKER_READY",
        placeholder: "WHEN",
        help: "When a worker that is run is ready: with its port open, with an answer at a path, or at once",
        follows: None,
        kind: Kind::Ready {
            get: |settings| &settings.worker_ready,
            set: |settings, value| settings.worker_ready = value,
        },
    },
    Setting {
        key: "worker_grace_seconds",
        flag: "--worker-grace-seconds",
        variable: "CORTEX_WORKER_GRACE_SECONDS",
        placeholder: "SECONDS",
        help: "How long a worker that is run has to end after it was asked to",
        follows: None,
        kind: Kind::Whole {
            least: 0,
            most: WORKER_GRACE_SECONDS_MAX,
            note: "",
            get: |settings| settings.worker_grace_seconds,
            set: |settings, value| settings.worker_grace_seconds = value,
        },
    },
    Setting {
        key: "max_calls_in_flight",
        flag: "--max-calls-in-flight",
        variable: "CORTEX_MAX_CALLS_IN_FLIGHT",
        placeholder: "COUNT",
        help: "How many calls of a client may be in flight before the server stops reading",
        follows: None,
        kind: Kind::Whole {
            least: 1,
            most: 65_536,
            note: "",
            get: |settings| settings.max_calls_in_flight as u64,
            set: |settings, value| settings.max_calls_in_flight = size(value),
        },
    },
    Setting {
        key: "max_line_bytes",
        flag: "--max-line-bytes",
        variable: "CORTEX_MAX_LINE_BYTES",
        placeholder: "BYTES",
        help: "The longest line that a client may send, in bytes",
        follows: None,
        kind: Kind::Whole {
            least: 1_024,
            most: 16_777_216,
            note: "",
            get: |settings| settings.max_line_bytes as u64,
            set: |settings, value| settings.max_line_bytes = size(value),
        },
    },
    Setting {
        key: "toolsets",
        flag: "--toolsets",
        variable: "CORTEX_TOOLSETS",
        placeholder: "LIST",
        help: "The tools on offer: allocation, leases and planning, servers that are run, the others: the fleet",
        follows: None,
        kind: Kind::Toolsets,
    },
    Setting {
        key: "log_level",
        flag: "--log-level",
        variable: "CORTEX_LOG_LEVEL",
        placeholder: "LEVEL",
        help: "The least severe log lines that are written to standard error",
        follows: None,
        kind: Kind::Choice {
            names: || names_of(LogLevel::ALL),
            get: |settings| settings.log_level.name(),
            set: |settings, text| choice(text, LogLevel::ALL).map(|value| settings.log_level = value),
        },
    },
    Setting {
        key: "log_format",
        flag: "--log-format",
        variable: "CORTEX_LOG_FORMAT",
        placeholder: "FORMAT",
        help: "How log lines are written",
        follows: None,
        kind: Kind::Choice {
            names: || names_of(LogFormat::ALL),
            get: |settings| settings.log_format.name(),
            set: |settings, text| choice(text, LogFormat::ALL).map(|value| settings.log_format = value),
        },
    },
];

/// A count of workers; their bound is far below where this would cut off.
fn workers(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A size in memory; the bounds of those that are one are below 2^32, so that it holds on every machine.
fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
