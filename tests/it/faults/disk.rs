//! A full disk: grants are refused with errors that may be repeated, reads go on, and with room again so does
//! everything else.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::books::check_retryable;
use crate::faults::skip;
use crate::support::{
    HANG,
    durable::{Ending, Home, MODES, Mode, UNUSABLE, allocation, identity, workers},
    session::{Reply, Session},
};

/// The bytes of the disk.
const DISK_BYTES: u64 = 2 << 20;

/// How many calls have to meet the end of the disk.
const REFUSALS: usize = 3;

/// How long leasing may go on in the room that files have already taken before a full disk has to show.
const FULL_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take until grants work again once there is room.
const MEND_LIMIT: Duration = Duration::from_secs(20);

/// A small disk of its own. It goes when this is dropped.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// A disk, if this process may mount one.
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

    /// Takes all the room that is left.
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
        // Lazily, so that what a failed test left open does not hold it.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).stderr(Stdio::null()).status();
    }
}

/// Leases and gives back until the disk has had no room for it so often; looks at the books after each time. What is
/// held in the end is what the caller holds and what could not be given back.
fn lease_until_refused(session: &mut Session, held: &Value, refusals: usize) -> Vec<String> {
    let (start, mut left, mut refused) = (Instant::now(), Vec::<String>::new(), 0);
    let mut request = workers("filling", 1);
    request["metadata"] = json!({"note": "x".repeat(2000)});
    while refused < refusals {
        // What files have taken already can be written again, so that not every call meets the end of the disk.
        assert!(start.elapsed() < FULL_LIMIT, "the disk is full, and nothing shows it\n{}", session.log());
        let reply = match left.last() {
            Some(id) => session.call("release_resources", &allocation(id), HANG),
            None => session.call("request_resources", &request, HANG),
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

/// Checks that reads go on, and see what was acknowledged.
fn check_reads(session: &mut Session, held: &Value, others: usize) {
    let capacity = session.call("get_capacity", &json!({}), HANG);
    let Ok(Reply::Answer(capacity)) = capacity else { panic!("reads go on: {capacity:?}\n{}", session.log()) };
    assert_eq!(capacity["allocated_workers"], 3 + others, "{capacity}");
    let read = session.call("get_allocation", &allocation(held["allocation_id"].as_str().expect("an id")), HANG);
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
    home.told("verify", &[]);

    // What is refused for want of room at the start leaves the state alone.
    disk.fill();
    let mut session = Session::start(home.serving(mode, &[]));
    if session.greet(HANG).is_ok() {
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
fn a_full_disk_refuses_grants_and_mends() {
    let Some(disk) = Disk::new() else { return skip("this process may not mount a small disk") };
    MODES.into_iter().for_each(|mode| check_full_disk(&disk, mode));
}

#[test]
fn a_disk_without_room_for_a_state_is_told() {
    let Some(disk) = Disk::new() else { return skip("this process may not mount a small disk") };
    disk.fill();
    let home = Home::with_state(disk.path("state.db"));
    let line = home.check_unusable(Mode::Never, &[], &[&home.state().display().to_string()]);
    disk.make_room();
    // What a failed start left behind must not be taken for somebody's file.
    let mut server = home.server(Mode::Never, &[]);
    assert_eq!(server.capacity()["allocated_workers"], 0, "after: {line}");
    home.end(server, Ending::InOrder);
}
