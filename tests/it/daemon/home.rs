//! A runtime directory for one test, and what lives in it.

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
    wait_for, wait_within,
};

/// A runtime directory. Whatever daemon is left in it is ended when this is dropped.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("a change of mode");
        Self { folder }
    }

    /// A path in the folder of the runtime directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of the in-memory state's daemon.
    pub(crate) fn file(&self, ending: &str) -> PathBuf {
        self.path("cortex-resource-manager").join(format!("memory.{ending}"))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary")
    }

    /// What a command prints, which has to succeed.
    pub(crate) fn printed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// The line of error of a command that cannot use the daemon.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(3), "{text}");
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
        let [line] = lines.as_slice() else { panic!("not one line of error:\n{text}") };
        (*line).to_owned()
    }

    /// A session before its handshake, without its log.
    pub(crate) fn start(&self, arguments: &[&str]) -> Server {
        self.start_on(Transport::Pipes, arguments)
    }

    pub(crate) fn start_on(&self, transport: Transport, arguments: &[&str]) -> Server {
        let always = [&["--daemon", "always"], arguments].concat();
        Server::start_on(transport, self.command(&always))
    }

    /// A session that was greeted.
    pub(crate) fn session(&self, arguments: &[&str]) -> Server {
        let mut server = self.start(arguments);
        server.greet("2025-11-25");
        server.learn_schemas();
        server
    }

    /// The value of a line of the status.
    pub(crate) fn status(&self, name: &str) -> Option<String> {
        let text = self.printed(&["status"]);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.map(str::to_owned)
    }

    /// The record of the daemon, if it has written one.
    pub(crate) fn record(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.file("json")).ok()?).ok()
    }

    /// The process id of the daemon, which has to be there.
    pub(crate) fn pid(&self) -> u64 {
        let record = wait_for("the daemon's record", || self.record());
        record["pid"].as_u64().expect("a process id")
    }

    /// Kills the daemon without a warning; gives its process id.
    pub(crate) fn kill(&self) -> u64 {
        let pid = self.pid();
        signal("KILL", pid);
        pid
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let stopped = self.command(&["stop"]).output();
        // A test that failed may leave daemons of states too: each has its record here.
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

/// Sends a signal, by its name without SIG. A process that is gone does not matter.
pub(crate) fn signal(name: &str, pid: u64) {
    let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).output();
}

/// Whether the process runs. One that has ended and was not collected does not.
pub(crate) fn is_running(pid: u64) -> bool {
    let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().expect("ps is there");
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

/// Waits until the process is gone.
pub(crate) fn wait_until_gone(pid: u64) {
    let gone = wait_within(crate::support::HANG, || (!is_running(pid)).then_some(()));
    gone.unwrap_or_else(|| panic!("process {pid} is still there"));
}

/// The processes that this one has started and that are still in the table, those that ended included.
pub(crate) fn children(pid: u32) -> Vec<String> {
    let output = Command::new("ps").args(["-o", "pid=,stat=", "--ppid", &pid.to_string()]).output();
    let text = String::from_utf8_lossy(&output.expect("ps is there").stdout).into_owned();
    text.lines().map(|line| line.trim().to_owned()).collect()
}
