//! The running MCP servers of one node, each at its port.
//!
//! A hold knows its server's port, so only a request has to look for a name: all else goes by the port.

use super::allocation::ServerHold;
use super::ids::{ServerInstanceId, ServerName};
use super::ports::{Port, SERVER_PORTS};
use foldhash::HashMap;

/// A running MCP server with the allocations that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) name: ServerName,
    pub(super) instance: ServerInstanceId,
    pub(super) port: Port,
    /// How many live allocations hold it; never 0.
    pub(super) holders: u64,
    /// How many of those are counted as overdue.
    pub(super) overdue_holders: u64,
    /// Whether it has one holder alone.
    pub(super) is_private: bool,
}

impl Server {
    pub(super) const fn is_held_by_overdue_only(&self) -> bool {
        self.holders == self.overdue_holders
    }
}

/// The running servers of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerBook {
    /// A place for each port of [`SERVER_PORTS`].
    by_port: Box<[Option<Server>]>,
    /// Where the shared server of each name runs. It is only looked up: whoever walks servers walks their ports.
    by_name: HashMap<ServerName, Port>,
}

impl Default for ServerBook {
    fn default() -> Self {
        Self { by_port: SERVER_PORTS.map(|_| None).collect(), by_name: HashMap::default() }
    }
}

impl ServerBook {
    /// The shared server of this name, if it runs.
    pub(super) fn find(&self, name: &ServerName) -> Option<&Server> {
        self.by_name.get(name).and_then(|port| self.at(*port))
    }

    /// The server at this port, if one runs there.
    pub(super) fn at(&self, port: Port) -> Option<&Server> {
        self.by_port.get(place(port)?)?.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn at_mut(&mut self, port: Port) -> Option<&mut Server> {
        self.by_port.get_mut(place(port)?)?.as_mut()
    }

    /// All of them, by port.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.by_port.iter().flatten()
    }

    /// How many shared servers run.
    pub(super) fn names(&self) -> usize {
        self.by_name.len()
    }

    /// Notes a server with its first holder.
    ///
    /// # Panics
    /// If the port is not one for servers, or a shared server of this name runs at another.
    pub(super) fn start(&mut self, hold: &ServerHold) {
        let Some(at) = place(hold.port).and_then(|place| self.by_port.get_mut(place)) else {
            panic!("port {} is not one for servers", hold.port)
        };
        let ServerHold { name, instance, port, is_private } = hold.clone();
        if !is_private {
            let before = self.by_name.insert(name.clone(), port);
            assert!(before.is_none(), "{name} runs elsewhere");
        }
        *at = Some(Server { name, instance, port, holders: 1, overdue_holders: 0, is_private });
    }

    /// Notes that one holder less is left, and says whether it was the last, so that the server is gone.
    pub(super) fn give_back(&mut self, port: Port) -> bool {
        let Some(at) = place(port).and_then(|place| self.by_port.get_mut(place)) else { return false };
        let Some(server) = at else { return false };
        server.holders -= 1;
        let was_last = server.holders == 0;
        if was_last {
            if !server.is_private {
                self.by_name.remove(&server.name);
            }
            *at = None;
        }
        was_last
    }
}

fn place(port: Port) -> Option<usize> {
    port.0.checked_sub(*SERVER_PORTS.start()).map(usize::from)
}
