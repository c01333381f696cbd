//! The guardian of a child: a shim process between the manager and the child, which ends the child's whole process tree
//! when the manager asks for it or has ended.
//!
//! The guardian's standard input is a pipe whose other end only the manager holds. The guardian never reads from it and
//! only waits for the hang-up, which asks it to end the tree. The pipe of a manager that is killed hangs up as well.
//! Invariants: the guardian ends only when the whole tree has ended; and it closes its copies of the child's output
//! pipes, so that the manager sees when the child closes them.

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
    spawn_spec::{Input, SpawnSpec},
    subcommand::{LAUNCH, NOT_STARTED_EXIT_CODE, fail},
    tree::{MARKER_VARIABLE, ProcessTree},
};
use cortex_util::program;

/// The divisor of the grace that gives the time from the end of a child's input to SIGTERM. Many servers end by
/// themselves when their input ends.
const END_OF_INPUT_SHARE: u32 = 4;

/// The longest time from the end of a child's input to SIGTERM.
const END_OF_INPUT_WAIT_MAX: Duration = Duration::from_millis(500);

/// The longest time from SIGTERM to SIGKILL for processes that outlive the child itself.
const LEFT_BEHIND_GRACE_MAX: Duration = Duration::from_secs(1);

/// The time until the first repetition of SIGKILL. It doubles each time.
const KILL_INTERVAL: Duration = Duration::from_millis(10);

/// The longest time between two repetitions of SIGKILL.
const KILL_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// The most processes that are reaped before other tasks run.
const REAPED_MAX: usize = 1_000;

/// How long the watch of the pipe pauses after a wake-up without an event.
const EMPTY_WAKE_PAUSE: Duration = Duration::from_millis(100);

/// The stack of the thread that watches the pipe.
const WATCH_STACK_BYTES: usize = 65_536;

/// Added to the number of a signal to make an exit code of it, as shells do.
pub(super) const SIGNAL_EXIT_CODE: u8 = 128;

/// Starts the command, and returns when its process tree has ended.
pub(super) fn run(spec: &SpawnSpec) -> ExitCode {
    close_inherited();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return not_started(&error),
    };
    let code = runtime.block_on(guard(spec)).unwrap_or_else(|error| not_started(&error));
    spec.limit.remove();
    code
}

fn not_started(error: &io::Error) -> ExitCode {
    fail(&format_args!("the guardian cannot be started ({error})"), NOT_STARTED_EXIT_CODE)
}

/// Closes the descriptors that were inherited through the manager, so that neither this process nor the child keeps
/// them open.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/dev/fd") else { return };
    let open: Vec<RawFd> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // One of them is that of the listing itself, which is closed by now: closing it again fails without harm.
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        let _ = nix::unistd::close(descriptor);
    }
}

async fn guard(spec: &SpawnSpec) -> io::Result<ExitCode> {
    let is_subreaper = become_subreaper();
    let mut stop = StopSignals::new()?;
    let sigchld = signal(SignalKind::child())?;
    let child = match start(spec) {
        Ok(child) => child,
        Err(error) => return Ok(not_started(&error)),
    };
    let mut tree = GuardedTree { child, sigchld, is_subreaper, status: None, is_gone: false };
    let is_watched = stop.watch_input();
    release_output();
    let grace = if is_watched.is_err() {
        // Without the watch the end of the manager would go unnoticed.
        Some(spec.grace)
    } else {
        tokio::select! {
            () = stop.received() => Some(spec.grace),
            () = tree.child_ended() => None,
        }
    };
    let grace = match grace {
        Some(grace) => grace.saturating_sub(tree.wait_after_input(spec).await),
        None => spec.grace.min(LEFT_BEHIND_GRACE_MAX),
    };
    tree.end(grace, spec).await;
    Ok(tree.exit_code())
}

/// Makes orphans of the tree children of this process, and returns whether the system supports it.
#[cfg(target_os = "linux")]
fn become_subreaper() -> bool {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).is_ok()
}

/// Returns false: this system has no subreapers. The tree is found by its marker instead.
#[cfg(not(target_os = "linux"))]
fn become_subreaper() -> bool {
    false
}

/// Starts this program again as `launch`, which becomes the command.
fn start(spec: &SpawnSpec) -> io::Result<Pid> {
    use std::os::unix::process::CommandExt;
    let mut launch_spec = spec.clone();
    launch_spec.guardian = Some(std::process::id());
    let input = match spec.input {
        Input::Pipe => Stdio::inherit(),
        Input::Nothing => Stdio::null(),
    };
    let mut command = Command::new(program::path());
    command.arg(LAUNCH).args(launch_spec.to_arguments()).stdin(input).process_group(0);
    // The handle is dropped: `GuardedTree::reap` reaps this child with all others.
    Ok(Pid::from_child(&command.spawn()?))
}

