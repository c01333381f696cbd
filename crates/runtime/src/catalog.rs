//! The catalog: the MCP servers that can be leased, and how each is run or reached.
//!
//! Its file is the `mcpServers` file of MCP clients, with an optional block `"cortex"` in an entry for the settings of
//! this program. Invariants: an entry that was read is valid, and need not be checked again; equal entries compare
//! equal, which tells a reload what changed; and no error, warning or `Debug` text has the value of a variable, a
//! header or an argument.

mod cortex_block;
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
use entry::EntryReader;
use error::{KeyPath, Problem, excerpt};

pub use error::CatalogError;
pub(crate) use error::Warning;
pub(crate) use expand::ALLOCATION_VARIABLE;
pub(crate) use file::CatalogFile;
pub(crate) use template::Template;

/// The size of the largest accepted file, in bytes.
pub(crate) const FILE_BYTES_MAX: u64 = 1_048_576;

/// The most entries of a file.
pub(crate) const ENTRIES_MAX: usize = 1_000;

/// The keys of the object of servers: that of most clients, and that of VS Code.
const TOP_KEYS: [&str; 2] = ["mcpServers", "servers"];

/// Some editors write it at the beginning of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The MCP servers that can be leased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    pub(crate) entries: BTreeMap<ServerName, Arc<CatalogEntry>>,
}

/// An MCP server that can be leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogEntry {
    pub(crate) program: Program,
    /// Whether allocations share an instance or each has its own.
    pub(crate) sharing: Sharing,
    /// How long an instance without holders is kept running.
    pub(crate) idle: Duration,
    /// The time limit for an instance to answer its first request.
    pub(crate) start_timeout: Duration,
    /// The most concurrent calls to an instance.
    pub(crate) calls_in_flight_max: usize,
    /// The limit on the memory of its processes.
    pub(crate) memory: Option<MemoryMb>,
    /// The `file://` URIs that answer its `roots/list` requests. Without any, it is not offered roots.
    pub(crate) roots: Vec<String>,
}

/// How a server is run or reached.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Program {
    /// A process with the stdio transport.
    Command {
        /// The program: a path, or a name to search in `PATH`.
        command: String,
        arguments: Vec<Template>,
        /// Variables in addition to those that every child inherits.
        environment: BTreeMap<String, Template>,
        /// The working directory.
        folder: Option<Folder>,
    },
    /// A remote server with the Streamable HTTP transport.
    Remote {
        /// With the scheme `http` or `https`.
        url: String,
        /// The headers of each request.
        headers: BTreeMap<String, String>,
    },
    /// The entry was removed from the catalog while allocations hold the server.
    Removed,
}

/// The working directory of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    /// The folder of the catalog file, to which a relative path is relative.
    pub(crate) base: PathBuf,
    pub(crate) path: Template,
}

impl Folder {
    /// Returns its path for an allocation.
    #[must_use]
    pub(crate) fn for_allocation(&self, allocation: Option<AllocationId>) -> PathBuf {
        self.base.join(self.path.for_allocation(allocation))
    }
}

impl Catalog {
    #[must_use]
    pub(crate) fn is_remote(&self, name: &ServerName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.is_remote())
    }

    /// Reads the file at `path`, and expands references to variables by `variable`.
    ///
    /// # Errors
    /// The file cannot be read, is too large, is not JSON, or has an invalid entry.
    pub(crate) fn read(
        path: &Path,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, Vec<Warning>), CatalogError> {
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
        let mut reader = EntryReader::new(folder, variable);
        let entries = entries(&whole, &mut reader).map_err(|Problem { field, reason }| CatalogError::Invalid {
            path: path.to_owned(),
            field,
            reason,
        })?;
        Ok((Self { entries }, reader.warnings.finish()))
    }
}

/// Reads a file that is no larger than [`FILE_BYTES_MAX`].
fn read_bounded(path: &Path) -> Result<Vec<u8>, CatalogError> {
    let unreadable = |error| CatalogError::Unreadable { path: path.to_owned(), error };
    // Reading a pipe would block, and would work only once.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CatalogError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

fn entries(whole: &Value, reader: &mut EntryReader<'_>) -> Result<BTreeMap<ServerName, Arc<CatalogEntry>>, Problem> {
    let (key_path, servers) = servers(whole, reader)?;
    if servers.len() > ENTRIES_MAX {
        return Err(key_path.problem(format!("has {} entries: give at most {ENTRIES_MAX}", servers.len())));
    }
    let mut entries = BTreeMap::new();
    for (name, value) in servers {
        let name = ServerName::new(name)
            .map_err(|error| key_path.problem(format!("has an entry named \"{}\": {error}", excerpt(name))))?;
        if let Some(entry) = reader.entry(&key_path.key(name.as_str()), value)? {
            entries.insert(name, Arc::new(entry));
        }
    }
    Ok(entries)
}

/// Returns the object of all servers, and its path.
fn servers<'a>(whole: &'a Value, reader: &mut EntryReader<'_>) -> Result<(KeyPath, &'a Map<String, Value>), Problem> {
    let mut given = TOP_KEYS.into_iter().filter_map(|key| Some((KeyPath::top(key), whole.get(key)?)));
    let Some((key_path, value)) = given.next() else {
        return Err(
            KeyPath::top(TOP_KEYS[0]).problem(r#"is missing: give {"mcpServers": {"a name": {"command": "…"}}}"#)
        );
    };
    if let Some((other, _)) = given.next() {
        reader.warnings.add(&other, format!("is ignored because {key_path} is present"));
    }
    let servers =
        value.as_object().ok_or_else(|| key_path.wrong_type(value, "an object with an entry for each server"))?;
    Ok((key_path, servers))
}

impl CatalogEntry {
    /// Returns the entry for a server that was removed from the catalog while allocations hold it. It cannot be
    /// started.
    #[must_use]
    pub(crate) const fn removed(sharing: Sharing) -> Self {
        Self {
            program: Program::Removed,
            sharing,
            idle: Duration::ZERO,
            start_timeout: Duration::from_secs(1),
            calls_in_flight_max: 1,
            memory: None,
            roots: Vec::new(),
        }
    }

    #[must_use]
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.program, Program::Remote { .. })
    }
}

impl fmt::Debug for Program {
    /// Leaves out what may be secret: arguments, values of variables, headers, and all of a URL but its host.
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
            Self::Removed => formatter.write_str("Removed"),
        }
    }
}
