//! The ports of one node: which are held, and which is the next to hand out.
//!
//! Ports are handed out round the range rather than lowest first: a port that was just given back is the last to be
//! given again, so that a client that has not heard of the end of its lease does not at once reach a stranger.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

/// A TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(pub u16);

impl Port {
    /// The address that a client uses, as the books keep it.
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
/// The ports of workers; those of [`SERVER_PORTS`] within are not theirs.
pub const WORKER_PORTS: RangeInclusive<u16> = 8000..=65535;
/// How many MCP servers can run on one node.
pub const SERVER_PORT_COUNT: u64 = 100;
/// How many workers can run on one node.
pub const WORKER_PORT_COUNT: u64 = 57_436;

const WORDS: usize = 1 << 16 >> 6;

/// What a port is for.
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

/// The held ports of one node. Equal books have equal sets and equal places to go on from.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct PortBook {
    held: Box<[u64; WORDS]>,
    held_workers: u64,
    held_servers: u64,
    next_worker: u16,
    next_server: u16,
}

impl Default for PortBook {
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

impl fmt::Debug for PortBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortBook")
            .field("held_workers", &self.held_workers)
            .field("held_servers", &self.held_servers)
            .field("next_worker", &self.next_worker)
            .field("next_server", &self.next_server)
            .finish_non_exhaustive()
    }
}

impl PortBook {
    /// How many ports of this purpose nobody holds, those that are `taken` left out.
    #[must_use]
    pub(super) fn free(&self, purpose: Purpose, taken: &BTreeSet<Port>) -> u64 {
        let free = match purpose {
            Purpose::Worker => WORKER_PORT_COUNT - self.held_workers,
            Purpose::Server => SERVER_PORT_COUNT - self.held_servers,
        };
        free - taken.iter().filter(|port| Purpose::of(**port) == purpose && !self.is_held(**port)).count() as u64
    }

    /// How many ports are held, whatever for.
    #[must_use]
    pub(super) const fn held(&self) -> u64 {
        self.held_workers + self.held_servers
    }

    /// Whether somebody holds this port.
    #[must_use]
    pub(super) fn is_held(&self, port: Port) -> bool {
        self.held[usize::from(port.0 >> 6)] & (1 << (port.0 & 63)) != 0
    }

    /// The ports from which the next grant chooses: for workers, and for servers.
    pub(super) const fn next(&self) -> (u16, u16) {
        (self.next_worker, self.next_server)
    }

    /// Lets the next grant choose from these ports on.
    pub(super) const fn go_on_from(&mut self, (next_worker, next_server): (u16, u16)) {
        self.next_worker = next_worker;
        self.next_server = next_server;
    }

    /// The next `count` free ports of this purpose that are not `taken`, from where the last grant ended, round the range; fewer
    /// if there are fewer.
    pub(super) fn choose<'a>(
        &'a self,
        purpose: Purpose,
        count: u64,
        taken: &'a BTreeSet<Port>,
    ) -> impl Iterator<Item = Port> + 'a {
        let (range, next) = match purpose {
            Purpose::Worker => (WORKER_PORTS, self.next_worker),
            Purpose::Server => (SERVER_PORTS, self.next_server),
        };
        (next..=*range.end())
            .chain(*range.start()..next)
            .map(Port)
            .filter(move |port| Purpose::of(*port) == purpose && !self.is_held(*port) && !taken.contains(port))
            .take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    /// Marks a port as held, and goes on after it for the next grant.
    ///
    /// # Panics
    /// If it is held already: two holders of one port must not come to be.
    pub(super) fn take(&mut self, port: Port) {
        assert!(!self.is_held(port), "port {port} is held already");
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
    /// If nobody holds it.
    pub(super) fn give_back(&mut self, port: Port) {
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

    fn numbers(book: &PortBook, purpose: Purpose, count: u64) -> Vec<u16> {
        book.choose(purpose, count, &BTreeSet::new()).map(|port| port.0).collect()
    }

    #[test]
    fn the_counts_are_those_of_the_ranges() {
        let workers = WORKER_PORTS.filter(|p| !SERVER_PORTS.contains(p)).count();
        assert_eq!(u64::try_from(workers), Ok(WORKER_PORT_COUNT));
        assert_eq!(u64::try_from(SERVER_PORTS.count()), Ok(SERVER_PORT_COUNT));
    }

    #[test]
    fn worker_ports_step_over_those_of_servers() {
        let mut book = PortBook::default();
        for port in 8000..8999 {
            book.take(Port(port));
        }
        assert_eq!(numbers(&book, Purpose::Worker, 3), [8999, 9100, 9101]);
    }

    #[test]
    fn a_port_given_back_is_the_last_to_be_given_again() {
        let mut book = PortBook::default();
        book.take(Port(9000));
        book.take(Port(9001));
        book.give_back(Port(9000));
        assert_eq!(numbers(&book, Purpose::Server, 2), [9002, 9003]);
        assert_eq!(numbers(&book, Purpose::Server, 200).last(), Some(&9000));
        assert_eq!(numbers(&book, Purpose::Server, 200).len(), 99);
    }

    #[test]
    fn what_something_else_holds_is_not_handed_out() {
        let mut book = PortBook::default();
        book.take(Port(9000));
        let taken = BTreeSet::from([Port(8001), Port(9000), Port(9001)]);
        assert_eq!(book.free(Purpose::Server, &taken), SERVER_PORT_COUNT - 2, "the one that is held counts once");
        assert_eq!(book.free(Purpose::Worker, &taken), WORKER_PORT_COUNT - 1);
        let chosen: Vec<_> = book.choose(Purpose::Server, 2, &taken).collect();
        assert_eq!(chosen, [Port(9002), Port(9003)]);
    }

    #[test]
    fn the_last_ports_are_found_round_the_end() {
        let mut book = PortBook::default();
        for port in book.choose(Purpose::Worker, u64::MAX, &BTreeSet::new()).collect::<Vec<_>>() {
            book.take(port);
        }
        assert_eq!(book.free(Purpose::Worker, &BTreeSet::new()), 0);
        assert_eq!(numbers(&book, Purpose::Worker, 1), [0u16; 0]);
        book.give_back(Port(65535));
        book.give_back(Port(8123));
        assert_eq!(numbers(&book, Purpose::Worker, 2), [8123, 65535]);
        book.take(Port(65535));
        assert_eq!(numbers(&book, Purpose::Worker, 2), [8123]);
    }
}
