//! Events: the facts that changed the books. The books are what their events, folded in order, make of them.
//!
//! An event that has once been written must be readable for ever: what is here may be added to, in a new version, but
//! not changed. Each kind is written in the version it came with: the first has allocations, the second agents, tasks and
//! tokens, the third demand and scaling. `tests/golden/events_v1.jsonl` and its likes hold one of each and must replay.

use super::allocation::{EndReason, Reservation};
use super::demand::DemandBin;
use super::fleet::agent::{AgentEnd, Registration};
use super::fleet::settings::FleetSettings;
use super::fleet::task::{AttemptEnd, TaskSpec};
use super::ids::{AgentId, AgentType, AllocationId, FencingToken, JobId, NodeId, TaskId};
use super::policy::Policy;
use super::priority::Priority;
use super::scaling_state::Scaling;
use super::tagged::Tagged;
use super::time::{Millis, Timestamp, TtlSeconds};
use super::units::Resources;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::sync::Arc;

/// The newest version in which events are written.
pub const EVENT_VERSION: u32 = 4;

/// The bounds within which the books are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most allocations that may be live at once.
    pub live_allocations_max: u64,
    /// The most records kept of allocations that have ended.
    pub history_records_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { live_allocations_max: 1_000_000, history_records_max: 10_000 }
    }
}

/// A fact that changed the books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A node has this capacity from now on.
    CapacitySet {
        /// The node.
        node: NodeId,
        /// All that it has.
        capacity: Resources,
    },
    /// The books are kept within these bounds from now on.
    LimitsSet {
        /// The bounds.
        limits: Limits,
    },
    /// Capacity, names and ports were set aside.
    Reserved {
        /// What, for whom, and on what terms.
        reservation: Arc<Reservation>,
    },
    /// A reserved allocation can be used; its time to live runs from here.
    Activated {
        /// Which.
        allocation: AllocationId,
    },
    /// A reserved allocation could not be made usable; all it held is free.
    ActivationFailed {
        /// Which.
        allocation: AllocationId,
        /// What went wrong.
        error: Arc<str>,
    },
    /// The time to live of a lease runs anew from here.
    Renewed {
        /// Which.
        allocation: AllocationId,
        /// Its time to live from now on.
        ttl_seconds: TtlSeconds,
    },
    /// A lease is being taken back.
    Releasing {
        /// Which.
        allocation: AllocationId,
        /// Why.
        reason: EndReason,
    },
    /// A lease is over; all it held is free.
    Released {
        /// Which.
        allocation: AllocationId,
    },
    /// Nobody could renew between `since` and now: what ran out meanwhile, or does soon, runs out after the grace, drawn
    /// apart over the spread.
    OutageNoted {
        /// The last moment before the outage.
        since: Timestamp,
        /// How long from now the grace lasts, in milliseconds.
        grace_ms: Millis,
        /// How long after that what was spared runs out, in milliseconds.
        #[serde(skip_serializing_if = "Millis::is_zero")]
        spread_ms: Millis,
    },
    /// The records of allocations and tasks that ended before this moment are gone.
    HistoryTrimmed {
        /// The moment.
        ended_before: Timestamp,
    },
    /// The fleet is kept by these settings from now on.
    FleetSettingsSet {
        /// The settings.
        settings: FleetSettings,
    },
    /// An agent was taken on.
    AgentRegistered {
        /// Who it is, and what it takes.
        registration: Arc<Registration>,
    },
    /// An agent is no more; it holds no task and no worker slot.
    AgentLeft {
        /// Which.
        agent: AgentId,
        /// Why.
        reason: AgentEnd,
    },
    /// A task is in the queue.
    TaskSubmitted {
        /// What is to be done.
        task: Arc<TaskSpec>,
    },
    /// An agent holds a task; its estimated tokens are reserved.
    TaskLeased {
        /// Which task.
        task: TaskId,
        /// Which agent.
        agent: AgentId,
        /// The token of the lease.
        fencing_token: FencingToken,
        /// Until when.
        deadline: Timestamp,
    },
    /// A task is back in the queue, as if no agent had held it.
    TaskReturned {
        /// Which.
        task: TaskId,
    },
    /// An attempt at a task is over: its tokens are settled, and what was reserved for it is free.
    AttemptEnded {
        /// Which task.
        task: TaskId,
        /// How, and where the task stands now.
        end: AttemptEnd,
    },
    /// A task that nobody held was taken back.
    TaskCancelled {
        /// Which.
        task: TaskId,
    },
    /// How urgent a task is has changed.
    TaskUpdated {
        /// Which.
        task: TaskId,
        /// Its priority from now on.
        priority: Priority,
        /// Its deadline from now on.
        #[serde(skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// From when on it is urgent.
        #[serde(skip_serializing_if = "Option::is_none")]
        urgent_at: Option<Timestamp>,
    },
    /// There are so many tokens from now on.
    TokenBudgetSet {
        /// For this job; for all tasks together if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<JobId>,
        /// How many; none takes the budget of a job away.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<u64>,
        /// After how long what is settled is cleared, in milliseconds; zero for never. Only for all tasks together.
        #[serde(skip_serializing_if = "Option::is_none")]
        window_ms: Option<Millis>,
    },
    /// What was settled of the token budgets is cleared.
    TokenBudgetRefilled {
        /// When the window began that is running now.
        window_started_at: Timestamp,
    },
    /// There may be so many agents from now on.
    AgentQuotaSet {
        /// Of this type; in all if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        agent_type: Option<AgentType>,
        /// How many; none for as many as there is room for.
        #[serde(skip_serializing_if = "Option::is_none")]
        agents: Option<u64>,
    },
    /// So much was asked for, besides what is counted already.
    DemandCounted {
        /// What, and in which bin.
        bin: DemandBin,
    },
    /// The planner goes by this policy from now on.
    ScalingPolicySet {
        /// The policy.
        policy: Policy,
    },
    /// There should be another number of workers or agents than before.
    ScalingNoted {
        /// What was changed, and why.
        scaling: Scaling,
    },
}

