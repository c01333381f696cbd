//! Allocations: leases that jobs hold on workers and MCP servers, from the reservation until the record is dropped.

use super::ids::{AllocationId, FencingToken, JobId, NodeId, RequestId, ServerInstanceId, ServerName, WorkerNumber};
use super::ports::Port;
use super::priority::Priority;
use super::time::{Millis, Timestamp, TtlSeconds};
use super::units::{Resources, WorkerSize};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

const EMPTY_OBJECT: &str = "{}";

/// A client's metadata for its request: a JSON object. It is kept as text, which takes the least memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata(
    /// `None` for the empty object, which most requests have.
    Option<Arc<str>>,
);

impl Metadata {
    /// Returns the empty object.
    #[must_use]
    pub const fn empty() -> Self {
        Self(None)
    }

    /// Keeps an object. Equal objects have equal texts, whatever the order of their keys was.
    #[must_use]
    pub fn new(object: &serde_json::Map<String, serde_json::Value>) -> Self {
        // The keys of `serde_json::Map` are ordered, and a map of JSON values always has a text.
        let text = if object.is_empty() { None } else { serde_json::to_string(object).ok() };
        Self(text.map(Arc::from))
    }

    /// Keeps the text of an object that [`Self::new`] made before. Returns `None` if it is not an object.
    pub(super) fn from_json(text: &str) -> Option<Self> {
        // The text stays as it is: equal objects had equal texts when they were first kept.
        if text == EMPTY_OBJECT {
            return Some(Self::empty());
        }
        let is_object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok();
        is_object.then(|| Self(Some(Arc::from(text))))
    }

    /// Returns the object as JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.as_deref().unwrap_or(EMPTY_OBJECT)
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(text) = &self.0 else { return serializer.serialize_map(Some(0))?.end() };
        // The text is JSON already, so it is written without being parsed into values.
        serde_json::from_str::<&RawValue>(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_map(MetadataVisitor);
        read.map_err(|error| de::Error::custom(format!("metadata is not an object: {error}")))
    }
}

struct MetadataVisitor;

impl<'de> de::Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        // An empty map does not allocate.
        let mut object = serde_json::Map::new();
        while let Some((key, value)) = map.next_entry()? {
            object.insert(key, value);
        }
        Ok(Metadata::new(&object))
    }
}

/// The workers of one allocation. Their numbers are consecutive; their ports may not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// The number of the first worker, within the job.
    pub first: WorkerNumber,
    /// The port of each worker, in order. Its length is the number of workers.
    pub ports: Box<[Port]>,
    /// CPU and memory of one worker.
    pub size: WorkerSize,
}

impl Workers {
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.ports.len() as u64
    }

    /// Returns what all workers take together.
    #[must_use]
    pub const fn resources(&self) -> Resources {
        Resources::of_workers(self.count(), self.size)
    }

    /// Returns the number and port of each worker, in order.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerNumber, Port)> + '_ {
        (self.first.0..).map(WorkerNumber).zip(self.ports.iter().copied())
    }
}

/// An allocation's hold on an MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerHold {
    pub name: ServerName,
    /// The instance of the server that is held.
    pub instance: ServerInstanceId,
    /// The server's port, which all holders of this instance share.
    pub port: Port,
    /// Whether no other allocation may hold this instance.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_private: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What was reserved for a job, and on what terms. It never changes; allocation and event share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    pub allocation: AllocationId,
    /// The sequence number of the grant.
    pub fencing_token: FencingToken,
    pub job: JobId,
    pub priority: Priority,
    /// The node of the workers and servers.
    pub node: NodeId,
    pub workers: Workers,
    /// The MCP servers without duplicates, in the order requested.
    pub servers: Box<[ServerHold]>,
    /// The time to live that was requested.
    pub ttl_seconds: TtlSeconds,
    /// When the reservation fails if it is not active by then.
    pub activate_by: Timestamp,
    /// The client's key for the request, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    pub metadata: Metadata,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The holder released it.
    Requested,
    Expired,
    /// The call that requested it was cancelled before its answer.
    Cancelled,
}

/// The phase of an allocation's life, with the data of that phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reserved, but not yet usable.
    Pending,
    /// In use.
    Active {
        activated_at: Timestamp,
        /// When the time to live started: at the activation or the last renewal.
        runs_from: Timestamp,
    },
    /// Ending. Capacity, names and ports are still held.
    Releasing {
        /// When it became active, if it did.
        activated_at: Option<Timestamp>,
        reason: EndReason,
    },
    /// Ended; nothing is held.
    Released {
        /// When it became active, if it did.
        activated_at: Option<Timestamp>,
        reason: EndReason,
        released_at: Timestamp,
    },
    /// Ended without having become active; nothing is held.
    Failed { error: Arc<str>, failed_at: Timestamp },
}

/// A phase without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Reserved, but not yet usable.
    Pending,
    /// In use.
    Active,
    /// Ending; everything is still held.
    Releasing,
    /// Ended.
    Released,
    /// Refused, or never became active.
    Failed,
}

impl State {
    /// All states, in the order of an allocation's life.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Releasing, Self::Released, Self::Failed];

    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Releasing => "releasing",
            Self::Released => "released",
            Self::Failed => "failed",
        }
    }

    /// Returns whether an allocation in this state holds capacity, names and ports.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Pending | Self::Active | Self::Releasing)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An allocation, live or on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub reservation: Arc<Reservation>,
    /// When it was reserved.
    pub created_at: Timestamp,
    /// The current time to live: that of the reservation, until a renewal sets another.
    pub ttl_seconds: TtlSeconds,
    pub phase: Phase,
}

impl Allocation {
    #[must_use]
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Pending => State::Pending,
            Phase::Active { .. } => State::Active,
            Phase::Releasing { .. } => State::Releasing,
            Phase::Released { .. } => State::Released,
            Phase::Failed { .. } => State::Failed,
        }
    }

    /// Returns when the allocation expires, without the grace after an outage. `None` once it is being released or
    /// has ended.
    #[must_use]
    pub fn nominal_deadline(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Pending => Some(self.reservation.activate_by),
            Phase::Active { runs_from, .. } => Some(runs_from.after(self.ttl_seconds.as_millis())),
            Phase::Releasing { .. } | Phase::Released { .. } | Phase::Failed { .. } => None,
        }
    }

    /// Returns when it became active, if it did.
    #[must_use]
    pub const fn activated_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Active { activated_at, .. } => Some(activated_at),
            Phase::Releasing { activated_at, .. } | Phase::Released { activated_at, .. } => activated_at,
            Phase::Pending | Phase::Failed { .. } => None,
        }
    }

    /// Returns when it ended, if it has.
    #[must_use]
    pub const fn ended_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Released { released_at, .. } => Some(released_at),
            Phase::Failed { failed_at, .. } => Some(failed_at),
            Phase::Pending | Phase::Active { .. } | Phase::Releasing { .. } => None,
        }
    }

    /// Returns whether the allocation's request id may be used for a new grant: the grant was cancelled before
    /// anybody received it, or it failed.
    pub(super) const fn frees_request_id(&self) -> bool {
        matches!(self.phase, Phase::Released { reason: EndReason::Cancelled, .. } | Phase::Failed { .. })
    }

    /// Returns the time since the allocation was created.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Millis {
        now.since(self.created_at)
    }
}
