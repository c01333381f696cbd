//! A durable state in its own folder: the processes that serve it, and how they are ended.
//!
//! Sockets and process records are in a runtime directory inside the folder, so that no test uses the daemon of another
//! one. Dropping the home ends every process that was started with that directory.

use std::{
    fs,
    io::Read,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use super::{
    WAIT_MAX,
    server::{self, Server, Transport},
    session::Session,
    wait_for, wait_until, wait_within,
};

/// The exit code of a process that cannot use the state or the daemon.
pub(crate) const UNUSABLE: i32 = 3;

/// The time limit for the end of all processes of a home before they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The variable of the runtime directory.
const RUNTIME_DIRECTORY: &str = "XDG_RUNTIME_DIR";

/// The flag that sets the log level.
const LOG_LEVEL: &str = "--log-level";

/// The way in which a session accesses its state: the value of `--daemon`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The process serves the state itself.
    Never,
    /// The process forwards lines to a daemon.
    Auto,
}

/// Both modes, for tests that must pass in each.
pub(crate) const MODES: [Mode; 2] = [Mode::Never, Mode::Auto];

impl Mode {
    /// Returns the value as on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Auto => "auto",
        }
    }
}

/// The way in which a process that serves a state ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client disconnects, and the daemon is stopped.
    InOrder,
    /// By SIGKILL.
    Killed,
}

/// Both endings, for tests that must pass after each.
pub(crate) const ENDINGS: [Ending; 2] = [Ending::InOrder, Ending::Killed];

