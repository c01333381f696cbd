//! The command line, generated from the table of settings.
//!
//! The parser (clap) only finds flags and their values. The values stay unparsed for the parser that all sources share,
//! and clap's errors are replaced by errors of one line.

mod flag;
mod simulate;

pub(crate) use simulate::SimulateOptions;

use std::ffi::OsString;

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ErrorKind},
};

use crate::audit::EventFilter;
#[cfg(unix)]
use crate::demo;
use cortex_config::{ConfigError, Configuration, Flags, SETTINGS, Setting, flag_of, shorten, variable_of};
use cortex_core::ids::JobId;
use cortex_util::program::{self, DAEMON};
use cortex_util::suggest::suggest;
use flag::Flag;
use simulate::SIMULATE;

/// The exit code for invalid arguments or settings.
pub(crate) const USAGE_ERROR_EXIT_CODE: u8 = 2;

/// What the arguments request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Invocation {
    /// Serve one client on standard input and output.
    Serve(Box<Configuration>),
    /// Serve sessions through the daemon's socket.
    Daemon(Box<Configuration>),
    /// Print the events of the state.
    Events(Box<Configuration>, EventFilter),
    /// Show what the program does.
    #[cfg(unix)]
    Demo,
    /// Serve MCP to the demo.
    #[cfg(unix)]
    DemoServer,
    /// Replay and check the state.
    Verify(Box<Configuration>),
    /// Show the status of the daemon and the state.
    Status(Box<Configuration>),
    /// Stop the daemon.
    Stop(Box<Configuration>),
    /// Simulate a trace.
    Simulate(Box<Configuration>, Box<SimulateOptions>),
    /// Write this text to standard output and exit with code 0.
    Print(String),
}

/// A subcommand, with the keys of the settings that it accepts.
struct Subcommand {
    name: &'static str,
    help: &'static str,
    settings: &'static [&'static str],
}

const SUBCOMMANDS: &[Subcommand] = &[
    Subcommand {
        name: DAEMON,
        help: "Run the daemon that serves all sessions of a state; sessions start it automatically.",
        settings: &[],
    },
    Subcommand { name: "status", help: "Show daemon and state status.", settings: &["state"] },
    Subcommand {
        name: "stop",
        help: "Stop the daemon of the state in an orderly way; leases stay in the state.",
        settings: &["state"],
    },
    Subcommand { name: "events", help: "Print the events of the state as JSON lines.", settings: &["state"] },
    Subcommand {
        name: "verify",
        help: "Replay the whole state, check every invariant and report the result.",
        settings: &["state"],
    },
    Subcommand { name: SIMULATE, help: simulate::HELP, settings: simulate::SETTINGS },
    #[cfg(unix)]
    Subcommand {
        name: DEMO,
        help: "Show a shared MCP server, a refused request and an expired lease; takes a few seconds.",
        settings: &[],
    },
];

/// The command that shows what the program does.
#[cfg(unix)]
const DEMO: &str = "demo";

const CONFIG: Flag = Flag {
    key: cortex_config::CONFIG,
    placeholder: "FILE",
    allowed: "the path of a TOML file",
    help: "TOML file with settings by their keys, such as total_workers = 12.\nVariable CORTEX_CONFIG.",
};

const PRINT_CONFIG: Flag =
    Flag::switch("print_config", "Print the effective settings as TOML, each with its source, and exit.");

const JOB: Flag = Flag {
    key: "job",
    placeholder: "NAME",
    allowed: "1 to 256 characters, no control characters",
    help: "Print only events of this job.\nGive 1 to 256 characters, no control characters.",
};

const SINCE: Flag = Flag {
    key: "since",
    placeholder: "TIME",
    allowed: "a time as in 2026-01-31T12:00:00Z",
    help: "Print only events from this time on.\nGive a time as in 2026-01-31T12:00:00Z.",
};

const FOLLOW: Flag = Flag::switch("follow", "Keep printing new events as they are written.");

