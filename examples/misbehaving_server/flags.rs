//! The flags that select what the server does wrong.

use std::str::FromStr;
use std::time::Duration;

/// The selected faults; none by default.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--worker`: acts as a worker instead of an MCP server. Only the flags for the start and the end apply to it.
    pub(crate) worker: bool,
    /// `--only-2026`: refuses `initialize` as an unknown method, and supports only 2026-07-28.
    pub(crate) only_2026: bool,
    /// `--start-delay-ms N`: waits for N ms before it reads, or before a worker listens.
    pub(crate) start_delay: Duration,
    /// `--never-ready`: reads and answers nothing; a worker never listens.
    pub(crate) never_ready: bool,
    /// `--crash-at-start`: writes three lines to standard error and exits with code 3.
    pub(crate) crash_at_start: bool,
    /// `--crash-after N`: answers N tool calls, and exits with code 7 at the next.
    pub(crate) crash_after_calls: Option<u64>,
    /// `--ignore-term`: continues after SIGTERM and after the end of its input. So do its grandchildren.
    pub(crate) ignore_term: bool,
    /// `--grandchild`: starts a process that runs for 1,000 s, and writes `grandchild PID` to standard error.
    pub(crate) grandchild: bool,
    /// `--grandchild-setsid`: the same, in a session of its own.
    pub(crate) grandchild_setsid: bool,
    /// `--flood-stderr N`: writes N lines to standard error before it reads anything.
    pub(crate) flood_stderr_lines: u64,
    /// `--garbage-stdout`: writes a line that is not JSON before each answer.
    pub(crate) garbage_stdout: bool,
    /// `--hang-on-ping`: never answers a ping. With `--only-2026`, which has no ping, never lists its tools.
    pub(crate) hang_on_ping: bool,
    /// `--slow-ping-ms N`: answers a ping after N ms, and other requests without a delay.
    pub(crate) slow_ping: Duration,
    /// `--answer-twice`: sends each answer twice.
    pub(crate) answer_twice: bool,
    /// `--foreign-id`: sends two answers with ids of no request before each answer.
    pub(crate) foreign_id: bool,
    /// `--huge-line N`: the tool `big` answers with N bytes in one line, regardless of its argument.
    pub(crate) huge_line_bytes: Option<usize>,
    /// `--as-grandchild` and `--as-grandchild-setsid`, which a grandchild is started with: only runs. The value is
    /// whether it has a session of its own.
    pub(crate) as_grandchild: Option<bool>,
}

impl Flags {
    /// # Errors
    /// A flag is unknown, or its number is missing or invalid.
    pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--worker" => flags.worker = true,
                "--only-2026" => flags.only_2026 = true,
                "--start-delay-ms" => flags.start_delay = Duration::from_millis(number(&argument, arguments.next())?),
                "--never-ready" => flags.never_ready = true,
                "--crash-at-start" => flags.crash_at_start = true,
                "--crash-after" => flags.crash_after_calls = Some(number(&argument, arguments.next())?),
                "--ignore-term" => flags.ignore_term = true,
                "--grandchild" => flags.grandchild = true,
                "--grandchild-setsid" => flags.grandchild_setsid = true,
                "--flood-stderr" => flags.flood_stderr_lines = number(&argument, arguments.next())?,
                "--garbage-stdout" => flags.garbage_stdout = true,
                "--hang-on-ping" => flags.hang_on_ping = true,
                "--slow-ping-ms" => flags.slow_ping = Duration::from_millis(number(&argument, arguments.next())?),
                "--answer-twice" => flags.answer_twice = true,
                "--foreign-id" => flags.foreign_id = true,
                "--huge-line" => flags.huge_line_bytes = Some(number(&argument, arguments.next())?),
                "--as-grandchild" => flags.as_grandchild = Some(false),
                "--as-grandchild-setsid" => flags.as_grandchild = Some(true),
                _ => return Err(format!("{argument} is not a flag of this server")),
            }
        }
        Ok(flags)
    }

    /// Returns, for each grandchild to start, whether it has a session of its own.
    pub(crate) fn grandchildren(&self) -> impl Iterator<Item = bool> {
        let plain = self.grandchild.then_some(false);
        plain.into_iter().chain(self.grandchild_setsid.then_some(true))
    }
}

fn number<N: FromStr>(flag: &str, given: Option<String>) -> Result<N, String> {
    let given = given.ok_or_else(|| format!("{flag} requires a number"))?;
    given.parse().map_err(|_| format!("{flag} is {given}: give a number"))
}
