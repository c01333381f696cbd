//! The settings of the server, with their sources and bounds.
//!
//! The precedence is: flag, environment variable, TOML file, default. The table [`SETTINGS`] is the only place that
//! names a setting: the command line, the variables, the keys of the file, the help page and `--print-config` are all
//! generated from it. Every value is passed as text to the parser of its setting, whatever its source, so that an error
//! reads the same from each.
//!
//! Every value of every source is checked, even one that a source of higher precedence replaces: a mistake in a file is
//! reported when it is made, not when the flag that hides it is removed.

mod error;
mod file;
mod parse;
mod print;
mod setting;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    path::PathBuf,
};

pub use error::shorten;
pub use error::{ConfigError, Source};
pub use parse::{parse_thousandths, parse_whole};
pub use setting::{MetaSetting, Setting};
pub use table::{CONFIG, PRINT_CONFIG, SETTINGS};
pub use values::{DaemonMode, Durability, EndpointAuth, LogFormat, LogLevel, Toolset, WorkerReady};

use cortex_core::units::{CpuMillis, MemoryMb};

/// The unparsed values of flags, by the key of the setting (`total_workers`).
pub type Flags = BTreeMap<&'static str, OsString>;

/// Every setting of the server, typed and within its bounds.
///
/// The bounds of each field are in its row of [`SETTINGS`]. `Settings::default()` is the only place that defines
/// defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// CPU available for leases.
    pub total_cpu: CpuMillis,
    /// Memory available for leases.
    pub total_memory: MemoryMb,
    /// Workers available for leases at startup, at most [`cortex_core::ports::WORKER_PORT_COUNT`].
    pub total_workers: u32,
    /// CPU of each leased worker.
    pub worker_cpu: CpuMillis,
    /// Memory of each leased worker.
    pub worker_memory: MemoryMb,
    /// The fewest workers that the planner may scale down to; at most `total_workers`, which is the default.
    pub min_workers: u32,
    /// The most workers that the planner may scale up to; at least `total_workers`, which is the default.
    pub max_workers: u32,
    /// Duration of a lease whose request gives none, in seconds; at most `max_ttl_seconds`.
    pub default_ttl_seconds: u64,
    /// Longest duration that a request for a lease may give, in seconds.
    pub max_ttl_seconds: u64,
    /// Interval between sweeps of expired leases, in seconds.
    pub sweep_seconds: u64,
    /// Interval between runs of the planner, in seconds.
    pub plan_seconds: u64,
    /// Maximum number of live allocations.
    pub max_live_allocations: usize,
    /// Maximum number of released allocations that are kept.
    pub history_count: usize,
    /// How long released allocations are kept, in seconds.
    pub history_seconds: u64,
    /// Tokens that all tasks may use together, in total or per window.
    pub token_budget: u64,
    /// Length of the token budget's window, at whose end usage is reset, in seconds; 0 for never.
    pub token_window_seconds: u64,
    /// Interval between heartbeats of an agent, in seconds.
    pub heartbeat_seconds: u64,
    /// Waiting time after which a task's priority rises by one level, in seconds; 0 for never.
    pub priority_aging_seconds: u64,
    /// Target duration of a task, in milliseconds; the health of agents is measured against it.
    pub response_target_ms: u64,
    /// Time limit of a task attempt whose submission gives none, in seconds; at most `max_ttl_seconds`.
    pub task_lease_seconds: u64,
    /// Maximum number of queued and running tasks.
    pub max_tasks: u64,
    /// Maximum total size of the texts of queued and running tasks, in bytes.
    pub max_task_bytes: u64,
    /// The state file; without one, the state is lost when the process ends.
    pub state: Option<PathBuf>,
    /// The failures that a confirmed change survives.
    pub durability: Durability,
    /// How long events are kept for audits, in days.
    pub keep_events_days: u64,
    /// Minimum time to renew leases that expired while no process was running, in seconds.
    pub recovery_grace_seconds: u64,
    /// Whether to change a state with other totals to those given, instead of refusing it.
    pub resize: bool,
    /// Whether sessions use a shared daemon.
    pub daemon: DaemonMode,
    /// Idle time before the daemon exits, in seconds.
    pub daemon_idle_seconds: u64,
    /// The file with the MCP servers to run; without one, endpoints are only names.
    pub catalog: Option<PathBuf>,
    /// The authentication at the endpoints of managed servers.
    pub endpoint_auth: EndpointAuth,
    /// The command of each leased worker, a program and its arguments; if empty, no worker processes are started.
    pub worker_command: Vec<String>,
    /// The environment variables of managed workers.
    pub worker_env: BTreeMap<String, String>,
    /// The readiness check of managed workers.
    pub worker_ready: WorkerReady,
    /// Time between asking a managed worker to exit and killing it, in seconds.
    pub worker_grace_seconds: u64,
    /// Calls of one connection that may be in flight before the server stops reading.
    pub max_calls_in_flight: usize,
    /// Longest line that a client may send, in bytes.
    pub max_line_bytes: usize,
    /// The enabled toolsets; never empty.
    pub toolsets: BTreeSet<Toolset>,
    /// The least severe level of log lines that are written.
    pub log_level: LogLevel,
    pub log_format: LogFormat,
}

