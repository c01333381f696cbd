//! Errors of settings, each in one line: what is wrong, the value, its source, and what to do.

use std::{fmt, path::PathBuf};

use super::{parse::ParseError, setting::Setting};

/// The source of a setting's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// No value was given.
    Default,
    /// The file at this path, as it was given.
    File(PathBuf),
    /// The environment variable of this key.
    Variable(&'static str),
    /// The flag of this key.
    Flag(&'static str),
}

/// Returns the flag of a key, with its dashes.
pub fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// Returns the environment variable of a key.
pub fn variable_of(key: &str) -> String {
    format!("CORTEX_{}", key.to_uppercase())
}

impl Source {
    /// Formats the source for the parentheses after a value.
    fn in_parentheses(&self) -> String {
        match self {
            Self::Default => "the default".to_owned(),
            given => format!("from {given}"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            // A path may contain a line break, which would end a comment or the line of an error.
            Self::File(path) => {
                write!(formatter, "{}", without_controls(&path.to_string_lossy()))
            }
            Self::Variable(key) => formatter.write_str(&variable_of(key)),
            Self::Flag(key) => formatter.write_str(&flag_of(key)),
        }
    }
}

/// Settings or arguments that prevent a start. The text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting does not allow.
    #[error("{key} is {value} ({}): {hint}give {allowed}", origin.in_parentheses())]
    WrongValue {
        /// The key of the setting.
        key: &'static str,
        /// The value, shortened.
        value: String,
        /// The source of the value.
        origin: Source,
        /// A suggestion that ends with a space, or empty.
        hint: String,
        /// The allowed values.
        allowed: String,
    },
    /// A catalog on a system that does not support managed servers.
    #[error("catalog is {value} ({}): managed MCP servers need a Unix system: leave it out", origin.in_parentheses())]
    UnsupportedCatalog {
        /// The path, shortened.
        value: String,
        /// The source of the value.
        origin: Source,
    },
    /// Two values that are allowed on their own, but not together.
    #[error(
        "{smaller} is {smaller_value} ({}), above {larger}, which is {larger_value} ({}): \
         lower {smaller} or raise {larger}",
        smaller_source.in_parentheses(), larger_source.in_parentheses()
    )]
    Contradiction {
        /// The key of the setting that must not be the larger one.
        smaller: &'static str,
        /// Its value.
        smaller_value: u64,
        /// The source of that value.
        smaller_source: Source,
        /// The key of the setting that bounds it.
        larger: &'static str,
        /// Its value.
        larger_value: u64,
        /// The source of that value.
        larger_source: Source,
    },
    /// A key of the file that no setting has.
    #[error("unknown key {key} in {file}: {hint}")]
    UnknownKey {
        /// The key, shortened.
        key: String,
        /// The file.
        file: Source,
        /// The nearest known key, or the flag that lists the known ones.
        hint: String,
    },
    /// A flag that does not exist.
    #[error("unknown flag {flag}: {hint}")]
    UnknownFlag {
        /// The flag, shortened.
        flag: String,
        /// The nearest known flag, or the flag that lists the known ones.
        hint: String,
    },
    /// A file that cannot be read.
    #[error("cannot read the configuration file {file}: {reason}")]
    UnreadableFile {
        /// The file.
        file: Source,
        /// The reason that the system returned.
        reason: String,
    },
    /// A file that is not TOML.
    #[error("{file} is not valid TOML at line {line}, column {column}: {reason}")]
    InvalidFile {
        /// The file.
        file: Source,
        /// The line, counted from 1.
        line: usize,
        /// The column in characters, counted from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// An empty path of the file with settings.
    #[error("config is empty ({}): give the path of a TOML file", origin.in_parentheses())]
    EmptyPath {
        /// The source of the empty path.
        origin: Source,
    },
    /// A flag without the value that it needs.
    #[error("{flag} has no value: give {allowed}")]
    MissingValue {
        /// The flag.
        flag: String,
        /// The allowed values.
        allowed: String,
    },
    /// A required flag of a command.
    #[error("{command} needs {flag}: give {allowed}")]
    MissingFlag {
        /// The command.
        command: &'static str,
        /// The flag.
        flag: String,
        /// The allowed values.
        allowed: &'static str,
    },
    /// A flag with a value that takes none.
    #[error("{flag} takes no value: give it alone")]
    UnwantedValue {
        /// The flag.
        flag: String,
    },
    /// A command after flags.
    #[error("put `{command}` before its flags")]
    MisplacedCommand {
        /// The command.
        command: &'static str,
    },
    /// A flag given more than once.
    #[error("{flag} is given more than once: give it once")]
    RepeatedFlag {
        /// The flag.
        flag: String,
    },
    /// An argument that is neither a flag nor a command.
    #[error("unexpected argument {argument}: give flags, or one of the commands {commands}; see --help")]
    UnexpectedArgument {
        /// The argument, shortened.
        argument: String,
        /// The names of all commands.
        commands: String,
    },
    /// Any other error of the command line's parser.
    #[error("invalid arguments: {reason}; see --help")]
    InvalidArguments {
        /// The reason that the parser returned.
        reason: String,
    },
}