/// The first paragraph of the help page. The lines are broken here, since the page ignores the terminal's width.
const PURPOSE: &str = "\
Grants leases on workers, CPU, memory and shared MCP servers to the jobs of AI agents. An MCP client
starts this program and communicates with it over standard input and output; logs go to standard error.
Each lease belongs to a job, has a deadline, and is reclaimed when it expires.";

/// The last paragraph of the help page.
const PRECEDENCE: &str = "\
A flag overrides its variable, a variable overrides the file, and the file overrides the default.";

/// Parses the arguments (without the program's name), the variables and the file.
///
/// `variable` looks up an environment variable.
///
/// # Errors
/// The first invalid argument or setting; the process prints it and exits with [`USAGE_ERROR_EXIT_CODE`].
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, ConfigError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = match command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let is_given = |subcommand: &&Subcommand| arguments.iter().any(|argument| *argument == *subcommand.name);
            let command = SUBCOMMANDS.iter().find(is_given);
            return help_or_error(&error, command);
        }
    };
    let (name, matches) = matches.subcommand().map_or(("", &matches), |(name, matches)| (name, matches));
    let mut flags = flags(matches);
    if let (SIMULATE, Some(workers_max)) = (name, flags.get("max_workers").cloned()) {
        // The simulation has no worker pool, so that the default total must not bound `max_workers` from below.
        flags.insert("total_workers", workers_max);
    }
    let configuration = Box::new(Configuration::load(&flags, variable)?);
    Ok(match name {
        "status" => Invocation::Status(configuration),
        "stop" => Invocation::Stop(configuration),
        "verify" => Invocation::Verify(configuration),
        #[cfg(unix)]
        DEMO => Invocation::Demo,
        #[cfg(unix)]
        demo::SERVER => Invocation::DemoServer,
        "events" => Invocation::Events(configuration, event_filter(matches)?),
        SIMULATE => Invocation::Simulate(configuration, Box::new(simulate::parse_flags(matches)?)),
        _ if matches.get_flag(PRINT_CONFIG.key) => Invocation::Print(configuration.to_toml()),
        DAEMON => Invocation::Daemon(configuration),
        _ => Invocation::Serve(configuration),
    })
}

fn event_filter(matches: &ArgMatches) -> Result<EventFilter, ConfigError> {
    let job = JOB.parse(matches, |job| JobId::new(job).ok())?;
    let since = SINCE.parse(matches, |time| time.parse().ok())?;
    Ok(EventFilter { job, since, follow: matches.get_flag(FOLLOW.key) })
}

/// Builds the flags and subcommands from the table of settings.
fn command() -> Command {
    let root = with_all_settings(Command::new(program::NAME))
        .version(program::VERSION)
        .about(PURPOSE)
        .after_help(PRECEDENCE)
        .no_binary_name(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_conflicts_with_subcommands(true)
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::Version)
                .help("Print the version and exit."),
        );
    #[cfg(unix)]
    let root = root.subcommand(Command::new(demo::SERVER).hide(true));
    SUBCOMMANDS.iter().fold(root, |root, subcommand| {
        let usage = format!("{} {} [OPTIONS]", program::NAME, subcommand.name);
        let command = Command::new(subcommand.name).override_usage(usage).about(subcommand.help);
        let command = match subcommand.name {
            DAEMON => with_all_settings(command),
            "events" => with_settings(command, subcommand.settings).args([JOB, SINCE, FOLLOW].map(|flag| flag.arg())),
            SIMULATE => simulate::with_flags(command, with_settings),
            _ => with_settings(command, subcommand.settings),
        };
        root.subcommand(command)
    })
}

/// Adds the flags of every setting to a command that serves sessions.
fn with_all_settings(command: Command) -> Command {
    let all: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    with_settings(command, &all).arg(PRINT_CONFIG.arg())
}

