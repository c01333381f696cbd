//! The next manager ends the orphans of a killed one, and no other process.

use std::process::{Child, Command, Stdio};

use cortex_runtime::process::{
    orphans::{Orphans, ProcessRecord},
    tree::{MARKER_VARIABLE, Marker},
};
use uuid::Uuid;

use crate::children::processes::{SHORT_GRACE, is_running};

/// A process that ends with its test.
struct Process(Child);

impl Process {
    fn start(script: &str, marker: Option<String>) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        command.envs(marker.map(|marker| (MARKER_VARIABLE, marker)));
        let mut process = Self(command.spawn().expect("a process"));
        // Once it has written a word, it has its own environment and ignores the signals that it should.
        let mut ready = [0; 6];
        let output = process.0.stdout.as_mut().expect("an output");
        std::io::Read::read_exact(output, &mut ready).expect("a word");
        process
    }

    fn is_running(&self) -> bool {
        is_running(self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processes_of_an_earlier_run_are_ended_and_no_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("children");
    let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
    let (record, orphans) = ProcessRecord::begin(&path, old, SHORT_GRACE).expect("a record");
    assert_eq!(orphans, Orphans::default());
    let marked = |instance, number| Some(Marker { instance, number }.to_string());
    let gentle = Process::start("echo ready; exec sleep 1000", marked(old, 1));
    let stubborn =
        Process::start("trap '' TERM; echo ready; while read x; do :; done; exec sleep 1000", marked(old, 22));
    let others = [
        Process::start("echo ready; exec sleep 1000", marked(Uuid::new_v4(), 1)),
        Process::start("echo ready; exec sleep 1000", None),
        Process::start("echo ready; exec sleep 1000", Some(String::new())),
        Process::start("echo ready; exec sleep 1000", Some(old.to_string())),
        Process::start("echo ready; exec sleep 1000", Some(format!("x{old}/1"))),
    ];
    // A killed manager stays on record, and another process may have its pid by now.
    drop(record);
    std::fs::write(&path, format!("{old} {} 1\n", std::process::id())).expect("a file");
    let (record, orphans) = ProcessRecord::begin(&path, new, SHORT_GRACE).expect("a record");
    assert_eq!(orphans, Orphans { found: 2, left: 0 });
    assert!(!gentle.is_running() && !stubborn.is_running());
    assert!(others.iter().all(Process::is_running));
    record.end().expect("a record");
    assert!(!path.exists());
}
