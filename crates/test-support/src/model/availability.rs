//! Availability in the reference: what a request needs, which leases end for it, and which ports and names it gets.

use super::lease::{Lease, amount, running, sum};
use super::{Model, Node};
use cortex_core::allocation::{Allocation, Phase, Reservation, ServerHold, State, Workers};
use cortex_core::command::{Denied, Request, Shortage};
use cortex_core::ids::{AllocationId, FencingToken, NodeId, ServerInstanceId, WorkerNumber};
use cortex_core::ports::Port;
use cortex_core::time::Timestamp;
use cortex_core::units::{CpuMillis, MemoryMb, WorkerSize};
use std::sync::Arc;

/// How long after the longest start a reservation fails if it is not active, in milliseconds.
const SPARE_MS: i64 = 30_000;
/// How many future deadlines are checked for the time of a retry.
const LEASES_AHEAD: usize = 1_000;

impl Model {
    /// Returns which overdue leases end so that the request (or an agent, without one) fits, and what is short until
    /// everything that was started for ending leases has stopped. Leases that are already being released count as
    /// gone.
    pub(super) fn plan_reclaim(
        &self,
        now: Timestamp,
        node: &Node,
        request: Option<&Request>,
        size: WorkerSize,
    ) -> Result<(Vec<AllocationId>, Option<Shortage>), Denied> {
        let overdue = self.overdue(now);
        let shortage_without = |ended: &[AllocationId]| {
            let left: Vec<&Lease> = self.live().into_iter().filter(|lease| !ended.contains(&lease.id())).collect();
            self.shortage(&left, node, request, size)
        };
        let mut reclaimed = Vec::new();
        let Some(now_short) = shortage_without(&[]) else { return Ok((reclaimed, None)) };
        let releasing: Vec<AllocationId> = self.ids(State::Releasing);
        let with_releasing = |more: &[AllocationId]| [&releasing[..], more].concat();
        let Some(mut shortage) = shortage_without(&releasing) else { return Ok((reclaimed, Some(now_short))) };
        let all: Vec<AllocationId> = overdue.iter().map(|lease| lease.id()).collect();
        if let Some(shortage) = shortage_without(&with_releasing(&all)) {
            let mut ended = releasing.clone();
            let fits_ever = self.shortage(&[], node, request, size).is_none();
            let mut retry_at = None;
            for (deadline, lease) in self.by_deadline().into_iter().take(LEASES_AHEAD) {
                ended.push(lease.id());
                if fits_ever && shortage_without(&ended).is_none() {
                    retry_at = Some(self.deadline_with_grace(deadline).max(now));
                    break;
                }
            }
            return Err(Denied::InsufficientCapacity { shortage, retry_at });
        }
        loop {
            let helps = |lease: &&&Lease| match shortage {
                Shortage::LiveAllocations { .. } => true,
                Shortage::ServerPorts { .. } => {
                    lease.record.reservation.node == node.id && !lease.record.reservation.servers.is_empty()
                }
                _ => lease.record.reservation.node == node.id && lease.workers() > 0,
            };
            let next = overdue.iter().filter(|lease| !reclaimed.contains(&lease.id())).find(helps);
            reclaimed.push(next.expect("all overdue leases together are enough").id());
            match shortage_without(&with_releasing(&reclaimed)) {
                Some(other) => shortage = other,
                None => {
                    let is_immediate = |id: &&AllocationId| {
                        let lease = self.find(**id).expect("a live lease");
                        !self.is_provisioned(&lease.record.reservation)
                    };
                    let immediate: Vec<AllocationId> = reclaimed.iter().filter(is_immediate).copied().collect();
                    return Ok((reclaimed, shortage_without(&immediate)));
                }
            }
        }
    }

