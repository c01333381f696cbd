//! What must hold between events. Everything that can be derived is derived again and compared.

use super::ages::Which;
use super::allocation::{Allocation, ServerHold, State};
use super::cluster::Cluster;
use super::deadlines::Deadlines;
use super::fleet::{agents_take, fleet_violations};
use super::ids::NodeId;
use super::node::{Node, Overdue};
use super::ports::Port;
use super::table::Slot;

use std::collections::{BTreeMap, BTreeSet};

/// Lists every invariant of the books that is broken; a sound cluster has none.
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
    cluster.planned_violations(&mut broken);
    broken
}

fn live(cluster: &Cluster) -> impl Iterator<Item = &Allocation> {
    cluster.ages.iter(Which::LIVE).filter_map(|(_, slot)| at(cluster, slot))
}

fn ended(cluster: &Cluster) -> impl Iterator<Item = &Allocation> {
    cluster.ages.iter(Which::ENDED).filter_map(|(_, slot)| at(cluster, slot))
}

/// What is in a slot, if anything is: an index that leads nowhere is to be told of, not to end the check.
fn at(cluster: &Cluster, slot: Slot) -> Option<&Allocation> {
    cluster.records.get(slot).map(|record| &record.allocation)
}

/// Notes `complaint` unless the invariant holds.
pub(super) fn expect(broken: &mut Vec<String>, holds: bool, complaint: impl FnOnce() -> String) {
    if !holds {
        broken.push(complaint());
    }
}

fn node_violations(cluster: &Cluster, id: &NodeId, node: &Node, broken: &mut Vec<String>) {
    let mut leased = agents_take(cluster, id);
    let mut overdue = Overdue::default();
    let mut ports: BTreeSet<Port> = BTreeSet::new();
    let mut doubled: Vec<Port> = Vec::new();
    // Of each server: holders, overdue holders.
    let mut servers: BTreeMap<Port, (u64, u64)> = BTreeMap::new();
    for lease in live(cluster).filter(|lease| lease.reservation.node == *id) {
        let is_overdue = lease.nominal_deadline().is_some_and(|deadline| deadline <= cluster.deadlines.observed);
        let held = lease.reservation.workers.resources();
        leased += held;
        if is_overdue {
            overdue.leases += 1;
            overdue.resources += held;
        }
        doubled.extend(lease.reservation.workers.ports.iter().filter(|port| !ports.insert(**port)));
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
                format!("{} holds {} as {hold:?}, which runs as {known:?}", lease.reservation.allocation, hold.name)
            });
            let counts = servers.entry(hold.port).or_default();
            counts.0 += 1;
            counts.1 += u64::from(is_overdue);
        }
    }
    doubled.extend(node.servers.iter().map(|server| server.port).filter(|port| !ports.insert(*port)));
    overdue.idle_servers = servers.values().filter(|(holders, overdue)| holders == overdue).count() as u64;

    expect(broken, doubled.is_empty(), || format!("ports {doubled:?} of node {id} are held twice"));
    expect(broken, node.leased == leased, || {
        format!("node {id} counts {:?} as leased, its leases hold {leased:?}", node.leased)
    });
    expect(broken, node.capacity.covers(&leased), || {
        format!("node {id} has {:?} and leases {leased:?}", node.capacity)
    });
    expect(broken, node.overdue == overdue, || {
        format!("node {id} counts {:?} as overdue, it is {overdue:?}", node.overdue)
    });
    let counted: BTreeMap<Port, (u64, u64)> =
        node.servers.iter().map(|server| (server.port, (server.holders, server.overdue_holders))).collect();
    expect(broken, counted == servers, || format!("node {id} counts holders {counted:?}, they are {servers:?}"));
    let in_place = node.servers.iter().all(|server| {
        let is_found = server.is_private || node.servers.find(&server.name) == Some(server);
        is_found && node.servers.at(server.port) == Some(server)
    });
    let lonely = node.servers.iter().filter(|server| server.is_private && server.holders == 1).count();
    expect(broken, in_place && node.servers.names() + lonely == counted.len(), || {
        format!("node {id} does not find each of its servers by its name and by its port: {:?}", node.servers)
    });
    let all_marked = ports.iter().all(|port| node.ports.is_held(*port));
    expect(broken, all_marked && node.ports.held() == ports.len() as u64, || {
        format!("node {id} marks {} ports as held, {} are", node.ports.held(), ports.len())
    });
}

