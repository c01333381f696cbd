//! Room in the reference: what a request needs, what has to go for it, and which ports and names it gets.

use super::lease::{Lease, amount, running, sum};
use super::{Model, Node};
use cortex_core::allocation::{Allocation, Phase, Reservation, ServerHold, State, Workers};
use cortex_core::command::{Denied, Request, Shortage};
use cortex_core::ids::{AllocationId, FencingToken, NodeId, ServerInstanceId, WorkerNumber};
use cortex_core::ports::Port;
use cortex_core::time::Timestamp;
use cortex_core::units::{CpuMillis, MemoryMb, WorkerSize};
use std::sync::Arc;

/// A reservation fails if it is not active so many milliseconds after the longest that a start may take.
const SPARE_MS: i64 = 30_000;
/// How many leases ahead the machine looks to tell when to come again.
const LEASES_AHEAD: usize = 1_000;

impl Model {
    /// Which overdue leases have to go so that the request fits; without one, an agent that needs a worker. What is being
    /// released already goes too; and what is short until what really stands behind those that go is gone.
    pub(super) fn make_room(
        &self,
        now: Timestamp,
        node: &Node,
        request: Option<&Request>,
        size: WorkerSize,
    ) -> Result<(Vec<AllocationId>, Option<Shortage>), Denied> {
        let overdue = self.overdue(now);
        let shortage_without = |gone: &[AllocationId]| {
            let left: Vec<&Lease> = self.live().into_iter().filter(|lease| !gone.contains(&lease.id())).collect();
            self.shortage(&left, node, request, size)
        };
        let mut taken = Vec::new();
        let Some(now_short) = shortage_without(&[]) else { return Ok((taken, None)) };
        let leaving: Vec<AllocationId> = self.ids(State::Releasing);
        let with_leaving = |more: &[AllocationId]| [&leaving[..], more].concat();
        let Some(mut shortage) = shortage_without(&leaving) else { return Ok((taken, Some(now_short))) };
        let all: Vec<AllocationId> = overdue.iter().map(|lease| lease.id()).collect();
        if let Some(shortage) = shortage_without(&with_leaving(&all)) {
            let mut gone = leaving.clone();
            let fits_ever = self.shortage(&[], node, request, size).is_none();
            let mut retry_at = None;
            for (deadline, lease) in self.by_deadline().into_iter().take(LEASES_AHEAD) {
                gone.push(lease.id());
                if fits_ever && shortage_without(&gone).is_none() {
                    retry_at = Some(self.graced(deadline).max(now));
                    break;
                }
            }
            return Err(Denied::NoRoom { shortage, retry_at });
        }
        loop {
            let helps = |lease: &&&Lease| match shortage {
                Shortage::LiveAllocations { .. } => true,
                Shortage::ServerPorts { .. } => {
                    lease.record.reservation.node == node.id && !lease.record.reservation.servers.is_empty()
                }
                _ => lease.record.reservation.node == node.id && lease.workers() > 0,
            };
            let next = overdue.iter().filter(|lease| !taken.contains(&lease.id())).find(helps);
            taken.push(next.expect("all overdue leases together are enough").id());
            match shortage_without(&with_leaving(&taken)) {
                Some(other) => shortage = other,
                None => {
                    let is_at_once = |id: &&AllocationId| {
                        let lease = self.find(**id).expect("a live lease");
                        !self.is_real(&lease.record.reservation)
                    };
                    let at_once: Vec<AllocationId> = taken.iter().filter(is_at_once).copied().collect();
                    return Ok((taken, shortage_without(&at_once)));
                }
            }
        }
    }

    /// The first check that fails if these leases, and no others, are live.
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
        // An agent has no port, and is no allocation.
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
        let is_lost = |port: &&Port| !held.contains(&port.0);
        let lost: Vec<u16> = self.provisioning.taken_ports.iter().filter(is_lost).map(|port| port.0).collect();
        let free_ports = (9000..=9099).filter(|port| !held.contains(port) && !lost.contains(port)).count() as u64;
        if to_start > free_ports {
            return Some(Shortage::ServerPorts { requested: to_start, available: free_ports });
        }
        let lost_to_workers = lost.iter().filter(|port| !(9000..=9099).contains(*port)).count() as u64;
        let free_ports = 65_536 - 8_000 - 100 - leased.workers - lost_to_workers;
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

    /// The next port, round the range, that nobody holds and nothing else has; the search goes on behind it.
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
                && !self.provisioning.taken_ports.contains(&Port(port))
            {
                return Port(port);
            }
        }
    }
}
