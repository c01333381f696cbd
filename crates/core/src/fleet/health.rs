//! The health of agents: a score made of success, response time, load and heartbeats.
//!
//! Scores are in millionths, so that sums are exact and a weighted choice is the same on every machine.

use super::super::time::{Millis, Timestamp};
use super::agent::{Agent, HEALTH_WINDOW};
use super::settings::{FleetSettings, HEARTBEATS_MISSED_MAX};

/// The highest score: 1, in millionths.
pub(super) const SCORE_FULL: u32 = 1_000_000;

/// The score of an agent without recent tasks. It and the weights below are those of the health score that this
/// follows.
const SCORE_DEFAULT: u32 = 500_000;

/// The weight of each part, in percent.
const SUCCESS_PERCENT: u32 = 40;
const RESPONSE_TIME_PERCENT: u32 = 30;
const LOAD_PERCENT: u32 = 20;
const HEARTBEAT_PERCENT: u32 = 10;

/// The health of an agent. All figures are from 0 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The weighted sum of the parts: 40, 30, 20 and 10 %. 500,000 if no task ended over the last minute.
    pub score: u32,
    /// The successful part of the tasks that ended over the last minute, at most 100; `None` without any.
    pub success: Option<u32>,
    /// How far the mean duration is below the target: 1,000,000 for no time, 0 from the target on.
    pub response_time: Option<u32>,
    /// The free part of its task slots.
    pub load: u32,
    /// The heartbeats received over the last minute, relative to those due.
    pub heartbeat: u32,
}

/// The heartbeats of an agent. They are not durable: a heartbeat changes nothing that is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeartbeatHistory {
    /// When the first interval begins.
    since: Timestamp,
    /// The last heartbeat, or another call of the agent.
    pub(super) last_heartbeat_at: Timestamp,
    /// One bit for each interval, set if a heartbeat arrived in it. Bit 0 is the interval of the last heartbeat.
    beats: u64,
}

impl HeartbeatHistory {
    pub(super) const fn new(since: Timestamp) -> Self {
        Self { since, last_heartbeat_at: since, beats: 1 }
    }

    /// Records a heartbeat.
    pub(super) fn record(&mut self, now: Timestamp, interval: Millis) {
        let passed = self.interval_of(now, interval) - self.interval_of(self.last_heartbeat_at, interval);
        self.beats = self.beats.checked_shl(u32::try_from(passed).unwrap_or(u32::MAX)).unwrap_or(0) | 1;
        self.last_heartbeat_at = self.last_heartbeat_at.max(now);
    }

    /// When the agent becomes unresponsive: two heartbeats are due and none has arrived.
    pub(super) fn late_at(&self, interval: Millis) -> Timestamp {
        self.last_heartbeat_at.after(Millis(interval.0.saturating_mul(HEARTBEATS_MISSED_MAX - 1)))
    }

    /// When the agent is lost: three heartbeats are due and none has arrived.
    pub(super) fn lost_at(&self, interval: Millis) -> Timestamp {
        self.last_heartbeat_at.after(Millis(interval.0.saturating_mul(HEARTBEATS_MISSED_MAX)))
    }

    /// When the regularity changes next without a heartbeat.
    fn changes_at(&self, now: Timestamp, interval: Millis) -> Timestamp {
        self.since.after(Millis((self.interval_of(now, interval) + 1).saturating_mul(interval.0)))
    }

    /// The part of the intervals over the last minute that have a heartbeat. Only completed intervals count, and at
    /// least one.
    fn regularity(&self, now: Timestamp, interval: Millis) -> u32 {
        let current = self.interval_of(now, interval);
        let interval_count = (HEALTH_WINDOW.0 / interval.0).clamp(1, u64::from(u64::BITS) - 1);
        let due = current.min(interval_count);
        if due == 0 {
            return SCORE_FULL;
        }
        let shift = current - self.interval_of(self.last_heartbeat_at, interval);
        // Shift, so that bit 0 is the current interval.
        let beats = self.beats.checked_shl(u32::try_from(shift).unwrap_or(u32::MAX)).unwrap_or(0);
        let completed = (beats >> 1) & ((1 << due) - 1);
        fraction(u64::from(completed.count_ones()), due)
    }

