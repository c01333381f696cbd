//! Room: whether a request fits, as the books are and as they would be without some of their leases.

use super::allocation::Allocation;
use super::cluster::Cluster;
use super::command::{Request, Shortage};
use super::ids::{NodeId, ServerName};
use super::node::{Node, Overdue};
use super::ports::{Port, PortBook, Purpose};
use super::provisioning::Provisioning;
use super::time::Timestamp;
use super::units::{Resources, WorkerSize};
use std::collections::BTreeMap;

/// What a request needs of a node, and what is free there. Leases can be given back one by one to see what would fit then.
#[derive(Clone)]
pub(super) struct Room<'a> {
    provisioning: &'a Provisioning,
    node_id: &'a NodeId,
    node: &'a Node,
    live_max: u64,
    needed: Resources,
    needed_worker_ports: u64,
    /// The servers asked for.
    names: &'a [ServerName],
    free: Resources,
    free_worker_ports: u64,
    free_server_ports: u64,
    /// Servers asked for that would have to be started.
    to_start: u64,
    live: u64,
    /// How many holders the server at each port has lost to leases given back.
    given_back: BTreeMap<Port, u64>,
}

impl<'a> Room<'a> {
    /// For a request.
    pub(super) fn for_request(
        cluster: &'a Cluster,
        node: (&'a NodeId, &'a Node),
        request: &'a Request,
        size: WorkerSize,
    ) -> Self {
        let room = Self::new(cluster, node, Resources::of_workers(request.workers, size), request.servers.as_slice());
        Self { needed_worker_ports: request.workers, live_max: cluster.limits.live_allocations_max, ..room }
    }

    /// For an agent, which takes one worker slot, but no port, and is no allocation.
    pub(super) fn for_agent(cluster: &'a Cluster, node: (&'a NodeId, &'a Node), size: WorkerSize) -> Self {
        Self::new(cluster, node, Resources::of_workers(1, size), &[])
    }

    fn new(
        cluster: &'a Cluster,
        (node_id, node): (&'a NodeId, &'a Node),
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
            live_max: u64::MAX,
            needed,
            needed_worker_ports: 0,
            names,
            free: node.capacity.less(node.leased),
            free_worker_ports: node.ports.free(Purpose::Worker, &provisioning.taken_ports),
            free_server_ports: node.ports.free(Purpose::Server, &provisioning.taken_ports),
            to_start,
            live: cluster.ages.live(),
            given_back: BTreeMap::new(),
        }
    }

    /// The first check that fails, in the order workers, CPU, memory, server ports, worker ports, live allocations.
    pub(super) fn shortage(&self) -> Option<Shortage> {
        self.shortage_within(self.free, self.free_server_ports, self.to_start, self.free_worker_ports, self.live)
    }

    /// The same if every lease past its deadline at `now` were gone.
    pub(super) fn shortage_with_all_overdue(&self, cluster: &Cluster, now: Timestamp) -> Option<Shortage> {
        let Overdue { resources, idle_servers, .. } = cluster.overdue_of(self.node_id, self.node, now);
        // Live allocations are counted over all nodes.
        let overdue_everywhere: u64 =
            cluster.nodes.iter().map(|(id, node)| cluster.overdue_of(id, node, now).leases).sum();
        let mut free = self.free;
        free += resources;
        // A server asked for that only overdue leases hold frees its port and needs one: that changes nothing.
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

    /// Whether it would fit if nothing at all were leased.
    pub(super) fn fits_when_empty(&self) -> bool {
        let (nobody, taken) = (PortBook::default(), &self.provisioning.taken_ports);
        let [servers, workers] = [Purpose::Server, Purpose::Worker].map(|purpose| nobody.free(purpose, taken));
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
        (live >= self.live_max).then_some(Shortage::LiveAllocations { limit: self.live_max })
    }

    /// Whether giving back this lease would do anything about the shortage.
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

    /// Counts what a lease holds as free. Each lease is to be given back once.
    pub(super) fn give_back(&mut self, lease: &Allocation) {
        let reservation = &lease.reservation;
        self.live -= 1;
        if reservation.node != *self.node_id {
            return;
        }
        self.free += reservation.workers.resources();
        self.free_worker_ports += reservation.workers.count();
        for hold in &reservation.servers {
            let lost = self.given_back.entry(hold.port).or_default();
            *lost += 1;
            if self.node.servers.at(hold.port).is_some_and(|server| server.holders == *lost) {
                self.free_server_ports += 1;
                let is_shared = !hold.is_private && !self.provisioning.is_private(&hold.name);
                self.to_start += u64::from(is_shared && self.names.contains(&hold.name));
            }
        }
    }
}
