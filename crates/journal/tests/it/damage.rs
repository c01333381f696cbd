//! Damage: a state that was changed or truncated is detected, and never read as something else.

use crate::state::{State, commit};
use cortex_core::event::Recorded;
use cortex_core::{Cluster, check};
use cortex_journal::{EventRows, Journal, JournalError, open_to_read, recover};
use cortex_test_support::history::{History, assert_same};
use fastrand::Rng;
use std::fs;

/// The number of random bits of a snapshot that are flipped, one at a time.
const BITS_FLIPPED: usize = 300;

/// A state with two snapshots and events after the newer one.
async fn with_two_snapshots(seed: u64) -> (State, History) {
    let (state, mut history) = (State::new(), History::new(seed));
    state.run_and_close(&mut history, 200).await;
    state.run_and_close(&mut history, 200).await;
    state.run_and_crash(&mut history, 100).await;
    drop(state.load().await.expect("a good state"));
    assert_eq!(state.snapshots().len(), 2);
    (state, history)
}

#[track_caller]
fn check_damaged(found: Result<Cluster, JournalError>, when: &str, expected_words: &[&str]) {
    let error = found.expect_err(when);
    assert!(matches!(error, JournalError::Damaged { .. }), "{when}: {error:?}");
    assert!(!error.is_transient(), "{when}: trying again would not help");
    for word in expected_words {
        assert!(error.to_string().contains(word), "{when}: {error}");
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_skipped_for_the_one_before() {
    let (state, history) = with_two_snapshots(10).await;
    let snapshots = state.snapshots();
    let (older, newer) = (snapshots[0], snapshots[1]);
    let path = state.snapshot_path(newer);
    let good = fs::read(&path).expect("a snapshot");
    let (elsewhere, _) = with_two_snapshots(11).await;
    let of_another = fs::read(elsewhere.snapshot_path(elsewhere.snapshots()[1])).expect("a snapshot");
    let of_another_position = fs::read(state.snapshot_path(older)).expect("a snapshot");

    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("empty".to_owned(), Vec::new()),
        ("of another format".to_owned(), [b"cortex-snap-9999".as_slice(), &good[16..]].concat()),
        ("zeroes".to_owned(), vec![0; good.len()]),
        ("zeroes after the magic bytes".to_owned(), [&good[..16], &vec![0; good.len() - 16]].concat()),
        ("of another state".to_owned(), of_another),
        ("of another position".to_owned(), of_another_position),
    ];
    for length in [1, 15, 16, 17, 20, 23, 24, 25, good.len() / 2, good.len() - 2, good.len() - 1] {
        cases.push((format!("cut to {length} bytes"), good[..length].to_vec()));
    }
    let mut rng = Rng::with_seed(12);
    for _ in 0..BITS_FLIPPED {
        let (index, bit) = (rng.usize(0..good.len()), rng.u8(0..8));
        let mut bytes = good.clone();
        bytes[index] ^= 1 << bit;
        cases.push((format!("with bit {bit} of byte {index} flipped"), bytes));
    }
    for (case, bytes) in cases {
        fs::write(&path, bytes).expect("a file");
        let recovery = state.read(None).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_same(&recovery.cluster, &history.cluster, &case);
        assert_eq!(recovery.snapshot, Some(older), "{case}");
        assert_eq!(recovery.faults.len(), 1, "{case}: {:?}", recovery.faults);
        assert_eq!(recovery.faults[0].0, path, "{case}");
    }

    // With both snapshots damaged, the events are enough as long as all of them are kept.
    fs::write(state.snapshot_path(older), b"nothing").expect("a file");
    let recovery = state.read(None).expect("all events");
    assert_same(&recovery.cluster, &history.cluster, "from the events alone");
    assert_eq!((recovery.snapshot, recovery.faults.len()), (None, 2));
    assert_eq!(recovery.replayed, recovery.anchor.sequence);
    assert_same(&state.load().await.expect("all events"), &history.cluster, "a start from the events alone");

    let foreign = state.foreign_connection();
    foreign.execute("DELETE FROM events WHERE sequence < ?1", [older.cast_signed()]).expect("a database");
    drop(foreign);
    let names = [older, newer].map(|sequence| format!("snapshot-{sequence:020}"));
    check_damaged(state.load().await, "without the first events", &[&names[0], &names[1], "pruned"]);
    let foreign = state.foreign_connection();
    foreign.execute("DELETE FROM events", []).expect("a database");
    drop(foreign);
    check_damaged(state.load().await, "without any events", &["its log ends at event 0"]);
}

#[tokio::test]
async fn a_snapshot_after_a_fallback_replaces_the_damaged_one() {
    let (state, mut history) = with_two_snapshots(13).await;
    let snapshots = state.snapshots();
    fs::write(state.snapshot_path(snapshots[1]), b"nothing").expect("a file");
    state.run_and_close(&mut history, 50).await;
    let after = state.snapshots();
    assert_eq!(after[0], snapshots[0], "the valid one that it is based on stays");
    assert_eq!(after.len(), 2, "{after:?}");
    let recovery = state.read(None).expect("a good state");
    assert_same(&recovery.cluster, &history.cluster, "from the new snapshot");
    assert!(recovery.faults.is_empty());
    assert_eq!((recovery.snapshot, recovery.replayed), (Some(after[1]), 0));
}

#[tokio::test]
async fn tampering_with_the_log_is_detected() {
    let cases = [
        (
            "an event changed",
            "UPDATE events SET event = replace(event, '\"version\":1', '\"version\": 1') WHERE sequence = 70",
        ),
        ("a job changed", "UPDATE events SET job = 'x' WHERE sequence = 70"),
        ("a job removed", "UPDATE events SET job = NULL WHERE job IS NOT NULL"),
        ("a time changed", "UPDATE events SET at = at + 1 WHERE sequence = 70"),
        ("a checksum changed", "UPDATE events SET chain = chain + 1 WHERE sequence = 70"),
        ("an invalid checksum", "UPDATE events SET chain = -5 WHERE sequence = 70"),
        ("an invalid text", "UPDATE events SET event = CAST(x'ff22' AS TEXT) WHERE sequence = 70"),
        ("the first row gone", "DELETE FROM events WHERE sequence = 1"),
        ("a row gone", "DELETE FROM events WHERE sequence = 70"),
        (
            "a row gone and the rest moved up",
            "DELETE FROM events WHERE sequence = 70;
            UPDATE events SET sequence = -sequence WHERE sequence > 70;
            UPDATE events SET sequence = -sequence - 1 WHERE sequence < 0",
        ),
        (
            "two rows swapped",
            "UPDATE events SET sequence = 0 WHERE sequence = 70;
            UPDATE events SET sequence = 70 WHERE sequence = 71; UPDATE events SET sequence = 71 WHERE sequence = 0",
        ),
        ("a row appended", "INSERT INTO events SELECT max(sequence) + 1, at, job, event, chain FROM events"),
        ("a row appended further on", "INSERT INTO events SELECT max(sequence) + 9, at, job, event, chain FROM events"),
        ("the id of the log changed", "UPDATE log SET id = 'another'"),
        ("the id of the log gone", "DELETE FROM log"),
    ];
    for (case, tampering) in cases {
        let (state, mut history) = (State::new(), History::new(14));
        state.run_and_crash(&mut history, 150).await;
        assert_same(&state.load().await.expect("a good state"), &history.cluster, case);
        let foreign = state.foreign_connection();
        foreign.execute_batch(tampering).unwrap_or_else(|error| panic!("{case}: {error}"));
        drop(foreign);
        check_damaged(state.load().await, case, &[]);
    }
}

/// The checksum of a row, as the format defines it.
fn chain(before: u32, sequence: u64, recorded: &Recorded, event: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&recorded.at.as_millis().to_le_bytes());
    hasher.update(&[0xff, 0xff]);
    hasher.update(event.as_bytes());
    hasher.finalize()
}

