//! A small MCP server that misbehaves on command, for the tests.
//!
//! Without arguments it is a well-behaved server over standard input and output. It speaks 2024-11-05, 2025-03-26, 2025-06-18
//! and 2025-11-25, whichever the client asks for. What the flags do is told where they are read, in `flags.rs`; those of
//! a server can be combined. With `--worker` it is a small HTTP worker instead.
#![expect(clippy::print_stderr, reason = "a server of tests tells what it does on standard error")]

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

/// The code of a crash on command.
const CRASH_CODE: u8 = 7;

/// The code of a crash at the start.
const CRASH_AT_START_CODE: u8 = 3;

/// How long a grandchild lives, and whoever will not end.
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

/// Takes note of SIGTERM from now on, and goes on.
fn ignore_term() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (tell, told) = sync_channel(1);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                let mut terminations = match signal(SignalKind::terminate()) {
                    Ok(terminations) => {
                        let _ = tell.send(Ok(()));
                        terminations
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        return;
                    }
                };
                while terminations.recv().await.is_some() {
                    eprintln!("SIGTERM ignored");
                }
            });
        })?;
        // Whoever ends it right after the start is ignored, too.
        told.recv().map_err(std::io::Error::other)??;
    }
    Ok(())
}

/// Starts another process of this program that only lives, and holds this one's standard output and error open.
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
