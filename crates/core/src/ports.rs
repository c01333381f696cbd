//! The ports of one node: which are held, and which is the next to assign.
//!
//! Ports are assigned round-robin rather than lowest first. A freed port is the last to be assigned again, so that a
//! client that does not know yet that its lease ended does not immediately reach another lease's process.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(pub u16);

impl Port {
    /// Returns the URL that clients use.
    #[must_use]
    pub fn endpoint(self) -> String {
        format!("http://localhost:{}", self.0)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The ports of MCP servers.
pub const SERVER_PORTS: RangeInclusive<u16> = 9000..=9099;
/// The ports of workers, without those of [`SERVER_PORTS`].
pub const WORKER_PORTS: RangeInclusive<u16> = 8000..=65535;
/// How many MCP servers can run on one node.
pub(super) const SERVER_PORT_COUNT: u64 = 100;
/// How many workers can run on one node.
pub const WORKER_PORT_COUNT: u64 = 57_436;

const WORDS: usize = 1 << 16 >> 6;

/// What a port is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A worker's endpoint.
    Worker,
    /// An MCP server's endpoint.
    Server,
}

impl Purpose {
    const fn of(port: Port) -> Self {
        if port.0 >= *SERVER_PORTS.start() && port.0 <= *SERVER_PORTS.end() { Self::Server } else { Self::Worker }
    }
}

/// The held ports of one node. Equal states have equal sets and equal next ports.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PortAllocator {
    held: Box<[u64; WORDS]>,
    held_workers: u64,
    held_servers: u64,
    next_worker: u16,
    next_server: u16,
}

impl Default for PortAllocator {
    fn default() -> Self {
        Self {
            held: Box::new([0; WORDS]),
            held_workers: 0,
            held_servers: 0,
            next_worker: *WORKER_PORTS.start(),
            next_server: *SERVER_PORTS.start(),
        }
    }
}

impl fmt::Debug for PortAllocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortAllocator")
            .field("held_workers", &self.held_workers)
            .field("held_servers", &self.held_servers)
            .field("next_worker", &self.next_worker)
            .field("next_server", &self.next_server)
            .finish_non_exhaustive()
    }
}

impl PortAllocator {
    /// Returns the number of ports of this purpose that are neither held nor in `occupied`.
    #[must_use]
    pub(super) fn free(&self, purpose: Purpose, occupied: &BTreeSet<Port>) -> u64 {
        let free = match purpose {
            Purpose::Worker => WORKER_PORT_COUNT - self.held_workers,
            Purpose::Server => SERVER_PORT_COUNT - self.held_servers,
        };
        free - occupied.iter().filter(|port| Purpose::of(**port) == purpose && !self.is_held(**port)).count() as u64
    }

    /// Returns the number of held ports of both purposes.
    #[must_use]
    pub(super) const fn held(&self) -> u64 {
        self.held_workers + self.held_servers
    }

    #[must_use]
    pub(super) fn is_held(&self, port: Port) -> bool {
        self.held[usize::from(port.0 >> 6)] & (1 << (port.0 & 63)) != 0
    }

    /// Returns the ports from which the next search starts: for workers, and for servers.
    pub(super) const fn next(&self) -> (u16, u16) {
        (self.next_worker, self.next_server)
    }

    /// Sets the ports from which the next search starts.
    pub(super) const fn set_next(&mut self, (next_worker, next_server): (u16, u16)) {
        self.next_worker = next_worker;
        self.next_server = next_server;
    }

