//! Snapshots: when they are written, which are kept, and which events are pruned.

use crate::state::{CLOSE_WITHIN, SNAPSHOT_EVENTS, State, commit};
use cortex_journal::{Journal, JournalError, read_snapshot};
use cortex_test_support::history::{History, assert_same};
use cortex_test_support::wait::wait_until;
use std::fs;
use std::time::Duration;

#[tokio::test]
async fn one_is_written_at_the_close_and_two_are_kept() {
    let (state, mut history) = (State::new(), History::new(21));
    let mut written = Vec::new();
    for round in 1..=4 {
        state.run_and_close(&mut history, 30).await;
        let now = state.snapshots();
        written.extend(now.last());
        assert_eq!(now, written[written.len().saturating_sub(2)..], "after round {round}");
        let (anchor, cluster) = read_snapshot(&state.snapshot_path(written[round - 1])).expect("a good snapshot");
        assert_same(&cluster, &history.cluster, "the newest");
        assert_eq!(anchor.sequence, state.ends().1);
        assert!(anchor.at() <= history.now);
    }
    // Without events since the last one, none is written.
    let mut journal = state.open();
    let cluster = journal.load().await.expect("a good state").cluster;
    journal.close(cluster, CLOSE_WITHIN).await;
    assert_eq!(state.snapshots(), written[2..]);
    // None is written if there is no time for it.
    let mut journal = state.open();
    journal.load().await.expect("a good state");
    commit(&mut journal, &history.events(30)).await;
    journal.close(history.cluster.clone(), Duration::ZERO).await;
    assert_eq!(state.snapshots(), written[2..]);
    assert_same(&state.load().await.expect("a good state"), &history.cluster, "from an older snapshot and events");
}

/// Commits enough events for a snapshot and waits for it.
async fn until_snapshot(state: &State, journal: &mut impl Journal, history: &mut History) -> u64 {
    let newest_before = state.snapshots().last().copied().unwrap_or(0);
    commit(journal, &history.events(300)).await;
    commit(journal, &history.small_events(SNAPSHOT_EVENTS)).await;
    let newest = || state.snapshots().last().copied().unwrap_or(0);
    wait_until("a snapshot was written", || newest() > newest_before && state.snapshots().len() <= 2);
    newest()
}

/// Checks that recovery succeeds from each of the two snapshots, and fails without them.
fn check_each_way(state: &State, history: &History) {
    let snapshots = state.snapshots();
    let paths: Vec<_> = snapshots.iter().map(|sequence| state.snapshot_path(*sequence)).collect();
    let newest = fs::read(&paths[1]).expect("a snapshot");
    for from in [1, 0] {
        let recovery = state.read(None).unwrap_or_else(|error| panic!("from {}: {error}", snapshots[from]));
        assert_same(&recovery.cluster, &history.cluster, &format!("from snapshot {from} of {snapshots:?}"));
        assert_eq!(recovery.snapshot, Some(snapshots[from]));
        fs::write(&paths[from], b"damaged").expect("a file");
    }
    assert!(matches!(state.read(None), Err(JournalError::Damaged { .. })), "the first events are pruned");
    fs::write(&paths[1], newest).expect("a file");
}

#[tokio::test]
async fn old_events_are_pruned_once_two_snapshots_cover_them() {
    let (mut state, mut history) = (State::new(), History::new(21));
    state.options.keep_events = Duration::ZERO;
    let mut journal = state.open();
    journal.load().await.expect("a new state");
    let first = until_snapshot(&state, &mut journal, &mut history).await;
    // The thread answers only after it has finished its earlier work.
    journal.load().await.expect("a good state");
    assert_eq!(state.ends().0, 1, "one snapshot alone prunes nothing");
    let second = until_snapshot(&state, &mut journal, &mut history).await;
    assert_eq!(state.snapshots(), [first, second]);
    wait_until("events covered twice are pruned", || state.ends().0 == first);
    commit(&mut journal, &history.events(100)).await;
    assert_same(&journal.load().await.expect("a good state").cluster, &history.cluster, "in the same run");
    let third = until_snapshot(&state, &mut journal, &mut history).await;
    assert_eq!(state.snapshots(), [second, third]);
    wait_until("events covered twice are pruned", || state.ends().0 == second);
    commit(&mut journal, &history.events(100)).await;
    drop(journal);
    drop(state.open());
    assert_eq!(state.ends().0, second);
    check_each_way(&state, &history);
}

