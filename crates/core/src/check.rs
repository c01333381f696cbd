//! The invariants that must hold between events. Everything that can be derived is derived again and compared.

use super::allocation::{Allocation, ServerHold, State};
use super::cluster::Cluster;
use super::deadlines::Deadlines;
use super::fleet::{agent_resources, fleet_violations};
use super::ids::NodeId;
use super::node::{Node, Overdue};
use super::ports::Port;
use super::sequence_index::LiveFilter;
use super::table::Slot;

use std::collections::{BTreeMap, BTreeSet};

/// Lists every broken invariant of the state; a sound cluster has none.
#[must_use]
pub fn violations(cluster: &Cluster) -> Vec<String> {
    let mut broken = Vec::new();
    for (id, node) in &cluster.nodes {
        node_violations(cluster, id, node, &mut broken);
    }
    index_violations(cluster, &mut broken);
    job_violations(cluster, &mut broken);
    history_violations(cluster, &mut broken);
    fleet_violations(cluster, &mut broken);
    cluster.scaling_state_violations(&mut broken);
    broken
}

fn live(cluster: &Cluster) -> impl Iterator<Item = &Allocation> {
    cluster.records_by_token.iter(LiveFilter::LIVE).filter_map(|(_, slot)| at(cluster, slot))
}

fn ended(cluster: &Cluster) -> impl Iterator<Item = &Allocation> {
    cluster.records_by_token.iter(LiveFilter::ENDED).filter_map(|(_, slot)| at(cluster, slot))
}

/// Returns the allocation in a slot, if any. An index that points to an empty slot is reported, and does not end the
/// check.
fn at(cluster: &Cluster, slot: Slot) -> Option<&Allocation> {
    cluster.records.get(slot).map(|record| &record.allocation)
}

/// Adds `complaint` unless the invariant holds.
pub(super) fn expect(broken: &mut Vec<String>, holds: bool, complaint: impl FnOnce() -> String) {
    if !holds {
        broken.push(complaint());
    }
}

fn node_violations(cluster: &Cluster, id: &NodeId, node: &Node, broken: &mut Vec<String>) {
    let mut leased = agent_resources(cluster, id);
    let mut overdue = Overdue::default();
    let mut ports: BTreeSet<Port> = BTreeSet::new();
    let mut duplicates: Vec<Port> = Vec::new();
    // For each server: the holders, and the overdue ones among them.
    let mut servers: BTreeMap<Port, (u64, u64)> = BTreeMap::new();
    for lease in live(cluster).filter(|lease| lease.reservation.node == *id) {
        let is_overdue = lease.nominal_deadline().is_some_and(|deadline| deadline <= cluster.deadlines.observed);
        let held = lease.reservation.workers.resources();
        leased += held;
        if is_overdue {
            overdue.leases += 1;
            overdue.resources += held;
        }
        duplicates.extend(lease.reservation.workers.ports.iter().filter(|port| !ports.insert(**port)));
        let mut names = BTreeSet::new();
        for hold in &lease.reservation.servers {
            expect(broken, names.insert(&hold.name), || {
                format!("{} holds {} twice", lease.reservation.allocation, hold.name)
            });
            let known = node.servers.at(hold.port).map(|server| ServerHold {
                name: server.name.clone(),
                instance: server.instance,
                port: server.port,
                is_private: server.is_private,
            });
            expect(broken, known.as_ref() == Some(hold), || {
                let id = lease.reservation.allocation;
                format!("{id} holds {} as {hold:?}, but the server there is {known:?}", hold.name)
            });
            let counts = servers.entry(hold.port).or_default();
            counts.0 += 1;
            counts.1 += u64::from(is_overdue);
        }
    }
    duplicates.extend(node.servers.iter().map(|server| server.port).filter(|port| !ports.insert(*port)));
    overdue.idle_servers = servers.values().filter(|(holders, overdue)| holders == overdue).count() as u64;

    expect(broken, duplicates.is_empty(), || format!("ports {duplicates:?} of node {id} are held twice"));
    expect(broken, node.leased == leased, || {
        format!("node {id} counts {:?} as leased, but its leases hold {leased:?}", node.leased)
    });
    expect(broken, node.capacity.covers(&leased), || {
        format!("node {id} has {:?} and leases {leased:?}", node.capacity)
    });
    expect(broken, node.overdue == overdue, || {
        format!("node {id} counts {:?} as overdue, but {overdue:?} is", node.overdue)
    });
    let counted: BTreeMap<Port, (u64, u64)> =
        node.servers.iter().map(|server| (server.port, (server.holders, server.overdue_holders))).collect();
    expect(broken, counted == servers, || format!("node {id} counts holders {counted:?}, but they are {servers:?}"));
    let all_found = node.servers.iter().all(|server| {
        let is_found = server.is_private || node.servers.find(&server.name) == Some(server);
        is_found && node.servers.at(server.port) == Some(server)
    });
    let private_count = node.servers.iter().filter(|server| server.is_private && server.holders == 1).count();
    expect(broken, all_found && node.servers.shared_count() + private_count == counted.len(), || {
        format!("node {id} has servers that cannot be found by name and by port: {:?}", node.servers)
    });
    let all_reserved = ports.iter().all(|port| node.ports.is_held(*port));
    expect(broken, all_reserved && node.ports.held() == ports.len() as u64, || {
        format!("node {id} marks {} ports as held, but {} are", node.ports.held(), ports.len())
    });
}

