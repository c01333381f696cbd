//! What the server is told to do wrong.

use std::str::FromStr;
use std::time::Duration;

/// The misbehaviours; by default there are none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--worker`: is a worker and no MCP server. Of the others it knows those of the start and the end.
    pub(crate) worker: bool,
    /// `--only-2026`: refuses `initialize` as an unknown method, and speaks 2026-07-28.
    pub(crate) only_2026: bool,
    /// `--start-delay-ms N`: reads nothing, or listens on no port, for so long.
    pub(crate) start_delay: Duration,
    /// `--never-ready`: reads and answers nothing; a worker never listens.
    pub(crate) never_ready: bool,
    /// `--crash-at-start`: three lines on standard error and the code 3.
    pub(crate) crash_at_start: bool,
    /// `--crash-after N`: N calls of tools are answered, the next ends the process with the code 7.
    pub(crate) crash_after_calls: Option<u64>,
    /// `--ignore-term`: goes on after SIGTERM, and after the end of the input too. So do its grandchildren.
    pub(crate) ignore_term: bool,
    /// `--grandchild`: starts a process that lives 1,000 s; its pid is told as `grandchild PID` on standard error.
    pub(crate) grandchild: bool,
    /// `--grandchild-setsid`: the same, in a session of its own.
    pub(crate) grandchild_setsid: bool,
    /// `--flood-stderr N`: N lines on standard error before anything is read.
    pub(crate) flood_stderr_lines: u64,
    /// `--garbage-stdout`: a line that is no JSON before each answer.
    pub(crate) garbage_stdout: bool,
    /// `--hang-on-ping`: never answers a ping; with `--only-2026`, where there is none, never lists its tools.
    pub(crate) hang_on_ping: bool,
    /// `--slow-ping-ms N`: answers a ping after so long, and everything else meanwhile.
    pub(crate) slow_ping: Duration,
    /// `--answer-twice`: sends each answer twice.
    pub(crate) answer_twice: bool,
    /// `--foreign-id`: sends two answers with ids that nobody asked for before each one.
    pub(crate) foreign_id: bool,
    /// `--huge-line N`: the tool `big` answers with so many bytes in one line, whatever it is asked for.
    pub(crate) huge_line_bytes: Option<usize>,
    /// What a process that was started by the two above is told: only to live, in a session of its own or not.
    pub(crate) as_grandchild: Option<bool>,
}

impl Flags {
    /// # Errors
    /// A flag is unknown, or its number is missing or none.
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
                _ => return Err(format!("{argument} is no flag of this server")),
            }
        }
        Ok(flags)
    }

    /// Whether each grandchild that is wanted has a session of its own.
    pub(crate) fn grandchildren(&self) -> impl Iterator<Item = bool> {
        let plain = self.grandchild.then_some(false);
        plain.into_iter().chain(self.grandchild_setsid.then_some(true))
    }
}

fn number<N: FromStr>(flag: &str, given: Option<String>) -> Result<N, String> {
    let given = given.ok_or_else(|| format!("{flag} wants a number"))?;
    given.parse().map_err(|_| format!("{flag} is {given}: give a number"))
}
