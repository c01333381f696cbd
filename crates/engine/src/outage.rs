//! Times in which nobody could be heard: the clock jumped, or the manager stood still.

use super::Engine;
use cortex_core::command::Command;
use cortex_core::time::{Millis, Timestamp};
use cortex_journal::Journal;
use std::time::Duration;

/// A turn that is later than this was no mere wait for the processor. No longer than the shortest heartbeat and lease, and
/// longer than what a busy machine lets a thread wait now and then.
const STALL_MIN: Millis = Millis::from_seconds(1);

/// A turn that is later than this may be one at which what was sent in time is not read yet.
const LATE_MIN: Millis = Millis(50);

/// How long what was sent in time has to be read, before time is recorded.
const LATE_PAUSE: Millis = Millis(250);

/// A time in which nobody could be heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    /// The last moment before it.
    pub(super) since: Timestamp,
    /// For how long leases are spared after it.
    pub(super) grace: Millis,
}

impl<J: Journal> Engine<J> {
    /// Notices if the turn that is due comes late: the process stood still, or a commit took long, and what was sent in time
    /// waits to be read. A little late, it is read before time is recorded; later than that, it was an outage.
    pub(super) fn notice_stall(&mut self, last_turn: Option<Timestamp>, sleep_max: Option<Duration>) {
        let (Some(last_turn), Some(sleep_max)) = (last_turn, sleep_max) else { return };
        let now = self.read_clock();
        let slept = Millis(u64::try_from(sleep_max.as_millis()).unwrap_or(u64::MAX));
        let late = Millis(now.since(last_turn.after(slept)).0);
        if late > STALL_MIN {
            tracing::warn!(late_ms = late.0, "the manager stood still: agents and leases get a grace");
            // As long as it stood still, since what waits is read in less than that.
            let grace = late.min(self.outage_grace);
            self.outage.get_or_insert(Outage { since: last_turn, grace });
            self.cluster.presume_alive(now);
        }
        if late > LATE_MIN {
            self.waiting.pause_once(last_turn, now.after(LATE_PAUSE));
        }
    }

    /// Reads the clock, and notes an outage if there was one.
    pub(super) fn now(&mut self) -> Timestamp {
        let now = self.read_clock();
        // It is noted until that is committed: the clock tells of it only once.
        if let Some(outage) = self.outage {
            self.note_outage(now, outage);
        }
        self.cluster.observe(now);
        now
    }

    /// Reads the clock, and remembers an outage if there was one. Nobody could be heard in it.
    pub(super) fn read_clock(&mut self) -> Timestamp {
        let reading = self.clock.read();
        if let Some(since) = reading.outage_since {
            let lasted_seconds = reading.now.since(since).as_seconds();
            tracing::warn!(
                lasted_seconds,
                grace_seconds = self.outage_grace.as_seconds(),
                "the clock jumped: leases get a grace"
            );
            self.outage.get_or_insert(Outage { since, grace: self.outage_grace });
            self.cluster.presume_alive(reading.now);
        }
        reading.now
    }

    /// Gives leases that ran out since then, or do soon, a grace.
    pub(super) fn note_outage(&mut self, now: Timestamp, Outage { since, grace }: Outage) {
        // As long again as they are spared, what was spared runs out bit by bit. A note of an outage is never refused.
        let spread = grace;
        let _ = self.execute(now, &Command::NoteOutage { since, grace, spread });
    }
}