/// A folder with a state and its runtime directory.
pub(crate) struct Home {
    folder: tempfile::TempDir,
    state: PathBuf,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` if a signal ended the process.
    pub(crate) code: Option<i32>,
    /// Its whole standard output.
    pub(crate) output: String,
    /// Its whole standard error.
    pub(crate) log: String,
}

impl Home {
    /// Returns a new folder without a state.
    pub(crate) fn new() -> Self {
        Self::with_state("state.db")
    }

    /// Returns a new folder with another file name for the state. An absolute one is outside the folder.
    pub(crate) fn with_state(name: impl AsRef<Path>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join(name);
        let home = Self { folder, state };
        fs::DirBuilder::new().mode(0o700).create(home.runtime()).expect("a runtime directory");
        home
    }

    /// Returns the path of a file in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the path of the state.
    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Returns the path of the state with a suffix.
    pub(crate) fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.state.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    /// Returns all files of the state: the database and the files next to it.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let folder = self.state.parent().expect("a file in a folder");
        let name = self.state.file_name().expect("a name").to_string_lossy();
        let mut found: Vec<PathBuf> = fs::read_dir(folder)
            .expect("a folder that can be read")
            .map(|entry| entry.expect("an entry of a folder").path())
            .filter(|path| path.file_name().is_some_and(|other| other.to_string_lossy().starts_with(&*name)))
            .collect();
        found.sort();
        found
    }

    /// Returns the snapshots of the state, oldest first.
    pub(crate) fn snapshots(&self) -> Vec<PathBuf> {
        let start = self.beside(".snapshot-").to_string_lossy().into_owned();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A snapshot that is still being written has another extension after the number.
        let is_whole = |path: &PathBuf| path.to_string_lossy().strip_prefix(&start).is_some_and(is_number);
        self.files().into_iter().filter(is_whole).collect()
    }

    /// Returns the log of the daemons of this home.
    pub(crate) fn daemon_log(&self) -> String {
        let folder = self.runtime().join("cortex-resource-manager");
        let paths = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let logs = paths.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }

    fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// Returns a command that runs the binary in the environment of this home, with only these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = server::command(arguments);
        command.env(RUNTIME_DIRECTORY, self.runtime());
        command
    }

    /// Returns a command for a session on the state with more options.
    pub(crate) fn serving(&self, mode: Mode, options: &[&str]) -> Command {
        let mut command = self.command(&["--daemon", mode.name(), "--toolsets", "all"]);
        if !options.contains(&LOG_LEVEL) {
            command.args([LOG_LEVEL, "warn"]);
        }
        command.arg("--state").arg(&self.state).args(options);
        command
    }

    /// Starts a session on the state and completes the handshake. Its answers are checked against its output schemas.
    pub(crate) fn server(&self, mode: Mode, options: &[&str]) -> Server {
        let mut server = Server::start_on(Transport::Pipes, self.serving(mode, options));
        server.greet("2025-11-25");
        server.learn_schemas();
        server
    }

    /// Starts a session on the state that may be killed or disconnected, and completes the handshake.
    pub(crate) fn session(&self, mode: Mode, options: &[&str]) -> Session {
        let mut session = Session::start(self.serving(mode, options));
        if let Err(gone) = session.greet(WAIT_MAX) {
            panic!("the session does not begin: {gone:?}\n{}", session.log());
        }
        session
    }

    /// Runs a command on the state until it ends.
    pub(crate) fn ask(&self, name: &str, options: &[&str]) -> Ended {
        let mut command = self.command(&[name]);
        command.arg("--state").arg(&self.state).args(options);
        run(command)
    }

    /// Runs a command that must exit with code 0, and returns its output.
    pub(crate) fn printed(&self, name: &str, options: &[&str]) -> String {
        let ended = self.ask(name, options);
        assert_eq!(ended.code, Some(0), "{name} {options:?}: {ended:#?}");
        ended.output
    }

    /// Returns the events of the state, as printed.
    pub(crate) fn events(&self, options: &[&str]) -> Vec<Value> {
        let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        self.printed("events", options).lines().map(read).collect()
    }

    /// Checks that a session on the state does not start: it exits with code 3 and one line that contains all of these
    /// words. Returns the line.
    pub(crate) fn check_unusable(&self, mode: Mode, options: &[&str], words: &[&str]) -> String {
        check_unusable(self.serving(mode, &[options, &[LOG_LEVEL, "error"]].concat()), words)
    }

    /// Returns the process that owns the state, from its lock.
    pub(crate) fn owner(&self) -> Option<u32> {
        let record: Value = serde_json::from_slice(&fs::read(self.beside(".lock")).ok()?).ok()?;
        u32::try_from(record["pid"].as_u64()?).ok()
    }

    /// Returns the daemon that owns the state, if it is neither the previous one nor one of these sessions.
    pub(crate) fn next_daemon(&self, before: Option<u32>, sessions: &[u32]) -> Option<u32> {
        self.owner().filter(|&owner| Some(owner) != before && !sessions.contains(&owner) && is_running(owner))
    }

    /// Waits for such a daemon, and returns its process id.
    pub(crate) fn daemon(&self, before: Option<u32>, sessions: &[u32]) -> u32 {
        wait_for("a daemon that owns the state", || self.next_daemon(before, sessions))
    }

    /// Returns every running process that was started in the environment of this home, both daemons and sessions.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mark = format!("{RUNTIME_DIRECTORY}={}", self.runtime().display()).into_bytes();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // A process that has ended but was not waited for has no environment.
        ids.filter(|id: &u32| {
            let surroundings = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            surroundings.split(|byte| *byte == 0).any(|variable| variable == mark)
        })
        .collect()
    }

    /// Stops the daemon, and checks that no process still runs.
    pub(crate) fn stop(&self) {
        let said = self.printed("stop", &[]);
        if wait_within(STOP_LIMIT, || self.processes().is_empty().then_some(())).is_none() {
            let left: Vec<_> = self.processes().into_iter().map(described).collect();
            panic!("still running after stop said {said:?}: {left:#?}\n{}", self.daemon_log());
        }
    }

    /// Ends a session, and its daemon if there is one.
    pub(crate) fn end(&self, mut server: Server, ending: Ending) {
        match ending {
            Ending::InOrder => {
                server.close_input();
                server.check_end();
                if !self.processes().is_empty() {
                    self.stop();
                }
            }
            Ending::Killed => {
                // The session ends first, so that it does not start another daemon.
                drop(server);
                wait_until("the end of all processes", || {
                    let left = self.processes();
                    left.iter().for_each(|&id| kill(id));
                    left.is_empty()
                });
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.processes().is_empty() {
            return;
        }
        // A clean end comes first, so that a failed test leaves no more behind than one that passed.
        let mut command = self.command(&["stop"]);
        command.arg("--state").arg(&self.state).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok(mut child) = command.spawn() {
            wait_within(STOP_LIMIT, || child.try_wait().ok().flatten());
            // Both fail only if the process has already ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        wait_within(STOP_LIMIT, || {
            let left = self.processes();
            left.iter().for_each(|&id| kill(id));
            left.is_empty().then_some(())
        });
    }
}

/// A process with its arguments.
fn described(id: u32) -> String {
    let arguments = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    format!("{id}: {}", String::from_utf8_lossy(&arguments).replace('\0', " "))
}

/// Kills a process, if it runs.
pub(crate) fn kill(id: u32) {
    if let Some(id) = process(id) {
        // Fails only if the process has already ended.
        let _ = kill_process(id, Signal::KILL);
    }
}

/// Returns whether a process exists.
pub(crate) fn is_running(id: u32) -> bool {
    process(id).is_some_and(|id| test_kill_process(id).is_ok())
}

fn process(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

/// Runs a command until it ends. Processes that it leaves running must not keep its output open.
pub(crate) fn run(mut command: Command) -> Ended {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command.spawn().expect("the binary"))
}

/// Waits for the end of a process.
pub(crate) fn finish(mut child: Child) -> Ended {
    let output = read_all(child.stdout.take().expect("a pipe"));
    let log = read_all(child.stderr.take().expect("a pipe"));
    let status = wait_within(WAIT_MAX, || child.try_wait().expect("a child to wait for"));
    if status.is_none() {
        child.kill().and_then(|()| child.wait()).expect("a child that can be killed");
    }
    let collect = |reader: thread::JoinHandle<String>| {
        wait_until("the end of the output of a process that has ended", || reader.is_finished());
        reader.join().expect("no panic while reading")
    };
    let ended = Ended { code: status.and_then(|status| status.code()), output: collect(output), log: collect(log) };
    assert!(status.is_some(), "still running after {WAIT_MAX:?}: {ended:#?}");
    ended
}

fn read_all(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Output that was read before an error is complete.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Checks that a process for a client exits with code 3 and one line on standard error that contains all of these
/// words. Its input stays open, so that the process itself decides to end.
pub(crate) fn check_unusable(mut command: Command, words: &[&str]) -> String {
    let described = format!("{command:?}");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
    let input = child.stdin.take();
    let ended = finish(child);
    drop(input);
    assert_eq!(ended.code, Some(UNUSABLE), "{described}: {ended:#?}");
    assert_eq!(ended.output, "", "standard output belongs to the protocol: {described}");
    assert_eq!(ended.log.lines().count(), 1, "one line says why: {described}: {ended:#?}");
    for word in words {
        assert!(ended.log.contains(word), "{word:?} is not in {:?} of {described}", ended.log);
    }
    ended.log
}

/// Returns whether a reply is retryable: an error of the tool or of the protocol.
pub(crate) fn is_retryable(reply: &Value) -> bool {
    let of_tool = || {
        let result = reply.get("result").unwrap_or(reply);
        let text = result["content"][0]["text"].as_str()?;
        let answer: Value = serde_json::from_str(text).ok()?;
        Some(result["isError"] == true && answer["retryable"] == true)
    };
    reply["error"]["data"]["retryable"] == true || of_tool() == Some(true)
}

/// Returns a request for workers by a job.
pub(crate) fn workers(job: &str, count: u64) -> Value {
    json!({"job_id": job, "mcp_servers": [], "workers": count})
}

/// Returns the arguments that identify an allocation.
pub(crate) fn allocation(id: &str) -> Value {
    json!({"allocation_id": id})
}

/// Returns the immutable properties of a lease: its id, token, worker ids, endpoints and servers, as `get_allocation`
/// answers.
pub(crate) fn identity(answer: &Value) -> Value {
    let workers: Vec<Value> = answer["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .map(|worker| json!([worker["worker_id"], worker["endpoint"]]))
        .collect();
    let servers: Vec<Value> = answer["mcp_servers"]
        .as_array()
        .expect("servers")
        .iter()
        .map(|server| json!([server["server_name"], server["endpoint"]]))
        .collect();
    json!({
        "allocation_id": answer["allocation_id"], "job_id": answer["job_id"], "fencing_token": answer["fencing_token"],
        "ttl_seconds": answer["ttl_seconds"], "workers": workers, "servers": servers,
    })
}
