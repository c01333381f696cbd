//! The errors and warnings of a catalog, each with the path of its key.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde_json::Value;

use super::FILE_BYTES_MAX;

/// The most characters of the catalog's text that an error shows.
const EXCERPT_CHARACTERS_MAX: usize = 60;

/// The most warnings of one file. The others are counted.
const WARNINGS_MAX: usize = 100;

/// Why a catalog was not read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file does not exist, may not be read, or is not a regular file.
    #[error("the catalog {} cannot be read: it must be a file that this user may read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("the catalog {} is larger than {FILE_BYTES_MAX} bytes: remove what is not a server entry", path.display())]
    TooLarge { path: PathBuf },
    #[error(
        "the catalog {} is not valid JSON: correct it; comments and trailing commas are not allowed, although \
         some clients accept them",
        path.display()
    )]
    NotJson {
        path: PathBuf,
        #[source]
        error: serde_json::Error,
    },
    /// A value is invalid.
    #[error("the catalog {}: {field} {reason}", path.display())]
    Invalid {
        path: PathBuf,
        /// The path of its key, such as `mcpServers.github.args[1]`.
        field: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
}

/// A part of a catalog that is valid but probably not what its author wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warning {
    /// The path of its key, such as `mcpServers.github.envFile`.
    pub(crate) field: String,
    /// What is done with it.
    pub(crate) reason: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.field, self.reason)
    }
}

/// An invalid value.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) field: String,
    pub(super) reason: String,
}

/// The path of a key in the catalog.
#[derive(Clone)]
pub(super) struct KeyPath(String);

impl KeyPath {
    pub(super) fn top(key: &str) -> Self {
        Self(key.to_owned())
    }

    /// Returns the path of a key of the object at this path.
    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}.{}", self.0, excerpt(key)))
    }

    /// Returns the path of an element of the array at this path.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub(super) fn problem(&self, reason: impl Into<String>) -> Problem {
        Problem { field: self.0.clone(), reason: reason.into() }
    }

    /// Returns the problem of a value of the wrong type, without showing the value.
    pub(super) fn wrong_type(&self, value: &Value, wanted: &str) -> Problem {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        self.problem(format!("is {kind}: give {wanted}"))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The warnings about one file.
#[derive(Default)]
pub(super) struct Warnings {
    kept: Vec<Warning>,
    more: usize,
}

impl Warnings {
    pub(super) fn add(&mut self, key_path: &KeyPath, reason: impl Into<String>) {
        if self.kept.len() < WARNINGS_MAX {
            self.kept.push(Warning { field: key_path.to_string(), reason: reason.into() });
        } else {
            self.more += 1;
        }
    }

    pub(super) fn finish(&mut self) -> Vec<Warning> {
        let mut kept = std::mem::take(&mut self.kept);
        if self.more > 0 {
            kept.push(Warning { field: "the catalog".to_owned(), reason: format!("has {} more warnings", self.more) });
        }
        kept
    }
}

/// Shortens a text of the catalog to one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String =
        text.chars().take(EXCERPT_CHARACTERS_MAX).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    if text.chars().nth(EXCERPT_CHARACTERS_MAX).is_some() {
        short.push('…');
    }
    short
}
