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
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

pub use error::{ConfigError, Source, flag_of, shorten, variable_of};
pub use parse::{parse_thousandths, parse_whole};
pub use setting::Setting;
pub use table::{SETTINGS, Settings};
pub use values::{DaemonMode, Durability, EndpointAuth, LogFormat, LogLevel, Toolset, WorkerReady};

/// The name of the setting that names the file, which cannot be a key of it.
pub const CONFIG: &str = "config";

/// The unparsed values of flags, by the key of the setting (`total_workers`).
pub type Flags = BTreeMap<&'static str, OsString>;

impl Settings {
    /// Returns whether servers or workers are managed, that is, run as processes.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.catalog.is_some() || !self.worker_command.is_empty()
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
            if let Some(value) = variable(&variable_of(setting.key)) {
                configuration.set_raw(setting, &value, Source::Variable(setting.key))?;
            }
        }
        for setting in SETTINGS {
            if let Some(value) = flags.get(setting.key) {
                configuration.set_raw(setting, value, Source::Flag(setting.key))?;
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
                Ok(text) => self.set(setting, &text, source)?,
                Err(kind) => return Err(ConfigError::wrong_type(setting, kind.to_owned(), source)),
            }
        }
        Ok(())
    }

    /// Sets a value that may not be UTF-8.
    fn set_raw(&mut self, setting: &'static Setting, value: &OsStr, source: Source) -> Result<(), ConfigError> {
        match value.to_str() {
            Some(text) => self.set(setting, text, source),
            // Replacement characters stand for the invalid bytes.
            None => {
                let value = format!("{}, not UTF-8", shorten(&value.to_string_lossy()));
                Err(ConfigError::wrong_type(setting, value, source))
            }
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
    let given = match flags.get(CONFIG) {
        Some(path) => Some((path.clone(), Source::Flag(CONFIG))),
        None => variable(&variable_of(CONFIG)).map(|path| (path, Source::Variable(CONFIG))),
    };
    match given {
        Some((path, source)) if path.is_empty() => Err(ConfigError::EmptyPath { origin: source }),
        Some((path, _)) => Ok(Some(PathBuf::from(path))),
        None => Ok(None),
    }
}
