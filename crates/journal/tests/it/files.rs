//! The files: other files, leftovers of a missing state, and leftovers of a crash.

use crate::state::State;
use cortex_core::Cluster;
use cortex_journal::{JournalError, SCHEMA_VERSION, SqliteJournal, open_to_read};
use cortex_test_support::history::{History, assert_same};
use cortex_util::lock::{LOCK_WAIT_MAX, OwnerRecord};
use rusqlite::Connection;
use std::fs;

/// A name, the preparation of the path, and a check of the error.
type Case = (&'static str, fn(&State), fn(&JournalError) -> bool);

const CASES: [Case; 9] = [
    (
        "an empty file",
        |state| fs::write(state.path(), b"").expect("a file"),
        |error| matches!(error, JournalError::Empty { .. }),
    ),
    (
        "a text",
        |state| fs::write(state.path(), "a text ".repeat(1_000)).expect("a file"),
        |error| matches!(error, JournalError::NotAState { .. }),
    ),
    (
        "a folder",
        |state| fs::create_dir(state.path()).expect("a folder"),
        |error| matches!(error, JournalError::NotAState { .. }),
    ),
    (
        "a database of another program",
        |state| run(state, "CREATE TABLE events (sequence INTEGER PRIMARY KEY); PRAGMA application_id = 17;"),
        |error| matches!(error, JournalError::NotAState { what, .. } if what.contains("17")),
    ),
    (
        "a database without application id",
        |state| run(state, "CREATE TABLE a (b)"),
        |error| matches!(error, JournalError::NotAState { .. }),
    ),
    (
        "a newer schema",
        |state| run(state, "CREATE TABLE a (b); PRAGMA application_id = 0x4352586d; PRAGMA user_version = 7;"),
        |error| matches!(error, JournalError::NewerSchema { found: 7, .. }),
    ),
    (
        "a torn header",
        |state| fs::write(state.path(), b"SQLite format 3\0").expect("a file"),
        |error| matches!(error, JournalError::NotAState { .. } | JournalError::Damaged { .. }),
    ),
    (
        "a missing file with a snapshot",
        |state| fs::write(state.snapshot_path(17), b"anything").expect("a file"),
        |error| matches!(error, JournalError::Missing { leftover, .. } if leftover.to_string_lossy().ends_with("17")),
    ),
    (
        "a missing file with a write-ahead log",
        |state| fs::write(state.with_suffix("-wal"), b"anything").expect("a file"),
        |error| matches!(error, JournalError::Missing { leftover, .. } if leftover.to_string_lossy().ends_with("-wal")),
    ),
];

fn run(state: &State, script: &str) {
    Connection::open(state.path()).and_then(|database| database.execute_batch(script)).expect("a database");
}

#[tokio::test]
async fn other_files_are_refused_and_left_alone() {
    for (case, prepare, is_right) in CASES {
        let state = State::new();
        prepare(&state);
        let before = fs::read(state.path()).ok();
        let loaded = state.load().await.expect_err(case);
        let read = open_to_read(state.path()).expect_err(case);
        for error in [loaded, read] {
            assert!(is_right(&error), "{case}: {error:?}");
            assert!(!error.is_transient(), "{case}: trying again would not help");
            assert!(error.to_string().contains("state.db"), "{case}: {error}");
        }
        assert_eq!(fs::read(state.path()).ok(), before, "{case}");
    }
}

#[test]
fn a_newer_schema_is_reported_with_the_known_one() {
    let state = State::new();
    run(&state, "CREATE TABLE a (b); PRAGMA application_id = 0x4352586d; PRAGMA user_version = 7;");
    let text = open_to_read(state.path()).expect_err("a newer schema").to_string();
    assert!(text.contains("version 7") && text.contains(&format!("up to {SCHEMA_VERSION}")), "{text}");
}

#[test]
fn a_folder_is_not_created() {
    let mut state = State::new();
    state.options.path = state.with_suffix("-folder").join("state.db");
    let owner = OwnerRecord::of_this_process();
    let error = SqliteJournal::open(state.options.clone(), &owner, LOCK_WAIT_MAX).expect_err("no folder");
    assert!(matches!(error, JournalError::NoFolder { .. }), "{error:?}");
    let error = open_to_read(state.path()).expect_err("no folder");
    assert!(matches!(error, JournalError::NoFolder { .. }), "{error:?}");
}

#[test]
fn a_reader_creates_no_state() {
    let state = State::new();
    let error = open_to_read(state.path()).expect_err("no state");
    assert!(matches!(error, JournalError::NoState { .. }), "{error:?}");
    assert!(!state.path().exists());
}

#[tokio::test]
async fn an_incomplete_new_state_is_replaced() {
    let state = State::new();
    fs::write(state.with_suffix(".new"), b"half a database").expect("a file");
    fs::write(state.with_suffix(".new-journal"), b"half a journal").expect("a file");
    assert_same(&state.load().await.expect("a new state"), &Cluster::default(), "at first");
    assert!(!state.with_suffix(".new").exists());
    let mut history = History::new(30);
    state.run_and_close(&mut history, 50).await;
    assert_same(&state.load().await.expect("a good state"), &history.cluster, "later");
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_of_a_state_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let state = State::new();
    let mut history = History::new(33);
    state.run_and_close(&mut history, 50).await;
    for path in [state.path().to_owned(), state.snapshot_path(state.snapshots()[0]), state.with_suffix(".lock")] {
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} can be read by others: {mode:o}", path.display());
    }
}

#[tokio::test]
async fn an_unfinished_snapshot_is_ignored_and_removed() {
    let (state, mut history) = (State::new(), History::new(31));
    state.run_and_close(&mut history, 50).await;
    let (left, foreign) =
        (state.with_suffix(&format!(".snapshot-{:020}.new", 99)), state.with_suffix(".snapshot-mine.new"));
    for path in [&left, &foreign] {
        fs::write(path, b"half a snapshot").expect("a file");
    }
    let recovery = state.read(None).expect("a good state");
    assert!(recovery.faults.is_empty());
    assert!(left.exists(), "a reader changes nothing");
    assert_same(&state.load().await.expect("a good state"), &history.cluster, "at the start");
    assert!(!left.exists());
    assert!(foreign.exists(), "it is not a snapshot of this program");
}
