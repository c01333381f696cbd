//! Events: the facts that change the state. Applied in order, a log's events lead to its state.
//!
//! An event that was written once must stay readable forever. Event types may be added, in a new version, but never
//! changed. An event is written in the version that its type came with: 1 has allocations, 2 agents, tasks and
//! tokens, 3 demand and scaling, and 4 MCP servers that are not shared. `tests/golden/` holds each type of event of
//! each version, and these files must replay.

use super::allocation::{EndReason, Reservation};
use super::demand::DemandBin;
use super::fleet::agent::{AgentEndReason, Registration};
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

/// The newest version that this program reads and writes.
const EVENT_VERSION: u32 = 4;

/// The bounds within which the state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most allocations that may be live at the same time.
    pub live_allocations_max: u64,
    /// The most records of ended allocations that are kept.
    pub history_records_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { live_allocations_max: 1_000_000, history_records_max: 10_000 }
    }
}

/// A fact that changed the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A node's capacity was set.
    CapacitySet {
        node: NodeId,
        /// The node's whole capacity.
        capacity: Resources,
    },
    /// The bounds of the state were set.
    LimitsSet { limits: Limits },
    /// Capacity, names and ports were reserved.
    Reserved { reservation: Arc<Reservation> },
    /// A reservation became active. Its time to live starts here.
    Activated { allocation: AllocationId },
    /// A reservation did not become active. Everything that it held is free.
    ActivationFailed { allocation: AllocationId, error: Arc<str> },
    /// A lease was renewed. Its time to live starts again here.
    Renewed { allocation: AllocationId, ttl_seconds: TtlSeconds },
    /// The release of a lease began. It still holds everything.
    Releasing { allocation: AllocationId, reason: EndReason },
    /// A lease ended. Everything that it held is free.
    Released { allocation: AllocationId },
    /// Nobody could renew between `since` and now. Leases that expired in that time, or would expire soon after it,
    /// expire after the grace, spread over the time behind it.
    OutageNoted {
        /// The last moment before the outage.
        since: Timestamp,
        /// How long from now nothing more expires, in milliseconds.
        grace_ms: Millis,
        /// The time after the grace over which the expiries are spread, in milliseconds.
        #[serde(skip_serializing_if = "Millis::is_zero")]
        spread_ms: Millis,
    },
    /// The records of allocations and tasks that ended before this moment were dropped.
    HistoryTrimmed { ended_before: Timestamp },
    /// The settings of the fleet were set.
    FleetSettingsSet { settings: FleetSettings },
    /// An agent registered.
    AgentRegistered { registration: Arc<Registration> },
    /// An agent left. It holds no task and no worker slot.
    AgentLeft { agent: AgentId, reason: AgentEndReason },
    /// A task was added to the queue.
    TaskSubmitted { task: Arc<TaskSpec> },
    /// A task was leased to an agent. Its estimated tokens are reserved.
    TaskLeased {
        task: TaskId,
        agent: AgentId,
        /// The token of the lease.
        fencing_token: FencingToken,
        /// The deadline of the lease.
        deadline: Timestamp,
    },
    /// A task went back to the queue, as if no agent had held it.
    TaskReturned { task: TaskId },
    /// An attempt at a task ended. Its tokens are settled, and its reservation of tokens is free.
    AttemptEnded {
        task: TaskId,
        /// How the attempt ended, and the state of the task after it.
        end: AttemptEnd,
    },
    /// A task that no agent held was cancelled.
    TaskCancelled { task: TaskId },
    /// The urgency of a task changed.
    TaskUpdated {
        task: TaskId,
        /// The new priority.
        priority: Priority,
        /// The new deadline.
        #[serde(skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// From when on the task is urgent.
        #[serde(skip_serializing_if = "Option::is_none")]
        urgent_at: Option<Timestamp>,
    },
    /// A token budget was set or removed.
    TokenBudgetSet {
        /// The job that the budget is for; all tasks together if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<JobId>,
        /// The number of tokens; absent removes a job's budget.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<u64>,
        /// The period after which settled tokens are cleared, in milliseconds; zero for never. Only for all tasks
        /// together.
        #[serde(skip_serializing_if = "Option::is_none")]
        window_ms: Option<Millis>,
    },
    /// The settled tokens of the budgets were cleared.
    TokenBudgetRefilled {
        /// When the current window began.
        window_started_at: Timestamp,
    },
    /// A limit on the number of agents was set or removed.
    AgentQuotaSet {
        /// The type that the quota is for; all agents together if absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        agent_type: Option<AgentType>,
        /// The number of agents; absent means that only capacity limits it.
        #[serde(skip_serializing_if = "Option::is_none")]
        agents: Option<u64>,
    },
    /// Demand was added to the history.
    DemandCounted {
        /// The bin, with only what is new.
        bin: DemandBin,
    },
    /// The scaling policy was set.
    ScalingPolicySet { policy: Policy },
    /// The target number of workers or agents changed.
    ScalingNoted { scaling: Scaling },
}

impl Event {
    /// Returns the version that this type of event came with.
    fn version(&self) -> u32 {
        match self {
            // A program that does not know version 4 would share such a server.
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

    /// Returns whether the event may make a task available, or an agent able to take one.
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
                // Tokens may have been saved for the agent's tasks, or are now saved for it instead of others. Its
                // own waiting claim must also be tried again.
                | Self::AgentRegistered { .. }
                | Self::AgentLeft { .. }
        )
    }
}

/// Reads the fields of an event. The compiler checks that they are those of [`Event`].
#[derive(Deserialize)]
#[serde(remote = "Event", rename_all = "snake_case", deny_unknown_fields)]
enum EventFields {
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
        reason: AgentEndReason,
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
    /// Reads an event whose `type` comes first, as it is written. No field has to be buffered until the type is
    /// known.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EventVisitor;

        impl<'de> de::Visitor<'de> for EventVisitor {
            type Value = Event;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Event, A::Error> {
                EventFields::deserialize(Tagged(map))
            }
        }

        deserializer.deserialize_map(EventVisitor)
    }
}

/// An event with the time at which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub at: Timestamp,
    pub event: Event,
}

#[derive(Serialize)]
struct WrittenEventRef<'a> {
    version: u32,
    at: Timestamp,
    event: &'a Event,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEvent {
    version: u32,
    at: Timestamp,
    event: Event,
}

impl Serialize for Recorded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WrittenEventRef { version: self.event.version(), at: self.at, event: &self.event }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Recorded {
    /// Reads an event. Another version or an unknown type is an error, and is never skipped.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenEvent::deserialize(deserializer)?;
        if written.version != written.event.version() {
            return Err(de::Error::custom(format!(
                "event version {} is not known for this type of event: \
                 this program reads up to version {EVENT_VERSION}",
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
