//! A full disk: grants are refused with retryable errors while reads continue. Everything works again once there is
//! space.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::acknowledged::check_retryable;
use crate::faults::skip;
use crate::support::{
    WAIT_MAX,
    durable::{Ending, Home, MODES, Mode, UNUSABLE, allocation, identity, workers},
    session::{Reply, Session},
};

/// The size of the disk, in bytes.
const DISK_BYTES: u64 = 2 << 20;

/// The number of calls that must hit the full disk.
const REFUSALS: usize = 3;

/// The time limit for leasing within the space that files have already allocated, until the full disk has an effect.
const FULL_LIMIT: Duration = Duration::from_secs(60);

/// The time limit until grants work again once there is space.
const MEND_LIMIT: Duration = Duration::from_secs(20);

/// A small separate disk. Dropping it unmounts it.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// Returns a disk, if this process is allowed to mount one.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Fills the remaining space.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.path("filler")).expect("a file");
        for piece in [4096, 1] {
            while file.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path("filler")).expect("a file");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The lazy unmount succeeds even if a failed test left files open.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).stderr(Stdio::null()).status();
    }
}

/// Leases and releases until the disk has refused a number of calls for lack of space, and checks the leases after each
/// refusal. At the end, the held leases are those of the caller and those that could not be released.
fn lease_until_refused(session: &mut Session, held: &Value, refusals: usize) -> Vec<String> {
    let (start, mut left, mut refused) = (Instant::now(), Vec::<String>::new(), 0);
    let mut request = workers("filling", 1);
    request["metadata"] = json!({"note": "x".repeat(2000)});
    while refused < refusals {
        // Space that files have already allocated can be written again, so not every call hits the full disk.
        assert!(start.elapsed() < FULL_LIMIT, "the disk is full, and nothing shows it\n{}", session.log());
        let reply = match left.last() {
            Some(id) => session.call("release_resources", &allocation(id), WAIT_MAX),
            None => session.call("request_resources", &request, WAIT_MAX),
        };
        let Ok(Reply::Answer(answer)) = reply else {
            check_retryable(reply);
            refused += 1;
            check_reads(session, held, left.len());
            continue;
        };
        if left.pop().is_some() {
            assert_eq!(answer["status"], "released", "{answer}");
        } else {
            assert_eq!(answer["status"], "active", "{answer}");
            left.push(answer["allocation_id"].as_str().expect("an id").to_owned());
        }
    }
    left
}

/// Checks that reads continue, and return what was acknowledged.
fn check_reads(session: &mut Session, held: &Value, others: usize) {
    let capacity = session.call("get_capacity", &json!({}), WAIT_MAX);
    let Ok(Reply::Answer(capacity)) = capacity else { panic!("reads go on: {capacity:?}\n{}", session.log()) };
    assert_eq!(capacity["allocated_workers"], 3 + others, "{capacity}");
    let read = session.call("get_allocation", &allocation(held["allocation_id"].as_str().expect("an id")), WAIT_MAX);
    assert!(matches!(&read, Ok(Reply::Answer(read)) if identity(read) == identity(held)), "{read:?}");
}

fn check_full_disk(disk: &Disk, mode: Mode) {
    let home = Home::with_state(disk.path(&format!("{}.db", mode.name())));
    let mut session = home.session(mode, &[]);
    let held = session.answer("request_resources", &workers("held", 3));
    let id = held["allocation_id"].as_str().expect("an id").to_owned();
    let before = session.answer("get_allocation", &allocation(&id));

    disk.fill();
    let left = lease_until_refused(&mut session, &before, REFUSALS);

    disk.make_room();
    let mut request = workers("after", 5);
    request["request_id"] = "after".into();
    let reply = session.insist("request_resources", &request, MEND_LIMIT);
    let Ok(Reply::Answer(granted)) = reply else { panic!("there is room again: {reply:?}\n{}", session.log()) };
    assert_eq!(granted["status"], "active", "{granted}");
    for id in left {
        assert_eq!(session.answer("release_resources", &allocation(&id))["status"], "released");
    }
    assert_eq!(session.answer("get_capacity", &json!({}))["allocated_workers"], 8);
    assert_eq!(session.finish().code(), Some(0));
    if mode == Mode::Auto {
        home.stop();
    }
    home.printed("verify", &[]);

    // A start that is refused for lack of space does not change the state.
    disk.fill();
    let mut session = Session::start(home.serving(mode, &[]));
    if session.greet(WAIT_MAX).is_ok() {
        assert_eq!(session.answer("get_capacity", &json!({}))["allocated_workers"], 8);
    } else {
        let log = session.log();
        assert_eq!(session.finish().code(), Some(UNUSABLE), "{log}");
    }
    disk.make_room();
    let mut server = home.server(mode, &[]);
    assert_eq!(server.capacity()["allocated_workers"], 8);
    assert_eq!(identity(&server.allocation(&id)), identity(&before));
    home.end(server, Ending::InOrder);
    home.files().iter().for_each(|path: &PathBuf| remove(path));
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("a file that can be removed");
}

#[test]
fn a_full_disk_refuses_grants_until_it_has_room() {
    let Some(disk) = Disk::new() else { return skip("this process may not mount a small disk") };
    MODES.into_iter().for_each(|mode| check_full_disk(&disk, mode));
}

#[test]
fn a_disk_without_room_for_a_state_is_reported() {
    let Some(disk) = Disk::new() else { return skip("this process may not mount a small disk") };
    disk.fill();
    let home = Home::with_state(disk.path("state.db"));
    let line = home.check_unusable(Mode::Never, &[], &[&home.state().display().to_string()]);
    disk.make_room();
    // Files of a failed start must not be mistaken for foreign files.
    let mut server = home.server(Mode::Never, &[]);
    assert_eq!(server.capacity()["allocated_workers"], 0, "after: {line}");
    home.end(server, Ending::InOrder);
}