#[tokio::test]
async fn a_foreign_write_is_an_error_and_is_then_loaded() {
    let (state, mut history) = (State::new(), History::new(15));
    let mut journal = state.open();
    journal.load().await.expect("a new state");
    commit(&mut journal, &history.events(60)).await;

    let foreign = state.foreign_connection();
    let newest = "SELECT sequence, chain FROM events ORDER BY sequence DESC LIMIT 1";
    let (last, before): (i64, u32) = foreign.query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    let theirs = history.small_events(1).remove(0);
    let event = serde_json::to_string(&theirs).expect("a text");
    let row = (last + 1, theirs.at.as_millis(), &event, chain(before, last.cast_unsigned() + 1, &theirs, &event));
    foreign.execute("INSERT INTO events VALUES (?1, ?2, NULL, ?3, ?4)", row).expect("a row");
    drop(foreign);
    let with_theirs = history.cluster.clone();

    for attempt in 0..2 {
        let mut ours = history.small_events(2).into_iter().map(crate::state::entry).collect();
        journal.append(&mut ours);
        let error = journal.commit().await.expect_err("the sequence number is taken");
        assert!(error.is_transient(), "attempt {attempt}: {error:?}");
    }
    let loaded = journal.load().await.expect("a good state").cluster;
    assert_same(&loaded, &with_theirs, "with the foreign event");
    // The journal continues from there.
    history.cluster = loaded;
    commit(&mut journal, &history.small_events(5)).await;
    assert_same(&journal.load().await.expect("a good state").cluster, &history.cluster, "after the foreign write");
}