/// Adds the flags of these settings, of the settings file, and of the help page.
fn with_settings(command: Command, keys: &[&str]) -> Command {
    command
        .next_line_help(true)
        .disable_help_flag(true)
        .arg(CONFIG.arg())
        .args(
            SETTINGS
                .iter()
                .filter(|setting| keys.contains(&setting.key))
                .map(|setting| flag::valued(setting.key, setting.placeholder).help(help_text(setting))),
        )
        .arg(Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print this help and exit."))
}

/// Returns the text of a setting in the help page.
fn help_text(setting: &Setting) -> String {
    format!(
        "{}.\nGive {}.\nDefault {}, variable {}.",
        setting.help,
        setting.allowed(),
        setting.default_text(),
        variable_of(setting.key)
    )
}

/// Returns the values of the given flags, by key.
fn flags(matches: &ArgMatches) -> Flags {
    SETTINGS
        .iter()
        .map(|setting| setting.key)
        .chain([CONFIG.key])
        // A flag that the subcommand does not accept yields an error here, and is skipped.
        .filter_map(|key| Some((key, matches.try_get_one::<OsString>(key).ok()??.clone())))
        .collect()
}

/// Converts an error of the parser. The help page and the version are reported as errors too.
fn help_or_error(error: &clap::Error, command: Option<&Subcommand>) -> Result<Invocation, ConfigError> {
    let subject = match error.get(ContextKind::InvalidArg) {
        Some(context) => context.to_string(),
        None => String::new(),
    };
    // The parser returns a flag together with the placeholder of its value.
    let flag = || subject.split([' ', '=']).next().unwrap_or_default().to_owned();
    Err(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Ok(Invocation::Print(error.render().to_string()));
        }
        ErrorKind::UnknownArgument if subject.starts_with('-') => unknown_flag(&flag(), command),
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => unexpected_argument(error, &subject),
        ErrorKind::InvalidValue => {
            let flag = flag();
            ConfigError::MissingValue { allowed: allowed_values(&flag), flag }
        }
        ErrorKind::TooManyValues => ConfigError::UnwantedValue { flag: flag() },
        ErrorKind::ArgumentConflict => match command {
            Some(Subcommand { name, .. }) if subject.is_empty() => ConfigError::MisplacedCommand { command: name },
            None if subject.is_empty() => {
                ConfigError::InvalidArguments { reason: "unexpected positional argument after flags".to_owned() }
            }
            _ => ConfigError::RepeatedFlag { flag: flag() },
        },
        kind => ConfigError::InvalidArguments { reason: kind.as_str().unwrap_or("unknown reason").to_owned() },
    })
}

/// Returns the error for an argument that is neither a flag nor a command.
fn unexpected_argument(error: &clap::Error, subject: &str) -> ConfigError {
    let subcommand = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string);
    ConfigError::UnexpectedArgument {
        argument: shorten(subcommand.as_deref().unwrap_or(subject)),
        commands: SUBCOMMANDS.iter().map(|subcommand| subcommand.name).collect::<Vec<_>>().join(", "),
    }
}

/// Returns the error for a flag that does not exist, or that the subcommand does not accept.
fn unknown_flag(flag: &str, subcommand: Option<&Subcommand>) -> ConfigError {
    let root = command();
    let named = subcommand.and_then(|subcommand| root.find_subcommand(subcommand.name));
    let known = named.unwrap_or(&root).get_arguments().filter_map(Arg::get_long).map(|long| format!("--{long}"));
    let known: Vec<String> = known.collect();
    let hint = match (suggest(flag, known.iter().map(String::as_str)), named) {
        (Some(name), _) => format!("did you mean {name}?"),
        (None, Some(named)) => format!("`{} --help` lists the known ones", named.get_name()),
        (None, None) => "--help lists the known ones".to_owned(),
    };
    ConfigError::UnknownFlag { flag: shorten(flag), hint }
}

/// Describes the allowed values of a flag.
fn allowed_values(flag: &str) -> String {
    if let Some(setting) = SETTINGS.iter().find(|setting| flag_of(setting.key) == flag) {
        return setting.allowed();
    }
    let others = [&CONFIG, &JOB, &SINCE].into_iter().chain(simulate::VALUED);
    others
        .into_iter()
        .find(|other| flag_of(other.key) == flag)
        .map_or_else(String::new, |other| other.allowed.to_owned())
}
