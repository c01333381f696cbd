//! The types of values that are one of a few words.

use super::parse::{ParseError, parse_choice};
use super::setting::{SettingValue, alternatives};
use std::fmt;
use std::ops::RangeInclusive;
use toml::Value;

/// A named group of tools that is enabled as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Toolset {
    /// The six tools that request, release, read and clean up allocations.
    Allocation,
    /// The tool that renews leases.
    Leases,
    /// The tools with which agents register and send heartbeats.
    Agents,
    /// The tools of the task queue.
    Tasks,
    /// The tools for quotas, token budgets and bottlenecks.
    Usage,
    /// The tools that show what the planner would do.
    Planning,
    /// The tools for managed MCP servers and workers.
    Servers,
}

impl Toolset {
    /// The word that enables every toolset.
    pub const ALL_NAME: &str = "all";
}

/// The least severe log lines that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    Off,
    /// Failures that need attention.
    Error,
    /// Also unexpected conditions that were handled.
    Warn,
    /// Also each grant, denial, release and expiry.
    Info,
    /// Also details of the server's decisions, including those of its dependencies.
    Debug,
    Trace,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// The failures that a confirmed change survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// A process crash and a power cut.
    Full,
    /// A process crash. A power cut may undo the most recent batches.
    Normal,
}

/// Whether sessions use a shared daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DaemonMode {
    /// A daemon if a state, a catalog or a worker command is configured.
    Auto,
    /// No daemon: the process serves its client itself, and is the only owner of its state.
    Never,
    /// A daemon; without a state, sessions share the daemon's memory.
    Always,
}

/// The authentication at the endpoint of a managed MCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAuth {
    /// The access token of the client's lease is required.
    Token,
    /// No authentication: every process that can connect to the endpoint can use it.
    None,
}

/// The readiness check of a managed worker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WorkerReady {
    /// Ready when its port accepts connections.
    #[default]
    Tcp,
    /// Ready as soon as it runs.
    None,
    /// Ready when a GET request of this path at its port returns a 2xx status.
    Http(String),
}

impl SettingValue for WorkerReady {
    fn allowed(_: &RangeInclusive<u64>) -> String {
        "tcp, none or a path such as /health".to_owned()
    }

    fn parse(text: &str, _: &RangeInclusive<u64>) -> Result<Self, ParseError> {
        let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "none" => Ok(Self::None),
            _ if is_path => Ok(Self::Http(text.to_owned())),
            _ => Err(ParseError::NotAllowed),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::from(self.to_string()))
    }
}

impl fmt::Display for WorkerReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("tcp"),
            Self::None => f.write_str("none"),
            Self::Http(path) => f.write_str(path),
        }
    }
}

/// Gives a type its names, in the order in which they are shown.
macro_rules! named {
    ($($type:ident: $($name:literal => $value:ident),*;)*) => {$(
        impl $type {
            /// Every value with its name.
            pub const ALL: &[(&str, Self)] = &[$(($name, Self::$value)),*];

            /// Returns the name in settings.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name),*
                }
            }
        }
    )*};
}
named! {
    Toolset:
        "allocation" => Allocation, "leases" => Leases, "agents" => Agents, "tasks" => Tasks,
        "usage" => Usage, "planning" => Planning, "servers" => Servers;
    LogLevel: "off" => Off, "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace;
    LogFormat: "text" => Text, "json" => Json;
    Durability: "full" => Full, "normal" => Normal;
    DaemonMode: "auto" => Auto, "never" => Never, "always" => Always;
    EndpointAuth: "token" => Token, "none" => None;
}

/// Parses one of the names, ignoring case, and shows it.
macro_rules! choices {
    ($($type:ty: $all:expr;)*) => {$(
        impl SettingValue for $type {
            fn allowed(_: &RangeInclusive<u64>) -> String {
                alternatives($all)
            }

            fn parse(text: &str, _: &RangeInclusive<u64>) -> Result<Self, ParseError> {
                parse_choice(text, $all)
            }

            fn show(&self) -> Option<Value> {
                $all.iter().find(|(_, value)| value == self).map(|(name, _)| Value::from(*name))
            }
        }
    )*};
}
choices! {
    bool: &[("yes", true), ("no", false)];
    DaemonMode: Self::ALL;
    Durability: Self::ALL;
    EndpointAuth: Self::ALL;
    LogFormat: Self::ALL;
    LogLevel: Self::ALL;
}
