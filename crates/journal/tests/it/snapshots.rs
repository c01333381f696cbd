//! Snapshots: when they are written, which are kept, and what they let be tidied away.

use crate::state::{CLOSE_WITHIN, SNAPSHOT_EVENTS, State, commit, wait_until};
use cortex_journal::{Journal, JournalError, read_snapshot};
use cortex_test_support::history::{History, assert_same};
use std::fs;
use std::time::Duration;

#[tokio::test]
async fn one_is_written_at_the_end_and_two_are_kept() {
    let (state, mut history) = (State::new(), History::new(21));
    let mut written = Vec::new();
    for life in 1..=4 {
        state.live(&mut history, 30).await;
        let now = state.snapshots();
        written.extend(now.last());
        assert_eq!(now, written[written.len().saturating_sub(2)..], "after life {life}");
        let (anchor, books) = read_snapshot(&state.snapshot_path(written[life - 1])).expect("a good snapshot");
        assert_same(&books, &history.books, "the newest");
        assert_eq!(anchor.sequence, state.ends().1);
        assert!(anchor.at() <= history.now);
    }
    // Without events since the last there is no need for another.
    let mut journal = state.open();
    let books = journal.load().await.expect("a good state").books;
    journal.close(books, CLOSE_WITHIN).await;
    assert_eq!(state.snapshots(), written[2..]);
    // Nor is there one where there is no time for it.
    let mut journal = state.open();
    journal.load().await.expect("a good state");
    commit(&mut journal, &history.events(30)).await;
    journal.close(history.books.clone(), Duration::ZERO).await;
    assert_eq!(state.snapshots(), written[2..]);
    assert_same(&state.load().await.expect("a good state"), &history.books, "from an older snapshot and events");
}

/// Commits so many events that a snapshot comes, and waits for it.
async fn until_snapshot(state: &State, journal: &mut impl Journal, history: &mut History) -> u64 {
    let newest_before = state.snapshots().last().copied().unwrap_or(0);
    commit(journal, &history.events(300)).await;
    commit(journal, &history.small_events(SNAPSHOT_EVENTS)).await;
    let newest = || state.snapshots().last().copied().unwrap_or(0);
    wait_until("a snapshot was written", || newest() > newest_before && state.snapshots().len() <= 2);
    newest()
}

/// The state leads to these books from each of its two snapshots, and not without them.
fn check_each_way(state: &State, history: &History) {
    let snapshots = state.snapshots();
    let paths: Vec<_> = snapshots.iter().map(|sequence| state.snapshot_path(*sequence)).collect();
    let newest = fs::read(&paths[1]).expect("a snapshot");
    for from in [1, 0] {
        let recovery = state.read(None).unwrap_or_else(|error| panic!("from {}: {error}", snapshots[from]));
        assert_same(&recovery.books, &history.books, &format!("from snapshot {from} of {snapshots:?}"));
        assert_eq!(recovery.snapshot, Some(snapshots[from]));
        fs::write(&paths[from], b"damaged").expect("a file");
    }
    assert!(matches!(state.read(None), Err(JournalError::Damaged { .. })), "the first events are gone");
    fs::write(&paths[1], newest).expect("a file");
}

#[tokio::test]
async fn old_events_go_once_two_snapshots_cover_them() {
    let (mut state, mut history) = (State::new(), History::new(21));
    state.options.keep_events = Duration::ZERO;
    let mut journal = state.open();
    journal.load().await.expect("a new state");
    let first = until_snapshot(&state, &mut journal, &mut history).await;
    // Asking for something lets what the thread had to do before be done.
    journal.load().await.expect("a good state");
    assert_eq!(state.ends().0, 1, "one snapshot alone lets nothing go");
    let second = until_snapshot(&state, &mut journal, &mut history).await;
    assert_eq!(state.snapshots(), [first, second]);
    wait_until("what is covered twice is tidied away", || state.ends().0 == first);
    commit(&mut journal, &history.events(100)).await;
    assert_same(&journal.load().await.expect("a good state").books, &history.books, "in the same life");
    let third = until_snapshot(&state, &mut journal, &mut history).await;
    assert_eq!(state.snapshots(), [second, third]);
    wait_until("what is covered twice is tidied away", || state.ends().0 == second);
    commit(&mut journal, &history.events(100)).await;
    drop(journal);
    drop(state.open());
    assert_eq!(state.ends().0, second);
    check_each_way(&state, &history);
}

