//! A child process of the manager, started through its guardian.
//!
//! Invariants: only this process holds the other end of a child's input pipe, so that the child ends when this process
//! does, even if it is killed; the output that is kept of a child is bounded; and a child inherits no more of the
//! manager's environment than [`ChildSpec::environment`] says.

mod environment;
mod exit_reason;
mod last_lines;
mod spawner;

use std::{
    fmt, io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child as Process, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

pub use self::{
    exit_reason::ExitReason,
    last_lines::{LINE_BYTES_MAX, LINES_MAX, LastLines},
    spawner::Spawner,
};
pub use super::spawn_spec::Input;
use super::{
    memory_limit::{Enforcement, Limit},
    spawn_spec::SpawnSpec,
    subcommand::GUARDIAN,
    tree::{Marker, ProcessTree, TreeEnd, TreeUsage},
};
use cortex_core::units::MemoryMb;

/// How much longer than the grace a guardian may take before it is killed itself.
const GUARDIAN_WAIT: Duration = Duration::from_secs(3);

/// How long to wait for the last lines of a child that has ended.
const LAST_LINES_WAIT: Duration = Duration::from_millis(250);

/// A child to start.
#[derive(Clone)]
pub struct ChildSpec {
    /// Its name in the log.
    pub name: String,
    /// The program: a path, or a name to search in `PATH`.
    pub command: String,
    pub arguments: Vec<String>,
    /// Its variables, in addition to the manager's `PATH`, `HOME`, `LANG` and `TMPDIR`, which they override.
    pub environment: Vec<(String, String)>,
    /// Its working directory; that of the manager if absent.
    pub folder: Option<PathBuf>,
    /// The limit on its memory.
    pub memory: Option<MemoryMb>,
    /// The time between asking its process tree to end and killing it.
    pub grace: Duration,
    /// Its standard input.
    pub input: Input,
}

impl fmt::Debug for ChildSpec {
    /// Leaves out arguments and values of variables, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.environment.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ChildSpec")
            .field("name", &self.name)
            .field("command", &self.command)
            .field("arguments", &self.arguments.len())
            .field("environment", &names)
            .field("folder", &self.folder)
            .field("memory", &self.memory)
            .field("grace", &self.grace)
            .field("input", &self.input)
            .finish()
    }
}

/// A running child. Dropping it ends the child's process tree as [`Child::stop`] does, without waiting for the end.
#[derive(Debug)]
pub struct Child {
    name: String,
    marker: Marker,
    grace: Duration,
    guardian: Process,
    guardian_pid: u32,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
    lines: LastLines,
    /// The tasks that read the lines.
    readers: Vec<JoinHandle<()>>,
    enforcement: Option<Enforcement>,
    limit: Limit,
    exit_reason: Option<ExitReason>,
}

impl Child {
    /// Starts a guardian, which starts the child. A command that cannot be started shows as [`ExitReason::NotStarted`].
    fn start(child: ChildSpec, marker: Marker, spawner: &Spawner) -> io::Result<Self> {
        let environment = environment::of(&child.environment, marker, |name| std::env::var_os(name))?;
        let (limit, enforcement) = match child.memory.map(|memory| spawner.limiter().limit(marker, memory)) {
            Some((limit, enforcement)) => (limit, Some(enforcement)),
            None => (Limit::None, None),
        };
        let spawn = SpawnSpec {
            grace: child.grace,
            input: child.input,
            limit,
            open_files: spawner.open_files(),
            folder: child.folder,
            guardian: None,
            command: child.command.into(),
            arguments: child.arguments.into_iter().map(Into::into).collect(),
        };
        let started = Command::new(spawner.program())
            .arg(GUARDIAN)
            .args(spawn.to_arguments())
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let mut guardian = match started {
            Ok(guardian) => guardian,
            Err(error) => {
                spawn.limit.remove();
                return Err(error);
            }
        };
        let lines = LastLines::default();
        let errors = guardian.stderr.take().map(|errors| tokio::spawn(lines.clone().read(errors)));
        let mut output = guardian.stdout.take();
        let mut readers: Vec<_> = errors.into_iter().collect();
        if child.input == Input::Nothing {
            // Without an input it speaks no protocol, so that its output is for people to read.
            readers.extend(output.take().map(|output| tokio::spawn(lines.clone().read(output))));
        }
        Ok(Self {
            name: child.name,
            marker,
            grace: child.grace,
            guardian_pid: guardian.id().unwrap_or_default(),
            // Taken, since waiting on the handle would close it.
            input: guardian.stdin.take(),
            guardian,
            output,
            lines,
            readers,
            enforcement,
            limit: spawn.limit,
            exit_reason: None,
        })
    }

