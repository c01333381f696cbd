//! The command line: made from the table of settings, and read into what the process shall do.
//!
//! The parser only finds flags and their values. The values stay as they were typed, for the parser that all sources share,
//! and its errors are told in our own words, in one line.

use std::ffi::OsString;

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::ValueParser,
    error::{ContextKind, ErrorKind},
};

use crate::config::{CONFIG, ConfigError, Configuration, Flags, PRINT_CONFIG, SETTINGS, Setting, nearest, shortened};

/// The exit code of a start that was told something wrong.
pub const WRONG_USE_EXIT_CODE: u8 = 2;

/// What the process shall do.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Serve with these settings.
    Serve(Box<Configuration>),
    /// Write this text to standard output and end with code 0.
    Print(String),
}

/// The first paragraph of the help page. The lines are broken here, since the page does not ask how wide the terminal is.
const PURPOSE: &str = "\
Hands out leases on workers, CPU, memory and shared MCP servers to the jobs of AI agents. An MCP client
starts it and speaks with it over standard input and output; log lines go to standard error. Every grant
is bounded in time, owned by a job, and given back even if nobody gives it back.";

/// The last paragraph of the help page.
const PRECEDENCE: &str = "\
A flag wins over its variable, a variable over the file, and the file over the default.";

/// The flag for the version.
const VERSION_FLAG: &str = "--version";

/// The flag for the help page.
const HELP_FLAG: &str = "--help";

/// Reads the arguments (without the program's name), the variables and the file.
///
/// `variable` looks an environment variable up.
///
/// # Errors
/// The first thing that is wrong; the process shall then print it and end with [`WRONG_USE_EXIT_CODE`].
pub fn start(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Start, ConfigError> {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return answer_or_error(&error),
    };
    let configuration = Configuration::load(&flags(&matches), variable)?;
    if matches.get_flag(PRINT_CONFIG.key) {
        Ok(Start::Print(configuration.to_toml()))
    } else {
        Ok(Start::Serve(Box::new(configuration)))
    }
}

/// The flags, made from the table of settings.
fn command() -> Command {
    Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(PURPOSE)
        .after_help(PRECEDENCE)
        .no_binary_name(true)
        .next_line_help(true)
        .disable_version_flag(true)
        .disable_help_flag(true)
        .arg(
            valued(CONFIG.key, CONFIG.flag, CONFIG.placeholder)
                .help(format!("{}.\nVariable {}.", CONFIG.help, CONFIG.variable)),
        )
        .args(SETTINGS.iter().map(|setting| valued(setting.key, setting.flag, setting.placeholder).help(help(setting))))
        .arg(
            Arg::new(PRINT_CONFIG.key)
                .long(long(PRINT_CONFIG.flag))
                .action(ArgAction::SetTrue)
                .help(format!("{}.", PRINT_CONFIG.help)),
        )
        .arg(
            Arg::new("version")
                .short('V')
                .long(long(VERSION_FLAG))
                .action(ArgAction::Version)
                .help("Print the version and exit."),
        )
        .arg(
            Arg::new("help").short('h').long(long(HELP_FLAG)).action(ArgAction::Help).help("Print this page and exit."),
        )
}

/// A flag with a value.
fn valued(key: &'static str, flag: &'static str, placeholder: &'static str) -> Arg {
    Arg::new(key)
        .long(long(flag))
        .value_name(placeholder)
        .value_parser(ValueParser::os_string())
        // A value below zero gets the answer that says what is allowed, and not one about an unknown flag.
        .allow_negative_numbers(true)
}

/// The name of a flag without its dashes.
fn long(flag: &'static str) -> &'static str {
    flag.trim_start_matches('-')
}

/// What the help page says about a setting.
fn help(setting: &Setting) -> String {
    format!(
        "{}.\nGive {}.\nDefault {}, variable {}.",
        setting.help,
        setting.allowed(),
        setting.default_text(),
        setting.variable
    )
}

/// The values that were given, by key.
fn flags(matches: &ArgMatches) -> Flags {
    SETTINGS
        .iter()
        .map(|setting| setting.key)
        .chain([CONFIG.key])
        .filter_map(|key| Some((key, matches.get_one::<OsString>(key)?.clone())))
        .collect()
}

/// The help page and the version come as errors too; the rest are errors, told in our own words.
fn answer_or_error(error: &clap::Error) -> Result<Start, ConfigError> {
    let subject = match error.get(ContextKind::InvalidArg) {
        Some(context) => context.to_string(),
        None => String::new(),
    };
    // The parser shows a flag together with the placeholder of its value.
    let flag = || subject.split([' ', '=']).next().unwrap_or_default().to_owned();
    Err(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Ok(Start::Print(error.render().to_string()));
        }
        ErrorKind::UnknownArgument if subject.starts_with('-') => unknown_flag(&flag()),
        ErrorKind::UnknownArgument => ConfigError::StrayArgument { argument: shortened(&subject) },
        ErrorKind::InvalidValue => {
            let flag = flag();
            ConfigError::MissingValue { allowed: allowed(&flag), flag }
        }
        ErrorKind::TooManyValues => ConfigError::UnwantedValue { flag: flag() },
        ErrorKind::ArgumentConflict => ConfigError::RepeatedFlag { flag: flag() },
        kind => ConfigError::Arguments { reason: kind.as_str().unwrap_or("for a reason unknown").to_owned() },
    })
}

/// The error for a flag that does not exist.
fn unknown_flag(flag: &str) -> ConfigError {
    let known = SETTINGS.iter().map(|setting| setting.flag);
    let extra = [CONFIG.flag, PRINT_CONFIG.flag, VERSION_FLAG, HELP_FLAG];
    let hint = match nearest(flag, known.chain(extra)) {
        Some(name) => format!("did you mean {name}?"),
        None => "--help lists the known ones".to_owned(),
    };
    ConfigError::UnknownFlag { flag: shortened(flag), hint }
}

/// What the value of a flag may be.
fn allowed(flag: &str) -> String {
    match SETTINGS.iter().find(|setting| setting.flag == flag) {
        Some(setting) => setting.allowed(),
        None => "the path of a TOML file".to_owned(),
    }
}
