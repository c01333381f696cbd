//! The flags of the subcommand `simulate`.

use super::flag::Flag;
use clap::{ArgMatches, Command};
use cortex_config::{ConfigError, flag_of, parse_thousandths, parse_whole};
use cortex_core::policy::{Policy, PolicyName};
use cortex_core::time::Millis;
use std::path::PathBuf;

/// The name of the subcommand.
pub(super) const SIMULATE: &str = "simulate";

/// The description in the help page.
pub(super) const HELP: &str = "Replay a trace of arrivals under each scaling policy, in virtual time.";

/// The keys of the settings that it accepts.
pub(super) const SETTINGS: &[&str] = &["plan_seconds", "token_budget", "token_window_seconds", "max_tasks"];

/// The help of the token budget, which has no default here, since the default would limit the simulation.
const TOKEN_BUDGET_HELP: &str = "\
Tokens that all tasks may use together, per window if --token-window-seconds is given.
Unlimited by default.";

/// The maximum number of agents at the start.
const AGENTS_MAX: u64 = 100_000;

/// The longest mean duration of a task, in thousandths of a second: a day.
const DURATION_MILLIS_MAX: u64 = 86_400_000;

/// The default mean duration of a task.
const DURATION_MEAN: Millis = Millis::from_seconds(30);

const TRACE: Flag = Flag {
    key: "trace",
    placeholder: "FILE",
    allowed: "the path of a CSV file",
    help: "CSV of arrivals with a header. Column seconds; optional: requests (arrivals of the row), and tokens\n\
           or both context_tokens and generated_tokens.",
};

const POLICY: Flag = Flag {
    key: "policy",
    placeholder: "POLICY",
    allowed: "aggressive, balanced or conservative",
    help: "Simulate only this policy instead of all.\nGive aggressive, balanced or conservative.",
};

const AGENTS: Flag = Flag {
    key: "agents",
    placeholder: "COUNT",
    allowed: "1 to 100000",
    help: "Initial number of agents, and the size of the fixed fleet used for comparison.\n\
           Default: the mean number that the balanced policy reaches from one agent.",
};

const DURATION: Flag = Flag {
    key: "duration-mean",
    placeholder: "SECONDS",
    allowed: "0.001 to 86400 seconds, with at most 3 decimals",
    help: "Mean duration of a task; the duration of each task is generated from a fixed seed.\nDefault 30.",
};

const HTML: Flag = Flag {
    key: "html",
    placeholder: "FILE",
    allowed: "the path of a file to write",
    help: "Write a self-contained HTML page with plots.",
};

/// The flags with a value.
pub(super) const VALUED: [&Flag; 5] = [&TRACE, &POLICY, &AGENTS, &DURATION, &HTML];

const JSON: Flag = Flag::switch("json", "Print JSON instead of a table.");

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
    with_settings(command.args(VALUED.map(Flag::arg)).arg(JSON.arg()), SETTINGS)
        .mut_arg("token_budget", |arg| arg.help(TOKEN_BUDGET_HELP))
}

/// Parses the values of the flags.
pub(super) fn parse_flags(matches: &ArgMatches) -> Result<SimulateOptions, ConfigError> {
    let trace = TRACE.path(matches)?.ok_or_else(|| ConfigError::MissingFlag {
        command: SIMULATE,
        flag: flag_of(TRACE.key),
        allowed: TRACE.allowed,
    })?;
    let policy = |name: &str| {
        let mut names = Policy::NAMED.iter().map(|policy| policy.name);
        names.find(|known| known.as_str().eq_ignore_ascii_case(name))
    };
    let duration = |text: &str| parse_thousandths(text, 1, DURATION_MILLIS_MAX).ok().map(Millis);
    Ok(SimulateOptions {
        trace,
        policy: POLICY.parse(matches, policy)?,
        agents: AGENTS.parse(matches, |text| parse_whole(text, 1, AGENTS_MAX).ok())?,
        duration_mean: DURATION.parse(matches, duration)?.unwrap_or(DURATION_MEAN),
        html: HTML.path(matches)?,
        json: matches.get_flag(JSON.key),
    })
}
