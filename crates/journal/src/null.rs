//! A journal that keeps nothing: the state is lost when the process ends.

use super::{Journal, JournalEntry, JournalError, Recovered};
use cortex_core::Cluster;
use std::future::{Future, ready};
use std::time::Duration;

/// Keeps nothing, and never fails.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullJournal;

impl Journal for NullJournal {
    const IS_DURABLE: bool = false;

    fn load(&mut self) -> impl Future<Output = Result<Recovered, JournalError>> + Send {
        ready(Ok(Recovered::default()))
    }

    fn append(&mut self, entries: &mut Vec<JournalEntry>) {
        entries.clear();
    }

    fn commit(&mut self) -> impl Future<Output = Result<(), JournalError>> + Send {
        ready(Ok(()))
    }

    fn close(self, _books: Cluster, _within: Duration) -> impl Future<Output = ()> + Send {
        ready(())
    }
}
