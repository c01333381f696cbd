//! What a guardian is told, and passes on to what becomes the command: the arguments of both.
//!
//! Invariant: what is written is read back as it was. The same program writes and reads, so that no version is needed.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

use super::memory_limit::Limit;
use cortex_core::units::MemoryMb;

/// What stands before the command.
const COMMAND_FOLLOWS: &str = "--";

/// What a child reads from its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// What the manager writes.
    Pipe,
    /// Nothing: the pipe is the guardian's alone.
    Nothing,
}

/// What shall be started, and how it is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Orders {
    /// How long the tree has between being asked to end and being made to.
    pub(super) grace: Duration,
    pub(super) input: Input,
    pub(super) limit: Limit,
    /// How many files it may have open, if not as many as the manager.
    pub(super) open_files: Option<u64>,
    /// Where the command runs, if not where the manager does.
    pub(super) folder: Option<PathBuf>,
    /// The guardian of what becomes the command.
    pub(super) guardian: Option<u32>,
    pub(super) command: OsString,
    pub(super) arguments: Vec<OsString>,
}

/// Orders that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongOrders {
    #[error("{0:?} is no order: this program starts its guardians by itself")]
    Unknown(OsString),
    #[error("no command stands behind {COMMAND_FOLLOWS:?}: this program starts its guardians by itself")]
    NoCommand,
}

impl Orders {
    /// The orders as arguments.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut written = vec![
            order("grace_ms", u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX).to_string()),
            order(
                "input",
                match self.input {
                    Input::Pipe => "pipe",
                    Input::Nothing => "nothing",
                },
            ),
        ];
        match &self.limit {
            Limit::None => {}
            Limit::Cgroup(folder) => written.push(order("cgroup", folder)),
            Limit::Data(memory) => written.push(order("data_mb", memory.to_string())),
        }
        written.extend(self.open_files.map(|count| order("open_files", count.to_string())));
        written.extend(self.folder.as_ref().map(|folder| order("folder", folder)));
        written.extend(self.guardian.map(|guardian| order("guardian", guardian.to_string())));
        written.push(COMMAND_FOLLOWS.into());
        written.push(self.command.clone());
        written.extend(self.arguments.iter().cloned());
        written
    }

    /// Reads what [`Self::arguments`] wrote.
    pub(super) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, WrongOrders> {
        let mut orders = Self {
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
            let argument = arguments.next().ok_or(WrongOrders::NoCommand)?;
            if argument == COMMAND_FOLLOWS {
                break;
            }
            orders.take(&argument).ok_or(WrongOrders::Unknown(argument))?;
        }
        orders.command = arguments.next().ok_or(WrongOrders::NoCommand)?;
        orders.arguments = arguments.collect();
        Ok(orders)
    }

    /// Takes one order; none if it cannot be understood.
    fn take(&mut self, argument: &OsStr) -> Option<()> {
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

fn order(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut order = OsString::from(name);
    order.push("=");
    order.push(value);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(orders: &Orders) {
        assert_eq!(Orders::read(orders.arguments()).as_ref(), Ok(orders));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut orders = Orders {
            grace: Duration::from_millis(5_000),
            input: Input::Pipe,
            limit: Limit::None,
            open_files: None,
            folder: None,
            guardian: None,
            command: "--".into(),
            arguments: vec![],
        };
        check(&orders);
        orders.arguments = vec!["--".into(), "".into(), "a=b".into(), OsString::from_vec(vec![0xff, b'='])];
        orders.input = Input::Nothing;
        orders.folder = Some("/tmp/with = and\nmore".into());
        orders.guardian = Some(u32::MAX);
        orders.open_files = Some(1_024);
        orders.limit = Limit::Cgroup("/sys/fs/cgroup/a=b".into());
        check(&orders);
        orders.limit = Limit::Data(MemoryMb(u64::MAX));
        orders.grace = Duration::from_millis(u64::MAX);
        check(&orders);
    }

    #[test]
    fn what_is_no_order_is_named() {
        let read = |arguments: &[&str]| Orders::read(arguments.iter().map(OsString::from));
        for wrong in ["grace_ms=x", "input=", "guardian=4294967296", "grace", "--help", "data_mb=-1"] {
            assert_eq!(read(&[wrong, "--", "true"]), Err(WrongOrders::Unknown(wrong.into())));
        }
        assert_eq!(read(&[]), Err(WrongOrders::NoCommand));
        assert_eq!(read(&["input=pipe", "--"]), Err(WrongOrders::NoCommand));
    }
}
