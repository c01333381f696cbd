//! The behavior of every kind of journal.

use crate::state::entry;
use crate::state::{CLOSE_WITHIN, State, commit};
use cortex_core::Cluster;
use cortex_journal::{Journal, JournalError, NullJournal, Recovered, SqliteJournal, Synchronous};
use cortex_test_support::history::{History, assert_same};
use cortex_util::lock::{LOCK_WAIT_MAX, LockError, OwnerRecord};

/// Loads the journal and compares it with what was committed; one that is not durable is empty.
async fn check_loaded<J: Journal>(journal: &mut J, history: &History, when: &str) {
    let Recovered { cluster, last_at } = journal.load().await.expect(when);
    if J::IS_DURABLE {
        assert_same(&cluster, &history.cluster, when);
        assert_eq!(last_at, Some(history.now), "{when}");
    } else {
        assert_same(&cluster, &Cluster::default(), when);
        assert_eq!(last_at, None, "{when}");
    }
}

/// Opens a journal five times, and ends it alternately by a drop and by a close.
async fn check_kind<J: Journal>(seed: u64, open: impl Fn() -> J) {
    let mut history = History::new(seed);
    let mut journal = open();
    let Recovered { cluster, last_at } = journal.load().await.expect("a new journal");
    assert_same(&cluster, &Cluster::default(), "a new journal");
    assert_eq!(last_at, None);
    journal.commit().await.expect("nothing to commit");
    journal.append(&mut Vec::new());
    journal.commit().await.expect("nothing to commit");
    assert_same(&journal.load().await.expect("still new").cluster, &Cluster::default(), "after an empty commit");

    for round in 0..5 {
        // Sizes from 1 to 256, as batches have.
        let mut size = 1;
        while size <= 256 {
            let mut entries: Vec<_> = history.events(size).into_iter().map(entry).collect();
            // In two parts, as the engine appends while it decides.
            let mut rest = entries.split_off(size / 3);
            journal.append(&mut entries);
            journal.append(&mut rest);
            assert!(entries.is_empty() && rest.is_empty());
            journal.commit().await.expect("a journal that can be written to");
            size += 1 + size / 2;
        }
        // Events that are not committed are discarded.
        journal.append(&mut History::new(seed).small_events(4).into_iter().map(entry).collect());
        check_loaded(&mut journal, &history, &format!("round {round}, with a batch that was not committed")).await;
        // Commands without events advance the time of the history, so the last event must be recent.
        commit(&mut journal, &history.small_events(1)).await;
        check_loaded(&mut journal, &history, &format!("round {round}, again in the same run")).await;
        commit(&mut journal, &history.small_events(3)).await;
        if round % 2 == 0 {
            drop(journal);
        } else {
            journal.close(history.cluster.clone(), CLOSE_WITHIN).await;
        }
        journal = open();
        check_loaded(&mut journal, &history, &format!("after the end of round {round}")).await;
    }
}

#[tokio::test]
async fn the_null_journal() {
    check_kind(1, || NullJournal).await;
}

#[tokio::test]
async fn a_file_with_either_durability() {
    for (seed, synchronous) in [(2, Synchronous::Full), (3, Synchronous::Normal)] {
        let mut state = State::new();
        state.options.synchronous = synchronous;
        check_kind(seed, || state.open()).await;
    }
}

#[tokio::test]
async fn a_state_has_one_owner_at_a_time() {
    let state = State::new();
    let mut history = History::new(4);
    let owner = OwnerRecord::of_this_process();
    let mut journal = state.open();
    journal.load().await.expect("a new state");
    let refused = SqliteJournal::open(state.options.clone(), &owner, LOCK_WAIT_MAX).expect_err("it is owned");
    let JournalError::Owned { source: LockError::Held { owner: Some(by), .. }, .. } = &refused else {
        panic!("{refused:?}")
    };
    assert_eq!(*by.as_ref(), owner);
    assert!(!refused.is_transient());
    commit(&mut journal, &history.events(20)).await;
    drop(journal);
    assert_same(&state.load().await.expect("free after a crash"), &history.cluster, "after a crash");
    state.run_and_close(&mut history, 20).await;
    assert_same(&state.load().await.expect("free after an end"), &history.cluster, "after an end");
}
