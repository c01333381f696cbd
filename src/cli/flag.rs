//! A flag that is not a setting: its help, its argument for the parser, and its value.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches};
use cortex_config::{ConfigError, flag_of};
use std::ffi::OsString;
use std::path::PathBuf;

pub(super) struct Flag {
    /// The flag follows from it, and errors show it.
    pub(super) key: &'static str,
    /// The placeholder of the value in the help page; empty for a flag without a value.
    pub(super) placeholder: &'static str,
    /// The text after "give" in an error.
    pub(super) allowed: &'static str,
    pub(super) help: &'static str,
}

impl Flag {
    pub(super) const fn switch(key: &'static str, help: &'static str) -> Self {
        Self { key, placeholder: "", allowed: "", help }
    }

    pub(super) fn arg(&self) -> Arg {
        let arg = match self.placeholder {
            "" => named(self.key).action(ArgAction::SetTrue),
            placeholder => valued(self.key, placeholder),
        };
        arg.help(self.help)
    }

    pub(super) fn wrong_value(&self, value: &str) -> ConfigError {
        ConfigError::wrong_flag(self.key, value, self.allowed)
    }

    /// Returns the parsed value, if the flag is given.
    pub(super) fn parse<T>(
        &self,
        matches: &ArgMatches,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = matches.get_one::<OsString>(self.key) else { return Ok(None) };
        let value = value.to_string_lossy();
        parse(&value).map(Some).ok_or_else(|| self.wrong_value(&value))
    }

    /// Returns the path, if the flag is given.
    pub(super) fn path(&self, matches: &ArgMatches) -> Result<Option<PathBuf>, ConfigError> {
        match matches.get_one::<OsString>(self.key) {
            Some(path) if path.is_empty() => Err(self.wrong_value("")),
            path => Ok(path.map(PathBuf::from)),
        }
    }
}

/// Creates the argument of a flag with a value, which stays unparsed.
pub(super) fn valued(key: &'static str, placeholder: &'static str) -> Arg {
    named(key)
        .value_name(placeholder)
        .value_parser(ValueParser::os_string())
        // A negative value is reported as a value that is not allowed, not as an unknown flag.
        .allow_negative_numbers(true)
}

fn named(key: &'static str) -> Arg {
    Arg::new(key).long(flag_of(key).trim_start_matches('-').to_owned())
}
