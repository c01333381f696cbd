//! The settings of the server: what they are, where a value may come from, and what it may be.
//!
//! A value comes from a flag, else from an environment variable, else from a TOML file, else it is the default. The table
//! [`SETTINGS`] is the only place that names a setting: the command line, the variables, the keys of the file, the
//! help page and `--print-config` are all made from it. Every value travels as text to the parser of its setting, whichever
//! source it had, so that a mistake reads the same from each.
//!
//! Every value of every source is checked, even one that a stronger source replaces: a mistake in a file should show on the
//! day it is made, and not on the day the flag that hid it is dropped.

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

pub use error::shortened;
pub use error::{ConfigError, Source};
pub use parse::{thousandths, whole};
pub use setting::{Extra, Setting};
pub use table::{CONFIG, PRINT_CONFIG, SETTINGS};
pub use values::{DaemonMode, Durability, EndpointAuth, LogFormat, LogLevel, Toolset, WorkerReady};

use cortex_core::units::{CpuMillis, MemoryMb};

/// The values given as flags, by the key of the setting (`total_workers`), not yet looked at.
pub type Flags = BTreeMap<&'static str, OsString>;

/// Every setting of the server, typed and within its bounds.
///
/// The bounds of each field are those of its row in [`SETTINGS`]. `Settings::default()` is what a start without a flag, a
/// variable or a file gives, and the only place where defaults are written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// CPU that may be leased.
    pub total_cpu: CpuMillis,
    /// Memory that may be leased.
    pub total_memory: MemoryMb,
    /// Workers that may be leased at the start, at most [`cortex_core::ports::WORKER_PORT_COUNT`].
    pub total_workers: u32,
    /// CPU that each leased worker takes.
    pub worker_cpu: CpuMillis,
    /// Memory that each leased worker takes.
    pub worker_memory: MemoryMb,
    /// The planner never goes below this many workers; at most `total_workers`, and equal to it unless set.
    pub min_workers: u32,
    /// The planner never goes above this many workers; at least `total_workers`, and equal to it unless set.
    pub max_workers: u32,
    /// How long a lease lasts when a request does not say, in seconds; at most `max_ttl_seconds`.
    pub default_ttl_seconds: u64,
    /// The longest lease that a request may ask for, in seconds.
    pub max_ttl_seconds: u64,
    /// Time between two sweeps of expired leases, in seconds.
    pub sweep_seconds: u64,
    /// Time between two plans of the planner, in seconds.
    pub plan_seconds: u64,
    /// How many allocations may be live at once.
    pub max_live_allocations: usize,
    /// How many released allocations are remembered.
    pub history_count: usize,
    /// How long a released allocation is remembered, in seconds.
    pub history_seconds: u64,
    /// How many tokens the tasks may take together, in all or in each window.
    pub token_budget: u64,
    /// After how long what was taken of the token budget is cleared, each time, in seconds; 0 for never.
    pub token_window_seconds: u64,
    /// How often an agent sends a heartbeat, in seconds.
    pub heartbeat_seconds: u64,
    /// How long a task waits before it counts as one level more urgent, in seconds; 0 for never.
    pub priority_aging_seconds: u64,
    /// How long a task should take, in milliseconds; the health of agents is measured against it.
    pub response_target_ms: u64,
    /// How long an attempt at a task may take when its submission does not say, in seconds; at most `max_ttl_seconds`.
    pub task_lease_seconds: u64,
    /// How many tasks may be queued or running at once.
    pub max_tasks: u64,
    /// How many bytes the texts of queued and running tasks may take.
    pub max_task_bytes: u64,
    /// The file in which the state lasts; without one, nothing outlives the process.
    pub state: Option<PathBuf>,
    /// What an answer survives.
    pub durability: Durability,
    /// How long events are kept for audits, in days.
    pub keep_events_days: u64,
    /// How long leases that ran out while nothing ran are spared at least, in seconds.
    pub recovery_grace_seconds: u64,
    /// Whether a state with other totals is changed to those given, rather than refused.
    pub resize: bool,
    /// When sessions share a daemon.
    pub daemon: DaemonMode,
    /// How long the daemon stays without a session and a live lease, in seconds.
    pub daemon_idle_seconds: u64,
    /// The file with the MCP servers that are really run; without one, endpoints are names alone.
    pub catalog: Option<PathBuf>,
    /// What a client has to show at their endpoints.
    pub endpoint_auth: EndpointAuth,
    /// What each leased worker runs, a program and its arguments; workers are only in the books if it is empty.
    pub worker_command: Vec<String>,
    /// The variables of workers that are run.
    pub worker_env: BTreeMap<String, String>,
    /// When a worker that is run counts as ready.
    pub worker_ready: WorkerReady,
    /// How long a worker that is run has to end, in seconds.
    pub worker_grace_seconds: u64,
    /// How many calls of one connection may be in flight before reading stops.
    pub max_calls_in_flight: usize,
    /// The longest line that a client may send, in bytes.
    pub max_line_bytes: usize,
    /// The toolsets that are offered to clients; never empty.
    pub toolsets: BTreeSet<Toolset>,
    /// The least severe log lines that are written.
    pub log_level: LogLevel,
    /// How log lines are written.
    pub log_format: LogFormat,
}

