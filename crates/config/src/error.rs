//! What can be wrong with the settings, each in one line: what, the value, where it came from, and the way out.

use std::{ffi::OsStr, fmt, path::PathBuf};

use super::{parse::Refusal, setting::Setting};

/// Where the value of a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave one.
    Default,
    /// The file at this path, as it was named.
    File(PathBuf),
    /// This environment variable.
    Variable(&'static str),
    /// This flag.
    Flag(&'static str),
}

impl Source {
    /// The source as it stands in brackets behind a value.
    fn behind_value(&self) -> String {
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
            // A path may hold a line break, which would end a comment or an error's one line.
            Self::File(path) => {
                write!(formatter, "{}", without_controls(&path.to_string_lossy()))
            }
            Self::Variable(name) | Self::Flag(name) => formatter.write_str(name),
        }
    }
}

/// A start that cannot go on, because of what it was told. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting does not allow.
    #[error("{key} is {value} ({}): {hint}give {allowed}", origin.behind_value())]
    WrongValue {
        /// The key of the setting.
        key: &'static str,
        /// The value, shortened.
        value: String,
        /// Where it came from.
        origin: Source,
        /// What may have been meant, ending with a comma and a space, or nothing.
        hint: String,
        /// What is allowed.
        allowed: String,
    },
    /// A catalog on a system on which no servers are run.
    #[error("catalog is {value} ({}): MCP servers are really run on Unix systems only, leave it out here", origin.behind_value())]
    NoCatalogHere {
        /// The path, shortened.
        value: String,
        /// Where it came from.
        origin: Source,
    },
    /// Two values that are each allowed, but not together.
    #[error(
        "{smaller} is {smaller_value} ({}), above {larger}, which is {larger_value} ({}): lower {smaller} or raise {larger}",
        smaller_source.behind_value(), larger_source.behind_value()
    )]
    Contradiction {
        /// The key of the setting that must not be the larger one.
        smaller: &'static str,
        /// Its value.
        smaller_value: u64,
        /// Where it came from.
        smaller_source: Source,
        /// The key of the setting that bounds it.
        larger: &'static str,
        /// Its value.
        larger_value: u64,
        /// Where it came from.
        larger_source: Source,
    },
    /// A key of the file that no setting has.
    #[error("unknown key {key} in {file}: {hint}")]
    UnknownKey {
        /// The key, shortened.
        key: String,
        /// The file.
        file: Source,
        /// The nearest known key, or where the known ones are listed.
        hint: String,
    },
    /// A flag that does not exist.
    #[error("unknown flag {flag}: {hint}")]
    UnknownFlag {
        /// The flag, shortened.
        flag: String,
        /// The nearest known flag, or where the known ones are listed.
        hint: String,
    },
    /// A file that cannot be read.
    #[error("cannot read the configuration file {file}: {reason}")]
    UnreadableFile {
        /// The file.
        file: Source,
        /// What the system said.
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
    /// An empty path of the settings' file.
    #[error("{CONFIG_KEY} is empty ({}): give the path of a TOML file", origin.behind_value())]
    EmptyPath {
        /// Where the empty path came from.
        origin: Source,
    },
    /// A flag that needs a value and stands without one.
    #[error("{flag} has no value: give {allowed}")]
    MissingValue {
        /// The flag.
        flag: String,
        /// What is allowed.
        allowed: String,
    },
    /// A flag that a command cannot do without.
    #[error("{command} needs {flag}: give {allowed}")]
    MissingFlag {
        /// The command.
        command: &'static str,
        /// The flag.
        flag: &'static str,
        /// What is allowed as its value.
        allowed: &'static str,
    },
    /// A flag with a value that takes none.
    #[error("{flag} takes no value: give it alone")]
    UnwantedValue {
        /// The flag.
        flag: String,
    },
    /// A command behind flags.
    #[error("{command} stands behind flags: give it first, and its flags behind it")]
    LateCommand {
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
    #[error("unexpected argument {argument}: give flags, or one of the commands {commands} first; --help lists them")]
    StrayArgument {
        /// The argument, shortened.
        argument: String,
        /// The commands there are.
        commands: String,
    },
    /// Any other fault that the parser of the command line finds.
    #[error("the arguments cannot be read, {reason}: --help lists what can be given")]
    Arguments {
        /// What the parser said.
        reason: String,
    },
}

/// The name that errors give to the setting for the file itself.
const CONFIG_KEY: &str = super::table::CONFIG.key;

/// Values and names are shown up to this many characters.
const SHOWN_CHARACTERS_MAX: usize = 60;

/// Reasons that come from a package or from the system are shown up to this many characters.
const REASON_CHARACTERS_MAX: usize = 300;

impl ConfigError {
    /// A text that the parser of its setting refused.
    pub(super) fn wrong_value(setting: &Setting, text: &str, origin: Source, refusal: Refusal) -> Self {
        let hint = match refusal {
            Refusal::NotAllowed => String::new(),
            Refusal::UnknownWord { word, nearest } => {
                // A list names the word that is wrong in it; a single word stands in the line already.
                let which = if word == text { String::new() } else { format!("{} is unknown, ", shortened(&word)) };
                match nearest {
                    Some(name) => format!("{which}did you mean {name}? "),
                    None => which,
                }
            }
        };
        Self::WrongValue { key: setting.key, value: shortened(text), origin, hint, allowed: setting.allowed() }
    }

    /// A value of the file whose kind no text can stand for.
    pub(super) fn unfit(setting: &Setting, kind: &'static str, origin: Source) -> Self {
        Self::WrongValue {
            key: setting.key,
            value: kind.to_owned(),
            origin,
            hint: String::new(),
            allowed: setting.allowed(),
        }
    }

    /// A value that is not UTF-8, shown with a mark in place of what cannot be shown.
    pub(super) fn not_utf8(setting: &Setting, value: &OsStr, origin: Source) -> Self {
        Self::WrongValue {
            key: setting.key,
            value: format!("{}, not UTF-8", shortened(&value.to_string_lossy())),
            origin,
            hint: String::new(),
            allowed: setting.allowed(),
        }
    }

    /// A file that is not TOML, with the byte at which that showed turned into a line and a column.
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

/// A text from elsewhere as it may stand in an error: no longer than 60 characters, and in quotes where it would be unclear
/// where it ends.
pub fn shortened(text: &str) -> String {
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

/// A reason in one line, whatever the number of lines it had.
pub(super) fn one_line(reason: &str) -> String {
    let joined = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    without_controls(&joined).chars().take(REASON_CHARACTERS_MAX).collect()
}

/// The text with its control characters written out.
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
