//! What is wrong with a catalog, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde_json::Value;

use super::FILE_BYTES_MAX;

/// The most characters that are shown of something that was given.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// The most warnings of one file. More are counted.
const WARNINGS_MAX: usize = 100;

/// Why a catalog was not read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The file is not there, may not be read, or is no file.
    #[error("the catalog {} cannot be read: it must be a file that this user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// The file is too large.
    #[error("the catalog {} is larger than {FILE_BYTES_MAX} bytes: leave out what is no server", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is no JSON.
    #[error("the catalog {} is no JSON: mend it there; comments, and commas before a }} or ], are not allowed, though some clients take them", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        error: serde_json::Error,
    },
    /// A value cannot be used.
    #[error("the catalog {}: {field} {reason}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Where the value is, such as `mcpServers.github.args[1]`.
        field: String,
        /// What is wrong about it, and what is allowed.
        reason: String,
    },
}

/// Something in a catalog that does no harm, but may not do what its writer wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it is, such as `mcpServers.github.envFile`.
    pub field: String,
    /// What becomes of it.
    pub reason: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.field, self.reason)
    }
}

/// A value that cannot be used.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) field: String,
    pub(super) reason: String,
}

/// Where a value is.
#[derive(Clone)]
pub(super) struct Place(String);

impl Place {
    pub(super) fn top(key: &str) -> Self {
        Self(key.to_owned())
    }

    /// The value of a key of the object here.
    pub(super) fn key(&self, key: &str) -> Self {
        Self(format!("{}.{}", self.0, shown(key)))
    }

    /// An element of the array here.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub(super) fn problem(&self, reason: impl Into<String>) -> Problem {
        Problem { field: self.0.clone(), reason: reason.into() }
    }

    /// The problem of a value that is of the wrong type. The value is not shown.
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

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The warnings of one reading.
#[derive(Default)]
pub(super) struct Warnings {
    kept: Vec<Warning>,
    more: usize,
}

impl Warnings {
    pub(super) fn add(&mut self, place: &Place, reason: impl Into<String>) {
        if self.kept.len() < WARNINGS_MAX {
            self.kept.push(Warning { field: place.to_string(), reason: reason.into() });
        } else {
            self.more += 1;
        }
    }

    pub(super) fn finish(&mut self) -> Vec<Warning> {
        let mut kept = std::mem::take(&mut self.kept);
        if self.more > 0 {
            kept.push(Warning { field: "the catalog".to_owned(), reason: format!("has {} more of this", self.more) });
        }
        kept
    }
}

/// A text that was given, short and on one line.
pub(super) fn shown(text: &str) -> String {
    let mut short: String =
        text.chars().take(SHOWN_CHARACTERS_MAX).map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect();
    if text.chars().nth(SHOWN_CHARACTERS_MAX).is_some() {
        short.push('…');
    }
    short
}
