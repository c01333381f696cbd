//! An allocation: a lease held by a job on workers and MCP servers, from its reservation to the end of its record.

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

/// The text of the object that holds nothing.
const EMPTY_OBJECT: &str = "{}";

/// What a client noted with its request: a JSON object, kept as its text so that it takes no more room than it has letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata(
    /// Nothing for the object that holds nothing, as most do.
    Option<Arc<str>>,
);

impl Metadata {
    /// The note that holds nothing.
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

    /// Keeps the text of an object that was kept before; nothing if it is no object.
    pub(super) fn from_json(text: &str) -> Option<Self> {
        // The text is kept as it is: equal objects had equal texts when they were first kept.
        if text == EMPTY_OBJECT {
            return Some(Self::empty());
        }
        let is_object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok();
        is_object.then(|| Self(Some(Arc::from(text))))
    }

    /// The object as JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.as_deref().unwrap_or(EMPTY_OBJECT)
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(text) = &self.0 else { return serializer.serialize_map(Some(0))?.end() };
        // Its text is JSON as it is, and need not be taken apart to be written.
        serde_json::from_str::<&RawValue>(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = deserializer.deserialize_map(MetadataVisitor);
        read.map_err(|error| de::Error::custom(format!("metadata is no object: {error}")))
    }
}

struct MetadataVisitor;

impl<'de> de::Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        // A map that holds nothing takes no room.
        let mut object = serde_json::Map::new();
        while let Some((key, value)) = map.next_entry()? {
            object.insert(key, value);
        }
        Ok(Metadata::new(&object))
    }
}

/// The workers of one allocation. Their numbers follow each other; their ports may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// The number of the first, within the job.
    pub first: WorkerNumber,
    /// The port of each, in order; as many as there are workers.
    pub ports: Box<[Port]>,
    /// What each takes.
    pub size: WorkerSize,
}

impl Workers {
    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.ports.len() as u64
    }

    /// What they take together.
    #[must_use]
    pub const fn resources(&self) -> Resources {
        Resources::of_workers(self.count(), self.size)
    }

    /// Number and port of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerNumber, Port)> + '_ {
        (self.first.0..).map(WorkerNumber).zip(self.ports.iter().copied())
    }
}

/// One allocation's hold on an MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerHold {
    /// The server.
    pub name: ServerName,
    /// The run of it that is held.
    pub instance: ServerInstanceId,
    /// Its port, the same for all who hold this run.
    pub port: Port,
    /// Whether nobody else may hold this run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_private: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What was set aside for a job, and on what terms. It never changes; allocation and event share it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reservation {
    /// Its id.
    pub allocation: AllocationId,
    /// Its place among all grants.
    pub fencing_token: FencingToken,
    /// Whose it is.
    pub job: JobId,
    /// How urgent the job is.
    pub priority: Priority,
    /// Where the workers and servers are.
    pub node: NodeId,
    /// The workers.
    pub workers: Workers,
    /// The MCP servers, in the order asked for, each once.
    pub servers: Box<[ServerHold]>,
    /// The time to live that was asked for.
    pub ttl_seconds: TtlSeconds,
    /// By when it must be active; one that is not has failed.
    pub activate_by: Timestamp,
    /// The client's key for the request, if it gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<RequestId>,
    /// What the client noted.
    pub metadata: Metadata,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its holder gave it back.
    Requested,
    /// Its deadline passed.
    Expired,
    /// The call that asked for it was cancelled before its answer.
    Cancelled,
}

/// Where in its life an allocation is, with what is known from there on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Set aside, not yet usable.
    Pending,
    /// In use.
    Active {
        /// Since when.
        activated_at: Timestamp,
        /// From when the time to live runs: the activation or the last renewal.
        runs_from: Timestamp,
    },
    /// Being taken back; capacity, names and ports are still held.
    Releasing {
        /// When it became active, if it did.
        activated_at: Option<Timestamp>,
        /// Why.
        reason: EndReason,
    },
    /// Over; nothing is held.
    Released {
        /// When it became active, if it did.
        activated_at: Option<Timestamp>,
        /// Why it ended.
        reason: EndReason,
        /// When it ended.
        released_at: Timestamp,
    },
    /// It never became active; nothing is held.
    Failed {
        /// What went wrong.
        error: Arc<str>,
        /// When.
        failed_at: Timestamp,
    },
}

/// A phase without what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Set aside, not yet usable.
    Pending,
    /// In use.
    Active,
    /// Being taken back.
    Releasing,
    /// Over.
    Released,
    /// Refused, or never became active.
    Failed,
}

impl State {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Releasing, Self::Released, Self::Failed];

    /// Its name on the wire.
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

    /// Whether an allocation in this state still holds capacity, names and ports.
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

/// An allocation as the books have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// What was set aside.
    pub reservation: Arc<Reservation>,
    /// When it was set aside.
    pub created_at: Timestamp,
    /// Its time to live: that of the reservation, until a renewal gives another.
    pub ttl_seconds: TtlSeconds,
    /// Where in its life it is.
    pub phase: Phase,
}

impl Allocation {
    /// Its state.
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

    /// When it runs out by itself, grace after an outage not counted: nothing once it is being taken back or has ended.
    #[must_use]
    pub fn nominal_deadline(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Pending => Some(self.reservation.activate_by),
            Phase::Active { runs_from, .. } => Some(runs_from.after(self.ttl_seconds.as_millis())),
            Phase::Releasing { .. } | Phase::Released { .. } | Phase::Failed { .. } => None,
        }
    }

    /// When it became active, if it did.
    #[must_use]
    pub const fn activated_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Active { activated_at, .. } => Some(activated_at),
            Phase::Releasing { activated_at, .. } | Phase::Released { activated_at, .. } => activated_at,
            Phase::Pending | Phase::Failed { .. } => None,
        }
    }

    /// When it ended, if it has.
    #[must_use]
    pub const fn ended_at(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Released { released_at, .. } => Some(released_at),
            Phase::Failed { failed_at, .. } => Some(failed_at),
            Phase::Pending | Phase::Active { .. } | Phase::Releasing { .. } => None,
        }
    }

    /// Whether a repeat of its request is granted anew: nobody was told of it, or it was a refusal after all.
    pub(super) const fn is_asked_anew(&self) -> bool {
        matches!(self.phase, Phase::Released { reason: EndReason::Cancelled, .. } | Phase::Failed { .. })
    }

    /// How long ago it was created.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Millis {
        now.since(self.created_at)
    }
}
