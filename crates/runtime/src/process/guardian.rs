//! The guardian of a child: a process between it and the manager, which ends the child's whole tree when the manager asks for
//! it or is gone.
//!
//! The guardian's standard input is a pipe whose other end is the manager's alone. It is never read here, only watched:
//! that it hangs up is the word to end, and a manager that is killed says it too. Invariants: the guardian ends only when the
//! whole tree is gone; and it holds nothing else of the child's, so that the manager sees each end of the child's output.

use std::{
    fs::{self, File},
    io,
    os::fd::RawFd,
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, wait},
};
use tokio::{
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::oneshot,
    time::timeout,
};

use super::{
    orders::{Input, Orders},
    subcommand::{LAUNCH, NOT_STARTED_EXIT_CODE, fail},
    tree::{MARKER_VARIABLE, Tree},
};
use cortex_util::program;

/// How much of the grace, as a divisor, a child has to end by itself once its input has ended, before it is asked to.
const END_OF_INPUT_SHARE: u32 = 4;

/// How long a child has at most to end by itself once its input has ended.
const END_OF_INPUT_WAIT_MAX: Duration = Duration::from_millis(500);

/// How long what a child left behind has between being asked to end and being made to.
const LEFT_BEHIND_GRACE_MAX: Duration = Duration::from_secs(1);

/// The time until a tree that was killed is looked at again, at first. It doubles each time.
const KILL_INTERVAL: Duration = Duration::from_millis(10);

/// The longest such time.
const KILL_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// How many processes are waited for in one go.
const REAPED_MAX: usize = 1_000;

/// How long the pipe is not looked at after a wake that told nothing.
const EMPTY_WAKE_PAUSE: Duration = Duration::from_millis(100);

/// The stack of the thread that watches the pipe.
const WATCH_STACK_BYTES: usize = 65_536;

/// What is added to the number of a signal to make an exit code of it, as shells do.
pub(super) const SIGNAL_EXIT_CODE: u8 = 128;

/// Starts the command, and ends when its tree is gone.
pub(super) fn run(orders: &Orders) -> ExitCode {
    close_inherited();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return not_started(&error),
    };
    let code = runtime.block_on(guard(orders)).unwrap_or_else(|error| not_started(&error));
    orders.limit.remove();
    code
}

fn not_started(error: &io::Error) -> ExitCode {
    fail(&format_args!("no guardian can be started ({error})"), NOT_STARTED_EXIT_CODE)
}

/// Closes what whoever started the manager left open for it, so that neither this process nor the child holds on to it.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/dev/fd") else { return };
    let open: Vec<RawFd> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // Among them is the folder itself, which is closed by now: that it cannot be closed again is no matter.
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        let _ = nix::unistd::close(descriptor);
    }
}

async fn guard(orders: &Orders) -> io::Result<ExitCode> {
    let is_subreaper = become_subreaper();
    let mut told = Told::new()?;
    let ended = signal(SignalKind::child())?;
    let child = match start(orders) {
        Ok(child) => child,
        Err(error) => return Ok(not_started(&error)),
    };
    let mut wards = Wards { child, ended, is_subreaper, status: None, are_gone: false };
    let is_watched = told.watch_input();
    release_output();
    let grace = if is_watched.is_err() {
        // Without the pipe nobody could end the child.
        Some(orders.grace)
    } else {
        tokio::select! {
            () = told.next() => Some(orders.grace),
            () = wards.child_gone() => None,
        }
    };
    let grace = match grace {
        Some(grace) => grace.saturating_sub(wards.end_by_input(orders).await),
        None => orders.grace.min(LEFT_BEHIND_GRACE_MAX),
    };
    wards.end(grace, orders).await;
    Ok(wards.exit_code())
}

/// Orphans of the tree become children of this process from now on. Whether the system can do that.
#[cfg(target_os = "linux")]
fn become_subreaper() -> bool {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).is_ok()
}

/// Whether the system can do that: it cannot. The tree is found by its marker.
#[cfg(not(target_os = "linux"))]
fn become_subreaper() -> bool {
    false
}

/// Starts what becomes the command.
fn start(orders: &Orders) -> io::Result<Pid> {
    use std::os::unix::process::CommandExt;
    let mut launch = orders.clone();
    launch.guardian = Some(std::process::id());
    let input = match orders.input {
        Input::Pipe => Stdio::inherit(),
        Input::Nothing => Stdio::null(),
    };
    // Not waited for by this handle: the guardian waits for whatever ends.
    let child =
        Command::new(program::path()).arg(LAUNCH).args(launch.arguments()).stdin(input).process_group(0).spawn()?;
    Ok(Pid::from_child(&child))
}

