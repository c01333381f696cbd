//! The command line: made from the table of settings, and read into what the process shall do.
//!
//! The parser only finds flags and their values. The values stay as they were typed, for the parser that all sources share,
//! and its errors are told in our own words, in one line.

mod simulate;

pub(crate) use simulate::Simulate;

use std::ffi::OsString;

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::ValueParser,
    error::{ContextKind, ErrorKind},
};

use crate::audit::EventFilter;
#[cfg(unix)]
use crate::demo;
use cortex_config::{CONFIG, ConfigError, Configuration, Flags, PRINT_CONFIG, SETTINGS, Setting, Source, shortened};
use cortex_core::ids::JobId;
use cortex_util::program::{self, DAEMON};
use cortex_util::suggest::suggest;
use simulate::SIMULATE;

/// The exit code of a start that was told something wrong.
pub(crate) const WRONG_USE_EXIT_CODE: u8 = 2;

/// What the process shall do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Start {
    /// Serve one client on standard input and output.
    Serve(Box<Configuration>),
    /// Serve sessions through the socket.
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
    /// Say what runs on the state.
    Status(Box<Configuration>),
    /// End the daemon.
    Stop(Box<Configuration>),
    /// Simulate a trace.
    Simulate(Box<Configuration>, Box<Simulate>),
    /// Write this text to standard output and end with code 0.
    Print(String),
}

/// A command beside serving: its name, and what it does. None takes more settings than it needs.
struct Beside {
    name: &'static str,
    help: &'static str,
    settings: &'static [&'static str],
}

const BESIDE: &[Beside] = &[
    Beside {
        name: DAEMON,
        help: "Serve sessions in the background; the first process with a state starts it by itself.",
        settings: &[],
    },
    Beside { name: "status", help: "Say what runs on the state, and how it stands.", settings: &["state"] },
    Beside {
        name: "stop",
        help: "End the daemon of the state in order; leases stay in the state.",
        settings: &["state"],
    },
    Beside { name: "events", help: "Print the events of the state as JSON lines.", settings: &["state"] },
    Beside {
        name: "verify",
        help: "Replay the whole state, check every invariant and say what was seen.",
        settings: &["state"],
    },
    Beside { name: SIMULATE, help: simulate::HELP, settings: simulate::SETTINGS },
    #[cfg(unix)]
    Beside {
        name: DEMO,
        help: "Show two jobs that share an MCP server, a refusal and an expiry; takes seconds.",
        settings: &[],
    },
];

/// The command that shows what the program does.
#[cfg(unix)]
const DEMO: &str = "demo";

/// The filters of the events to print: name, what it takes, what is allowed, and what it does.
const JOB: (&str, &str, &str, &str) =
    ("job", "NAME", "1 to 256 characters, no control characters", "Only the events of this job.");
const SINCE: (&str, &str, &str, &str) =
    ("since", "TIME", "a time as in 2026-01-31T12:00:00Z", "Only the events from this moment on.");
const FOLLOW: &str = "follow";

/// The first paragraph of the help page. The lines are broken here, since the page does not ask how wide the terminal is.
const PURPOSE: &str = "\
Hands out leases on workers, CPU, memory and shared MCP servers to the jobs of AI agents. An MCP client
starts it and speaks with it over standard input and output; log lines go to standard error. Every grant
is bounded in time, owned by a job, and given back even if nobody gives it back.";

/// The last paragraph of the help page.
const PRECEDENCE: &str = "\
A flag wins over its variable, a variable over the file, and the file over the default.";

/// Reads the arguments (without the program's name), the variables and the file.
///
/// `variable` looks an environment variable up.
///
/// # Errors
/// The first thing that is wrong; the process shall then print it and end with [`WRONG_USE_EXIT_CODE`].
pub(crate) fn start(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Start, ConfigError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = match command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let command = BESIDE.iter().find(|beside| arguments.iter().any(|argument| *argument == *beside.name));
            return answer_or_error(&error, command);
        }
    };
    let (name, matches) = matches.subcommand().map_or(("", &matches), |(name, matches)| (name, matches));
    let mut flags = flags(matches);
    if let (SIMULATE, Some(most)) = (name, flags.get("max_workers").cloned()) {
        // No pool of workers is simulated whose total would bound that number from below.
        flags.insert("total_workers", most);
    }
    let configuration = Box::new(Configuration::load(&flags, variable)?);
    Ok(match name {
        "status" => Start::Status(configuration),
        "stop" => Start::Stop(configuration),
        "verify" => Start::Verify(configuration),
        #[cfg(unix)]
        DEMO => Start::Demo,
        #[cfg(unix)]
        demo::SERVER => Start::DemoServer,
        "events" => Start::Events(configuration, event_filter(matches)?),
        SIMULATE => Start::Simulate(configuration, Box::new(simulate::read(matches)?)),
        _ if matches.get_flag(PRINT_CONFIG.key) => Start::Print(configuration.to_toml()),
        DAEMON => Start::Daemon(configuration),
        _ => Start::Serve(configuration),
    })
}

fn event_filter(matches: &ArgMatches) -> Result<EventFilter, ConfigError> {
    let wrong = |(key, _, allowed, _): (&'static str, &str, &str, &str), value: &str, flag| ConfigError::WrongValue {
        key,
        value: shortened(value),
        origin: Source::Flag(flag),
        hint: String::new(),
        allowed: allowed.to_owned(),
    };
    let given = |key: &str| matches.get_one::<OsString>(key).map(|value| value.to_string_lossy());
    let job = given(JOB.0).map(|job| JobId::new(&job).map_err(|_| wrong(JOB, &job, "--job"))).transpose()?;
    let since = given(SINCE.0).map(|at| at.parse().map_err(|_| wrong(SINCE, &at, "--since"))).transpose()?;
    Ok(EventFilter { job, since, follow: matches.get_flag(FOLLOW) })
}