/// Values and names are shown up to this many characters.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// Reasons that come from a package or from the system are shown up to this many characters.
const REASON_CHARACTERS_MAX: usize = 300;

impl ConfigError {
    /// Returns the error for a text that the parser of its setting refused.
    pub(super) fn wrong_value(setting: &Setting, text: &str, origin: Source, error: ParseError) -> Self {
        let hint = match error {
            ParseError::NotAllowed => String::new(),
            ParseError::UnknownWord { word, suggestion } => {
                // For a list, the hint names the wrong word; a single word is in the line already.
                let which = if word == text { String::new() } else { format!("{} is unknown, ", shorten(&word)) };
                match suggestion {
                    Some(name) => format!("{which}did you mean {name}? "),
                    None => which,
                }
            }
        };
        Self::WrongValue { key: setting.key, value: shorten(text), origin, hint, allowed: setting.allowed() }
    }

    /// Returns the error for a value that is not a text of its setting's type; `value` shows it.
    pub(super) fn wrong_type(setting: &Setting, value: String, origin: Source) -> Self {
        Self::WrongValue { key: setting.key, value, origin, hint: String::new(), allowed: setting.allowed() }
    }

    /// Returns the error for a flag that is not a setting.
    pub fn wrong_flag(key: &'static str, value: &str, allowed: &str) -> Self {
        Self::WrongValue {
            key,
            value: shorten(value),
            origin: Source::Flag(key),
            hint: String::new(),
            allowed: allowed.to_owned(),
        }
    }

    /// Returns the error for a file that is not TOML; converts the position `at` in bytes to a line and a column.
    pub(super) fn invalid_file(file: Source, bytes: &[u8], at: usize, reason: &str) -> Self {
        let before = bytes.get(..at).unwrap_or(bytes);
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |position| position + 1);
        Self::InvalidFile {
            file,
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
            reason: one_line(reason),
        }
    }
}

/// Shortens a text for an error to 60 characters, and quotes it if its end would be unclear.
pub fn shorten(text: &str) -> String {
    if text.is_empty() {
        return "empty".to_owned();
    }
    let mut short: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    let plain = |letter: char| !letter.is_whitespace() && !letter.is_control() && letter != '"';
    if short.chars().all(plain) { short } else { format!("\"{}\"", short.escape_debug()) }
}

/// Joins the lines of a reason into one.
pub(super) fn one_line(reason: &str) -> String {
    let joined = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    without_controls(&joined).chars().take(REASON_CHARACTERS_MAX).collect()
}

/// Escapes the control characters of a text.
fn without_controls(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, letter| {
        if letter.is_control() {
            shown.extend(letter.escape_debug());
        } else {
            shown.push(letter);
        }
        shown
    })
}
