//! The catalog: which MCP servers may be asked for, and how each is run or reached.
//!
//! It is the `mcpServers` file that MCP clients have, with a block `"cortex"` of our own in an entry that wants one.
//! Invariants: an entry that was read is good, so that nobody after it checks again; equal entries compare equal, which
//! tells a reload what changed; and no error, warning or `Debug` text has the value of a variable, a header or an argument.

mod cortex;
mod entry;
mod error;
mod expand;
mod file;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use cortex_core::ids::{AllocationId, ServerName};
use cortex_core::provisioning::Sharing;
use cortex_core::units::MemoryMb;
use entry::Reader;
use error::{Place, Problem, shown};

pub use error::{CatalogError, Warning};
pub use expand::ALLOCATION_VARIABLE;
pub use file::{CatalogFile, Variables};
pub use template::Template;

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 1_048_576;

/// The most entries of a file.
pub const ENTRIES_MAX: usize = 1_000;

/// The keys under which clients keep their servers: the one of nearly all, and that of VS Code.
const TOP_KEYS: [&str; 2] = ["mcpServers", "servers"];

/// What the order of bytes is marked with by some editors.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The servers that may be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Each server by its name.
    pub entries: BTreeMap<ServerName, Arc<Entry>>,
}

/// A server that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How it is run, or where it is.
    pub program: Program,
    /// Who shares one.
    pub sharing: Sharing,
    /// How long one that nobody holds is kept.
    pub idle: Duration,
    /// How long it may take to answer its first request.
    pub start_timeout: Duration,
    /// How many calls it works on at a time.
    pub calls_in_flight_max: usize,
    /// The most memory of its processes together, if that is bounded.
    pub memory: Option<MemoryMb>,
    /// What it is told when it asks for roots: `file://` URIs. If there are none, it cannot ask.
    pub roots: Vec<String>,
}

/// How a server is run, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Program {
    /// A process of ours that speaks over its standard input and output.
    Command {
        /// The program, as a path or as a name that is looked for in `PATH`.
        command: String,
        /// Its arguments.
        arguments: Vec<Template>,
        /// The variables that it gets besides the few that each process gets.
        environment: BTreeMap<String, Template>,
        /// The folder that it starts in.
        folder: Option<Folder>,
    },
    /// A server that runs elsewhere and speaks Streamable HTTP.
    Remote {
        /// Where: `http` or `https`.
        url: String,
        /// What goes with each request.
        headers: BTreeMap<String, String>,
    },
    /// Nothing: the catalog has it no more, though it is held.
    Missing,
}

/// A folder in which a server starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// What it begins at unless it is absolute: where the file of the catalog is.
    pub base: PathBuf,
    /// The folder.
    pub path: Template,
}

impl Folder {
    /// Where it is for an allocation.
    #[must_use]
    pub fn for_allocation(&self, allocation: Option<AllocationId>) -> PathBuf {
        self.base.join(self.path.for_allocation(allocation))
    }
}

impl Catalog {
    /// Whether a server runs elsewhere.
    #[must_use]
    pub fn is_remote(&self, name: &ServerName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.is_remote())
    }

    /// Reads the file at `path`, with references to variables replaced by what `variable` says.
    ///
    /// # Errors
    /// It cannot be read, is too large, is no JSON, or has an entry that cannot be used: which, and why.
    pub fn read(path: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Result<(Self, Vec<Warning>), CatalogError> {
        Self::of_text(path, &read_bounded(path)?, variable)
    }

    fn of_text(
        path: &Path,
        text: &[u8],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, Vec<Warning>), CatalogError> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let whole: Value =
            serde_json::from_slice(text).map_err(|error| CatalogError::NotJson { path: path.to_owned(), error })?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        let mut reader = Reader::new(folder, variable);
        let entries = entries(&whole, &mut reader).map_err(|Problem { field, reason }| CatalogError::Wrong {
            path: path.to_owned(),
            field,
            reason,
        })?;
        Ok((Self { entries }, reader.warnings.finish()))
    }
}

/// The bytes of a file that is no larger than [`FILE_BYTES_MAX`].
fn read_bounded(path: &Path) -> Result<Vec<u8>, CatalogError> {
    let unreadable = |error| CatalogError::Unreadable { path: path.to_owned(), error };
    // A pipe would be waited for, and could be read once only.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CatalogError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

fn entries(whole: &Value, reader: &mut Reader<'_>) -> Result<BTreeMap<ServerName, Arc<Entry>>, Problem> {
    let (place, servers) = servers(whole, reader)?;
    if servers.len() > ENTRIES_MAX {
        return Err(place.problem(format!("has {} entries: give at most {ENTRIES_MAX}", servers.len())));
    }
    let mut entries = BTreeMap::new();
    for (name, value) in servers {
        let name = ServerName::new(name)
            .map_err(|error| place.problem(format!("has an entry named \"{}\": {error}", shown(name))))?;
        if let Some(entry) = reader.entry(&place.key(name.as_str()), value)? {
            entries.insert(name, Arc::new(entry));
        }
    }
    Ok(entries)
}

/// The block of all servers, and where it is.
fn servers<'a>(whole: &'a Value, reader: &mut Reader<'_>) -> Result<(Place, &'a Map<String, Value>), Problem> {
    let mut given = TOP_KEYS.into_iter().filter_map(|key| Some((Place::top(key), whole.get(key)?)));
    let Some((place, value)) = given.next() else {
        return Err(Place::top(TOP_KEYS[0]).problem(r#"is missing: give {"mcpServers": {"a name": {"command": "…"}}}"#));
    };
    if let Some((other, _)) = given.next() {
        reader.warnings.add(&other, format!("is ignored, since there is {place}"));
    }
    let servers =
        value.as_object().ok_or_else(|| place.wrong_type(value, "an object with an entry for each server"))?;
    Ok((place, servers))
}

impl Entry {
    /// For a server that the catalog has no more though it is held, by these: it cannot be started, and says so.
    #[must_use]
    pub const fn missing(sharing: Sharing) -> Self {
        Self {
            program: Program::Missing,
            sharing,
            idle: Duration::ZERO,
            start_timeout: Duration::from_secs(1),
            calls_in_flight_max: 1,
            memory: None,
            roots: Vec::new(),
        }
    }

    /// Whether the server runs elsewhere.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.program, Program::Remote { .. })
    }
}

impl fmt::Debug for Program {
    /// Without what may be secret: arguments, values of variables, headers, and all of a URL but its host.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { command, arguments, environment, folder } => formatter
                .debug_struct("Command")
                .field("command", command)
                .field("arguments", &arguments.len())
                .field("variables", &environment.keys())
                .field("has_folder", &folder.is_some())
                .finish(),
            Self::Remote { url, headers } => formatter
                .debug_struct("Remote")
                .field("host", &url.parse::<ureq::http::Uri>().ok().as_ref().and_then(ureq::http::Uri::host))
                .field("headers", &headers.len())
                .finish(),
            Self::Missing => formatter.write_str("Missing"),
        }
    }
}