impl Event {
    /// The version that this kind of event came with.
    fn version(&self) -> u32 {
        match self {
            // A program that knew of no such runs would share them.
            Self::Reserved { reservation } if reservation.servers.iter().any(|hold| hold.is_private) => 4,
            Self::CapacitySet { .. }
            | Self::LimitsSet { .. }
            | Self::Reserved { .. }
            | Self::Activated { .. }
            | Self::ActivationFailed { .. }
            | Self::Renewed { .. }
            | Self::Releasing { .. }
            | Self::Released { .. }
            | Self::OutageNoted { .. }
            | Self::HistoryTrimmed { .. } => 1,
            Self::FleetSettingsSet { .. }
            | Self::AgentRegistered { .. }
            | Self::AgentLeft { .. }
            | Self::TaskSubmitted { .. }
            | Self::TaskLeased { .. }
            | Self::TaskReturned { .. }
            | Self::AttemptEnded { .. }
            | Self::TaskCancelled { .. }
            | Self::TaskUpdated { .. }
            | Self::TokenBudgetSet { .. }
            | Self::TokenBudgetRefilled { .. }
            | Self::AgentQuotaSet { .. } => 2,
            Self::DemandCounted { .. } | Self::ScalingPolicySet { .. } | Self::ScalingNoted { .. } => 3,
        }
    }

    /// Whether it may have made a task available, or an agent able to take one.
    #[must_use]
    pub const fn may_help_claims(&self) -> bool {
        matches!(
            self,
            Self::TaskSubmitted { .. }
                | Self::TaskReturned { .. }
                | Self::AttemptEnded { .. }
                | Self::TaskCancelled { .. }
                | Self::TaskUpdated { .. }
                | Self::TokenBudgetSet { .. }
                | Self::TokenBudgetRefilled { .. }
                | Self::FleetSettingsSet { .. }
                // Tokens may have been kept for its tasks, or are now in the place of others, and its own claim is to hear of it.
                | Self::AgentRegistered { .. }
                | Self::AgentLeft { .. }
        )
    }
}