fn index_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let live_count = cluster.records_by_token.live();
    let max = cluster.limits.live_allocations_max;
    expect(broken, live_count <= max, || format!("{live_count} allocations are live, but at most {max} may be"));

    let mut deadlines = Deadlines::default();
    deadlines.observed = cluster.deadlines.observed;
    for (_, slot) in cluster.records_by_token.iter(LiveFilter::LIVE) {
        if let Some(lease) = at(cluster, slot) {
            deadlines.insert(lease, slot);
        }
    }
    expect(broken, deadlines == cluster.deadlines, || "the deadlines are not those of the live allocations".to_owned());

    expect(broken, cluster.records_by_token.is_sound(), || {
        "the pages of the allocations do not match their counts".to_owned()
    });
    let listed_live: BTreeSet<_> = cluster.records_by_token.iter(LiveFilter::LIVE).map(|(token, _)| token).collect();
    for (token, slot) in cluster.records_by_token.iter(LiveFilter::ALL) {
        let Some(record) = cluster.records.get(slot) else {
            broken.push(format!("token {token} points to {slot:?}, which is free"));
            continue;
        };
        let reservation = &record.allocation.reservation;
        let (id, own, next) = (reservation.allocation, reservation.fencing_token, cluster.next_token);
        expect(broken, own == token && own < next, || {
            format!("{id} with token {own} is indexed by token {token}; the next token is {next}")
        });
        expect(broken, cluster.records.find(&id) == Some(slot), || format!("{id} is not indexed by its id"));
        let job = cluster.jobs.get(record.job).map(|job| &job.id);
        expect(broken, job == Some(&reservation.job), || {
            format!("{id} of job {} is indexed under job {job:?}", reservation.job)
        });
        expect(broken, record.allocation.state().is_live() == listed_live.contains(&token), || {
            format!("{id} is {}, but indexed otherwise", record.allocation.state())
        });
        for hold in &reservation.servers {
            expect(broken, hold.instance < cluster.next_instance, || {
                format!("{:?} would be assigned again", hold.instance)
            });
        }
    }
    let listed = cluster.records_by_token.live() + cluster.records_by_token.ended();
    expect(broken, cluster.records.len() as u64 == listed, || "an allocation is not indexed by its token".to_owned());
    for (what, leaked) in [("records", cluster.records.leaked_slots()), ("jobs", cluster.jobs.leaked_slots())] {
        expect(broken, leaked == 0, || format!("{leaked} slots of the {what} are neither used nor free"));
    }

    let records = || live(cluster).chain(ended(cluster));
    let keyed = records().filter(|record| {
        let (id, key) = (record.reservation.allocation, record.reservation.request_id.as_ref());
        key.is_some_and(|key| {
            let known = cluster.by_request.get(key).and_then(|slot| at(cluster, *slot));
            known.is_some_and(|known| known.reservation.allocation == id)
        })
    });
    expect(broken, cluster.by_request.len() == keyed.count(), || "a request id points to no record".to_owned());
    for key in live(cluster).filter_map(|lease| lease.reservation.request_id.as_ref()) {
        expect(broken, cluster.by_request.contains_key(key), || format!("live request id {key} is not indexed"));
    }

    let count = |state| records().filter(|record| record.state() == state).count() as u64;
    for (state, counted) in [(State::Pending, cluster.deadlines.pending()), (State::Active, cluster.deadlines.active())]
    {
        expect(broken, counted == count(state), || format!("{counted} allocations are counted as {state}"));
    }
    expect(broken, cluster.failed == count(State::Failed), || {
        format!("{} allocations are counted as failed", cluster.failed)
    });
}

fn job_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let mut jobs: BTreeMap<_, Vec<(Slot, &Allocation)>> = BTreeMap::new();
    for (_, slot) in cluster.records_by_token.iter(LiveFilter::ALL) {
        if let Some(record) = at(cluster, slot) {
            jobs.entry(&record.reservation.job).or_default().push((slot, record));
        }
    }
    expect(broken, jobs.len() == cluster.jobs.len(), || "a job without allocations is kept".to_owned());
    for (id, records) in jobs {
        let Some(job) = cluster.job(id) else {
            broken.push(format!("job {id} is not indexed"));
            continue;
        };
        let tokens: BTreeMap<_, _> =
            records.iter().map(|(slot, record)| (record.reservation.fencing_token, *slot)).collect();
        expect(broken, job.allocations().eq(tokens), || format!("job {id} does not list its own allocations"));
        let live_now: Vec<_> =
            records.iter().map(|(_, record)| record).filter(|record| record.state().is_live()).collect();
        expect(broken, job.live == live_now.len() as u64, || format!("job {id} counts {} live allocations", job.live));
        let mut numbers = BTreeSet::new();
        for (number, _) in live_now.iter().flat_map(|lease| lease.reservation.workers.iter()) {
            expect(broken, numbers.insert(number), || format!("job {id} has two workers {}", number.worker_id(id)));
            expect(broken, number < job.next_worker, || format!("{} would be assigned again", number.worker_id(id)));
        }
    }
}

fn history_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let (kept, max) = (cluster.records_by_token.ended(), cluster.limits.history_records_max);
    expect(broken, kept <= max, || format!("{kept} records are kept, but at most {max} may be"));
    let order: BTreeMap<_, _> = cluster
        .ended_order
        .iter()
        .filter_map(|slot| Some((at(cluster, *slot)?.reservation.fencing_token, *slot)))
        .collect();
    expect(
        broken,
        cluster.ended_order.len() as u64 == kept && cluster.records_by_token.iter(LiveFilter::ENDED).eq(order),
        || "the list of ended allocations does not match the records".to_owned(),
    );
    let ends: Vec<_> = cluster.ended_order.iter().filter_map(|slot| at(cluster, *slot)?.ended_at()).collect();
    expect(broken, ends.is_sorted(), || "ended allocations are not in the order in which they ended".to_owned());
}
