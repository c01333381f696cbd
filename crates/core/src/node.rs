//! One machine's part of the books: what it has, what its leases hold, and what of that is held past a deadline.

use super::allocation::Reservation;
use super::ports::PortBook;
use super::servers::ServerBook;
use super::units::Resources;

/// What the leases past their deadline hold, as far as [`super::Cluster::observe`] has looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    pub(super) leases: u64,
    pub(super) resources: Resources,
    /// Servers that nobody but such leases holds.
    pub(super) idle_servers: u64,
}

/// One machine's part of the books.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) capacity: Resources,
    pub(super) leased: Resources,
    pub(super) ports: PortBook,
    pub(super) servers: ServerBook,
    pub(super) overdue: Overdue,
}

impl Node {
    /// Sets aside what a reservation holds.
    ///
    /// # Panics
    /// If a port of it is held already, or a server of it runs elsewhere.
    pub(super) fn take(&mut self, reservation: &Reservation) {
        self.leased += reservation.workers.resources();
        for port in &reservation.workers.ports {
            self.ports.take(*port);
        }
        for hold in &reservation.servers {
            if let Some(server) = self.servers.at_mut(hold.port) {
                let is_same = server.name == hold.name && server.instance == hold.instance;
                let may_share = is_same && !server.is_private && !hold.is_private;
                assert!(may_share, "port {} of {} is held by {}", hold.port, hold.name, server.name);
                // A server that only overdue leases held is idle no more.
                self.overdue.idle_servers -= u64::from(server.is_held_by_overdue_only());
                server.holders += 1;
            } else {
                self.ports.take(hold.port);
                self.servers.start(hold);
            }
        }
    }

    /// Frees what a reservation held. Its lease is no longer counted as overdue.
    pub(super) fn give_back(&mut self, reservation: &Reservation) {
        self.leased -= reservation.workers.resources();
        self.give_back_ports(reservation);
        for hold in &reservation.servers {
            let server = self.servers.at(hold.port);
            self.overdue.idle_servers += u64::from(server.is_some_and(|server| server.is_held_by_overdue_only()));
        }
    }

    /// Frees the ports and servers of a reservation, and nothing else of it.
    pub(super) fn give_back_ports(&mut self, reservation: &Reservation) {
        for port in &reservation.workers.ports {
            self.ports.give_back(*port);
        }
        for hold in &reservation.servers {
            if self.servers.give_back(hold.port) {
                self.ports.give_back(hold.port);
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

    /// Takes a lease out of the count of those overdue.
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
