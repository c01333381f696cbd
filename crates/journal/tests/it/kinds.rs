//! What every kind of journal does.

use crate::state::entry;
use crate::state::{CLOSE_WITHIN, State, commit};
use cortex_core::Cluster;
use cortex_journal::{Journal, JournalError, NullJournal, Recovered, SqliteJournal, Synchronous};
use cortex_test_support::history::{History, assert_same};
use cortex_util::lock::{LOCK_WAIT_MAX, LockError, OwnerRecord};

/// Loads, and compares with what was committed: a kind that keeps nothing has nothing.
async fn check_loaded<J: Journal>(journal: &mut J, history: &History, when: &str) {
    let Recovered { books, last_at } = journal.load().await.expect(when);
    if J::IS_DURABLE {
        assert_same(&books, &history.books, when);
        assert_eq!(last_at, Some(history.now), "{when}");
    } else {
        assert_same(&books, &Cluster::default(), when);
        assert_eq!(last_at, None, "{when}");
    }
}

/// Five lives of a journal, ended in turn by a crash and in order.
async fn check_kind<J: Journal>(seed: u64, open: impl Fn() -> J) {
    let mut history = History::new(seed);
    let mut journal = open();
    let Recovered { books, last_at } = journal.load().await.expect("a new journal");
    assert_same(&books, &Cluster::default(), "a new journal");
    assert_eq!(last_at, None);
    journal.commit().await.expect("nothing to commit");
    journal.append(&mut Vec::new());
    journal.commit().await.expect("nothing to commit");
    assert_same(&journal.load().await.expect("still new").books, &Cluster::default(), "after an empty commit");

    for life in 0..5 {
        // Sizes from 1 to 256, as batches have.
        let mut size = 1;
        while size <= 256 {
            let mut entries: Vec<_> = history.events(size).into_iter().map(entry).collect();
            // In several parts, as they come while the engine decides.
            let mut rest = entries.split_off(size / 3);
            journal.append(&mut entries);
            journal.append(&mut rest);
            assert!(entries.is_empty() && rest.is_empty());
            journal.commit().await.expect("a journal that can be written to");
            size += 1 + size / 2;
        }
        // What is not committed is forgotten.
        journal.append(&mut History::new(seed).small_events(4).into_iter().map(entry).collect());
        check_loaded(&mut journal, &history, &format!("life {life}, with a batch that was not committed")).await;
        // What leads to no event moves time on, too: the last event is one of now.
        commit(&mut journal, &history.small_events(1)).await;
        check_loaded(&mut journal, &history, &format!("life {life}, again in the same life")).await;
        commit(&mut journal, &history.small_events(3)).await;
        if life % 2 == 0 {
            drop(journal);
        } else {
            journal.close(history.books.clone(), CLOSE_WITHIN).await;
        }
        journal = open();
        check_loaded(&mut journal, &history, &format!("after the end of life {life}")).await;
    }
}

#[tokio::test]
async fn nowhere() {
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
    let is_told_by_whom = matches!(&refused, JournalError::Owned { source: LockError::Held { owner: Some(by), .. }, .. } if *by.as_ref() == owner);
    assert!(is_told_by_whom, "{refused:?}");
    assert!(!refused.may_pass());
    commit(&mut journal, &history.events(20)).await;
    drop(journal);
    assert_same(&state.load().await.expect("free after a crash"), &history.books, "after a crash");
    state.live(&mut history, 20).await;
    assert_same(&state.load().await.expect("free after an end"), &history.books, "after an end");
}