/// Lets go of the child's output, which only the child shall hold.
fn release_output() {
    if let Ok(nothing) = File::options().write(true).open("/dev/null") {
        // If it cannot be let go of, its end is only seen later.
        let _ = rustix::stdio::dup2_stdout(&nothing);
        let _ = rustix::stdio::dup2_stderr(&nothing);
    }
}

/// The ways in which the guardian is told to end the tree.
struct Told {
    hung_up: Option<oneshot::Receiver<()>>,
    terminate: Signals,
    interrupt: Signals,
    hang_up: Signals,
}

impl Told {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hung_up: None,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Watches standard input, on a thread: the runtime would wake with each line that the manager writes to the child.
    fn watch_input(&mut self) -> io::Result<()> {
        let (tell, hung_up) = oneshot::channel();
        self.hung_up = Some(hung_up);
        let watch = move || {
            let input = io::stdin();
            // What can be read is not asked for: only the end of the other side is told.
            let mut watched = [PollFd::new(&input, PollFlags::HUP)];
            while let Ok(0) | Err(Errno::INTR | Errno::AGAIN) = poll(&mut watched, None) {
                // Some systems wake for nothing while there is something to be read.
                thread::sleep(EMPTY_WAKE_PAUSE);
            }
            let _ = tell.send(());
        };
        thread::Builder::new().name("input".to_owned()).stack_size(WATCH_STACK_BYTES).spawn(watch).map(drop)
    }

    async fn next(&mut self) {
        let hung_up = async {
            match &mut self.hung_up {
                // A watch that is gone cannot tell any more, which is the same.
                Some(hung_up) => drop(hung_up.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = hung_up => {}
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

/// The child and its tree.
struct Wards {
    child: Pid,
    ended: Signals,
    /// Whether orphans of the tree are children of this process.
    is_subreaper: bool,
    /// How the child ended, once it has.
    status: Option<WaitStatus>,
    are_gone: bool,
}

impl Wards {
    /// Takes note of what has ended. Whether there may be more.
    fn reap(&mut self) -> bool {
        for _ in 0..REAPED_MAX {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.child => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => {
                    self.are_gone = self.is_subreaper || self.tree().usage().is_ok_and(|usage| usage.processes == 0);
                    return false;
                }
            }
        }
        true
    }

    /// Waits until the child is gone, whatever it left behind.
    async fn child_gone(&mut self) {
        loop {
            let is_more = self.reap();
            if self.status.is_some() || self.are_gone {
                return;
            }
            self.pause(is_more).await;
        }
    }

    /// Waits until the whole tree is gone.
    async fn gone(&mut self) {
        loop {
            let is_more = self.reap();
            if self.are_gone {
                return;
            }
            self.pause(is_more).await;
        }
    }

    async fn pause(&mut self, is_more: bool) {
        if is_more {
            tokio::task::yield_now().await;
        } else if self.is_subreaper || self.status.is_none() {
            self.ended.recv().await;
        } else {
            // Nothing tells of the end of what is no child of this process.
            tokio::time::sleep(KILL_INTERVAL_MAX).await;
        }
    }

    /// Gives the child the time to end by itself: one that reads its input sees its end. Gives how long that can be.
    async fn end_by_input(&mut self, orders: &Orders) -> Duration {
        let limit = match orders.input {
            Input::Pipe => (orders.grace / END_OF_INPUT_SHARE).min(END_OF_INPUT_WAIT_MAX),
            Input::Nothing => Duration::ZERO,
        };
        let _ = timeout(limit, self.child_gone()).await;
        limit
    }

    /// Asks the tree to end, and makes it when the grace is over; again and again, since it may grow meanwhile.
    async fn end(&mut self, grace: Duration, orders: &Orders) {
        self.reap();
        if self.are_gone {
            return;
        }
        // What cannot be found now is killed later; what cannot be found then either ends in its own time.
        let _ = self.tree().signal(Signal::TERM);
        let mut interval = KILL_INTERVAL;
        let mut is_gone = timeout(grace, self.gone()).await.is_ok();
        while !is_gone {
            orders.limit.kill();
            let _ = self.tree().signal(Signal::KILL);
            is_gone = timeout(interval, self.gone()).await.is_ok();
            interval = (interval * 2).min(KILL_INTERVAL_MAX);
        }
    }

    fn tree(&self) -> Tree {
        let own = std::process::id();
        match std::env::var(MARKER_VARIABLE) {
            Ok(marker) if !self.is_subreaper => Tree::marked_as(marker).or_below(own),
            _ => Tree::below(own),
        }
    }

    /// The child's exit code, or the signal that ended it as shells tell it.
    fn exit_code(&self) -> ExitCode {
        let Some(status) = self.status else { return ExitCode::FAILURE };
        let code = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
            (None, Some(signal)) => SIGNAL_EXIT_CODE.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
            (None, None) => 1,
        };
        ExitCode::from(code)
    }
}
