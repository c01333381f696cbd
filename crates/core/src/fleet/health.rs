//! How well an agent does, and how regularly it is heard of.
//!
//! Scores are in millionths, so that sums are exact and a choice by weight is the same everywhere.

use super::super::time::{Millis, Timestamp};
use super::agent::{Agent, HEALTH_WINDOW};
use super::settings::{FleetSettings, HEARTBEATS_MISSED_MAX};

/// A score of one, in millionths.
pub(super) const ONE: u32 = 1_000_000;

/// The score of an agent of which nothing is known: from the health score that this follows, as are the weights below.
const UNKNOWN: u32 = 500_000;

/// How much each part counts, in hundredths.
const SUCCESS_PERCENT: u32 = 40;
const RESPONSE_TIME_PERCENT: u32 = 30;
const LOAD_PERCENT: u32 = 20;
const HEARTBEAT_PERCENT: u32 = 10;

/// An agent's health: parts and score from 0 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The parts, weighted 40, 30, 20 and 10 %; half if no task ended in its hands over the last minute.
    pub score: u32,
    /// The part of its tasks of the last minute, at most 100, that went well; nothing if there were none.
    pub success: Option<u32>,
    /// How far below the target its mean duration is: all for no time, nothing for the target and above.
    pub response_time: Option<u32>,
    /// Its free part.
    pub load: u32,
    /// Beats seen against beats due over the last minute.
    pub heartbeat: u32,
}

/// When an agent was heard of. It is no part of the books: a beat changes nothing that lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    /// From when on beats are due.
    since: Timestamp,
    /// The last sign of life.
    pub(super) heard_at: Timestamp,
    /// In which of the intervals up to the one with the last beat there was one: the last has bit 0.
    beats: u64,
}

impl Pulse {
    pub(super) const fn new(since: Timestamp) -> Self {
        Self { since, heard_at: since, beats: 1 }
    }

    /// Notes a sign of life.
    pub(super) fn beat(&mut self, now: Timestamp, interval: Millis) {
        let passed = self.interval_of(now, interval) - self.interval_of(self.heard_at, interval);
        self.beats = self.beats.checked_shl(u32::try_from(passed).unwrap_or(u32::MAX)).unwrap_or(0) | 1;
        self.heard_at = self.heard_at.max(now);
    }

    /// From when on it counts as unresponsive: two beats are due and none was seen.
    pub(super) fn late_at(&self, interval: Millis) -> Timestamp {
        self.heard_at.after(Millis(interval.0.saturating_mul(HEARTBEATS_MISSED_MAX - 1)))
    }

    /// When it is lost: three beats are due and none was seen.
    pub(super) fn lost_at(&self, interval: Millis) -> Timestamp {
        self.heard_at.after(Millis(interval.0.saturating_mul(HEARTBEATS_MISSED_MAX)))
    }

    /// When its regularity changes next by itself.
    fn changes_at(&self, now: Timestamp, interval: Millis) -> Timestamp {
        self.since.after(Millis((self.interval_of(now, interval) + 1).saturating_mul(interval.0)))
    }

    /// Beats seen against beats due in the intervals of the last minute that are over; at least one interval is looked at.
    fn regularity(&self, now: Timestamp, interval: Millis) -> u32 {
        let current = self.interval_of(now, interval);
        let looked_at = (HEALTH_WINDOW.0 / interval.0).clamp(1, u64::from(u64::BITS) - 1);
        let due = current.min(looked_at);
        if due == 0 {
            return ONE;
        }
        let ahead = current - self.interval_of(self.heard_at, interval);
        // Shifted so that bit 0 is the interval that is running.
        let beats = self.beats.checked_shl(u32::try_from(ahead).unwrap_or(u32::MAX)).unwrap_or(0);
        let over = (beats >> 1) & ((1 << due) - 1);
        share(u64::from(over.count_ones()), due)
    }

    fn interval_of(&self, moment: Timestamp, interval: Millis) -> u64 {
        moment.since(self.since).0 / interval.0
    }
}

