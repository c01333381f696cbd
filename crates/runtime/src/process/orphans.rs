//! What a manager that was killed left behind, found and ended by the next.
//!
//! Invariants: what is ended carries the mark of a manager that was on the record, so that no other process is ever
//! mistaken for one; what a manager runs that lives is left alone, since its record may have come with a copy of its state;
//! and an instance stays on the record until nothing of it is left.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use uuid::Uuid;

use super::tree::{Tree, started_at};
use cortex_util::atomic_file;

/// How many instances are kept on the record.
const INSTANCES_MAX: usize = 16;

/// How much longer than the grace is waited before anything is killed. Guardians that outlived their manager are among what
/// is found, and know more of their trees than can be seen from here: they go first.
const GUARDIAN_LEAD: Duration = Duration::from_secs(1);

/// The longest record that is read, in bytes.
const RECORD_BYTES_MAX: u64 = 4_096;

/// The record of a manager that may have children. The caller owns the file's state, so that one manager writes it at a time.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// Those before of which something is left.
    before: Vec<Uuid>,
}

/// A manager on the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Manager {
    instance: Uuid,
    /// Its process and when that began, so that another of the same number is not taken for it.
    process: Option<(u32, u64)>,
}

impl Manager {
    fn lives(&self) -> bool {
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

/// What was left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orphans {
    /// How many processes were found.
    pub found: usize,
    /// How many of them could not be ended.
    pub left: usize,
}

impl Record {
    /// Ends what the managers on the record at `path` left behind, and puts this one on it. It has to be called before the
    /// first child is started. This blocks the thread, for the grace and some seconds at most.
    ///
    /// # Errors
    /// The record cannot be read or written, or the system does not show its processes.
    pub fn begin(path: &Path, instance: Uuid, grace: Duration) -> io::Result<(Self, Orphans)> {
        let (mut leftovers, mut before) = (Orphans::default(), Vec::new());
        for manager in read(path)? {
            if manager.lives() {
                tracing::warn!(path = %path.display(), "the record is that of a manager that runs: what it runs is left alone");
                continue;
            }
            let earlier = manager.instance;
            let end = Tree::of_instance(earlier).end(grace.saturating_add(GUARDIAN_LEAD))?;
            leftovers.found += end.found;
            leftovers.left += end.left;
            if end.left > 0 {
                before.push(earlier);
            }
        }
        match leftovers {
            Orphans { found: 0, .. } => {}
            Orphans { found, left: 0 } => tracing::info!(found, "ended what the manager before left behind"),
            Orphans { found, left } => {
                tracing::warn!(found, left, "what the manager before left behind does not end")
            }
        }
        let record = Self { path: path.to_owned(), before };
        let pid = std::process::id();
        let own = Manager { instance, process: started_at(pid).map(|began| (pid, began)) };
        record.write(Some(own))?;
        Ok((record, leftovers))
    }

    /// Takes this manager off the record. It has to be called when the last child has ended.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn end(self) -> io::Result<()> {
        if self.before.is_empty() { fs::remove_file(&self.path) } else { self.write(None) }
    }

    fn write(&self, own: Option<Manager>) -> io::Result<()> {
        let before = self.before.iter().map(|instance| Manager { instance: *instance, process: None });
        let all: Vec<Manager> = before.chain(own).collect();
        let newest = &all[all.len().saturating_sub(INSTANCES_MAX)..];
        let text: String = newest.iter().map(Manager::line).collect();
        atomic_file::replace(&self.path, text.as_bytes())
    }
}

/// The instances on the record. What is no instance is passed over: a file that was damaged must not stop a manager.
fn read(path: &Path) -> io::Result<Vec<Manager>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(RECORD_BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let instances: Vec<Manager> = text.lines().filter_map(Manager::read).take(INSTANCES_MAX).collect();
    if instances.len() < text.lines().count() {
        tracing::warn!(path = %path.display(), "the record of children is damaged: something may be left of an earlier life");
    }
    Ok(instances)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(path: &Path) -> Vec<Uuid> {
        read(path).expect("a record").iter().map(|manager| manager.instance).collect()
    }

    fn begin(path: &Path, instance: Uuid) -> Record {
        let (record, leftovers) = Record::begin(path, instance, Duration::ZERO).expect("a record");
        assert_eq!(leftovers, Orphans::default());
        record
    }

    #[test]
    fn the_record_names_who_has_children() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("children");
        let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
        let record = begin(&path, first);
        assert_eq!(instances(&path), [first]);
        // That one was killed, and left nothing.
        drop(record);
        fs::write(&path, format!("{first} {} 1\n", std::process::id())).expect("a file");
        let record = begin(&path, second);
        assert_eq!(instances(&path), [second]);
        record.end().expect("a file that can be removed");
        assert!(!path.exists());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn what_does_not_end_stays_on_the_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, left) = (folder.path().join("children"), Uuid::new_v4());
        let record = Record { path: path.clone(), before: vec![left] };
        record.write(Some(Manager { instance: Uuid::new_v4(), process: None })).expect("a record");
        record.end().expect("a record");
        assert_eq!(instances(&path), [left]);
    }

    #[test]
    fn what_a_manager_runs_that_lives_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, copy) = (folder.path().join("children"), folder.path().join("copy"));
        let (living, other) = (Uuid::new_v4(), Uuid::new_v4());
        let record = begin(&path, living);
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .env(super::super::tree::MARKER_VARIABLE, format!("{living}/1"))
            .spawn()
            .expect("a process");
        // This process is the manager, and lives.
        fs::copy(&path, &copy).expect("a copy");
        begin(&copy, other).end().expect("a file that can be removed");
        assert!(child.try_wait().expect("a child").is_none(), "it was ended");
        child.kill().expect("a child");
        child.wait().expect("a child");
        record.end().expect("a file that can be removed");
    }

    #[test]
    fn a_damaged_record_stops_nobody() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, good) = (folder.path().join("children"), Uuid::new_v4());
        fs::write(&path, format!("{good}\nnonsense\n\u{0}")).expect("a file");
        assert_eq!(instances(&path), [good]);
        fs::write(&path, "x".repeat(1_000_000)).expect("a file");
        assert_eq!(instances(&path), Vec::<Uuid>::new());
        begin(&path, good).end().expect("a file that can be removed");
    }
}