    /// Takes the pipe to the child's standard input. Dropping the pipe asks the child to end.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// Takes the pipe from the child's standard output. With [`Input::Nothing`] there is none: the output goes to the
    /// last lines.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.output.take()
    }

    /// Returns the last lines of its standard error and those added by [`Self::note_line`], oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.last()
    }

    /// Adds a line to the last lines.
    pub fn note_line(&self, line: &str) {
        self.lines.note(line);
    }

    /// Returns the shared last lines, which can be read and added to without the child.
    #[must_use]
    pub fn last_lines(&self) -> LastLines {
        self.lines.clone()
    }

    /// Returns the process id of the guardian, even after the guardian has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.guardian_pid
    }

    /// Returns the marker that the processes of the child's tree have in their environment.
    #[must_use]
    pub fn marker(&self) -> Marker {
        self.marker
    }

    /// Returns how its memory limit is enforced, if it has one.
    #[must_use]
    pub fn enforcement(&self) -> Option<&Enforcement> {
        self.enforcement.as_ref()
    }

    /// Returns the child's process tree, without the guardian.
    #[must_use]
    pub fn tree(&self) -> ProcessTree {
        ProcessTree::below(self.guardian_pid)
    }

    /// Measures the child's process tree.
    ///
    /// # Errors
    /// The system's process table cannot be read.
    pub async fn usage(&self) -> io::Result<TreeUsage> {
        if self.exit_reason.is_some() {
            return Ok(TreeUsage::default());
        }
        let tree = self.tree();
        tokio::task::spawn_blocking(move || tree.usage()).await.map_err(io::Error::other)?
    }

    /// Waits until the child's whole process tree has ended. Cancel safe, and may be called again.
    pub async fn ended(&mut self) -> ExitReason {
        if let Some(reason) = &self.exit_reason {
            return reason.clone();
        }
        let reason = match self.guardian.wait().await {
            Ok(status) => self.exit_reason_of(status).await,
            Err(error) => {
                self.kill_tree(ProcessTree::marked(self.marker)).await;
                ExitReason::GuardianLost(format!("cannot be waited for ({error})"))
            }
        };
        // The last output has been read by now, unless a process outside of the tree keeps the pipe open.
        for reader in &mut self.readers {
            let _ = timeout(LAST_LINES_WAIT, &mut *reader).await;
            reader.abort();
        }
        self.readers.clear();
        self.exit_reason = Some(reason.clone());
        reason
    }

    /// Asks the child to end, kills it when its grace is over, and waits until its whole process tree has ended.
    pub async fn stop(&mut self) -> ExitReason {
        self.ask_to_end();
        if let Ok(reason) = timeout(self.grace.saturating_add(GUARDIAN_WAIT), self.ended()).await {
            return reason;
        }
        let (name, pid) = (&self.name, self.guardian_pid);
        tracing::warn!(%name, pid, "guardian did not end: killing its process tree, then it");
        // While the guardian lives, its descendants are found even if they no longer have the marker.
        self.kill_tree(ProcessTree::marked(self.marker).or_below(self.guardian_pid)).await;
        // Fails only if the guardian has ended already.
        let _ = self.guardian.start_kill();
        self.ended().await
    }

    /// Closes the input pipe. If it was taken, and so may still be open, sends a signal to the guardian instead.
    fn ask_to_end(&mut self) {
        if self.input.take().is_some() || self.exit_reason.is_some() {
            return;
        }
        // The guardian was not reaped, so that no other process can have its pid.
        let pid = self.guardian.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Returns how the child ended, from the guardian's status. Kills the process tree of a guardian that was killed.
    async fn exit_reason_of(&mut self, status: ExitStatus) -> ExitReason {
        let reason = ExitReason::from_guardian(status);
        if matches!(reason, ExitReason::GuardianLost(_)) {
            self.kill_tree(ProcessTree::marked(self.marker)).await;
        }
        reason
    }

    async fn kill_tree(&self, tree: ProcessTree) {
        let limit = self.limit.clone();
        let end = move || {
            limit.kill();
            let end = tree.end(Duration::ZERO);
            limit.remove();
            end
        };
        let name = &self.name;
        match tokio::task::spawn_blocking(end).await.map_err(io::Error::other).flatten() {
            Ok(TreeEnd { found: 0, .. }) => {}
            Ok(TreeEnd { found, left: 0 }) => {
                tracing::warn!(%name, found, "process tree without a guardian was killed");
            }
            Ok(TreeEnd { left, .. }) => {
                tracing::error!(%name, left, "process tree without a guardian could not be killed");
            }
            Err(error) => tracing::error!(%name, %error, "process tree without a guardian could not be found"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.ask_to_end();
    }
}
