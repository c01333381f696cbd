//! The table of settings: key, flag, variable, help, and the type of the value with its bounds.
//!
//! To add a setting, add a field with its default to [`Settings`](super::Settings) and a row here. Only the rules
//! between two settings name settings elsewhere.

use super::parse::parse_choice;
use super::setting::{MetaSetting, Setting, ValueKind, names_of};
use super::values::{DaemonMode, Durability, EndpointAuth, LogFormat, LogLevel, YES_NO};
use cortex_core::ports::WORKER_PORT_COUNT;
use cortex_core::units::MemoryMb;

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

/// The file with settings.
pub const CONFIG: MetaSetting = MetaSetting {
    key: "config",
    flag: "--config",
    variable: "CORTEX_CONFIG",
    placeholder: "FILE",
    help: "TOML file with any of the settings below as keys (total_workers = 12)",
};

/// The flag that prints the settings.
pub const PRINT_CONFIG: MetaSetting = MetaSetting {
    key: "print_config",
    flag: "--print-config",
    variable: "",
    placeholder: "",
    help: "Print the effective settings as TOML, each with its source, and exit",
};

/// Every setting, in the order of the help page.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "total_cpu",
        flag: "--total-cpu",
        variable: "CORTEX_TOTAL_CPU",
        placeholder: "CORES",
        help: "CPU available for leases, in cores",
        follows: None,
        kind: ValueKind::Cores {
            min: 0,
            max: CPU_MILLIS_MAX,
            get: |settings| settings.total_cpu,
            set: |settings, value| settings.total_cpu = value,
        },
    },
    Setting {
        key: "total_memory",
        flag: "--total-memory",
        variable: "CORTEX_TOTAL_MEMORY",
        placeholder: "MB",
        help: "Memory available for leases, in MB",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: MEMORY_MB_MAX,
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
        help: "Workers available for leases at startup",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: WORKER_PORT_COUNT,
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
        help: "CPU of each leased worker, in cores",
        follows: None,
        kind: ValueKind::Cores {
            min: 1,
            max: CPU_MILLIS_MAX,
            get: |settings| settings.worker_cpu,
            set: |settings, value| settings.worker_cpu = value,
        },
    },
    Setting {
        key: "worker_memory",
        flag: "--worker-memory",
        variable: "CORTEX_WORKER_MEMORY",
        placeholder: "MB",
        help: "Memory of each leased worker, in MB",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: MEMORY_MB_MAX,
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
        help: "Fewest workers that the planner may scale down to; at most total_workers",
        follows: Some("total_workers"),
        kind: ValueKind::Whole {
            min: 0,
            max: WORKER_PORT_COUNT,
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
        help: "Most workers that the planner may scale up to; at least total_workers",
        follows: Some("total_workers"),
        kind: ValueKind::Whole {
            min: 0,
            max: WORKER_PORT_COUNT,
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
        help: "Duration of a lease if its request gives none; at most max_ttl_seconds",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: TTL_SECONDS_MAX,
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
        help: "Longest duration that a request for a lease may give",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: TTL_SECONDS_MAX,
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
        help: "Interval between sweeps of expired leases",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: PERIOD_SECONDS_MAX,
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
        help: "Interval between runs of the planner",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: PERIOD_SECONDS_MAX,
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
        help: "Maximum number of live allocations",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: 10_000_000,
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
        help: "Maximum number of released allocations that are kept",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: 1_000_000,
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
        help: "How long released allocations are kept",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: HISTORY_SECONDS_MAX,
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
        help: "Tokens that all tasks may use together, per window if token_window_seconds is set",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: TOKENS_MAX,
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
        help: "Window of the token budget: usage is reset each time it ends; 0 for never",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: WINDOW_SECONDS_MAX,
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
        help: "Interval between heartbeats of an agent; one that misses three in a row is lost",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: 3_600,
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
        help: "Waiting time after which a task's priority rises by one level; 0 for never",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: 604_800,
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
        help: "Target duration of a task, against which the health of agents is measured",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: 86_400_000,
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
        help: "Time limit of an attempt if its task gives none; at most max_ttl_seconds",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: 604_800,
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
        help: "Maximum number of queued and running tasks",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: 10_000_000,
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
        help: "Maximum total size of the texts of queued and running tasks",
        follows: None,
        kind: ValueKind::Whole {
            min: 65_536,
            max: 1_099_511_627_776,
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
        help: "State file, created if missing; without one, the state is lost when the process ends",
        follows: None,
        kind: ValueKind::Path {
            get: |settings| settings.state.as_ref(),
            set: |settings, value| settings.state = Some(value),
        },
    },
    Setting {
        key: "durability",
        flag: "--durability",
        variable: "CORTEX_DURABILITY",
        placeholder: "LEVEL",
        help: "What a confirmed change survives: full a crash and a power cut; normal (faster) a crash only",
        follows: None,
        kind: ValueKind::Choice {
            names: || names_of(Durability::ALL),
            get: |settings| settings.durability.name(),
            set: |settings, text| parse_choice(text, Durability::ALL).map(|value| settings.durability = value),
        },
    },
    Setting {
        key: "keep_events",
        flag: "--keep-events",
        variable: "CORTEX_KEEP_EVENTS",
        placeholder: "DAYS",
        help: "Days to keep events for audits; events that recovery needs are kept longer",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: KEEP_EVENTS_DAYS_MAX,
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
        help: "Time in which leases that expired during an outage can still be renewed, at least",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: PERIOD_SECONDS_MAX,
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
        help: "If the state has other totals: yes changes it to those given here, no refuses to start",
        follows: None,
        kind: ValueKind::Choice {
            names: || names_of(YES_NO),
            get: |settings| if settings.resize { "yes" } else { "no" },
            set: |settings, text| parse_choice(text, YES_NO).map(|value| settings.resize = value),
        },
    },
    Setting {
        key: "daemon",
        flag: "--daemon",
        variable: "CORTEX_DAEMON",
        placeholder: "WHEN",
        help: "Use of a daemon; auto: if a state, a catalog or a worker command is set; never: serve in-process",
        follows: None,
        kind: ValueKind::Choice {
            names: || names_of(DaemonMode::ALL),
            get: |settings| settings.daemon.name(),
            set: |settings, text| parse_choice(text, DaemonMode::ALL).map(|value| settings.daemon = value),
        },
    },
    Setting {
        key: "daemon_idle_seconds",
        flag: "--daemon-idle-seconds",
        variable: "CORTEX_DAEMON_IDLE_SECONDS",
        placeholder: "SECONDS",
        help: "Idle time before the daemon exits: no session, no live lease, no managed process",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: HISTORY_SECONDS_MAX,
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
        help: "MCP servers to run, as an mcpServers file",
        follows: None,
        kind: ValueKind::Path {
            get: |settings| settings.catalog.as_ref(),
            set: |settings, value| settings.catalog = Some(value),
        },
    },
    Setting {
        key: "endpoint_auth",
        flag: "--endpoint-auth",
        variable: "CORTEX_ENDPOINT_AUTH",
        placeholder: "WAY",
        help: "Authentication on managed-server endpoints: token requires the lease's token; none disables it",
        follows: None,
        kind: ValueKind::Choice {
            names: || names_of(EndpointAuth::ALL),
            get: |settings| settings.endpoint_auth.name(),
            set: |settings, text| parse_choice(text, EndpointAuth::ALL).map(|value| settings.endpoint_auth = value),
        },
    },
    Setting {
        key: "worker_command",
        flag: "--worker-command",
        variable: "CORTEX_WORKER_COMMAND",
        placeholder: "WORDS",
        help: "Command that each leased worker runs; without one, no worker processes are started",
        follows: None,
        kind: ValueKind::Command {
            get: |settings| &settings.worker_command,
            set: |settings, value| settings.worker_command = value,
        },
    },
    Setting {
        key: "worker_env",
        flag: "--worker-env",
        variable: "CORTEX_WORKER_ENV",
        placeholder: "JSON",
        help: "Environment variables of managed workers, in addition to those that identify the worker",
        follows: None,
        kind: ValueKind::Pairs {
            get: |settings| &settings.worker_env,
            set: |settings, value| settings.worker_env = value,
        },
    },
    Setting {
        key: "worker_ready",
        flag: "--worker-ready",
        variable: "CORTEX_WORKER_READY",
        placeholder: "WHEN",
        help: "A managed worker is ready when: tcp its port is open, a path answers 2xx, none immediately",
        follows: None,
        kind: ValueKind::Ready {
            get: |settings| &settings.worker_ready,
            set: |settings, value| settings.worker_ready = value,
        },
    },
    Setting {
        key: "worker_grace_seconds",
        flag: "--worker-grace-seconds",
        variable: "CORTEX_WORKER_GRACE_SECONDS",
        placeholder: "SECONDS",
        help: "Time between asking a managed worker to exit and killing it",
        follows: None,
        kind: ValueKind::Whole {
            min: 0,
            max: WORKER_GRACE_SECONDS_MAX,
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
        help: "Calls of one client that may be in flight before the server stops reading",
        follows: None,
        kind: ValueKind::Whole {
            min: 1,
            max: 65_536,
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
        help: "Longest line that a client may send, in bytes",
        follows: None,
        kind: ValueKind::Whole {
            min: 1_024,
            max: 16_777_216,
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
        help: "Toolsets to enable: the groups of tools that clients see",
        follows: None,
        kind: ValueKind::Toolsets,
    },
    Setting {
        key: "log_level",
        flag: "--log-level",
        variable: "CORTEX_LOG_LEVEL",
        placeholder: "LEVEL",
        help: "Least severe level of log lines that are written to standard error",
        follows: None,
        kind: ValueKind::Choice {
            names: || names_of(LogLevel::ALL),
            get: |settings| settings.log_level.name(),
            set: |settings, text| parse_choice(text, LogLevel::ALL).map(|value| settings.log_level = value),
        },
    },
    Setting {
        key: "log_format",
        flag: "--log-format",
        variable: "CORTEX_LOG_FORMAT",
        placeholder: "FORMAT",
        help: "Format of log lines",
        follows: None,
        kind: ValueKind::Choice {
            names: || names_of(LogFormat::ALL),
            get: |settings| settings.log_format.name(),
            set: |settings, text| parse_choice(text, LogFormat::ALL).map(|value| settings.log_format = value),
        },
    },
];

/// Converts a count of workers; the bounds of these settings are far below `u32::MAX`.
fn workers(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Converts a size in memory; the bounds of these settings are below 2^32, so that it fits on every machine.
fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
