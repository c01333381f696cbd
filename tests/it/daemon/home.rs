//! A runtime directory for one test, and its processes.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    server::{Server, Transport, command},
    wait_for, wait_until,
};

/// A runtime directory. Dropping it ends any remaining daemon.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("a change of mode");
        Self { folder }
    }

    /// Returns a path in the folder of the runtime directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns a file of the daemon for the in-memory state.
    pub(crate) fn file(&self, ending: &str) -> PathBuf {
        self.path("cortex-resource-manager").join(format!("memory.{ending}"))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    /// Runs a command until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary")
    }

    /// Returns the output of a command that must succeed.
    pub(crate) fn printed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Returns the error line of a command that cannot use the daemon.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(3), "{text}");
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        let [line] = lines.as_slice() else { panic!("not one line of error:\n{text}") };
        (*line).to_owned()
    }

    /// Starts a session without a handshake or a log.
    pub(crate) fn start(&self, arguments: &[&str]) -> Server {
        self.start_on(Transport::Pipes, arguments)
    }

    pub(crate) fn start_on(&self, transport: Transport, arguments: &[&str]) -> Server {
        let always = [&["--daemon", "always"], arguments].concat();
        Server::start_on(transport, self.command(&always))
    }

    /// Starts a session and completes the handshake.
    pub(crate) fn session(&self, arguments: &[&str]) -> Server {
        let mut server = self.start(arguments);
        server.greet("2025-11-25");
        server.learn_schemas();
        server
    }

    /// Returns the value of a line of the status.
    pub(crate) fn status(&self, name: &str) -> Option<String> {
        let text = self.printed(&["status"]);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.map(str::to_owned)
    }

    /// Returns the record of the daemon, if it has written one.
    pub(crate) fn record(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.file("json")).ok()?).ok()
    }

    /// Returns the process id of the daemon, which must exist.
    pub(crate) fn pid(&self) -> u64 {
        let record = wait_for("the daemon's record", || self.record());
        record["pid"].as_u64().expect("a process id")
    }

    /// Kills the daemon with SIGKILL, and returns its process id.
    pub(crate) fn kill(&self) -> u64 {
        let pid = self.pid();
        signal("KILL", pid);
        pid
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let stopped = self.command(&["stop"]).output();
        // A failed test may also leave daemons of states, which have their records here.
        for entry in fs::read_dir(self.path("cortex-resource-manager")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let record: Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(pid) = record["pid"].as_u64().filter(|pid| is_running(*pid)) {
                signal("KILL", pid);
            }
        }
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|output| output.status.success()));
        }
    }
}

/// Sends a signal, given by its name without SIG. The process may have ended.
pub(crate) fn signal(name: &str, pid: u64) {
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).output();
}

/// Returns whether the process runs. A process that has ended but was not reaped does not.
pub(crate) fn is_running(pid: u64) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().expect("ps is there");
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

/// Waits until the process has ended.
pub(crate) fn wait_until_gone(pid: u64) {
    wait_until(&format!("the end of process {pid}"), || !is_running(pid));
}

/// Returns the children of this process that are in the process table, including those that have ended.
pub(crate) fn children(pid: u32) -> Vec<String> {
    let output = Command::new("ps").args(["-o", "pid=,stat=", "--ppid", &pid.to_string()]).output();
    let text = String::from_utf8_lossy(&output.expect("ps is there").stdout).into_owned();
    text.lines().map(|line| line.trim().to_owned()).collect()
}
