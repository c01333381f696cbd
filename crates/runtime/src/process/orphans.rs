//! Orphans: processes that a killed manager left behind. The next manager finds and ends them.
//!
//! A file records the managers that may have children. Invariants: only processes with the marker of a recorded manager
//! are ended, so that no other process is mistaken for an orphan; the children of a manager that still runs are left
//! alone, since its file may have been copied along with its state; and a manager stays on record until none of its
//! processes is left.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use uuid::Uuid;

use super::tree::{ProcessTree, started_at};
use cortex_util::atomic_file;

/// The most managers on record.
const MANAGERS_MAX: usize = 16;

/// How much longer than the grace to wait before processes are killed. Guardians that outlived their manager are among
/// the orphans, and find more of their trees than this process can: they get the time to end them.
const GUARDIAN_LEAD: Duration = Duration::from_secs(1);

/// The most bytes of a record that are read.
const RECORD_BYTES_MAX: u64 = 4_096;

/// The record of managers that may have children. The caller owns the state that the file belongs to, so that only one
/// manager writes it at a time.
#[derive(Debug)]
pub struct ProcessRecord {
    path: PathBuf,
    /// Earlier managers of which processes are left.
    earlier: Vec<Uuid>,
}

/// A manager on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RecordedManager {
    instance: Uuid,
    /// Its process id and start time in seconds since 1970. The time tells it from a later process with the same id.
    process: Option<(u32, u64)>,
}

impl RecordedManager {
    fn is_running(&self) -> bool {
        self.process.is_some_and(|(pid, began)| started_at(pid) == Some(began))
    }

    fn line(&self) -> String {
        let process = self.process.map_or_else(String::new, |(pid, began)| format!(" {pid} {began}"));
        format!("{}{process}\n", self.instance)
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let instance = words.next()?.parse().ok()?;
        let process = match (words.next(), words.next()) {
            (Some(pid), Some(began)) => Some((pid.parse().ok()?, began.parse().ok()?)),
            _ => None,
        };
        Some(Self { instance, process })
    }
}

/// The number of orphans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orphans {
    pub found: usize,
    /// Those that could not be ended.
    pub left: usize,
}

impl ProcessRecord {
    /// Ends the orphans of the managers on record at `path`, and records this manager. Must be called before the first
    /// child is started. Blocks the thread for up to the grace and some seconds.
    ///
    /// # Errors
    /// The record cannot be read or written, or the system's process table cannot be read.
    pub fn begin(path: &Path, instance: Uuid, grace: Duration) -> io::Result<(Self, Orphans)> {
        let (mut orphans, mut earlier) = (Orphans::default(), Vec::new());
        for manager in read(path)? {
            if manager.is_running() {
                let path = path.display();
                tracing::warn!(%path, "record of a running manager was found: leaving its children alone");
                continue;
            }
            let end = ProcessTree::of_instance(manager.instance).end(grace.saturating_add(GUARDIAN_LEAD))?;
            orphans.found += end.found;
            orphans.left += end.left;
            if end.left > 0 {
                earlier.push(manager.instance);
            }
        }
        match orphans {
            Orphans { found: 0, .. } => {}
            Orphans { found, left: 0 } => tracing::info!(found, "orphans of an earlier manager were ended"),
            Orphans { found, left } => {
                tracing::warn!(found, left, "orphans of an earlier manager could not be ended");
            }
        }
        let record = Self { path: path.to_owned(), earlier };
        let pid = std::process::id();
        let own = RecordedManager { instance, process: started_at(pid).map(|began| (pid, began)) };
        record.write(Some(own))?;
        Ok((record, orphans))
    }

    /// Removes this manager from the record. Must be called after the last child has ended.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn end(self) -> io::Result<()> {
        if self.earlier.is_empty() { fs::remove_file(&self.path) } else { self.write(None) }
    }

    fn write(&self, own: Option<RecordedManager>) -> io::Result<()> {
        let earlier = self.earlier.iter().map(|instance| RecordedManager { instance: *instance, process: None });
        let all: Vec<RecordedManager> = earlier.chain(own).collect();
        let newest = &all[all.len().saturating_sub(MANAGERS_MAX)..];
        let text: String = newest.iter().map(RecordedManager::line).collect();
        atomic_file::replace(&self.path, text.as_bytes())
    }
}

/// Reads the managers on record. Skips lines that cannot be read: a damaged file must not keep a manager from starting.
fn read(path: &Path) -> io::Result<Vec<RecordedManager>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let managers: Vec<RecordedManager> = text.lines().filter_map(RecordedManager::read).take(MANAGERS_MAX).collect();
    if managers.len() < text.lines().count() {
        let path = path.display();
        tracing::warn!(%path, "record of children is damaged: orphans of an earlier manager may be left");
    }
    Ok(managers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(path: &Path) -> Vec<Uuid> {
        read(path).expect("a record").iter().map(|manager| manager.instance).collect()
    }

    fn begin(path: &Path, instance: Uuid) -> ProcessRecord {
        let (record, orphans) = ProcessRecord::begin(path, instance, Duration::ZERO).expect("a record");
        assert_eq!(orphans, Orphans::default());
        record
    }

    #[test]
    fn the_record_names_managers_with_children() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("children");
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        let record = begin(&path, first);
        assert_eq!(instances(&path), [first]);
        // The first manager was killed and left no orphans. Its pid belongs to this process now.
        drop(record);
        fs::write(&path, format!("{first} {} 1\n", std::process::id())).expect("a file");
        let record = begin(&path, second);
        assert_eq!(instances(&path), [second]);
        record.end().expect("a file that can be removed");
        assert!(!path.exists());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_manager_with_orphans_that_do_not_end_stays_on_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, left) = (folder.path().join("children"), Uuid::new_v4());
        let record = ProcessRecord { path: path.clone(), earlier: vec![left] };
        record.write(Some(RecordedManager { instance: Uuid::new_v4(), process: None })).expect("a record");
        record.end().expect("a record");
        assert_eq!(instances(&path), [left]);
    }

    #[test]
    fn the_children_of_a_running_manager_are_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, copy) = (folder.path().join("children"), folder.path().join("copy"));
        let (living, other) = (Uuid::new_v4(), Uuid::new_v4());
        let record = begin(&path, living);
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .env(super::super::tree::MARKER_VARIABLE, format!("{living}/1"))
            .spawn()
            .expect("a process");
        // This process is the recorded manager, and runs.
        fs::copy(&path, &copy).expect("a copy");
        begin(&copy, other).end().expect("a file that can be removed");
        assert!(child.try_wait().expect("a child").is_none(), "it was ended");
        child.kill().expect("a child");
        child.wait().expect("a child");
        record.end().expect("a file that can be removed");
    }

    #[test]
    fn a_damaged_record_does_not_prevent_a_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, good) = (folder.path().join("children"), Uuid::new_v4());
        fs::write(&path, format!("{good}\nnonsense\n\u{0}")).expect("a file");
        assert_eq!(instances(&path), [good]);
        fs::write(&path, "x".repeat(1_000_000)).expect("a file");
        assert_eq!(instances(&path), Vec::<Uuid>::new());
        begin(&path, good).end().expect("a file that can be removed");
    }
}