impl Settings {
    /// Returns whether servers or workers are managed, that is, run as processes.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.catalog.is_some() || !self.worker_command.is_empty()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            total_cpu: CpuMillis::from_millis(16_000),
            total_memory: MemoryMb(32_768),
            total_workers: 10,
            worker_cpu: CpuMillis::from_millis(1_000),
            worker_memory: MemoryMb(2_048),
            min_workers: 10,
            max_workers: 10,
            default_ttl_seconds: 3_600,
            max_ttl_seconds: 604_800,
            sweep_seconds: 300,
            plan_seconds: 30,
            max_live_allocations: 1_000_000,
            history_count: 10_000,
            history_seconds: 86_400,
            token_budget: 200_000,
            token_window_seconds: 0,
            heartbeat_seconds: 10,
            priority_aging_seconds: 300,
            response_target_ms: 3_000,
            task_lease_seconds: 300,
            max_tasks: 100_000,
            max_task_bytes: 268_435_456,
            state: None,
            durability: Durability::Full,
            keep_events_days: 30,
            recovery_grace_seconds: 60,
            resize: false,
            daemon: DaemonMode::Auto,
            daemon_idle_seconds: 300,
            catalog: None,
            endpoint_auth: EndpointAuth::Token,
            worker_command: Vec::new(),
            worker_env: BTreeMap::new(),
            worker_ready: WorkerReady::Tcp,
            worker_grace_seconds: 5,
            max_calls_in_flight: 256,
            max_line_bytes: 1_048_576,
            toolsets: BTreeSet::from([Toolset::Allocation]),
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
        }
    }
}

/// The effective settings, each with its source.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Configuration {
    /// The effective settings.
    pub settings: Settings,
    /// The sources of the settings that were given, by key.
    sources: BTreeMap<&'static str, Source>,
}

impl Configuration {
    /// Loads the file, the variables and the flags, in this order.
    ///
    /// `variable` looks up an environment variable; it is an argument so that tests need not change the environment.
    ///
    /// # Errors
    /// The first invalid value, key or file, or the first two settings that contradict each other.
    pub fn load(flags: &Flags, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut configuration = Self::default();
        if let Some(path) = config_path(flags, &variable)? {
            configuration.load_file(&path)?;
        }
        for setting in SETTINGS {
            if let Some(value) = variable(setting.variable) {
                configuration.set_raw(setting, &value, Source::Variable(setting.variable))?;
            }
        }
        for setting in SETTINGS {
            if let Some(value) = flags.get(setting.key) {
                configuration.set_raw(setting, value, Source::Flag(setting.flag))?;
            }
        }
        configuration.default_worker_bounds();
        configuration.default_task_lease();
        configuration.check_consistency()?;
        configuration.check_platform(cfg!(unix))?;
        Ok(configuration)
    }

    /// Returns the source of a setting's value; [`Source::Default`] also for a key that is not in the table.
    pub fn source(&self, key: &str) -> &Source {
        self.sources.get(key).unwrap_or(&Source::Default)
    }

    /// Returns the settings as TOML that `--config` accepts; each line ends with the source of its value.
    pub fn to_toml(&self) -> String {
        print::to_toml(self)
    }

