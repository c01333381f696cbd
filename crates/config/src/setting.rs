//! What a setting is: its names, its kind, and how a text becomes its value and its value a text.

use toml::Value;

use super::{
    Settings, Toolset, WorkerReady,
    parse::{self, Refusal},
};
use cortex_core::units::CpuMillis;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// The key in the TOML file, and the name in errors.
    pub key: &'static str,
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// What stands for the value in the help page.
    pub placeholder: &'static str,
    /// What it is, in one line without a full stop.
    pub help: &'static str,
    /// The setting whose value it has unless it is given, where that is so.
    pub(super) follows: Option<&'static str>,
    /// What its values are.
    pub(super) kind: Kind,
}

/// A name that is no key of the file: the file cannot say which file it is, nor ask to be printed.
#[derive(Debug)]
pub struct Extra {
    /// The name in errors.
    pub key: &'static str,
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// The environment variable; empty where there is none.
    pub variable: &'static str,
    /// What stands for the value in the help page; empty where it takes none.
    pub placeholder: &'static str,
    /// What it is, in one line without a full stop.
    pub help: &'static str,
}

/// What the values of a setting are, and the field that holds them.
#[derive(Debug)]
pub(super) enum Kind {
    /// A whole number.
    Whole { least: u64, most: u64, note: &'static str, get: fn(&Settings) -> u64, set: fn(&mut Settings, u64) },
    /// CPU in cores; the bounds are in thousandths of a core.
    Cores { least: u64, most: u64, get: fn(&Settings) -> CpuMillis, set: fn(&mut Settings, CpuMillis) },
    /// Words, in one string or in an array of strings.
    Toolsets,
    /// One of a few words.
    Choice {
        names: fn() -> Vec<&'static str>,
        get: fn(&Settings) -> &'static str,
        set: fn(&mut Settings, &str) -> Result<(), Refusal>,
    },
    /// A command: a program and its arguments; or nothing.
    Command { get: fn(&Settings) -> &[String], set: fn(&mut Settings, Vec<String>) },
    /// Names, each with a text.
    Pairs { get: fn(&Settings) -> &BTreeMap<String, String>, set: fn(&mut Settings, BTreeMap<String, String>) },
    /// When a worker is ready.
    Ready { get: fn(&Settings) -> &WorkerReady, set: fn(&mut Settings, WorkerReady) },
    /// The path of a file, or nothing.
    Path { get: fn(&Settings) -> Option<&PathBuf>, set: fn(&mut Settings, PathBuf) },
}

impl Setting {
    /// What is allowed, as it stands behind "give" in an error.
    pub fn allowed(&self) -> String {
        match &self.kind {
            Kind::Whole { least, most, note, .. } => format!("{least} to {most}{note}"),
            Kind::Cores { least, most, .. } => format!(
                "{} to {} cores, with at most 3 decimals",
                CpuMillis::from_millis(*least).as_cores(),
                CpuMillis::from_millis(*most).as_cores()
            ),
            Kind::Toolsets => {
                format!("{}, several with commas, or {}", words(&names_of(Toolset::ALL)), Toolset::ALL_NAME)
            }
            Kind::Choice { names, .. } => words(&names()),
            Kind::Command { .. } => "words with blanks between them, or a JSON array of texts".to_owned(),
            Kind::Pairs { .. } => "a JSON object of texts".to_owned(),
            Kind::Ready { .. } => "tcp, none or a path such as /health".to_owned(),
            Kind::Path { .. } => "the path of a file".to_owned(),
        }
    }

    /// Reads a text into its field.
    ///
    /// # Errors
    /// The text is not allowed; the field is as it was.
    pub(super) fn read(&self, settings: &mut Settings, text: &str) -> Result<(), Refusal> {
        match &self.kind {
            Kind::Whole { least, most, set, .. } => set(settings, parse::whole(text, *least, *most)?),
            Kind::Cores { least, most, set, .. } => {
                let millis = parse::thousandths(text, *least, *most)?;
                set(settings, CpuMillis::from_millis(millis));
            }
            Kind::Toolsets => settings.toolsets = parse::toolsets(text)?,
            Kind::Choice { set, .. } => set(settings, text)?,
            Kind::Command { set, .. } => set(settings, parse::command(text)?),
            Kind::Pairs { set, .. } => set(settings, parse::pairs(text)?),
            Kind::Ready { set, .. } => set(settings, WorkerReady::read(text).ok_or(Refusal::NotAllowed)?),
            Kind::Path { .. } if text.is_empty() => return Err(Refusal::NotAllowed),
            Kind::Path { set, .. } => set(settings, PathBuf::from(text)),
        }
        Ok(())
    }

    /// The value in its field, as TOML that reads back to the same; nothing where there is no value.
    pub(super) fn show(&self, settings: &Settings) -> Option<Value> {
        Some(match &self.kind {
            // Every bound is below 2^63, so that no number is lost here.
            Kind::Whole { get, .. } => Value::Integer(i64::try_from(get(settings)).unwrap_or(i64::MAX)),
            Kind::Cores { get, .. } => Value::Float(get(settings).as_cores()),
            Kind::Toolsets => {
                let names = settings.toolsets.iter();
                Value::Array(names.map(|toolset| Value::from(toolset.name())).collect())
            }
            Kind::Choice { get, .. } => Value::from(get(settings)),
            Kind::Command { get, .. } if get(settings).is_empty() => return None,
            Kind::Command { get, .. } => {
                Value::Array(get(settings).iter().map(|word| Value::from(word.as_str())).collect())
            }
            Kind::Pairs { get, .. } if get(settings).is_empty() => return None,
            Kind::Pairs { get, .. } => Value::Table(
                get(settings).iter().map(|(name, text)| (name.clone(), Value::from(text.as_str()))).collect(),
            ),
            Kind::Ready { get, .. } => Value::from(get(settings).to_string()),
            Kind::Path { get, .. } => Value::from(get(settings)?.to_string_lossy().into_owned()),
        })
    }

    /// The default, as the help page shows it.
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

    /// Whether the file may give an array.
    pub(super) fn takes_list(&self) -> bool {
        matches!(self.kind, Kind::Toolsets | Kind::Command { .. })
    }

    /// Whether the file may give a table.
    pub(super) fn takes_table(&self) -> bool {
        matches!(self.kind, Kind::Pairs { .. })
    }

    /// Whether a list is handed to the parser as JSON, since its words may have any letters.
    pub(super) fn wants_json(&self) -> bool {
        matches!(self.kind, Kind::Command { .. })
    }
}

/// The names of a table of words.
pub(super) fn names_of<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

/// Names, as a list to choose from.
fn words(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
