//! Provisioning: what has to be started and stopped for leases, as far as decisions depend on it.
//!
//! It is not part of the state, and no event names it: the caller sets it when it opens the state and whenever it
//! changes. Events carry the results of decisions, so that a replay does not need it.

use super::allocation::Reservation;
use super::ids::ServerName;
use super::ports::Port;
use super::time::{Millis, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The default of how long a start may take.
const START_SECONDS_MAX: u64 = 30;

/// How much longer than a start a reservation may stay pending: what did not start has to be stopped.
const ACTIVATION_SPARE: Millis = Millis::from_seconds(30);

/// Which allocations use an instance of an MCP server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All allocations that request the server share one instance.
    #[default]
    Shared,
    /// Each allocation has its own instance.
    PerAllocation,
}

/// What has to be started and stopped for leases. By default nothing has: grants become active, and leases end,
/// immediately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provisioning {
    /// The MCP servers that can be requested, if servers are started for leases. Others are denied.
    pub catalog: Option<BTreeMap<ServerName, Sharing>>,
    /// Whether workers are processes that are started for leases.
    pub manages_workers: bool,
    /// How long it may take to start everything that a lease needs.
    pub start_max: Millis,
    /// Ports that other processes of the machine use. They are not assigned.
    pub occupied_ports: BTreeSet<Port>,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self {
            catalog: None,
            manages_workers: false,
            start_max: Millis::from_seconds(START_SECONDS_MAX),
            occupied_ports: BTreeSet::new(),
        }
    }
}

impl Provisioning {
    /// Returns whether something has to be started and stopped for a lease, so that it begins and ends in two steps.
    #[must_use]
    pub fn covers(&self, reservation: &Reservation) -> bool {
        self.catalog.is_some() && !reservation.servers.is_empty()
            || self.manages_workers && reservation.workers.count() > 0
    }

    /// Returns when a reservation made now fails unless it is active.
    pub(super) fn activate_by(&self, now: Timestamp) -> Timestamp {
        now.after(self.start_max).after(ACTIVATION_SPARE)
    }

    /// Returns the names that the catalog does not have.
    pub(super) fn unknown<'a>(&self, names: &'a [ServerName]) -> impl Iterator<Item = &'a ServerName> {
        names.iter().filter(|name| self.catalog.as_ref().is_some_and(|catalog| !catalog.contains_key(*name)))
    }

    /// Returns whether each allocation has its own instance of this server.
    pub(super) fn is_private(&self, name: &ServerName) -> bool {
        self.catalog.as_ref().and_then(|catalog| catalog.get(name)) == Some(&Sharing::PerAllocation)
    }
}
