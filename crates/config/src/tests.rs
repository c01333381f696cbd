//! Tests of the settings. Each test defines its own flags, variables and file.

mod bounds;
mod sources;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{MAIN_SEPARATOR, PathBuf},
};

use super::{Configuration, Flags};

/// The three sources of one test, with a directory for the file.
struct Sources {
    directory: tempfile::TempDir,
    flags: Flags,
    variables: BTreeMap<String, OsString>,
}

impl Sources {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            flags: Flags::new(),
            variables: BTreeMap::new(),
        }
    }

    fn flag(mut self, key: &'static str, value: &str) -> Self {
        self.flags.insert(key, value.into());
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("cortex.toml")
    }

    fn file(mut self, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(), content).expect("a file that can be written");
        self.flags.insert("config", self.path().into());
        self
    }

    /// Returns the configuration, or the error with the path of the file shortened to its name.
    fn load(&self) -> Result<Configuration, String> {
        Configuration::load(&self.flags, |name| self.variables.get(name).cloned()).map_err(|error| {
            let directory = format!("{}{}", self.directory.path().display(), MAIN_SEPARATOR);
            error.to_string().replace(&directory, "")
        })
    }
}
