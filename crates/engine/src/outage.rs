//! Outages: times in which no client could reach the engine, since the clock jumped or the event loop stalled.

use super::Engine;
use cortex_core::command::Command;
use cortex_core::time::{Millis, Timestamp};
use cortex_journal::Journal;
use std::time::Duration;

/// A turn that is later than this is a stall. Not longer than the shortest heartbeat interval and lease, and longer
/// than a thread now and then waits for a processor of a busy machine.
const STALL_MIN: Millis = Millis::from_seconds(1);

/// After a turn that is later than this, messages that were sent in time may still be unread.
const LATE_MIN: Millis = Millis(50);

/// How long the engine then reads messages before it records deadlines that have passed.
const LATE_PAUSE: Millis = Millis(250);

/// A time in which no client could reach the engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    /// The last time before it.
    pub(super) since: Timestamp,
    /// How long deadlines are extended after it.
    pub(super) grace: Millis,
}

impl<J: Journal> Engine<J> {
    /// Detects a turn that comes late, since the process was suspended or a commit took long. Messages that were sent
    /// in time may be unread then. After a slightly late turn they are read before deadlines are recorded; a later turn
    /// counts as an outage.
    pub(super) fn detect_stall(&mut self, last_turn: Option<Timestamp>, sleep_max: Option<Duration>) {
        let (Some(last_turn), Some(sleep_max)) = (last_turn, sleep_max) else { return };
        let now = self.read_clock();
        let slept = Millis(u64::try_from(sleep_max.as_millis()).unwrap_or(u64::MAX));
        let late = Millis(now.since(last_turn.after(slept)).0);
        if late > STALL_MIN {
            tracing::warn!(late_ms = late.0, "event loop stalled: deadlines of leases and agents extended");
            // As long as the stall, since reading what is queued takes less than that.
            let grace = late.min(self.outage_grace);
            self.outage.get_or_insert(Outage { since: last_turn, grace });
            self.cluster.presume_alive(now);
        }
        if late > LATE_MIN {
            self.waiting_claims.pause_once(last_turn, now.after(LATE_PAUSE));
        }
    }

    /// Reads the clock, and records an outage if there was one.
    pub(super) fn now(&mut self) -> Timestamp {
        let now = self.read_clock();
        // Recorded each turn until a commit succeeds, since the clock reports an outage only once.
        if let Some(outage) = self.outage {
            self.note_outage(now, outage);
        }
        self.cluster.observe(now);
        now
    }

    /// Reads the clock, and notes an outage if there was one.
    pub(super) fn read_clock(&mut self) -> Timestamp {
        let reading = self.clock.read();
        if let Some(since) = reading.outage_since {
            let lasted_seconds = reading.now.since(since).as_seconds();
            tracing::warn!(
                lasted_seconds,
                grace_seconds = self.outage_grace.as_seconds(),
                "clock jumped forward: lease deadlines extended"
            );
            self.outage.get_or_insert(Outage { since, grace: self.outage_grace });
            self.cluster.presume_alive(reading.now);
        }
        reading.now
    }

    /// Records an outage, which extends the deadlines of leases that expired since its start or are about to.
    pub(super) fn note_outage(&mut self, now: Timestamp, Outage { since, grace }: Outage) {
        // The extended deadlines are spread over another grace, so that not all leases expire together. Recording an
        // outage is never denied.
        let spread = grace;
        let _ = self.execute(now, &Command::NoteOutage { since, grace, spread });
    }
}