    /// Loads the values of the file at `path`.
    fn load_file(&mut self, path: &std::path::Path) -> Result<(), ConfigError> {
        for (setting, value) in file::read(path)? {
            let source = Source::File(path.to_path_buf());
            match value {
                file::FileValue::Text(text) => self.set(setting, &text, source)?,
                file::FileValue::WrongType(kind) => {
                    return Err(ConfigError::wrong_type(setting, kind, source));
                }
            }
        }
        Ok(())
    }

    /// Sets a value that may not be UTF-8.
    fn set_raw(&mut self, setting: &'static Setting, value: &OsStr, source: Source) -> Result<(), ConfigError> {
        match value.to_str() {
            Some(text) => self.set(setting, text, source),
            None => Err(ConfigError::not_utf8(setting, value, source)),
        }
    }

    /// Sets a value and records its source.
    fn set(&mut self, setting: &'static Setting, text: &str, source: Source) -> Result<(), ConfigError> {
        match setting.parse(&mut self.settings, text) {
            Ok(()) => {
                self.sources.insert(setting.key, source);
                Ok(())
            }
            Err(error) => Err(ConfigError::wrong_value(setting, text, source, error)),
        }
    }

    /// Sets planner bounds that were not given to the total, so that the capacity is fixed by default.
    fn default_worker_bounds(&mut self) {
        let total = self.settings.total_workers;
        let given = |key| self.sources.contains_key(key);
        let (min_given, max_given) = (given("min_workers"), given("max_workers"));
        if !min_given {
            self.settings.min_workers = total;
        }
        if !max_given {
            self.settings.max_workers = total;
        }
    }

    /// Limits a task lease that was not given to the longest lease, so that lowering `max_ttl_seconds` alone is valid.
    fn default_task_lease(&mut self) {
        if !self.sources.contains_key("task_lease_seconds") {
            let settings = &mut self.settings;
            settings.task_lease_seconds = settings.task_lease_seconds.min(settings.max_ttl_seconds);
        }
    }

    /// Checks the settings that bound each other.
    fn check_consistency(&self) -> Result<(), ConfigError> {
        let settings = &self.settings;
        let workers = [
            ("min_workers", u64::from(settings.min_workers)),
            ("total_workers", u64::from(settings.total_workers)),
            ("max_workers", u64::from(settings.max_workers)),
        ];
        let ttl_max = ("max_ttl_seconds", settings.max_ttl_seconds);
        let pairs = [
            (workers[0], workers[1]),
            (workers[1], workers[2]),
            (("default_ttl_seconds", settings.default_ttl_seconds), ttl_max),
            (("task_lease_seconds", settings.task_lease_seconds), ttl_max),
        ];
        for (smaller, larger) in pairs {
            if smaller.1 > larger.1 {
                return Err(ConfigError::Contradiction {
                    smaller: smaller.0,
                    smaller_value: smaller.1,
                    smaller_source: self.source(smaller.0).clone(),
                    larger: larger.0,
                    larger_value: larger.1,
                    larger_source: self.source(larger.0).clone(),
                });
            }
        }
        Ok(())
    }

    /// Checks that the platform supports the settings: managed servers need the process control of Unix.
    fn check_platform(&self, is_unix: bool) -> Result<(), ConfigError> {
        match &self.settings.catalog {
            Some(path) if !is_unix => Err(ConfigError::UnsupportedCatalog {
                value: shorten(&path.to_string_lossy()),
                origin: self.source("catalog").clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// Returns the path of the file from the flag, or else from the variable.
fn config_path(flags: &Flags, variable: &impl Fn(&str) -> Option<OsString>) -> Result<Option<PathBuf>, ConfigError> {
    let given = match flags.get(CONFIG.key) {
        Some(path) => Some((path.clone(), Source::Flag(CONFIG.flag))),
        None => variable(CONFIG.variable).map(|path| (path, Source::Variable(CONFIG.variable))),
    };
    match given {
        Some((path, source)) if path.is_empty() => Err(ConfigError::EmptyPath { origin: source }),
        Some((path, _)) => Ok(Some(PathBuf::from(path))),
        None => Ok(None),
    }
}
