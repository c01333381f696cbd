//! The settings that are words.

use std::fmt;

/// A named group of tools that a client is offered together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Toolset {
    /// The six tools that request, release, read and clean up allocations.
    Allocation,
    /// The renewal of leases.
    Leases,
    /// The tools by which agents register and beat.
    Agents,
    /// The queue of tasks.
    Tasks,
    /// Quotas, token budgets and bottlenecks.
    Usage,
    /// What the planner would do.
    Planning,
    /// The MCP servers and workers that are really run.
    Servers,
}

impl Toolset {
    /// Every toolset by its name, in the order in which they are shown.
    pub const ALL: &[(&str, Self)] = &[
        ("allocation", Self::Allocation),
        ("leases", Self::Leases),
        ("agents", Self::Agents),
        ("tasks", Self::Tasks),
        ("usage", Self::Usage),
        ("planning", Self::Planning),
        ("servers", Self::Servers),
    ];

    /// The word that stands for every toolset.
    pub const ALL_NAME: &str = "all";

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// The least severe log lines that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Nothing is written.
    Off,
    /// What failed and needs somebody's attention.
    Error,
    /// Also what was odd and got mended.
    Warn,
    /// Also each grant, refusal, release and expiry.
    Info,
    /// Also what helps to follow the server's decisions, its packages included.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Every level by its name, from the quietest to the most talkative.
    pub const ALL: &[(&str, Self)] = &[
        ("off", Self::Off),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

impl LogFormat {
    /// Every format by its name.
    pub const ALL: &[(&str, Self)] = &[("text", Self::Text), ("json", Self::Json)];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// What an answer survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// A crash of the process, and a power cut.
    Full,
    /// A crash of the process. A power cut may undo the last moments, whole batches at a time.
    Normal,
}

impl Durability {
    /// Every level by its name.
    pub const ALL: &[(&str, Self)] = &[("full", Self::Full), ("normal", Self::Normal)];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// When sessions share a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DaemonMode {
    /// When there is a state that they could share.
    Auto,
    /// Never: the process serves by itself, and owns its state alone.
    Never,
    /// Always: without a state, the daemon's memory is shared.
    Always,
}

impl DaemonMode {
    /// Every mode by its name.
    pub const ALL: &[(&str, Self)] = &[("auto", Self::Auto), ("never", Self::Never), ("always", Self::Always)];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// What a client has to show at the endpoint of an MCP server that is really run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAuth {
    /// The access token of its lease.
    Token,
    /// Nothing: whoever reaches the endpoint may use it.
    None,
}

impl EndpointAuth {
    /// Every way by its name.
    pub const ALL: &[(&str, Self)] = &[("token", Self::Token), ("none", Self::None)];

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        name_of(Self::ALL, self)
    }
}

/// When a worker that is run counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WorkerReady {
    /// When it takes connections at its port.
    #[default]
    Tcp,
    /// As soon as it runs.
    None,
    /// When it answers a GET of this path at its port with a status of 2xx.
    Http(String),
}

impl WorkerReady {
    /// Reads `tcp`, `none` or a path.
    pub(super) fn read(text: &str) -> Option<Self> {
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

/// The answers to a question.
pub(super) const YES_NO: &[(&str, bool)] = &[("yes", true), ("no", false)];

/// The name that a table gives to a value.
fn name_of<T: PartialEq>(table: &'static [(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|(_, candidate)| *candidate == value).map_or("", |(name, _)| name)
}