    /// Returns the first check that fails if exactly these leases are live.
    pub(super) fn shortage(
        &self,
        live: &[&Lease],
        node: &Node,
        request: Option<&Request>,
        size: WorkerSize,
    ) -> Option<Shortage> {
        let on_it = live.iter().filter(|lease| lease.record.reservation.node == node.id);
        let leased = sum(on_it.map(|lease| lease.held()));
        let held = sum([leased].into_iter().chain(self.slots_of(&node.id)));
        let workers = request.map_or(1, |request| request.workers);
        let needed = amount(workers, size);
        let free_workers = node.capacity.workers - held.workers;
        let free_cpu = node.capacity.cpu_millis.as_millis() - held.cpu_millis.as_millis();
        let free_memory = node.capacity.memory_mb.0 - held.memory_mb.0;
        if workers > free_workers {
            return Some(Shortage::Workers { requested: workers, available: free_workers });
        }
        if needed.cpu_millis.as_millis() > free_cpu {
            let available = CpuMillis::from_millis(free_cpu);
            return Some(Shortage::Cpu { requested: needed.cpu_millis, available });
        }
        if needed.memory_mb.0 > free_memory {
            return Some(Shortage::Memory { requested: needed.memory_mb, available: MemoryMb(free_memory) });
        }
        // An agent has no port, and does not count as an allocation.
        let request = request?;
        let running = running(live, &node.id, false);
        let names = request.servers.as_slice().iter();
        let to_start = names.filter(|name| self.is_private(name) || !running.contains(name)).count() as u64;
        let reservations = live.iter().map(|lease| &lease.record.reservation).filter(|held| held.node == node.id);
        let held: Vec<u16> = reservations
            .flat_map(|held| {
                let servers = held.servers.iter().map(|hold| hold.port.0);
                servers.chain(held.workers.ports.iter().map(|port| port.0))
            })
            .collect();
        let is_occupied = |port: &&Port| !held.contains(&port.0);
        let occupied: Vec<u16> =
            self.provisioning.occupied_ports.iter().filter(is_occupied).map(|port| port.0).collect();
        let free_ports = (9000..=9099).filter(|port| !held.contains(port) && !occupied.contains(port)).count() as u64;
        if to_start > free_ports {
            return Some(Shortage::ServerPorts { requested: to_start, available: free_ports });
        }
        let occupied_worker_ports = occupied.iter().filter(|port| !(9000..=9099).contains(*port)).count() as u64;
        let free_ports = 65_536 - 8_000 - 100 - leased.workers - occupied_worker_ports;
        if workers > free_ports {
            return Some(Shortage::WorkerPorts { requested: workers, available: free_ports });
        }
        let limit = self.limits.live_allocations_max;
        (live.len() as u64 >= limit).then_some(Shortage::LiveAllocations { limit })
    }

    pub(super) fn reserve(&mut self, now: Timestamp, request: &Request, size: WorkerSize, allocation: AllocationId) {
        let node = self.nodes.first().expect("a node").id.clone();
        let ports = (0..request.workers).map(|_| self.next_port(&node, false)).collect::<Vec<Port>>();
        let mut servers: Vec<ServerHold> = Vec::new();
        for name in request.servers.as_slice() {
            let runs = self.live().into_iter().filter(|lease| lease.record.reservation.node == node);
            let is_private = self.is_private(name);
            let mut holds = runs.flat_map(|lease| lease.record.reservation.servers.iter());
            let running = holds.find(|hold| hold.name == *name && !hold.is_private && !is_private).cloned();
            let hold = running.unwrap_or_else(|| {
                self.instances += 1;
                let instance = ServerInstanceId::new(self.instances);
                ServerHold { name: name.clone(), instance, port: self.next_port(&node, true), is_private }
            });
            servers.push(hold);
        }
        self.tokens += 1;
        let first = self.counters.iter().find(|(job, _)| *job == request.job).map_or(0, |(_, next)| *next);
        self.counters.retain(|(job, _)| *job != request.job);
        self.counters.push((request.job.clone(), first + request.workers));
        let reservation = Reservation {
            allocation,
            fencing_token: FencingToken::new(self.tokens),
            job: request.job.clone(),
            priority: request.priority,
            node,
            workers: Workers { first: WorkerNumber(first), ports: ports.into_boxed_slice(), size },
            servers: servers.into_boxed_slice(),
            ttl_seconds: request.ttl_seconds,
            activate_by: Timestamp::from_millis(
                now.as_millis() + i64::try_from(self.provisioning.start_max.0).expect("a short time") + SPARE_MS,
            ),
            request_id: request.request_id.clone(),
            metadata: request.metadata.clone(),
        };
        let record = Allocation {
            reservation: Arc::new(reservation),
            created_at: now,
            ttl_seconds: request.ttl_seconds,
            phase: Phase::Pending,
        };
        self.leases.push(Lease { record, end: None });
    }

    /// Returns the next port that is neither held nor used by another process, wrapping around. The next search
    /// starts after it.
    pub(super) fn next_port(&mut self, node: &NodeId, for_server: bool) -> Port {
        let held: Vec<u16> = self
            .live()
            .into_iter()
            .map(|lease| &lease.record.reservation)
            .filter(|reservation| reservation.node == *node)
            .flat_map(|reservation| {
                let servers = reservation.servers.iter().map(|hold| hold.port.0);
                servers.chain(reservation.workers.ports.iter().map(|port| port.0))
            })
            .collect();
        let node = self.nodes.iter_mut().find(|other| other.id == *node).expect("a node");
        let (next, first, last) =
            if for_server { (&mut node.server_port, 9000, 9099) } else { (&mut node.worker_port, 8000, 65_535) };
        loop {
            let port = *next;
            *next = if port == last { first } else { port + 1 };
            let is_of_servers = (9000..=9099).contains(&port);
            if is_of_servers == for_server
                && !held.contains(&port)
                && !self.provisioning.occupied_ports.contains(&Port(port))
            {
                return Port(port);
            }
        }
    }
}