/// The flags and commands, made from the table of settings.
fn command() -> Command {
    let whole = serving(Command::new(program::NAME))
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
    let whole = whole.subcommand(Command::new(demo::SERVER).hide(true));
    BESIDE.iter().fold(whole, |whole, beside| {
        let name = format!("{} {}", program::NAME, beside.name);
        let command = Command::new(beside.name).bin_name(name).about(beside.help);
        let command = match beside.name {
            DAEMON => serving(command),
            "events" => filters(with_settings(command, beside.settings)),
            SIMULATE => simulate::with_flags(command, with_settings),
            _ => with_settings(command, beside.settings),
        };
        whole.subcommand(command)
    })
}

/// A command that serves: it takes every setting.
fn serving(command: Command) -> Command {
    let all: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    with_settings(command, &all).arg(
        Arg::new(PRINT_CONFIG.key)
            .long(long(PRINT_CONFIG.flag))
            .action(ArgAction::SetTrue)
            .help(format!("{}.", PRINT_CONFIG.help)),
    )
}

/// A command with the flags of these settings, of the file of settings, and of the help page.
fn with_settings(command: Command, keys: &[&str]) -> Command {
    command
        .next_line_help(true)
        .disable_help_flag(true)
        .arg(
            valued(CONFIG.key, CONFIG.flag, CONFIG.placeholder)
                .help(format!("{}.\nVariable {}.", CONFIG.help, CONFIG.variable)),
        )
        .args(
            SETTINGS
                .iter()
                .filter(|setting| keys.contains(&setting.key))
                .map(|setting| valued(setting.key, setting.flag, setting.placeholder).help(help(setting))),
        )
        .arg(Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print this page and exit."))
}

/// The flags that choose among events.
fn filters(command: Command) -> Command {
    command
        .args([JOB, SINCE].map(|(name, placeholder, allowed, help)| {
            Arg::new(name)
                .long(name)
                .value_name(placeholder)
                .value_parser(ValueParser::os_string())
                .help(format!("{help}\nGive {allowed}."))
        }))
        .arg(Arg::new(FOLLOW).long(FOLLOW).action(ArgAction::SetTrue).help("Go on with the events to come."))
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
        // Not every command takes every flag.
        .filter_map(|key| Some((key, matches.try_get_one::<OsString>(key).ok()??.clone())))
        .collect()
}

/// The help page and the version come as errors too; the rest are errors, told in our own words.
fn answer_or_error(error: &clap::Error, command: Option<&Beside>) -> Result<Start, ConfigError> {
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
        ErrorKind::UnknownArgument if subject.starts_with('-') => unknown_flag(&flag(), command),
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => stray(error, &subject),
        ErrorKind::InvalidValue => {
            let flag = flag();
            ConfigError::MissingValue { allowed: allowed(&flag), flag }
        }
        ErrorKind::TooManyValues => ConfigError::UnwantedValue { flag: flag() },
        ErrorKind::ArgumentConflict => match command {
            Some(Beside { name, .. }) if subject.is_empty() => ConfigError::LateCommand { command: name },
            None if subject.is_empty() => {
                ConfigError::Arguments { reason: "a word stands behind flags that belongs to none".to_owned() }
            }
            _ => ConfigError::RepeatedFlag { flag: flag() },
        },
        kind => ConfigError::Arguments { reason: kind.as_str().unwrap_or("for a reason unknown").to_owned() },
    })
}

/// The error for an argument that is neither a flag nor a command.
fn stray(error: &clap::Error, subject: &str) -> ConfigError {
    let subcommand = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string);
    ConfigError::StrayArgument {
        argument: shortened(subcommand.as_deref().unwrap_or(subject)),
        commands: BESIDE.iter().map(|beside| beside.name).collect::<Vec<_>>().join(", "),
    }
}

/// The error for a flag that does not exist, or that the command does not take.
fn unknown_flag(flag: &str, beside: Option<&Beside>) -> ConfigError {
    let whole = command();
    let named = beside.and_then(|beside| whole.find_subcommand(beside.name));
    let known = named.unwrap_or(&whole).get_arguments().filter_map(Arg::get_long).map(|long| format!("--{long}"));
    let known: Vec<String> = known.collect();
    let hint = match (suggest(flag, known.iter().map(String::as_str)), named) {
        (Some(name), _) => format!("did you mean {name}?"),
        (None, Some(named)) => format!("{0} --help lists what {0} takes", named.get_name()),
        (None, None) => "--help lists the known ones".to_owned(),
    };
    ConfigError::UnknownFlag { flag: shortened(flag), hint }
}

/// What the value of a flag may be.
fn allowed(flag: &str) -> String {
    match SETTINGS.iter().find(|setting| setting.flag == flag) {
        Some(setting) => setting.allowed(),
        None if flag == "--job" => JOB.2.to_owned(),
        None if flag == "--since" => SINCE.2.to_owned(),
        None if let Some(allowed) = simulate::allowed(flag) => allowed.to_owned(),
        None => "the path of a TOML file".to_owned(),
    }
}
