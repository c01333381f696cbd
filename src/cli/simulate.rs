//! The flags of the subcommand `simulate`.

use super::{long_name, valued_flag};
use clap::{Arg, ArgAction, ArgMatches, Command};
use cortex_config::{ConfigError, Source, parse_thousandths, parse_whole, shorten};
use cortex_core::policy::{Policy, PolicyName};
use cortex_core::time::Millis;
use std::ffi::OsString;
use std::path::PathBuf;

/// The name of the subcommand.
pub(super) const SIMULATE: &str = "simulate";

/// The description in the help page.
pub(super) const HELP: &str = "Replay a trace of arrivals under each scaling policy, in virtual time.";

/// The keys of the settings that it accepts.
pub(super) const SETTINGS: &[&str] = &["plan_seconds", "token_budget", "token_window_seconds", "max_tasks"];

/// The help of settings that have no default here, since the default would limit the simulation.
const UNBOUNDED: [(&str, &str); 1] = [(
    "token_budget",
    "Tokens that all tasks may use together, per window if --token-window-seconds is given.\nUnlimited by default.",
)];

/// The maximum number of agents at the start.
const AGENTS_MAX: u64 = 100_000;

/// The longest mean duration of a task, in thousandths of a second: a day.
const DURATION_MILLIS_MAX: u64 = 86_400_000;

/// The default mean duration of a task.
const DURATION_MEAN: Millis = Millis::from_seconds(30);

/// A flag of this subcommand only.
struct SimulateFlag {
    key: &'static str,
    flag: &'static str,
    placeholder: &'static str,
    allowed: &'static str,
    help: &'static str,
}

const TRACE: SimulateFlag = SimulateFlag {
    key: "trace",
    flag: "--trace",
    placeholder: "FILE",
    allowed: "the path of a CSV file",
    help: "CSV of arrivals with a header. Columns: seconds; optional: requests (arrivals of the row), and\n\
           tokens, or both context_tokens and generated_tokens.",
};

const POLICY: SimulateFlag = SimulateFlag {
    key: "policy",
    flag: "--policy",
    placeholder: "POLICY",
    allowed: "aggressive, balanced or conservative",
    help: "Simulate only this policy instead of all.",
};

const AGENTS: SimulateFlag = SimulateFlag {
    key: "agents",
    flag: "--agents",
    placeholder: "COUNT",
    allowed: "1 to 100000",
    help: "Agents at the start, and in the fleet of fixed size.\n\
           Default: the mean number that the balanced policy reaches from one agent.",
};

const DURATION: SimulateFlag = SimulateFlag {
    key: "duration_mean",
    flag: "--duration-mean",
    placeholder: "SECONDS",
    allowed: "0.001 to 86400 seconds, with at most 3 decimals",
    help: "Mean duration of a task; the duration of each task is generated from a fixed seed.\nDefault 30.",
};

const HTML: SimulateFlag = SimulateFlag {
    key: "html",
    flag: "--html",
    placeholder: "FILE",
    allowed: "the path of a file to write",
    help: "Write a self-contained HTML page with plots.",
};

const VALUED: [&SimulateFlag; 5] = [&TRACE, &POLICY, &AGENTS, &DURATION, &HTML];

const JSON: &str = "json";

/// The parsed flags of the subcommand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SimulateOptions {
    /// The CSV file with the arrivals.
    pub trace: PathBuf,
    /// The only policy to simulate; all policies if absent.
    pub policy: Option<PolicyName>,
    /// Agents at the start, and in the fleet of fixed size.
    pub agents: Option<u64>,
    /// Mean duration of a task.
    pub duration_mean: Millis,
    /// The HTML page to write.
    pub html: Option<PathBuf>,
    /// Whether to print JSON instead of a table.
    pub json: bool,
}

/// Adds the subcommand's own flags, followed by the flags of its settings.
pub(super) fn with_flags(command: Command, with_settings: impl Fn(Command, &[&str]) -> Command) -> Command {
    let own_flags = VALUED.map(|flag| {
        let help = if flag.help.contains("Default") || flag.allowed.starts_with("the path") {
            flag.help.to_owned()
        } else {
            format!("{}\nGive {}.", flag.help, flag.allowed)
        };
        valued_flag(flag.key, flag.flag, flag.placeholder).help(help)
    });
    let json = Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print JSON instead of a table.");
    let command = with_settings(command.args(own_flags).arg(json), SETTINGS);
    UNBOUNDED.into_iter().fold(command, |command, (key, help)| command.mut_arg(key, |arg| arg.help(help)))
}

/// Describes the allowed values of a flag of this subcommand.
pub(super) fn allowed_values(flag: &str) -> Option<&'static str> {
    VALUED.iter().find(|known| known.flag == flag).map(|known| known.allowed)
}

/// Parses the values of the flags.
pub(super) fn parse_flags(matches: &ArgMatches) -> Result<SimulateOptions, ConfigError> {
    let given = |flag: &SimulateFlag| matches.get_one::<OsString>(flag.key);
    let text = |flag: &SimulateFlag| given(flag).map(|value| value.to_string_lossy().into_owned());
    let wrong_value = |flag: &SimulateFlag, value: &str| ConfigError::WrongValue {
        key: long_name(flag.flag),
        value: shorten(value),
        origin: Source::Flag(flag.flag),
        hint: String::new(),
        allowed: flag.allowed.to_owned(),
    };
    let path = |flag: &SimulateFlag| match given(flag) {
        Some(path) if path.is_empty() => Err(wrong_value(flag, "")),
        path => Ok(path.map(PathBuf::from)),
    };
    let trace = path(&TRACE)?;
    let trace =
        trace.ok_or(ConfigError::MissingFlag { command: SIMULATE, flag: TRACE.flag, allowed: TRACE.allowed })?;
    let policy_named = |name: &str| {
        let mut names = Policy::NAMED.iter().map(|policy| policy.name);
        names.find(|known| known.as_str().eq_ignore_ascii_case(name)).ok_or_else(|| wrong_value(&POLICY, name))
    };
    let agents = |text: &str| parse_whole(text, 1, AGENTS_MAX).map_err(|_| wrong_value(&AGENTS, text));
    let duration = |text: &str| {
        parse_thousandths(text, 1, DURATION_MILLIS_MAX).map(Millis).map_err(|_| wrong_value(&DURATION, text))
    };
    Ok(SimulateOptions {
        trace,
        policy: text(&POLICY).map(|name| policy_named(&name)).transpose()?,
        agents: text(&AGENTS).map(|text| agents(&text)).transpose()?,
        duration_mean: text(&DURATION).map(|text| duration(&text)).transpose()?.unwrap_or(DURATION_MEAN),
        html: path(&HTML)?,
        json: matches.get_flag(JSON),
    })
}