    fn interval_of(&self, moment: Timestamp, interval: Millis) -> u64 {
        moment.since(self.since).0 / interval.0
    }
}

/// Computes an agent's health at `now`.
pub(super) fn health(agent: &Agent, history: &HeartbeatHistory, settings: &FleetSettings, now: Timestamp) -> Health {
    let (mut tasks, mut successes, mut duration) = (0_u64, 0_u64, 0_u64);
    for ended in agent.recent_tasks.iter().filter(|ended| ended.at.after(HEALTH_WINDOW) > now) {
        tasks += 1;
        successes += u64::from(ended.is_success);
        duration = duration.saturating_add(ended.duration.0);
    }
    let tasks_max = u64::from(agent.request().tasks_max);
    let load = fraction(tasks_max.saturating_sub(agent.tasks.len() as u64), tasks_max);
    let heartbeat = history.regularity(now, settings.heartbeat_ms);
    if tasks == 0 {
        return Health { score: SCORE_DEFAULT, success: None, response_time: None, load, heartbeat };
    }
    let success = fraction(successes, tasks);
    let target = settings.response_target_ms.0;
    let response_time = fraction(target.saturating_sub(duration / tasks), target);
    let parts = [
        (success, SUCCESS_PERCENT),
        (response_time, RESPONSE_TIME_PERCENT),
        (load, LOAD_PERCENT),
        (heartbeat, HEARTBEAT_PERCENT),
    ];
    // At most 100 times a million, so it fits.
    let score = parts.iter().map(|(part, percent)| part * percent).sum::<u32>() / 100;
    Health { score, success: Some(success), response_time: Some(response_time), load, heartbeat }
}

/// When an agent's health changes next without an event: an interval ends, or a task leaves the window.
pub(super) fn changes_at(
    agent: &Agent,
    history: &HeartbeatHistory,
    settings: &FleetSettings,
    now: Timestamp,
) -> Timestamp {
    let interval = settings.heartbeat_ms;
    let task_leaves = agent.recent_tasks.iter().map(|ended| ended.at.after(HEALTH_WINDOW)).find(|at| *at > now);
    let late_at = Some(history.late_at(interval)).filter(|at| *at > now);
    let beat_due = history.changes_at(now, interval);
    [task_leaves, late_at].into_iter().flatten().fold(beat_due, Ord::min)
}

/// A part of a whole, in millionths.
fn fraction(part: u64, whole: u64) -> u32 {
    let millionths = u128::from(part) * u128::from(SCORE_FULL) / u128::from(whole.max(1));
    u32::try_from(millionths).unwrap_or(SCORE_FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Millis = Millis(10_000);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn heartbeats_received_are_compared_with_those_due() {
        let mut history = HeartbeatHistory::new(at(0));
        assert_eq!(history.regularity(at(9), INTERVAL), SCORE_FULL, "none is due");
        for second in [8, 15, 22, 39, 41, 59, 68] {
            history.record(at(second), INTERVAL);
        }
        assert_eq!(history.regularity(at(69), INTERVAL), SCORE_FULL);
        assert_eq!(history.regularity(at(79), INTERVAL), SCORE_FULL);
        assert_eq!(history.regularity(at(80), INTERVAL), 833_333, "one of six is missing");
        assert_eq!(history.regularity(at(129), INTERVAL), 166_666);
        assert_eq!(history.regularity(at(130), INTERVAL), 0);
        assert_eq!(history.regularity(at(1_000_000), INTERVAL), 0);
        assert_eq!((history.late_at(INTERVAL), history.lost_at(INTERVAL)), (at(88), at(98)));
        history.record(at(1_000_001), INTERVAL);
        assert_eq!(history.regularity(at(1_000_002), INTERVAL), 0);
        assert_eq!(history.regularity(at(1_000_010), INTERVAL), 166_666);
    }

    #[test]
    fn many_heartbeats_in_one_interval_count_once() {
        let mut history = HeartbeatHistory::new(at(0));
        for second in 1..10 {
            history.record(at(second), INTERVAL);
        }
        assert_eq!(history.regularity(at(20), INTERVAL), 500_000);
    }
}
