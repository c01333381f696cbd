//! Settings whose value is one of a few words.

use std::fmt;

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
    /// Every toolset with its name, in the order in which they are shown.
    pub const ALL: &[(&str, Self)] = &[
        ("allocation", Self::Allocation),
        ("leases", Self::Leases),
        ("agents", Self::Agents),
        ("tasks", Self::Tasks),
        ("usage", Self::Usage),
        ("planning", Self::Planning),
        ("servers", Self::Servers),
    ];

    /// The word that enables every toolset.
    pub const ALL_NAME: &str = "all";

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
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

impl LogLevel {
    /// Every level with its name, in the order of increasing verbosity.
    pub const ALL: &[(&str, Self)] = &[
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

impl LogFormat {
    /// Every format with its name.
    pub const ALL: &[(&str, Self)] = &[("text", Self::Text), ("json", Self::Json)];

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// The failures that a confirmed change survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// A process crash and a power cut.
    Full,
    /// A process crash. A power cut may undo the most recent batches.
    Normal,
}

impl Durability {
    /// Every level with its name.
    pub const ALL: &[(&str, Self)] = &[("full", Self::Full), ("normal", Self::Normal)];

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
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

impl DaemonMode {
    /// Every mode with its name.
    pub const ALL: &[(&str, Self)] = &[("auto", Self::Auto), ("never", Self::Never), ("always", Self::Always)];

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// The authentication at the endpoint of a managed MCP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAuth {
    /// The access token of the client's lease is required.
    Token,
    /// No authentication: every process that can connect to the endpoint can use it.
    None,
}

impl EndpointAuth {
    /// Every mode with its name.
    pub const ALL: &[(&str, Self)] = &[("token", Self::Token), ("none", Self::None)];

    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
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

impl WorkerReady {
    /// Parses `tcp`, `none` or a path.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_path = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Some(Self::Tcp),
            "none" => Some(Self::None),
            _ => is_path.then(|| Self::Http(text.to_owned())),
        }
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

/// The choices of a yes-or-no setting.
pub(super) const YES_NO: &[(&str, bool)] = &[("yes", true), ("no", false)];

/// Returns the name of a value in a table.
fn name_of<T: PartialEq>(table: &'static [(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, candidate)| *candidate == value).map_or("", |(name, _)| name)
}