impl Settings {
    /// Whether servers or workers are really run.
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

/// The settings in force, each with where its value came from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Configuration {
    /// The settings in force.
    pub settings: Settings,
    /// The sources of the settings that do not have their default, by key.
    sources: BTreeMap<&'static str, Source>,
}

impl Configuration {
    /// Reads the file, the variables and the flags, and puts them in force in this order.
    ///
    /// `variable` looks an environment variable up; it is an argument so that a test need not change the real environment.
    ///
    /// # Errors
    /// The first value, key or file that is wrong, or the first two settings that contradict each other.
    pub fn load(flags: &Flags, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut configuration = Self::default();
        if let Some(path) = config_path(flags, &variable)? {
            configuration.read_file(&path)?;
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
        configuration.fill_worker_bounds();
        configuration.fill_task_lease();
        configuration.check_agreement()?;
        configuration.check_system(cfg!(unix))?;
        Ok(configuration)
    }

    /// Where the value of the setting with this key came from; [`Source::Default`] for a key that is not in the table, too.
    pub fn source(&self, key: &str) -> &Source {
        self.sources.get(key).unwrap_or(&Source::Default)
    }

    /// The settings as TOML that `--config` takes again, each line ending with where its value came from.
    pub fn to_toml(&self) -> String {
        print::to_toml(self)
    }

    /// Reads the file at `path` and puts its values in force.
    fn read_file(&mut self, path: &std::path::Path) -> Result<(), ConfigError> {
        for (setting, value) in file::read(path)? {
            let source = Source::File(path.to_path_buf());
            match value {
                file::Given::Text(text) => self.set(setting, &text, source)?,
                file::Given::Unfit(kind) => {
                    return Err(ConfigError::unfit(setting, kind, source));
                }
            }
        }
        Ok(())
    }

    /// Puts a value in force that may not be text at all.
    fn set_raw(&mut self, setting: &'static Setting, value: &OsStr, source: Source) -> Result<(), ConfigError> {
        match value.to_str() {
            Some(text) => self.set(setting, text, source),
            None => Err(ConfigError::not_utf8(setting, value, source)),
        }
    }

    /// Puts a value in force and remembers its source.
    fn set(&mut self, setting: &'static Setting, text: &str, source: Source) -> Result<(), ConfigError> {
        match setting.read(&mut self.settings, text) {
            Ok(()) => {
                self.sources.insert(setting.key, source);
                Ok(())
            }
            Err(refusal) => Err(ConfigError::wrong_value(setting, text, source, refusal)),
        }
    }

    /// A bound of the planner that nobody gave is the total, so that capacity stays as it is unless somebody asks for more.
    fn fill_worker_bounds(&mut self) {
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

    /// A lease on a task that nobody gave is no longer than a lease may be: whoever lowers the maximum need not know of it.
    fn fill_task_lease(&mut self) {
        if !self.sources.contains_key("task_lease_seconds") {
            let settings = &mut self.settings;
            settings.task_lease_seconds = settings.task_lease_seconds.min(settings.max_ttl_seconds);
        }
    }

    /// Checks the settings that bound each other, in force as they are now.
    fn check_agreement(&self) -> Result<(), ConfigError> {
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

    /// Checks that this system can do what is asked for: who runs servers ends their processes as only Unix can.
    fn check_system(&self, is_unix: bool) -> Result<(), ConfigError> {
        match &self.settings.catalog {
            Some(path) if !is_unix => Err(ConfigError::NoCatalogHere {
                value: shortened(&path.to_string_lossy()),
                origin: self.source("catalog").clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// The file that the flag, else the variable, names.
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
