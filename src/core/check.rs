//! What must hold between events. Everything that can be derived is derived again and compared.

use super::allocation::{Allocation, State};
use super::cluster::Cluster;
use super::deadlines::Deadlines;
use super::ids::{NodeId, ServerName};
use super::node::{Node, Overdue};
use super::ports::Port;
use super::units::Resources;
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
    broken
}

fn live(cluster: &Cluster) -> impl Iterator<Item = &Allocation> {
    cluster.live.values().filter_map(|id| cluster.find(*id))
}

fn ended(cluster: &Cluster) -> impl Iterator<Item = &Allocation> {
    cluster.ended.values().filter_map(|id| cluster.find(*id))
}

/// Notes `complaint` unless the invariant holds.
fn expect(broken: &mut Vec<String>, holds: bool, complaint: impl FnOnce() -> String) {
    if !holds {
        broken.push(complaint());
    }
}

fn node_violations(cluster: &Cluster, id: &NodeId, node: &Node, broken: &mut Vec<String>) {
    let mut leased = Resources::default();
    let mut overdue = Overdue::default();
    let mut ports: BTreeSet<Port> = BTreeSet::new();
    let mut doubled: Vec<Port> = Vec::new();
    // Of each server: run, port, holders, overdue holders.
    let mut servers: BTreeMap<&ServerName, (u64, u64)> = BTreeMap::new();
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
            let known = node.servers.find(&hold.name).map(|server| (server.instance, server.port));
            expect(broken, known == Some((hold.instance, hold.port)), || {
                format!("{} holds {} as {hold:?}, which runs as {known:?}", lease.reservation.allocation, hold.name)
            });
            let counts = servers.entry(&hold.name).or_default();
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
    let counted: BTreeMap<&ServerName, (u64, u64)> =
        node.servers.iter().map(|server| (&server.name, (server.holders, server.overdue_holders))).collect();
    expect(broken, counted == servers, || format!("node {id} counts holders {counted:?}, they are {servers:?}"));
    let in_place = node.servers.iter().all(|server| {
        let known = [node.servers.at(server.port), node.servers.find(&server.name)];
        known.iter().all(|known| *known == Some(server))
    });
    expect(broken, in_place && node.servers.names() == counted.len(), || {
        format!("node {id} does not find each of its servers by its name and by its port: {:?}", node.servers)
    });
    let all_marked = ports.iter().all(|port| node.ports.is_held(*port));
    expect(broken, all_marked && node.ports.held() == ports.len() as u64, || {
        format!("node {id} marks {} ports as held, {} are", node.ports.held(), ports.len())
    });
}

fn index_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let live_count = cluster.live.len() as u64;
    let max = cluster.limits.live_allocations_max;
    expect(broken, live_count <= max, || format!("{live_count} allocations are live, at most {max} may be"));

    let mut deadlines = Deadlines::default();
    deadlines.observed = cluster.deadlines.observed;
    for lease in live(cluster) {
        deadlines.insert(lease);
    }
    expect(broken, deadlines == cluster.deadlines, || "the deadlines are not those of the live allocations".to_owned());

    for (token, id) in cluster.live.iter().chain(&cluster.ended) {
        let Some(record) = cluster.allocations.get(id) else {
            broken.push(format!("{id} has no record"));
            continue;
        };
        let reservation = &record.reservation;
        let (own, next) = (reservation.fencing_token, cluster.next_token);
        expect(broken, own == *token && own < next && reservation.allocation == *id, || {
            format!(
                "{} with token {own} is kept as {id} with token {token}; the next is {next}",
                reservation.allocation
            )
        });
        expect(broken, record.state().is_live() == cluster.live.contains_key(token), || {
            format!("{id} is {} and kept as what it is not", record.state())
        });
        for hold in &reservation.servers {
            expect(broken, hold.instance < cluster.next_instance, || {
                format!("{:?} is to be given again", hold.instance)
            });
        }
    }
    let listed = cluster.live.len() + cluster.ended.len();
    expect(broken, cluster.allocations.len() == listed, || "an allocation is in no list".to_owned());

    let records = || live(cluster).chain(ended(cluster));
    let keyed = records().filter(|record| {
        let (id, key) = (record.reservation.allocation, record.reservation.request_id.as_ref());
        key.is_some_and(|key| cluster.by_request.get(key) == Some(&id))
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
    let mut jobs: BTreeMap<_, Vec<&Allocation>> = BTreeMap::new();
    for record in live(cluster).chain(ended(cluster)) {
        jobs.entry(&record.reservation.job).or_default().push(record);
    }
    expect(broken, jobs.len() == cluster.jobs.len(), || "a job without a record is kept".to_owned());
    for (id, records) in jobs {
        let Some(job) = cluster.jobs.get(id) else {
            broken.push(format!("job {id} is not known"));
            continue;
        };
        let tokens: BTreeMap<_, _> =
            records.iter().map(|record| (record.reservation.fencing_token, record.reservation.allocation)).collect();
        expect(broken, job.allocations().eq(tokens), || format!("job {id} has other allocations than it knows"));
        let live_now: Vec<_> = records.iter().filter(|record| record.state().is_live()).collect();
        expect(broken, job.live == live_now.len() as u64, || format!("job {id} counts {} live allocations", job.live));
        let mut numbers = BTreeSet::new();
        for (number, _) in live_now.iter().flat_map(|lease| lease.reservation.workers.iter()) {
            expect(broken, numbers.insert(number), || format!("job {id} has two workers {}", number.worker_id(id)));
            expect(broken, number < job.next_worker, || format!("{} is to be given again", number.worker_id(id)));
        }
    }
}

fn history_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let (kept, max) = (cluster.ended.len() as u64, cluster.limits.history_records_max);
    expect(broken, kept <= max, || format!("{kept} records are kept, at most {max} may be"));
    let order: BTreeMap<_, _> = cluster
        .ended_order
        .iter()
        .filter_map(|id| Some((cluster.allocations.get(id)?.reservation.fencing_token, *id)))
        .collect();
    expect(broken, cluster.ended_order.len() == cluster.ended.len() && cluster.ended == order, || {
        "the order of ends is not that of the records".to_owned()
    });
    let ends: Vec<_> = cluster.ended_order.iter().filter_map(|id| cluster.allocations.get(id)?.ended_at()).collect();
    expect(broken, ends.is_sorted(), || "records are not in the order in which they ended".to_owned());
}
