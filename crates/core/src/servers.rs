//! The running MCP servers of one node, by port.
//!
//! A hold knows its server's port, so only a request has to look up a name. Everything else uses the port.

use super::allocation::ServerHold;
use super::ids::{ServerInstanceId, ServerName};
use super::ports::{Port, SERVER_PORTS};
use foldhash::HashMap;

/// A running MCP server with the number of its holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) name: ServerName,
    pub(super) instance: ServerInstanceId,
    pub(super) port: Port,
    /// The number of live allocations that hold it; never 0.
    pub(super) holders: u64,
    /// The number of holders that are counted as overdue.
    pub(super) overdue_holders: u64,
    /// Whether it has one exclusive holder.
    pub(super) is_private: bool,
}

impl Server {
    pub(super) const fn is_held_by_overdue_only(&self) -> bool {
        self.holders == self.overdue_holders
    }
}

/// The running servers of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunningServers {
    /// An entry for each port of [`SERVER_PORTS`].
    by_port: Box<[Option<Server>]>,
    /// The port of the shared server of each name. Used for lookups only; iteration goes over the ports.
    by_name: HashMap<ServerName, Port>,
}

impl Default for RunningServers {
    fn default() -> Self {
        Self { by_port: SERVER_PORTS.map(|_| None).collect(), by_name: HashMap::default() }
    }
}

impl RunningServers {
    /// Returns the shared server of this name, if it runs.
    pub(super) fn find(&self, name: &ServerName) -> Option<&Server> {
        self.by_name.get(name).and_then(|port| self.at(*port))
    }

    /// Returns the server at this port, if one runs there.
    pub(super) fn at(&self, port: Port) -> Option<&Server> {
        self.by_port.get(index(port)?)?.as_ref()
    }

    pub(super) fn at_mut(&mut self, port: Port) -> Option<&mut Server> {
        self.by_port.get_mut(index(port)?)?.as_mut()
    }

    /// Returns all servers, by port.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.by_port.iter().flatten()
    }

    /// Returns the number of shared servers.
    pub(super) fn shared_count(&self) -> usize {
        self.by_name.len()
    }

    /// Adds a server with its first holder.
    ///
    /// # Panics
    /// If the port is not a port for servers, or a shared server of this name runs on another port.
    pub(super) fn insert(&mut self, hold: &ServerHold) {
        let Some(at) = index(hold.port).and_then(|index| self.by_port.get_mut(index)) else {
            panic!("port {} is not a port for servers", hold.port)
        };
        let ServerHold { name, instance, port, is_private } = hold.clone();
        if !is_private {
            let before = self.by_name.insert(name.clone(), port);
            assert!(before.is_none(), "{name} already runs on another port");
        }
        *at = Some(Server { name, instance, port, holders: 1, overdue_holders: 0, is_private });
    }

    /// Removes one holder of the server at this port. Returns whether it was the last one, so that the server is
    /// removed too.
    pub(super) fn release(&mut self, port: Port) -> bool {
        let Some(at) = index(port).and_then(|index| self.by_port.get_mut(index)) else { return false };
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

fn index(port: Port) -> Option<usize> {
    port.0.checked_sub(*SERVER_PORTS.start()).map(usize::from)
}
