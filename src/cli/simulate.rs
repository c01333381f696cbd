//! The command that simulates a trace: its flags, and what they say.

use super::{long, valued};
use clap::{Arg, ArgAction, ArgMatches, Command};
use cortex_config::{ConfigError, Source, shortened, thousandths, whole};
use cortex_core::policy::{Policy, PolicyName};
use cortex_core::time::Millis;
use std::ffi::OsString;
use std::path::PathBuf;

/// The command.
pub(super) const SIMULATE: &str = "simulate";

/// What it does.
pub(super) const HELP: &str = "Replay a trace of arrivals under each scaling policy, in virtual time.";

/// The settings that it takes.
pub(super) const SETTINGS: &[&str] = &["plan_seconds", "token_budget", "token_window_seconds", "max_tasks"];

/// What those do here that otherwise have a default which would bound what is found out.
const UNBOUNDED: [(&str, &str); 1] = [(
    "token_budget",
    "How many tokens all tasks may take together, in each window if there are any.\nUnbounded unless named.",
)];

/// The most agents to begin with.
const AGENTS_MAX: u64 = 100_000;

/// The longest mean duration of a task, in thousandths of a second: a day.
const DURATION_MILLIS_MAX: u64 = 86_400_000;

/// How long a task takes in the mean unless that is said.
const DURATION_MEAN: Millis = Millis::from_seconds(30);

/// A flag of this command alone.
struct Flag {
    key: &'static str,
    flag: &'static str,
    placeholder: &'static str,
    allowed: &'static str,
    help: &'static str,
}

const TRACE: Flag = Flag {
    key: "trace",
    flag: "--trace",
    placeholder: "FILE",
    allowed: "the path of a CSV file",
    help: "The arrivals, with a header: seconds, then requests if a row stands for several,\n\
           and tokens, or context_tokens and generated_tokens, if these are known.",
};

const POLICY: Flag = Flag {
    key: "policy",
    flag: "--policy",
    placeholder: "POLICY",
    allowed: "aggressive, balanced or conservative",
    help: "Only this policy, and not all of them.",
};

const AGENTS: Flag = Flag {
    key: "agents",
    flag: "--agents",
    placeholder: "COUNT",
    allowed: "1 to 100000",
    help: "How many agents there are at the start, and in the fleet that stays as it is.\n\
           Default: as many as the balanced policy, begun with one, has in the mean.",
};

const DURATION: Flag = Flag {
    key: "duration_mean",
    flag: "--duration-mean",
    placeholder: "SECONDS",
    allowed: "0.001 to 86400 seconds, with at most 3 decimals",
    help: "How long a task takes in the mean; each takes its own time, drawn from a seed.\nDefault 30.",
};

const HTML: Flag = Flag {
    key: "html",
    flag: "--html",
    placeholder: "FILE",
    allowed: "the path of a file to write",
    help: "Write a page with plots that opens from disk.",
};

const VALUED: [&Flag; 5] = [&TRACE, &POLICY, &AGENTS, &DURATION, &HTML];

const JSON: &str = "json";

/// What to simulate, and what to show of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Simulate {
    /// The file with the arrivals.
    pub trace: PathBuf,
    /// Only this policy; all of them if absent.
    pub policy: Option<PolicyName>,
    /// How many agents there are at the start, and in the fleet that stays as it is.
    pub agents: Option<u64>,
    /// How long a task takes in the mean.
    pub duration_mean: Millis,
    /// The page to write.
    pub html: Option<PathBuf>,
    /// Whether to print JSON instead of a table.
    pub json: bool,
}

/// The command with its own flags, and those of the settings that it takes behind them.
pub(super) fn with_flags(command: Command, with_settings: impl Fn(Command, &[&str]) -> Command) -> Command {
    let own = VALUED.map(|flag| {
        let help = if flag.help.contains("Default") || flag.allowed.starts_with("the path") {
            flag.help.to_owned()
        } else {
            format!("{}\nGive {}.", flag.help, flag.allowed)
        };
        valued(flag.key, flag.flag, flag.placeholder).help(help)
    });
    let json = Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("Print JSON instead of a table.");
    let whole = with_settings(command.args(own).arg(json), SETTINGS);
    UNBOUNDED.into_iter().fold(whole, |whole, (key, help)| whole.mut_arg(key, |arg| arg.help(help)))
}

/// What the value of a flag of this command may be.
pub(super) fn allowed(flag: &str) -> Option<&'static str> {
    VALUED.iter().find(|own| own.flag == flag).map(|own| own.allowed)
}

/// What the flags say.
pub(super) fn read(matches: &ArgMatches) -> Result<Simulate, ConfigError> {
    let given = |flag: &Flag| matches.get_one::<OsString>(flag.key);
    let text = |flag: &Flag| given(flag).map(|value| value.to_string_lossy().into_owned());
    let wrong = |flag: &Flag, value: &str| ConfigError::WrongValue {
        key: long(flag.flag),
        value: shortened(value),
        origin: Source::Flag(flag.flag),
        hint: String::new(),
        allowed: flag.allowed.to_owned(),
    };
    let path = |flag: &Flag| match given(flag) {
        Some(path) if path.is_empty() => Err(wrong(flag, "")),
        path => Ok(path.map(PathBuf::from)),
    };
    let trace = path(&TRACE)?;
    let trace =
        trace.ok_or(ConfigError::MissingFlag { command: SIMULATE, flag: TRACE.flag, allowed: TRACE.allowed })?;
    let policy_named = |name: &str| {
        let mut names = Policy::NAMED.iter().map(|policy| policy.name);
        names.find(|known| known.as_str().eq_ignore_ascii_case(name)).ok_or_else(|| wrong(&POLICY, name))
    };
    let agents = |text: &str| whole(text, 1, AGENTS_MAX).map_err(|_| wrong(&AGENTS, text));
    let duration =
        |text: &str| thousandths(text, 1, DURATION_MILLIS_MAX).map(Millis).map_err(|_| wrong(&DURATION, text));
    Ok(Simulate {
        trace,
        policy: text(&POLICY).map(|name| policy_named(&name)).transpose()?,
        agents: text(&AGENTS).map(|text| agents(&text)).transpose()?,
        duration_mean: text(&DURATION).map(|text| duration(&text)).transpose()?.unwrap_or(DURATION_MEAN),
        html: path(&HTML)?,
        json: matches.get_flag(JSON),
    })
}