fn index_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let live_count = cluster.ages.live();
    let max = cluster.limits.live_allocations_max;
    expect(broken, live_count <= max, || format!("{live_count} allocations are live, at most {max} may be"));

    let mut deadlines = Deadlines::default();
    deadlines.observed = cluster.deadlines.observed;
    for (_, slot) in cluster.ages.iter(Which::LIVE) {
        if let Some(lease) = at(cluster, slot) {
            deadlines.insert(lease, slot);
        }
    }
    expect(broken, deadlines == cluster.deadlines, || "the deadlines are not those of the live allocations".to_owned());

    expect(broken, cluster.ages.is_sound(), || "the pages of the allocations are not what is counted".to_owned());
    let listed_live: BTreeSet<_> = cluster.ages.iter(Which::LIVE).map(|(token, _)| token).collect();
    for (token, slot) in cluster.ages.iter(Which::ALL) {
        let Some(record) = cluster.records.get(slot) else {
            broken.push(format!("token {token} leads to {slot:?}, which is free"));
            continue;
        };
        let reservation = &record.allocation.reservation;
        let (id, own, next) = (reservation.allocation, reservation.fencing_token, cluster.next_token);
        expect(broken, own == token && own < next, || {
            format!("{id} with token {own} is kept as that with token {token}; the next is {next}")
        });
        expect(broken, cluster.records.find(&id) == Some(slot), || format!("{id} is not found in its slot"));
        let job = cluster.jobs.get(record.job).map(|job| &job.id);
        expect(broken, job == Some(&reservation.job), || {
            format!("{id} of job {} is kept under job {job:?}", reservation.job)
        });
        expect(broken, record.allocation.state().is_live() == listed_live.contains(&token), || {
            format!("{id} is {} and kept as what it is not", record.allocation.state())
        });
        for hold in &reservation.servers {
            expect(broken, hold.instance < cluster.next_instance, || {
                format!("{:?} is to be given again", hold.instance)
            });
        }
    }
    let listed = cluster.ages.live() + cluster.ages.ended();
    expect(broken, cluster.records.len() as u64 == listed, || "an allocation is in no list".to_owned());
    for (what, lost) in [("records", cluster.records.lost_slots()), ("jobs", cluster.jobs.lost_slots())] {
        expect(broken, lost == 0, || format!("{lost} slots of the {what} are lost"));
    }

    let records = || live(cluster).chain(ended(cluster));
    let keyed = records().filter(|record| {
        let (id, key) = (record.reservation.allocation, record.reservation.request_id.as_ref());
        key.is_some_and(|key| {
            let known = cluster.by_request.get(key).and_then(|slot| at(cluster, *slot));
            known.is_some_and(|known| known.reservation.allocation == id)
        })
    });
    expect(broken, cluster.by_request.len() == keyed.count(), || "a request id leads to no record".to_owned());
    for key in live(cluster).filter_map(|lease| lease.reservation.request_id.as_ref()) {
        expect(broken, cluster.by_request.contains_key(key), || format!("live request id {key} is not known"));
    }

    let count = |state| records().filter(|record| record.state() == state).count() as u64;
    for (state, counted) in [(State::Pending, cluster.deadlines.pending()), (State::Active, cluster.deadlines.active())]
    {
        expect(broken, counted == count(state), || format!("{counted} are counted as {state}"));
    }
    expect(broken, cluster.failed == count(State::Failed), || format!("{} are counted as failed", cluster.failed));
}

fn job_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let mut jobs: BTreeMap<_, Vec<(Slot, &Allocation)>> = BTreeMap::new();
    for (_, slot) in cluster.ages.iter(Which::ALL) {
        if let Some(record) = at(cluster, slot) {
            jobs.entry(&record.reservation.job).or_default().push((slot, record));
        }
    }
    expect(broken, jobs.len() == cluster.jobs.len(), || "a job without a record is kept".to_owned());
    for (id, records) in jobs {
        let Some(job) = cluster.job(id) else {
            broken.push(format!("job {id} is not known"));
            continue;
        };
        let tokens: BTreeMap<_, _> =
            records.iter().map(|(slot, record)| (record.reservation.fencing_token, *slot)).collect();
        expect(broken, job.allocations().eq(tokens), || format!("job {id} has other allocations than it knows"));
        let live_now: Vec<_> =
            records.iter().map(|(_, record)| record).filter(|record| record.state().is_live()).collect();
        expect(broken, job.live == live_now.len() as u64, || format!("job {id} counts {} live allocations", job.live));
        let mut numbers = BTreeSet::new();
        for (number, _) in live_now.iter().flat_map(|lease| lease.reservation.workers.iter()) {
            expect(broken, numbers.insert(number), || format!("job {id} has two workers {}", number.worker_id(id)));
            expect(broken, number < job.next_worker, || format!("{} is to be given again", number.worker_id(id)));
        }
    }
}

fn history_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let (kept, max) = (cluster.ages.ended(), cluster.limits.history_records_max);
    expect(broken, kept <= max, || format!("{kept} records are kept, at most {max} may be"));
    let order: BTreeMap<_, _> = cluster
        .ended_order
        .iter()
        .filter_map(|slot| Some((at(cluster, *slot)?.reservation.fencing_token, *slot)))
        .collect();
    expect(broken, cluster.ended_order.len() as u64 == kept && cluster.ages.iter(Which::ENDED).eq(order), || {
        "the order of ends is not that of the records".to_owned()
    });
    let ends: Vec<_> = cluster.ended_order.iter().filter_map(|slot| at(cluster, *slot)?.ended_at()).collect();
    expect(broken, ends.is_sorted(), || "records are not in the order in which they ended".to_owned());
}
