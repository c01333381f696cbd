//! A child of the manager, seen through its guardian.
//!
//! Invariants: a child's pipe has its other end here alone, so that the child ends when this process does, however that
//! comes about; what a child writes is bounded in memory; and a child sees of the manager's environment only what is
//! documented here.

mod ended;
mod environment;
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
    ended::Ended,
    last_lines::{LINE_BYTES_MAX, LINES_MAX, LastLines},
    spawner::Spawner,
};
pub use super::orders::Input;
use super::{
    memory_limit::{Enforced, Limit},
    orders::Orders,
    subcommand::GUARDIAN,
    tree::{Marker, Tree, TreeEnd, Usage},
};
use cortex_core::units::MemoryMb;

/// How much longer than the grace a guardian may take before it is ended itself.
const GUARDIAN_WAIT: Duration = Duration::from_secs(3);

/// How long the last lines of a child that has ended are waited for.
const LAST_LINES_WAIT: Duration = Duration::from_millis(250);

/// What shall be started.
#[derive(Clone)]
pub struct Launch {
    /// What it is called in the log.
    pub name: String,
    /// The program: a path, or a name that is looked for in `PATH`.
    pub command: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it finds in its environment beside `PATH`, `HOME`, `LANG` and `TMPDIR`. These win.
    pub environment: Vec<(String, String)>,
    /// Where it runs, if not where the manager does.
    pub folder: Option<PathBuf>,
    /// The most memory that it may take.
    pub memory: Option<MemoryMb>,
    /// How long its tree has between being asked to end and being made to.
    pub grace: Duration,
    /// What it reads from its standard input.
    pub input: Input,
}

impl fmt::Debug for Launch {
    /// Without the values of the environment and the arguments, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.environment.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Launch")
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

/// A running child. Dropping it ends the child's tree as [`Child::stop`] does, without waiting for it.
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
    /// What reads them.
    readers: Vec<JoinHandle<()>>,
    enforced: Option<Enforced>,
    limit: Limit,
    ended: Option<Ended>,
}

