//! Availability: whether a request fits a node, now or once some of its leases have ended.

use super::allocation::Allocation;
use super::cluster::Cluster;
use super::command::{Request, Shortage};
use super::ids::{NodeId, ServerName};
use super::node::{NamedNode, Node, Overdue};
use super::ports::{Port, PortAllocator, Purpose};
use super::provisioning::Provisioning;
use super::time::Timestamp;
use super::units::{Resources, WorkerSize};
use std::collections::BTreeMap;

/// What a request needs of a node, and what is free there. Leases can be released one by one to see what would fit
/// then.
#[derive(Clone)]
pub(super) struct Availability<'a> {
    provisioning: &'a Provisioning,
    node_id: &'a NodeId,
    node: &'a Node,
    /// The limit of live allocations; absent for what does not count as one.
    live_max: Option<u64>,
    needed: Resources,
    needed_worker_ports: u64,
    /// The MCP servers requested.
    names: &'a [ServerName],
    free: Resources,
    free_worker_ports: u64,
    free_server_ports: u64,
    /// The number of requested servers that would have to be started.
    to_start: u64,
    live: u64,
    /// The number of holders that the server at each port has lost to released leases.
    released_holders: BTreeMap<Port, u64>,
}

impl<'a> Availability<'a> {
    /// Checks a request.
    pub(super) fn for_request(
        cluster: &'a Cluster,
        node: NamedNode<'a>,
        request: &'a Request,
        size: WorkerSize,
    ) -> Self {
        let availability =
            Self::new(cluster, node, Resources::of_workers(request.workers, size), request.servers.as_slice());
        Self {
            needed_worker_ports: request.workers,
            live_max: Some(cluster.limits.live_allocations_max),
            ..availability
        }
    }

    /// Checks an agent, which takes one worker slot, but no port, and does not count as an allocation.
    pub(super) fn for_agent(cluster: &'a Cluster, node: NamedNode<'a>, size: WorkerSize) -> Self {
        Self::new(cluster, node, Resources::of_workers(1, size), &[])
    }

    fn new(
        cluster: &'a Cluster,
        NamedNode { id: node_id, node }: NamedNode<'a>,
        needed: Resources,
        names: &'a [ServerName],
    ) -> Self {
        let provisioning = &cluster.provisioning;
        let is_to_start = |name: &&ServerName| provisioning.is_private(name) || node.servers.find(name).is_none();
        let to_start = names.iter().filter(is_to_start).count() as u64;
        Self {
            provisioning,
            node_id,
            node,
            live_max: None,
            needed,
            needed_worker_ports: 0,
            names,
            free: node.capacity.saturating_sub(node.leased),
            free_worker_ports: node.ports.free(Purpose::Worker, &provisioning.occupied_ports),
            free_server_ports: node.ports.free(Purpose::Server, &provisioning.occupied_ports),
            to_start,
            live: cluster.records_by_token.live(),
            released_holders: BTreeMap::new(),
        }
    }

    /// Returns the first check that fails, in the order workers, CPU, memory, server ports, worker ports, live
    /// allocations.
    pub(super) fn shortage(&self) -> Option<Shortage> {
        self.shortage_within(self.free, self.free_server_ports, self.to_start, self.free_worker_ports, self.live)
    }

    /// Returns the first check that would fail if every lease past its deadline at `now` were gone.
    pub(super) fn shortage_with_all_overdue(&self, cluster: &Cluster, now: Timestamp) -> Option<Shortage> {
        let Overdue { resources, idle_servers, .. } = cluster.overdue_of(self.node_id, self.node, now);
        // The limit of live allocations applies to all nodes together.
        let overdue_everywhere: u64 =
            cluster.nodes.iter().map(|(id, node)| cluster.overdue_of(id, node, now).leases).sum();
        let mut free = self.free;
        free += resources;
        // If only overdue leases hold a requested server, its end frees a port and its new start takes one. The two
        // cancel out.
        let ports = self.free_server_ports + idle_servers;
        let shared = self.names.iter().filter(|name| !self.provisioning.is_private(name));
        let running = shared.filter_map(|name| self.node.servers.find(name));
        let restarted =
            running.filter(|server| cluster.is_held_by_overdue_only(self.node_id, server, now)).count() as u64;
        self.shortage_within(
            free,
            ports,
            self.to_start + restarted,
            self.free_worker_ports + resources.workers,
            self.live - overdue_everywhere,
        )
    }

    /// Returns whether the request would fit if nothing at all were leased.
    pub(super) fn fits_when_empty(&self) -> bool {
        let (empty, occupied) = (PortAllocator::default(), &self.provisioning.occupied_ports);
        let [servers, workers] = [Purpose::Server, Purpose::Worker].map(|purpose| empty.free(purpose, occupied));
        self.shortage_within(self.node.capacity, servers, self.names.len() as u64, workers, 0).is_none()
    }

    fn shortage_within(
        &self,
        free: Resources,
        server_ports: u64,
        to_start: u64,
        worker_ports: u64,
        live: u64,
    ) -> Option<Shortage> {
        let needed = self.needed;
        if needed.workers > free.workers {
            return Some(Shortage::Workers { requested: needed.workers, available: free.workers });
        }
        if needed.cpu_millis > free.cpu_millis {
            return Some(Shortage::Cpu { requested: needed.cpu_millis, available: free.cpu_millis });
        }
        if needed.memory_mb > free.memory_mb {
            return Some(Shortage::Memory { requested: needed.memory_mb, available: free.memory_mb });
        }
        if to_start > server_ports {
            return Some(Shortage::ServerPorts { requested: to_start, available: server_ports });
        }
        if self.needed_worker_ports > worker_ports {
            return Some(Shortage::WorkerPorts { requested: self.needed_worker_ports, available: worker_ports });
        }
        self.live_max.filter(|max| live >= *max).map(|limit| Shortage::LiveAllocations { limit })
    }

    /// Returns whether the end of this lease would reduce the shortage.
    pub(super) fn is_helped_by(&self, shortage: Shortage, lease: &Allocation) -> bool {
        let is_here = lease.reservation.node == *self.node_id;
        match shortage {
            Shortage::Workers { .. }
            | Shortage::Cpu { .. }
            | Shortage::Memory { .. }
            | Shortage::WorkerPorts { .. } => is_here && lease.reservation.workers.count() > 0,
            Shortage::ServerPorts { .. } => is_here && !lease.reservation.servers.is_empty(),
            Shortage::LiveAllocations { .. } => true,
        }
    }

    /// Counts what a lease holds as free. Must be called at most once for each lease.
    pub(super) fn release(&mut self, lease: &Allocation) {
        let reservation = &lease.reservation;
        self.live -= 1;
        if reservation.node != *self.node_id {
            return;
        }
        self.free += reservation.workers.resources();
        self.free_worker_ports += reservation.workers.count();
        for hold in &reservation.servers {
            let released = self.released_holders.entry(hold.port).or_default();
            *released += 1;
            if self.node.servers.at(hold.port).is_some_and(|server| server.holders == *released) {
                self.free_server_ports += 1;
                let is_shared = !hold.is_private && !self.provisioning.is_private(&hold.name);
                self.to_start += u64::from(is_shared && self.names.contains(&hold.name));
            }
        }
    }
}
