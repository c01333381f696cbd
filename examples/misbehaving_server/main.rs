//! A small MCP server for the tests that misbehaves on command.
//!
//! Without arguments it is a well-behaved server over standard input and output. It supports 2024-11-05, 2025-03-26,
//! 2025-06-18 and 2025-11-25, as the client requests. `flags.rs` documents the flags, which can be combined. With
//! `--worker` it is a small HTTP worker instead.
#![expect(clippy::print_stderr, reason = "a test server reports what it does on standard error")]

mod flags;
mod output;
mod server;
mod tools;
mod worker;

use flags::Flags;
use server::Server;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// The exit code of a crash on command.
const CRASH_CODE: u8 = 7;

/// The exit code of a crash at the start.
const CRASH_AT_START_CODE: u8 = 3;

/// How long a grandchild runs, and a server that does not end.
const LONG: Duration = Duration::from_secs(1_000);

fn main() -> ExitCode {
    let flags = match Flags::read(std::env::args().skip(1)) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if flags.ignore_term
        && let Err(error) = ignore_term()
    {
        eprintln!("SIGTERM cannot be ignored: {error}");
        return ExitCode::FAILURE;
    }
    if let Some(in_a_session_of_its_own) = flags.as_grandchild {
        return live_long(in_a_session_of_its_own);
    }
    if flags.crash_at_start {
        eprintln!("reading the settings\nconnecting to the database\nfatal: the database cannot be reached");
        return ExitCode::from(CRASH_AT_START_CODE);
    }
    for number in 1..=flags.flood_stderr_lines {
        eprintln!("flood line {number} of {}", flags.flood_stderr_lines);
    }
    for setsid in flags.grandchildren() {
        if let Err(error) = start_grandchild(setsid, flags.ignore_term) {
            eprintln!("no grandchild: {error}");
            return ExitCode::FAILURE;
        }
    }
    thread::sleep(flags.start_delay);
    if flags.worker { worker::run(&flags) } else { Server::new(flags).run() }
}

/// Ignores SIGTERM from now on, with a line on standard error.
fn ignore_term() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (report, reported) = sync_channel(1);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                let mut terminations = match signal(SignalKind::terminate()) {
                    Ok(terminations) => {
                        let _ = report.send(Ok(()));
                        terminations
                    }
                    Err(error) => {
                        let _ = report.send(Err(error));
                        return;
                    }
                };
                while terminations.recv().await.is_some() {
                    eprintln!("SIGTERM ignored");
                }
            });
        })?;
        // Waits for the handler, so that a SIGTERM right after the start is ignored as well.
        reported.recv().map_err(std::io::Error::other)??;
    }
    Ok(())
}

/// Starts another process of this program, which only runs and keeps this one's standard output and error open.
fn start_grandchild(setsid: bool, ignore_term: bool) -> std::io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(if setsid { "--as-grandchild-setsid" } else { "--as-grandchild" });
    if ignore_term {
        command.arg("--ignore-term");
    }
    let grandchild = command.stdin(Stdio::null()).spawn()?;
    eprintln!("grandchild {}", grandchild.id());
    Ok(())
}

fn live_long(in_a_session_of_its_own: bool) -> ExitCode {
    #[cfg(unix)]
    if in_a_session_of_its_own && let Err(error) = rustix::process::setsid() {
        eprintln!("no session of its own: {error}");
        return ExitCode::FAILURE;
    }
    #[cfg(not(unix))]
    let _ = in_a_session_of_its_own;
    thread::sleep(LONG);
    ExitCode::SUCCESS
}