#[tokio::test]
async fn an_invalid_sequence_number_is_damage() {
    for sequence in [0, -3, i64::MIN] {
        let (state, mut history) = (State::new(), History::new(18));
        state.run_and_close(&mut history, 5).await;
        let event = serde_json::to_string(&history.small_events(1)[0]).expect("a text");
        state
            .foreign_connection()
            .execute("INSERT INTO events VALUES (?1, 0, NULL, ?2, 0)", (sequence, event))
            .expect("a row");
        let log = open_to_read(state.path()).expect("a log");
        for error in [
            EventRows::kept(&log, state.path(), None).map(drop),
            EventRows::kept(&log, state.path(), Some(history.now)).map(drop),
            EventRows::ends(&log, state.path()).map(drop),
            state.load().await.map(drop),
        ] {
            assert!(matches!(error, Err(JournalError::Damaged { .. })), "{sequence}: {error:?}");
        }
    }
}

#[tokio::test]
async fn every_prefix_replays() {
    for seed in [16, 17] {
        let (state, mut history) = (State::new(), History::new(seed));
        let mut events = history.events(250);
        let mut journal = state.open();
        journal.load().await.expect("a new state");
        commit(&mut journal, &events).await;
        journal.close(history.cluster.clone(), crate::state::CLOSE_WITHIN).await;
        let snapshot = events.len() as u64;
        let more = history.events(250);
        let mut journal = state.open();
        journal.load().await.expect("a good state");
        commit(&mut journal, &more).await;
        events.extend(more);

        let connection = open_to_read(state.path()).expect("a state");
        let mut folded = Cluster::default();
        for until in 0..=events.len() as u64 {
            if let Some(index) = until.checked_sub(1) {
                folded.apply(&events[usize::try_from(index).expect("a small number")]);
            }
            let when = format!("seed {seed}, the first {until} events");
            let recovery =
                recover(&connection, state.path(), Some(until)).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_same(&recovery.cluster, &folded, &when);
            assert_eq!(check::violations(&recovery.cluster), [""; 0], "{when}");
            assert_eq!(recovery.anchor.sequence, until, "{when}");
            assert_eq!(recovery.snapshot, (until >= snapshot).then_some(snapshot), "{when}");
            assert!(recovery.faults.is_empty(), "{when}: {:?}", recovery.faults);
        }
    }
}
