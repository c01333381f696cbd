//! Nodes: the capacity of a machine, what its leases hold, and what of that overdue leases hold.

use super::allocation::Reservation;
use super::ids::NodeId;
use super::ports::PortAllocator;
use super::servers::RunningServers;
use super::units::Resources;

/// What the leases hold whose deadline had passed at the last [`super::Cluster::observe`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    pub(super) leases: u64,
    pub(super) resources: Resources,
    /// The number of servers that only such leases hold.
    pub(super) idle_servers: u64,
}

/// A machine's capacity, and what is leased of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) capacity: Resources,
    pub(super) leased: Resources,
    pub(super) ports: PortAllocator,
    pub(super) servers: RunningServers,
    pub(super) overdue: Overdue,
}

/// A node of a cluster, with its id.
#[derive(Clone, Copy)]
pub(super) struct NamedNode<'a> {
    pub(super) id: &'a NodeId,
    pub(super) node: &'a Node,
}

impl Node {
    /// Reserves what a reservation holds.
    ///
    /// # Panics
    /// If one of its ports is already held, or one of its servers runs on another port.
    pub(super) fn reserve(&mut self, reservation: &Reservation) {
        self.leased += reservation.workers.resources();
        for port in &reservation.workers.ports {
            self.ports.reserve(*port);
        }
        for hold in &reservation.servers {
            if let Some(server) = self.servers.at_mut(hold.port) {
                let is_same = server.name == hold.name && server.instance == hold.instance;
                let may_share = is_same && !server.is_private && !hold.is_private;
                assert!(may_share, "port {} of {} is held by {}", hold.port, hold.name, server.name);
                // A server that only overdue leases held is no longer idle.
                self.overdue.idle_servers -= u64::from(server.is_held_by_overdue_only());
                server.holders += 1;
            } else {
                self.ports.reserve(hold.port);
                self.servers.insert(hold);
            }
        }
    }

    /// Frees what a reservation held, once its lease is not counted as overdue.
    pub(super) fn release(&mut self, reservation: &Reservation) {
        self.leased -= reservation.workers.resources();
        self.release_ports(reservation);
        for hold in &reservation.servers {
            let server = self.servers.at(hold.port);
            self.overdue.idle_servers += u64::from(server.is_some_and(|server| server.is_held_by_overdue_only()));
        }
    }

    /// Frees the ports and servers of a reservation, and nothing else.
    pub(super) fn release_ports(&mut self, reservation: &Reservation) {
        for port in &reservation.workers.ports {
            self.ports.release(*port);
        }
        for hold in &reservation.servers {
            if self.servers.release(hold.port) {
                self.ports.release(hold.port);
            }
        }
    }

    /// Counts a lease as overdue.
    pub(super) fn count_overdue(&mut self, reservation: &Reservation) {
        self.overdue.leases += 1;
        self.overdue.resources += reservation.workers.resources();
        for hold in &reservation.servers {
            let Some(server) = self.servers.at_mut(hold.port) else { continue };
            server.overdue_holders += 1;
            self.overdue.idle_servers += u64::from(server.is_held_by_overdue_only());
        }
    }

    /// Stops counting a lease as overdue.
    pub(super) fn discount_overdue(&mut self, reservation: &Reservation) {
        self.overdue.leases -= 1;
        self.overdue.resources -= reservation.workers.resources();
        for hold in &reservation.servers {
            let Some(server) = self.servers.at_mut(hold.port) else { continue };
            self.overdue.idle_servers -= u64::from(server.is_held_by_overdue_only());
            server.overdue_holders -= 1;
        }
    }
}