    /// Returns the next `count` ports of this purpose that are neither held nor in `occupied`, starting after the last
    /// one assigned and wrapping around; fewer if there are fewer.
    pub(super) fn choose<'a>(
        &'a self,
        purpose: Purpose,
        count: u64,
        occupied: &'a BTreeSet<Port>,
    ) -> impl Iterator<Item = Port> + 'a {
        let (range, next) = match purpose {
            Purpose::Worker => (WORKER_PORTS, self.next_worker),
            Purpose::Server => (SERVER_PORTS, self.next_server),
        };
        (next..=*range.end())
            .chain(*range.start()..next)
            .map(Port)
            .filter(move |port| Purpose::of(*port) == purpose && !self.is_held(*port) && !occupied.contains(port))
            .take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Marks a port as held. The next search starts after it.
    ///
    /// # Panics
    /// If it is already held: a port must never have two holders.
    pub(super) fn reserve(&mut self, port: Port) {
        assert!(!self.is_held(port), "port {port} is already held");
        self.held[usize::from(port.0 >> 6)] |= 1 << (port.0 & 63);
        match Purpose::of(port) {
            Purpose::Worker => {
                self.held_workers += 1;
                self.next_worker = if port.0 == *WORKER_PORTS.end() { *WORKER_PORTS.start() } else { port.0 + 1 };
            }
            Purpose::Server => {
                self.held_servers += 1;
                self.next_server = if port.0 == *SERVER_PORTS.end() { *SERVER_PORTS.start() } else { port.0 + 1 };
            }
        }
    }

    /// Marks a port as free.
    ///
    /// # Panics
    /// If it is not held.
    pub(super) fn release(&mut self, port: Port) {
        assert!(self.is_held(port), "port {port} is not held");
        self.held[usize::from(port.0 >> 6)] &= !(1 << (port.0 & 63));
        match Purpose::of(port) {
            Purpose::Worker => self.held_workers -= 1,
            Purpose::Server => self.held_servers -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(allocator: &PortAllocator, purpose: Purpose, count: u64) -> Vec<u16> {
        allocator.choose(purpose, count, &BTreeSet::new()).map(|port| port.0).collect()
    }

    #[test]
    fn the_counts_are_those_of_the_ranges() {
        let workers = WORKER_PORTS.filter(|p| !SERVER_PORTS.contains(p)).count();
        assert_eq!(u64::try_from(workers), Ok(WORKER_PORT_COUNT));
        assert_eq!(u64::try_from(SERVER_PORTS.count()), Ok(SERVER_PORT_COUNT));
    }

    #[test]
    fn worker_ports_skip_those_of_servers() {
        let mut allocator = PortAllocator::default();
        for port in 8000..8999 {
            allocator.reserve(Port(port));
        }
        assert_eq!(numbers(&allocator, Purpose::Worker, 3), [8999, 9100, 9101]);
    }

    #[test]
    fn a_released_port_is_the_last_to_be_assigned_again() {
        let mut allocator = PortAllocator::default();
        allocator.reserve(Port(9000));
        allocator.reserve(Port(9001));
        allocator.release(Port(9000));
        assert_eq!(numbers(&allocator, Purpose::Server, 2), [9002, 9003]);
        assert_eq!(numbers(&allocator, Purpose::Server, 200).last(), Some(&9000));
        assert_eq!(numbers(&allocator, Purpose::Server, 200).len(), 99);
    }

    #[test]
    fn occupied_ports_are_not_assigned() {
        let mut allocator = PortAllocator::default();
        allocator.reserve(Port(9000));
        let occupied = BTreeSet::from([Port(8001), Port(9000), Port(9001)]);
        assert_eq!(
            allocator.free(Purpose::Server, &occupied),
            SERVER_PORT_COUNT - 2,
            "a port that is held and occupied counts once"
        );
        assert_eq!(allocator.free(Purpose::Worker, &occupied), WORKER_PORT_COUNT - 1);
        let chosen: Vec<_> = allocator.choose(Purpose::Server, 2, &occupied).collect();
        assert_eq!(chosen, [Port(9002), Port(9003)]);
    }

    #[test]
    fn the_search_for_ports_wraps_around() {
        let mut allocator = PortAllocator::default();
        for port in allocator.choose(Purpose::Worker, u64::MAX, &BTreeSet::new()).collect::<Vec<_>>() {
            allocator.reserve(port);
        }
        assert_eq!(allocator.free(Purpose::Worker, &BTreeSet::new()), 0);
        assert_eq!(numbers(&allocator, Purpose::Worker, 1), [0u16; 0]);
        allocator.release(Port(65535));
        allocator.release(Port(8123));
        assert_eq!(numbers(&allocator, Purpose::Worker, 2), [8123, 65535]);
        allocator.reserve(Port(65535));
        assert_eq!(numbers(&allocator, Purpose::Worker, 2), [8123]);
    }
}