impl Child {
    /// Starts a guardian, and the child through it. That its command cannot be started is only seen from how the child ends.
    fn start(launch: Launch, marker: Marker, spawner: &Spawner) -> io::Result<Self> {
        let environment = environment::of(&launch.environment, marker, |name| std::env::var_os(name))?;
        let (limit, enforced) = match launch.memory.map(|memory| spawner.limiter().limit(marker, memory)) {
            Some((limit, enforced)) => (limit, Some(enforced)),
            None => (Limit::None, None),
        };
        let orders = Orders {
            grace: launch.grace,
            input: launch.input,
            limit,
            open_files: spawner.open_files(),
            folder: launch.folder,
            guardian: None,
            command: launch.command.into(),
            arguments: launch.arguments.into_iter().map(Into::into).collect(),
        };
        let started = Command::new(spawner.program())
            .arg(GUARDIAN)
            .args(orders.arguments())
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
                orders.limit.remove();
                return Err(error);
            }
        };
        let lines = LastLines::default();
        let errors = guardian.stderr.take().map(|errors| tokio::spawn(lines.clone().read(errors)));
        let mut output = guardian.stdout.take();
        let mut readers: Vec<_> = errors.into_iter().collect();
        if launch.input == Input::Nothing {
            // Nobody speaks with it: what it writes is for the log.
            readers.extend(output.take().map(|output| tokio::spawn(lines.clone().read(output))));
        }
        Ok(Self {
            name: launch.name,
            marker,
            grace: launch.grace,
            guardian_pid: guardian.id().unwrap_or_default(),
            // The handle would close it as soon as the end is waited for.
            input: guardian.stdin.take(),
            guardian,
            output,
            lines,
            readers,
            enforced,
            limit: orders.limit,
            ended: None,
        })
    }

    /// What the child reads, for the one who writes it. Dropping it asks the child to end.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.input.take()
    }

    /// What the child writes, for the one who reads it. A child with [`Input::Nothing`] writes to its last lines.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.output.take()
    }

    /// The last lines of its standard error, and those that were noted; the oldest first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.last()
    }

    /// Adds a line to the last ones.
    pub fn note_line(&self, line: &str) {
        self.lines.note(line);
    }

    /// The last lines, for one who reads or adds some without the child at hand.
    #[must_use]
    pub fn last_lines(&self) -> LastLines {
        self.lines.clone()
    }

    /// The process id of the guardian; it stays the same when the guardian has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.guardian_pid
    }

    /// What the processes of the child's tree carry.
    #[must_use]
    pub fn marker(&self) -> Marker {
        self.marker
    }

    /// How the limit on its memory is enforced, if it has one.
    #[must_use]
    pub fn enforced(&self) -> Option<&Enforced> {
        self.enforced.as_ref()
    }

    /// The processes of the child, its guardian not counted.
    #[must_use]
    pub fn tree(&self) -> Tree {
        Tree::below(self.guardian_pid)
    }

    /// What the child's tree takes.
    ///
    /// # Errors
    /// The system does not show its processes.
    pub async fn usage(&self) -> io::Result<Usage> {
        if self.ended.is_some() {
            return Ok(Usage::default());
        }
        let tree = self.tree();
        tokio::task::spawn_blocking(move || tree.usage()).await.map_err(io::Error::other)?
    }

    /// Waits until the child's whole tree is gone. It may be called again, also if it was not waited for to the end.
    pub async fn ended(&mut self) -> Ended {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let ended = match self.guardian.wait().await {
            Ok(status) => self.after(status).await,
            Err(error) => {
                self.kill_tree(Tree::marked(self.marker)).await;
                Ended::GuardianLost(format!("cannot be waited for ({error})"))
            }
        };
        // What was written last is read by now, unless somebody outside of the tree holds the pipe.
        for reader in &mut self.readers {
            let _ = timeout(LAST_LINES_WAIT, &mut *reader).await;
            reader.abort();
        }
        self.readers.clear();
        self.ended = Some(ended.clone());
        ended
    }

    /// Asks the child to end, makes it when its grace is over, and waits until its whole tree is gone.
    pub async fn stop(&mut self) -> Ended {
        self.ask_to_end();
        if let Ok(ended) = timeout(self.grace.saturating_add(GUARDIAN_WAIT), self.ended()).await {
            return ended;
        }
        tracing::warn!(name = %self.name, pid = self.guardian_pid, "a guardian does not end: its tree is killed, then it");
        // While it lives, what descends from it can be found even if it carries no marker any more.
        self.kill_tree(Tree::marked(self.marker).or_below(self.guardian_pid)).await;
        // It fails only if the guardian is gone already.
        let _ = self.guardian.start_kill();
        self.ended().await
    }

    /// Closes the pipe, or tells the guardian by a signal, since whoever took the pipe may hold it still.
    fn ask_to_end(&mut self) {
        if self.input.take().is_some() || self.ended.is_some() {
            return;
        }
        // The pid is the guardian's own: it was not waited for.
        let pid = self.guardian.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// How the child ended, by how its guardian did. The tree of one that was killed is ended here.
    async fn after(&mut self, status: ExitStatus) -> Ended {
        let ended = Ended::by_guardian(status);
        if matches!(ended, Ended::GuardianLost(_)) {
            self.kill_tree(Tree::marked(self.marker)).await;
        }
        ended
    }

    async fn kill_tree(&self, tree: Tree) {
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
            Ok(TreeEnd { found, left: 0 }) => tracing::warn!(%name, found, "a tree was killed without its guardian"),
            Ok(TreeEnd { left, .. }) => tracing::error!(%name, left, "a tree without its guardian cannot be killed"),
            Err(error) => tracing::error!(%name, %error, "a tree without its guardian cannot be found"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.ask_to_end();
    }
}
