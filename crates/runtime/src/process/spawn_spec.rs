//! The spawn spec: what the subcommands `guardian` and `launch` receive as arguments.
//!
//! Invariant: reading the written arguments gives an equal spec. The same program writes and reads them, so that the
//! format needs no version.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

use super::memory_limit::Limit;
use cortex_core::units::MemoryMb;

/// Separates the settings from the command.
const COMMAND_FOLLOWS: &str = "--";

/// The standard input of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The pipe from the manager.
    Pipe,
    /// `/dev/null`. Only the guardian has the pipe.
    Nothing,
}

/// The command to start, its limits, and how its process tree is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SpawnSpec {
    /// The time between asking the process tree to end and killing it.
    pub(super) grace: Duration,
    pub(super) input: Input,
    pub(super) limit: Limit,
    /// The limit on its open files; that of the manager if absent.
    pub(super) open_files: Option<u64>,
    /// Its working directory; that of the manager if absent.
    pub(super) folder: Option<PathBuf>,
    /// The process id of the guardian. Only `launch` gets it.
    pub(super) guardian: Option<u32>,
    pub(super) command: OsString,
    pub(super) arguments: Vec<OsString>,
}

/// Why arguments are not a spawn spec.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidSpawnSpec {
    #[error("{0:?} is not a setting of this internal subcommand: do not start it by hand")]
    Unknown(OsString),
    #[error("the command after {COMMAND_FOLLOWS:?} is missing: do not start this internal subcommand by hand")]
    NoCommand,
}

impl SpawnSpec {
    /// Writes the spec as arguments.
    pub(super) fn to_arguments(&self) -> Vec<OsString> {
        let mut written = vec![
            setting("grace_ms", u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX).to_string()),
            setting(
                "input",
                match self.input {
                    Input::Pipe => "pipe",
                    Input::Nothing => "nothing",
                },
            ),
        ];
        match &self.limit {
            Limit::None => {}
            Limit::Cgroup(folder) => written.push(setting("cgroup", folder)),
            Limit::Data(memory) => written.push(setting("data_mb", memory.to_string())),
        }
        written.extend(self.open_files.map(|count| setting("open_files", count.to_string())));
        written.extend(self.folder.as_ref().map(|folder| setting("folder", folder)));
        written.extend(self.guardian.map(|guardian| setting("guardian", guardian.to_string())));
        written.push(COMMAND_FOLLOWS.into());
        written.push(self.command.clone());
        written.extend(self.arguments.iter().cloned());
        written
    }

    /// Reads what [`Self::to_arguments`] wrote.
    pub(super) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, InvalidSpawnSpec> {
        let mut spec = Self {
            grace: Duration::ZERO,
            input: Input::Pipe,
            limit: Limit::None,
            open_files: None,
            folder: None,
            guardian: None,
            command: OsString::new(),
            arguments: Vec::new(),
        };
        let mut arguments = arguments.into_iter();
        loop {
            let argument = arguments.next().ok_or(InvalidSpawnSpec::NoCommand)?;
            if argument == COMMAND_FOLLOWS {
                break;
            }
            spec.apply(&argument).ok_or(InvalidSpawnSpec::Unknown(argument))?;
        }
        spec.command = arguments.next().ok_or(InvalidSpawnSpec::NoCommand)?;
        spec.arguments = arguments.collect();
        Ok(spec)
    }

    /// Applies one setting. Returns none if it is not known.
    fn apply(&mut self, argument: &OsStr) -> Option<()> {
        let bytes = argument.as_bytes();
        let middle = bytes.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&bytes[..middle], OsString::from_vec(bytes[middle + 1..].to_vec()));
        let number = || value.to_str()?.parse::<u64>().ok();
        match name {
            b"grace_ms" => self.grace = Duration::from_millis(number()?),
            b"input" if value == "pipe" => self.input = Input::Pipe,
            b"input" if value == "nothing" => self.input = Input::Nothing,
            b"cgroup" => self.limit = Limit::Cgroup(value.into()),
            b"data_mb" => self.limit = Limit::Data(MemoryMb(number()?)),
            b"open_files" => self.open_files = Some(number()?),
            b"folder" => self.folder = Some(value.into()),
            b"guardian" => self.guardian = Some(u32::try_from(number()?).ok()?),
            _ => return None,
        }
        Some(())
    }
}

fn setting(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut setting = OsString::from(name);
    setting.push("=");
    setting.push(value);
    setting
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: &SpawnSpec) {
        assert_eq!(SpawnSpec::read(spec.to_arguments()).as_ref(), Ok(spec));
    }

    #[test]
    fn a_written_spec_is_read_back() {
        let mut spec = SpawnSpec {
            grace: Duration::from_millis(5_000),
            input: Input::Pipe,
            limit: Limit::None,
            open_files: None,
            folder: None,
            guardian: None,
            command: "--".into(),
            arguments: vec![],
        };
        check(&spec);
        spec.arguments = vec!["--".into(), "".into(), "a=b".into(), OsString::from_vec(vec![0xff, b'='])];
        spec.input = Input::Nothing;
        spec.folder = Some("/tmp/with = and\nmore".into());
        spec.guardian = Some(u32::MAX);
        spec.open_files = Some(1_024);
        spec.limit = Limit::Cgroup("/sys/fs/cgroup/a=b".into());
        check(&spec);
        spec.limit = Limit::Data(MemoryMb(u64::MAX));
        spec.grace = Duration::from_millis(u64::MAX);
        check(&spec);
    }

    #[test]
    fn an_unknown_setting_is_named() {
        let read = |arguments: &[&str]| SpawnSpec::read(arguments.iter().map(OsString::from));
        for wrong in ["grace_ms=x", "input=", "guardian=4294967296", "grace", "--help", "data_mb=-1"] {
            assert_eq!(read(&[wrong, "--", "true"]), Err(InvalidSpawnSpec::Unknown(wrong.into())));
        }
        assert_eq!(read(&[]), Err(InvalidSpawnSpec::NoCommand));
        assert_eq!(read(&["input=pipe", "--"]), Err(InvalidSpawnSpec::NoCommand));
    }
}