/// Closes this process's copies of the child's output pipes.
fn release_output() {
    if let Ok(nothing) = File::options().write(true).open("/dev/null") {
        // If this fails, the manager sees the end of the output only when the guardian ends.
        let _ = rustix::stdio::dup2_stdout(&nothing);
        let _ = rustix::stdio::dup2_stderr(&nothing);
    }
}

/// The requests to end the tree: the hang-up of the manager's pipe, and signals.
struct StopSignals {
    hung_up: Option<oneshot::Receiver<()>>,
    terminate: Signals,
    interrupt: Signals,
    hang_up: Signals,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hung_up: None,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Watches standard input on a thread. The runtime would wake up for each line that the manager writes to the
    /// child.
    fn watch_input(&mut self) -> io::Result<()> {
        let (report_hang_up, hung_up) = oneshot::channel();
        self.hung_up = Some(hung_up);
        let watch = move || {
            let input = io::stdin();
            // Without `PollFlags::IN`, only the hang-up is reported.
            let mut watched = [PollFd::new(&input, PollFlags::HUP)];
            while let Ok(0) | Err(Errno::INTR | Errno::AGAIN) = poll(&mut watched, None) {
                // Some systems wake up without an event while there is data to read.
                thread::sleep(EMPTY_WAKE_PAUSE);
            }
            let _ = report_hang_up.send(());
        };
        thread::Builder::new().name("input".to_owned()).stack_size(WATCH_STACK_BYTES).spawn(watch).map(drop)
    }

    async fn received(&mut self) {
        let hung_up = async {
            match &mut self.hung_up {
                // A watch that has ended counts as a hang-up, since it can no longer report one.
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

/// The child and its process tree.
struct GuardedTree {
    child: Pid,
    sigchld: Signals,
    /// Whether orphans of the tree become children of this process.
    is_subreaper: bool,
    /// The status of the child, once it has ended.
    status: Option<WaitStatus>,
    /// Whether no process of the tree is left.
    is_gone: bool,
}

impl GuardedTree {
    /// Reaps the processes that have ended, and returns whether there may be more.
    fn reap(&mut self) -> bool {
        for _ in 0..REAPED_MAX {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.child => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => {
                    self.is_gone = self.is_subreaper || self.tree().usage().is_ok_and(|usage| usage.processes == 0);
                    return false;
                }
            }
        }
        true
    }

    /// Waits until the child itself has ended. Other processes of the tree may be left.
    async fn child_ended(&mut self) {
        loop {
            let is_more = self.reap();
            if self.status.is_some() || self.is_gone {
                return;
            }
            self.pause(is_more).await;
        }
    }

    /// Waits until the whole tree has ended.
    async fn ended(&mut self) {
        loop {
            let is_more = self.reap();
            if self.is_gone {
                return;
            }
            self.pause(is_more).await;
        }
    }

    async fn pause(&mut self, is_more: bool) {
        if is_more {
            tokio::task::yield_now().await;
        } else if self.is_subreaper || self.status.is_none() {
            self.sigchld.recv().await;
        } else {
            // There is no SIGCHLD for processes that are not children of this one.
            tokio::time::sleep(KILL_INTERVAL_MAX).await;
        }
    }

    /// Waits for the child to end by itself after the end of its input, and returns the limit of that wait.
    async fn wait_after_input(&mut self, spec: &SpawnSpec) -> Duration {
        let limit = match spec.input {
            Input::Pipe => (spec.grace / END_OF_INPUT_SHARE).min(END_OF_INPUT_WAIT_MAX),
            Input::Nothing => Duration::ZERO,
        };
        let _ = timeout(limit, self.child_ended()).await;
        limit
    }

    /// Sends SIGTERM to the tree, and SIGKILL when the grace is over, until no process is left: it may start new ones.
    async fn end(&mut self, grace: Duration, spec: &SpawnSpec) {
        self.reap();
        if self.is_gone {
            return;
        }
        // If the processes cannot be listed now, they are killed below. If they cannot be listed then either, this
        // waits until they end by themselves.
        let _ = self.tree().signal(Signal::TERM);
        let mut interval = KILL_INTERVAL;
        let mut has_ended = timeout(grace, self.ended()).await.is_ok();
        while !has_ended {
            spec.limit.kill();
            let _ = self.tree().signal(Signal::KILL);
            has_ended = timeout(interval, self.ended()).await.is_ok();
            interval = (interval * 2).min(KILL_INTERVAL_MAX);
        }
    }

    fn tree(&self) -> ProcessTree {
        let own = std::process::id();
        match std::env::var(MARKER_VARIABLE) {
            Ok(marker) if !self.is_subreaper => ProcessTree::marked_as(marker).or_below(own),
            _ => ProcessTree::below(own),
        }
    }

    /// Returns the child's exit code, or 128 and the number of the signal that ended it.
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