#[tokio::test]
async fn short_runs_prune_too() {
    let (mut state, mut history) = (State::new(), History::new(22));
    for _ in 0..3 {
        state.run_and_close(&mut history, 100).await;
    }
    let snapshots = state.snapshots();
    drop(state.load().await.expect("a good state"));
    assert_eq!(state.ends().0, 1, "recent events stay");
    state.options.keep_events = Duration::ZERO;
    let mut journal = state.open();
    journal.load().await.expect("a good state");
    wait_until("events covered twice are pruned", || state.ends().0 == snapshots[0]);
    commit(&mut journal, &history.events(20)).await;
    drop(journal);
    drop(state.open());
    assert_eq!(state.ends().0, snapshots[0]);
    check_each_way(&state, &history);
}

#[tokio::test]
async fn a_damaged_snapshot_covers_nothing() {
    let (mut state, mut history) = (State::new(), History::new(23));
    state.run_and_close(&mut history, 100).await;
    state.run_and_close(&mut history, 100).await;
    fs::write(state.snapshot_path(state.snapshots()[0]), b"damaged").expect("a file");
    state.options.keep_events = Duration::ZERO;
    // Two loads: what the first one would prune is pruned when the second is answered.
    let mut journal = state.open();
    journal.load().await.expect("a good state");
    commit(&mut journal, &history.events(20)).await;
    assert_same(&journal.load().await.expect("a good state").cluster, &history.cluster, "from the newest");
    assert_eq!(state.ends().0, 1);
}

#[tokio::test]
async fn an_older_copy_of_the_log_is_refused() {
    let (state, mut history) = (State::new(), History::new(24));
    state.run_and_close(&mut history, 100).await;
    let copy = fs::read(state.path()).expect("a database at rest");
    let cluster = history.cluster.clone();
    let kept = state.snapshots()[0];
    state.run_and_close(&mut history, 50).await;
    let ahead = state.snapshots()[1];
    fs::write(state.path(), copy).expect("a file");

    // Clients hold what was granted after the copy.
    let refusals = [state.read(None).map(drop), state.load().await.map(drop)];
    for refused in refusals {
        let text = refused.expect_err("events are missing").to_string();
        assert!(text.contains(&format!("its log ends at event {kept}")), "{text}");
        assert!(text.contains(&format!("goes up to event {ahead}")), "{text}");
    }

    // Without the snapshot and the commit watermark, the copy is accepted and continues with other events.
    let other = fs::read(state.snapshot_path(ahead)).expect("a snapshot");
    fs::remove_file(state.snapshot_path(ahead)).expect("a file");
    let text = state.load().await.map(drop).expect_err("events are missing").to_string();
    assert!(text.contains(&format!("but event {ahead} was committed")), "{text}");
    fs::remove_file(state.with_suffix(".mark")).expect("a file");
    assert_same(&state.load().await.expect("an older state"), &cluster, "as it was when the copy was made");
    history.cluster = cluster;
    let other_events = history.small_events(60);
    let mut journal = state.open();
    journal.load().await.expect("an older state");
    commit(&mut journal, &other_events).await;
    journal.close(history.cluster.clone(), CLOSE_WITHIN).await;
    // The snapshot of the first history does not belong to the second one.
    fs::write(state.snapshot_path(ahead), other).expect("a file");
    let newest = *state.snapshots().last().expect("a snapshot");
    fs::write(state.snapshot_path(newest), b"damaged").expect("a file");
    let recovery = state.read(None).expect("a good state");
    assert_same(&recovery.cluster, &history.cluster, "with other events");
    assert_eq!(recovery.snapshot, Some(kept));
    let faults: Vec<_> = recovery.faults.iter().map(|fault| fault.1.to_string()).collect();
    assert!(faults.iter().any(|fault| fault == "it does not match the log"), "{faults:?}");
}

#[tokio::test]
async fn a_crash_while_one_is_being_written_loses_nothing() {
    let (state, mut history) = (State::new(), History::new(25));
    for round in 0..6 {
        let mut journal = state.open();
        assert_same(&journal.load().await.expect("a good state").cluster, &history.cluster, &format!("round {round}"));
        commit(&mut journal, &history.events(100)).await;
        // The last of these commits starts a snapshot; the next commit may overlap with it.
        commit(&mut journal, &history.small_events(SNAPSHOT_EVENTS)).await;
        commit(&mut journal, &history.events(round * 20)).await;
        if round % 3 == 2 {
            journal.close(history.cluster.clone(), CLOSE_WITHIN).await;
        }
    }
    let recovery = state.read(None).expect("a good state");
    assert_same(&recovery.cluster, &history.cluster, "at the end");
    assert!(recovery.faults.is_empty(), "{:?}", recovery.faults);
    for entry in fs::read_dir(state.path().parent().expect("a folder")).expect("a folder") {
        let name = entry.expect("a file").file_name();
        assert!(!name.to_string_lossy().ends_with(".new"), "{} was left", name.display());
    }
}
