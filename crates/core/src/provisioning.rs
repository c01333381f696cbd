//! The provisioning: what really stands behind the leases of a machine, as far as decisions depend on it.
//!
//! They are no part of the books, and no event names them: whoever opens the books says what they are, and says it again
//! when that changes. Events carry what followed from them, so that a replay needs none.

use super::allocation::Reservation;
use super::ids::ServerName;
use super::ports::Port;
use super::time::{Millis, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// How long the start of something real may take, unless the provisioning say otherwise.
const START_SECONDS_MAX: u64 = 30;

/// How much longer than a start a reservation may stay without being activated, since what did not start has to be ended.
const ACTIVATION_SPARE: Millis = Millis::from_seconds(30);

/// How long a reservation may stay without being activated, unless the provisioning say otherwise.
pub const ACTIVATION_SECONDS_MAX: u64 = START_SECONDS_MAX + ACTIVATION_SPARE.as_seconds();

/// Who has a run of an MCP server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All allocations that name it.
    #[default]
    Shared,
    /// Each allocation its own.
    PerAllocation,
}

/// What really stands behind the leases. By default nothing does: grants become active, and leases end, at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provisioning {
    /// The MCP servers that there are, if they are real. Others are refused.
    pub catalog: Option<BTreeMap<ServerName, Sharing>>,
    /// Whether workers are real processes.
    pub workers_are_real: bool,
    /// How long the start of what stands behind a lease may take.
    pub start_max: Millis,
    /// Ports that something else on the machine holds. They are not handed out.
    pub taken_ports: BTreeSet<Port>,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self {
            catalog: None,
            workers_are_real: false,
            start_max: Millis::from_seconds(START_SECONDS_MAX),
            taken_ports: BTreeSet::new(),
        }
    }
}

impl Provisioning {
    /// Whether something has to be started and ended for a lease, so that it begins and ends in two steps.
    #[must_use]
    pub fn are_behind(&self, reservation: &Reservation) -> bool {
        self.catalog.is_some() && !reservation.servers.is_empty()
            || self.workers_are_real && reservation.workers.count() > 0
    }

    /// By when a reservation that is made now must be activated.
    pub(super) fn activate_by(&self, now: Timestamp) -> Timestamp {
        now.after(self.start_max).after(ACTIVATION_SPARE)
    }

    /// The servers among these that there are not.
    pub(super) fn unknown<'a>(&self, names: &'a [ServerName]) -> impl Iterator<Item = &'a ServerName> {
        names.iter().filter(|name| self.catalog.as_ref().is_some_and(|catalog| !catalog.contains_key(*name)))
    }

    /// Whether each allocation has its own run of this server.
    pub(super) fn is_private(&self, name: &ServerName) -> bool {
        self.catalog.as_ref().and_then(|catalog| catalog.get(name)) == Some(&Sharing::PerAllocation)
    }
}