#[tokio::test]
async fn short_lives_tidy_up_too() {
    let (mut state, mut history) = (State::new(), History::new(22));
    for _ in 0..3 {
        state.live(&mut history, 100).await;
    }
    let snapshots = state.snapshots();
    drop(state.load().await.expect("a good state"));
    assert_eq!(state.ends().0, 1, "all that is young stays");
    state.options.keep_events = Duration::ZERO;
    let mut journal = state.open();
    journal.load().await.expect("a good state");
    wait_until("what is covered twice is tidied away", || state.ends().0 == snapshots[0]);
    commit(&mut journal, &history.events(20)).await;
    drop(journal);
    drop(state.open());
    assert_eq!(state.ends().0, snapshots[0]);
    check_each_way(&state, &history);
}

#[tokio::test]
async fn a_damaged_snapshot_covers_nothing() {
    let (mut state, mut history) = (State::new(), History::new(23));
    state.live(&mut history, 100).await;
    state.live(&mut history, 100).await;
    fs::write(state.snapshot_path(state.snapshots()[0]), b"damaged").expect("a file");
    state.options.keep_events = Duration::ZERO;
    // Two loads: what the first would let go is gone when the second is answered.
    let mut journal = state.open();
    journal.load().await.expect("a good state");
    commit(&mut journal, &history.events(20)).await;
    assert_same(&journal.load().await.expect("a good state").books, &history.books, "from the newest");
    assert_eq!(state.ends().0, 1);
}

#[tokio::test]
async fn an_older_copy_of_the_log_is_not_gone_on_with_unasked() {
    let (state, mut history) = (State::new(), History::new(24));
    state.live(&mut history, 100).await;
    let copy = fs::read(state.path()).expect("a database at rest");
    let books = history.books.clone();
    let kept = state.snapshots()[0];
    state.live(&mut history, 50).await;
    let ahead = state.snapshots()[1];
    fs::write(state.path(), copy).expect("a file");

    // What was granted between the two is held by somebody.
    let refusals = [state.read(None).map(drop), state.load().await.map(drop)];
    for refused in refusals {
        let text = refused.expect_err("events are missing").to_string();
        assert!(text.contains(&format!("its log ends at event {kept}")), "{text}");
        assert!(text.contains(&format!("goes up to event {ahead}")), "{text}");
    }

    // Asked to, it goes on from the copy, another way.
    let other = fs::read(state.snapshot_path(ahead)).expect("a snapshot");
    fs::remove_file(state.snapshot_path(ahead)).expect("a file");
    let text = state.load().await.map(drop).expect_err("events are missing").to_string();
    assert!(text.contains(&format!("and it had come to event {ahead}")), "{text}");
    fs::remove_file(state.beside(".mark")).expect("a file");
    assert_same(&state.load().await.expect("an older state"), &books, "as it was when the copy was made");
    history.books = books;
    let another_way = history.small_events(60);
    let mut journal = state.open();
    journal.load().await.expect("an older state");
    commit(&mut journal, &another_way).await;
    journal.close(history.books.clone(), CLOSE_WITHIN).await;
    // Past its place, the snapshot of the first way is known not to be one of this.
    fs::write(state.snapshot_path(ahead), other).expect("a file");
    let newest = *state.snapshots().last().expect("a snapshot");
    fs::write(state.snapshot_path(newest), b"damaged").expect("a file");
    let recovery = state.read(None).expect("a good state");
    assert_same(&recovery.books, &history.books, "on another way");
    assert_eq!(recovery.snapshot, Some(kept));
    let faults: Vec<_> = recovery.faults.iter().map(|fault| fault.1.to_string()).collect();
    assert!(faults.iter().any(|fault| fault == "the log did not go through it"), "{faults:?}");
}

#[tokio::test]
async fn a_crash_while_one_is_being_written_loses_nothing() {
    let (state, mut history) = (State::new(), History::new(25));
    for round in 0..6 {
        let mut journal = state.open();
        assert_same(&journal.load().await.expect("a good state").books, &history.books, &format!("round {round}"));
        commit(&mut journal, &history.events(100)).await;
        // The last of these lets a snapshot begin; another commit may meet it halfway.
        commit(&mut journal, &history.small_events(SNAPSHOT_EVENTS)).await;
        commit(&mut journal, &history.events(round * 20)).await;
        if round % 3 == 2 {
            journal.close(history.books.clone(), CLOSE_WITHIN).await;
        }
    }
    let recovery = state.read(None).expect("a good state");
    assert_same(&recovery.books, &history.books, "at the end");
    assert!(recovery.faults.is_empty(), "{:?}", recovery.faults);
    for entry in fs::read_dir(state.path().parent().expect("a folder")).expect("a folder") {
        let name = entry.expect("a file").file_name();
        assert!(!name.to_string_lossy().ends_with(".new"), "{} was left", name.display());
    }
}