/// How the fields of an event are read: those of [`Event`], which the compiler holds them against.
#[derive(Deserialize)]
#[serde(remote = "Event", rename_all = "snake_case", deny_unknown_fields)]
enum Fields {
    CapacitySet {
        node: NodeId,
        capacity: Resources,
    },
    LimitsSet {
        limits: Limits,
    },
    Reserved {
        reservation: Arc<Reservation>,
    },
    Activated {
        allocation: AllocationId,
    },
    ActivationFailed {
        allocation: AllocationId,
        error: Arc<str>,
    },
    Renewed {
        allocation: AllocationId,
        ttl_seconds: TtlSeconds,
    },
    Releasing {
        allocation: AllocationId,
        reason: EndReason,
    },
    Released {
        allocation: AllocationId,
    },
    OutageNoted {
        since: Timestamp,
        grace_ms: Millis,
        #[serde(default)]
        spread_ms: Millis,
    },
    HistoryTrimmed {
        ended_before: Timestamp,
    },
    FleetSettingsSet {
        settings: FleetSettings,
    },
    AgentRegistered {
        registration: Arc<Registration>,
    },
    AgentLeft {
        agent: AgentId,
        reason: AgentEnd,
    },
    TaskSubmitted {
        task: Arc<TaskSpec>,
    },
    TaskLeased {
        task: TaskId,
        agent: AgentId,
        fencing_token: FencingToken,
        deadline: Timestamp,
    },
    TaskReturned {
        task: TaskId,
    },
    AttemptEnded {
        task: TaskId,
        end: AttemptEnd,
    },
    TaskCancelled {
        task: TaskId,
    },
    TaskUpdated {
        task: TaskId,
        priority: Priority,
        #[serde(default)]
        deadline: Option<Timestamp>,
        #[serde(default)]
        urgent_at: Option<Timestamp>,
    },
    TokenBudgetSet {
        #[serde(default)]
        job: Option<JobId>,
        #[serde(default)]
        tokens: Option<u64>,
        #[serde(default)]
        window_ms: Option<Millis>,
    },
    TokenBudgetRefilled {
        window_started_at: Timestamp,
    },
    AgentQuotaSet {
        #[serde(default)]
        agent_type: Option<AgentType>,
        #[serde(default)]
        agents: Option<u64>,
    },
    DemandCounted {
        bin: DemandBin,
    },
    ScalingPolicySet {
        policy: Policy,
    },
    ScalingNoted {
        scaling: Scaling,
    },
}

impl<'de> Deserialize<'de> for Event {
    /// Reads an event. Its type stands first, as it is written; then nothing of it need be kept until the type is known.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> de::Visitor<'de> for Read {
            type Value = Event;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Event, A::Error> {
                Fields::deserialize(Tagged(map))
            }
        }

        deserializer.deserialize_map(Read)
    }
}

/// An event with the moment it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

#[derive(Serialize)]
struct WrittenRef<'a> {
    version: u32,
    at: Timestamp,
    event: &'a Event,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    at: Timestamp,
    event: Event,
}

impl Serialize for Recorded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WrittenRef { version: self.event.version(), at: self.at, event: &self.event }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Recorded {
    /// Reads an event; one of another version or an unknown type is an error, never skipped.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        if written.version != written.event.version() {
            return Err(de::Error::custom(format!(
                "event version {} is not known here for this event: this program reads up to version {EVENT_VERSION}",
                written.version
            )));
        }
        Ok(Self { at: written.at, event: written.event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_stops_the_reader() {
        let check = |line: &str, complaint: &str| {
            let error = serde_json::from_str::<Recorded>(line).expect_err(line).to_string();
            assert!(error.contains(complaint), "{error}");
        };
        let activated = r#"{"type":"activated","allocation":"alloc-000000000001"}"#;
        let at = r#""at":"2026-01-01T00:00:00.000Z""#;
        check(&format!(r#"{{"version":2,{at},"event":{activated}}}"#), "event version 2 is not known");
        check(&format!(r#"{{"version":1,{at},"event":{{"type":"painted"}}}}"#), "unknown variant `painted`");
        check(
            &format!(r#"{{"version":1,{at},"event":{{"type":"activated","allocation":"alloc-000000000001","by":1}}}}"#),
            "unknown field `by`",
        );
        check(&format!(r#"{{"version":1,"event":{activated}}}"#), "missing field `at`");
        let check =
            |event: &str, complaint: &str| check(&format!(r#"{{"version":1,{at},"event":{event}}}"#), complaint);
        check(r#"{"type":"activated"}"#, "missing field `allocation`");
        check(r#"{"type":"activated","type":"activated","allocation":"alloc-000000000001"}"#, "unknown field `type`");
        check(
            r#"{"type":"activated","allocation":"alloc-000000000001","allocation":"alloc-000000000001"}"#,
            "duplicate field `allocation`",
        );
        check(r#"{"type":"activated","allocation":1}"#, "invalid type: integer `1`, expected a string");
        check(r#"{"type":"activated","allocation":"alloc-1"}"#, "an allocation id is");
        check(r#"{"type":7}"#, "invalid type: integer `7`");
        check(r#"{"allocation":"alloc-000000000001","type":"activated"}"#, "expected `type`");
        check("{}", "missing field `type`");
        check(r#"["activated"]"#, "expected an event");
    }
}
