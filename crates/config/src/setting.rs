//! A setting: its names, the type of its value, and the conversion between text and value.

use toml::Value;

use super::{
    Settings, Toolset, WorkerReady,
    parse::{self, ParseError},
};
use cortex_core::units::CpuMillis;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A row of the table of settings.
#[derive(Debug)]
pub struct Setting {
    /// The key in the TOML file, and the name in errors.
    pub key: &'static str,
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// The placeholder of the value in the help page.
    pub placeholder: &'static str,
    /// The description, in one line without a full stop.
    pub help: &'static str,
    /// The key of the setting whose value is the default of this one, if there is one.
    pub(super) follows: Option<&'static str>,
    pub(super) kind: ValueKind,
}

/// A flag about the settings themselves, which cannot be a key of the file.
#[derive(Debug)]
pub struct MetaSetting {
    /// The name in errors.
    pub key: &'static str,
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The environment variable, or empty.
    pub variable: &'static str,
    /// The placeholder of the value in the help page, or empty for a flag without a value.
    pub placeholder: &'static str,
    /// The description, in one line without a full stop.
    pub help: &'static str,
}

/// The type and bounds of a setting's value, with access to its field of [`Settings`].
#[derive(Debug)]
pub(super) enum ValueKind {
    /// A whole number.
    Whole { min: u64, max: u64, note: &'static str, get: fn(&Settings) -> u64, set: fn(&mut Settings, u64) },
    /// CPU in cores; the bounds are in thousandths of a core.
    Cores { min: u64, max: u64, get: fn(&Settings) -> CpuMillis, set: fn(&mut Settings, CpuMillis) },
    /// Names of toolsets, in one string with commas or in an array of strings.
    Toolsets,
    /// One of a few words.
    Choice {
        names: fn() -> Vec<&'static str>,
        get: fn(&Settings) -> &'static str,
        set: fn(&mut Settings, &str) -> Result<(), ParseError>,
    },
    /// A command: a program and its arguments; or none.
    Command { get: fn(&Settings) -> &[String], set: fn(&mut Settings, Vec<String>) },
    /// Names and their values.
    Pairs { get: fn(&Settings) -> &BTreeMap<String, String>, set: fn(&mut Settings, BTreeMap<String, String>) },
    /// The readiness check of a worker.
    Ready { get: fn(&Settings) -> &WorkerReady, set: fn(&mut Settings, WorkerReady) },
    /// The path of a file, or none.
    Path { get: fn(&Settings) -> Option<&PathBuf>, set: fn(&mut Settings, PathBuf) },
}

impl Setting {
    /// Describes the allowed values, as the text after "give" in an error.
    pub fn allowed(&self) -> String {
        match &self.kind {
            ValueKind::Whole { min, max, note, .. } => format!("{min} to {max}{note}"),
            ValueKind::Cores { min, max, .. } => format!(
                "{} to {} cores, with at most 3 decimals",
                CpuMillis::from_millis(*min).as_cores(),
                CpuMillis::from_millis(*max).as_cores()
            ),
            ValueKind::Toolsets => {
                format!("{}, separated by commas, or {}", alternatives(&names_of(Toolset::ALL)), Toolset::ALL_NAME)
            }
            ValueKind::Choice { names, .. } => alternatives(&names()),
            ValueKind::Command { .. } => "words separated by spaces, or a JSON array of strings".to_owned(),
            ValueKind::Pairs { .. } => "a JSON object whose values are strings".to_owned(),
            ValueKind::Ready { .. } => "tcp, none or a path such as /health".to_owned(),
            ValueKind::Path { .. } => "the path of a file".to_owned(),
        }
    }

    /// Parses a text into its field.
    ///
    /// # Errors
    /// The text is not allowed; the field is unchanged then.
    pub(super) fn parse(&self, settings: &mut Settings, text: &str) -> Result<(), ParseError> {
        match &self.kind {
            ValueKind::Whole { min, max, set, .. } => set(settings, parse::parse_whole(text, *min, *max)?),
            ValueKind::Cores { min, max, set, .. } => {
                let millis = parse::parse_thousandths(text, *min, *max)?;
                set(settings, CpuMillis::from_millis(millis));
            }
            ValueKind::Toolsets => settings.toolsets = parse::parse_toolsets(text)?,
            ValueKind::Choice { set, .. } => set(settings, text)?,
            ValueKind::Command { set, .. } => set(settings, parse::parse_command(text)?),
            ValueKind::Pairs { set, .. } => set(settings, parse::parse_pairs(text)?),
            ValueKind::Ready { set, .. } => set(settings, WorkerReady::parse(text).ok_or(ParseError::NotAllowed)?),
            ValueKind::Path { .. } if text.is_empty() => return Err(ParseError::NotAllowed),
            ValueKind::Path { set, .. } => set(settings, PathBuf::from(text)),
        }
        Ok(())
    }

    /// Returns the value of its field as TOML that parses to the same value; `None` if it has none.
    pub(super) fn show(&self, settings: &Settings) -> Option<Value> {
        Some(match &self.kind {
            // Every bound is below 2^63, so that no number is truncated.
            ValueKind::Whole { get, .. } => Value::Integer(i64::try_from(get(settings)).unwrap_or(i64::MAX)),
            ValueKind::Cores { get, .. } => Value::Float(get(settings).as_cores()),
            ValueKind::Toolsets => {
                let names = settings.toolsets.iter();
                Value::Array(names.map(|toolset| Value::from(toolset.name())).collect())
            }
            ValueKind::Choice { get, .. } => Value::from(get(settings)),
            ValueKind::Command { get, .. } if get(settings).is_empty() => return None,
            ValueKind::Command { get, .. } => {
                Value::Array(get(settings).iter().map(|word| Value::from(word.as_str())).collect())
            }
            ValueKind::Pairs { get, .. } if get(settings).is_empty() => return None,
            ValueKind::Pairs { get, .. } => Value::Table(
                get(settings).iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect(),
            ),
            ValueKind::Ready { get, .. } => Value::from(get(settings).to_string()),
            ValueKind::Path { get, .. } => Value::from(get(settings)?.to_string_lossy().into_owned()),
        })
    }

    /// Returns the default as the help page shows it.
    pub fn default_text(&self) -> String {
        if let Some(other) = self.follows {
            return other.to_owned();
        }
        match self.show(&Settings::default()) {
            Some(Value::String(text)) => text,
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Some(other) => other.to_string(),
            None => "none".to_owned(),
        }
    }

    /// Returns whether the value in the file may be an array.
    pub(super) fn takes_list(&self) -> bool {
        matches!(self.kind, ValueKind::Toolsets | ValueKind::Command { .. })
    }

    /// Returns whether the value in the file may be a table.
    pub(super) fn takes_table(&self) -> bool {
        matches!(self.kind, ValueKind::Pairs { .. })
    }

    /// Returns whether an array is passed to the parser as JSON, since its words may contain any characters.
    pub(super) fn wants_json(&self) -> bool {
        matches!(self.kind, ValueKind::Command { .. })
    }
}

/// Returns the names of a table of choices.
pub(super) fn names_of<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

/// Formats names as alternatives: `a, b or c`.
fn alternatives(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