/// An agent's health at `now`.
pub(super) fn health(agent: &Agent, pulse: &Pulse, settings: &FleetSettings, now: Timestamp) -> Health {
    let (mut tasks, mut successes, mut duration) = (0_u64, 0_u64, 0_u64);
    for ended in agent.ended.iter().filter(|ended| ended.at.after(HEALTH_WINDOW) > now) {
        tasks += 1;
        successes += u64::from(ended.is_success);
        duration = duration.saturating_add(ended.duration.0);
    }
    let tasks_max = u64::from(agent.request().tasks_max);
    let load = share(tasks_max.saturating_sub(agent.tasks.len() as u64), tasks_max);
    let heartbeat = pulse.regularity(now, settings.heartbeat_ms);
    if tasks == 0 {
        return Health { score: UNKNOWN, success: None, response_time: None, load, heartbeat };
    }
    let success = share(successes, tasks);
    let target = settings.response_target_ms.0;
    let response_time = share(target.saturating_sub(duration / tasks), target);
    let parts = [
        (success, SUCCESS_PERCENT),
        (response_time, RESPONSE_TIME_PERCENT),
        (load, LOAD_PERCENT),
        (heartbeat, HEARTBEAT_PERCENT),
    ];
    // At most 100 times a million.
    let score = parts.iter().map(|(part, percent)| part * percent).sum::<u32>() / 100;
    Health { score, success: Some(success), response_time: Some(response_time), load, heartbeat }
}

/// When an agent's health changes next by itself: a beat falls due, or a task leaves the last minute.
pub(super) fn changes_at(agent: &Agent, pulse: &Pulse, settings: &FleetSettings, now: Timestamp) -> Timestamp {
    let interval = settings.heartbeat_ms;
    let task_leaves = agent.ended.iter().map(|ended| ended.at.after(HEALTH_WINDOW)).find(|at| *at > now);
    let late_at = Some(pulse.late_at(interval)).filter(|at| *at > now);
    let beat_due = pulse.changes_at(now, interval);
    [task_leaves, late_at].into_iter().flatten().fold(beat_due, Ord::min)
}

/// A part of a whole, in millionths.
fn share(part: u64, whole: u64) -> u32 {
    let millionths = u128::from(part) * u128::from(ONE) / u128::from(whole.max(1));
    u32::try_from(millionths).unwrap_or(ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Millis = Millis(10_000);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn beats_seen_are_held_against_beats_due() {
        let mut pulse = Pulse::new(at(0));
        assert_eq!(pulse.regularity(at(9), INTERVAL), ONE, "none is due");
        for second in [8, 15, 22, 39, 41, 59, 68] {
            pulse.beat(at(second), INTERVAL);
        }
        assert_eq!(pulse.regularity(at(69), INTERVAL), ONE);
        assert_eq!(pulse.regularity(at(79), INTERVAL), ONE);
        assert_eq!(pulse.regularity(at(80), INTERVAL), 833_333, "one of six is missing");
        assert_eq!(pulse.regularity(at(129), INTERVAL), 166_666);
        assert_eq!(pulse.regularity(at(130), INTERVAL), 0);
        assert_eq!(pulse.regularity(at(1_000_000), INTERVAL), 0);
        assert_eq!((pulse.late_at(INTERVAL), pulse.lost_at(INTERVAL)), (at(88), at(98)));
        pulse.beat(at(1_000_001), INTERVAL);
        assert_eq!(pulse.regularity(at(1_000_002), INTERVAL), 0);
        assert_eq!(pulse.regularity(at(1_000_010), INTERVAL), 166_666);
    }

    #[test]
    fn many_beats_in_one_interval_count_once() {
        let mut pulse = Pulse::new(at(0));
        for second in 1..10 {
            pulse.beat(at(second), INTERVAL);
        }
        assert_eq!(pulse.regularity(at(20), INTERVAL), 500_000);
    }
}
