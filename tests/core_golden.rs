//! Events of version 1, kept as they were first written: they must be read, replayed and written the same for ever.
//!
//! `tests/golden/events_v1.jsonl` holds each kind of event at least once, `events_v1.txt` what its books are in the end.
//! Neither is ever changed; events of a later version get files of their own.

use cortex_resource_manager::core::{
    AllocationId, AllocationView, Cluster, Command, DeadlineReason, Denied, EndReason, FencingToken, Filter, Phase,
    Recorded, ServerName, Timestamp, check,
};
use std::collections::BTreeSet;
use std::fmt::Write;

const EVENTS: &str = include_str!("golden/events_v1.jsonl");
const STATE: &str = include_str!("golden/events_v1.txt");

/// All kinds of events that version 1 has.
const KINDS: [&str; 10] = [
    "activated",
    "activation_failed",
    "capacity_set",
    "history_trimmed",
    "limits_set",
    "outage_noted",
    "released",
    "releasing",
    "renewed",
    "reserved",
];

fn events() -> Vec<Recorded> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    EVENTS.lines().map(read).collect()
}

fn replayed() -> (Cluster, Timestamp) {
    let mut cluster = Cluster::default();
    let mut now = Timestamp::MIN;
    for (recorded, line) in events().iter().zip(EVENTS.lines()) {
        cluster.apply(recorded);
        assert_eq!(check::violations(&cluster), [""; 0], "after {line}");
        now = recorded.at;
        cluster.observe(now);
        assert_eq!(check::violations(&cluster), [""; 0], "after {line} and a look at what has expired");
    }
    (cluster, now)
}

#[test]
fn the_events_of_version_1_lead_to_the_same_books() {
    let (cluster, now) = replayed();
    assert_eq!(state_text(&cluster, now), STATE);
}

#[test]
fn the_events_of_version_1_are_written_as_they_were() {
    for (recorded, line) in events().iter().zip(EVENTS.lines()) {
        assert_eq!(serde_json::to_string(recorded).expect("an event has a text"), line);
    }
}

#[test]
fn each_kind_of_event_is_among_them() {
    let kind = |line| {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        event["event"]["type"].as_str().expect("a type").to_owned()
    };
    let kinds: BTreeSet<String> = EVENTS.lines().map(kind).collect();
    assert!(kinds.iter().map(String::as_str).eq(KINDS), "{kinds:?}");
}

#[test]
fn the_books_can_be_gone_on_with() {
    let (cluster, now) = replayed();
    let live: Vec<AllocationId> = cluster
        .list(now, &Filter::default(), FencingToken::new(0))
        .filter(|view| view.allocation.state().is_live())
        .map(|view| view.allocation.reservation.allocation)
        .collect();
    let mut cluster = cluster;
    for allocation in live {
        let release = Command::Release { allocation, reason: EndReason::Requested };
        let decided: Result<_, Denied> = cluster.decide(now, &release);
        for event in decided.expect("a live lease can be released").events {
            cluster.apply(&Recorded { at: now, event });
            assert_eq!(check::violations(&cluster), [""; 0]);
        }
    }
    let capacity = cluster.capacity(now);
    assert_eq!((capacity.leased.workers, capacity.live_allocations, capacity.running_servers.len()), (0, 0, 0));
}

/// The books in words.
fn state_text(cluster: &Cluster, now: Timestamp) -> String {
    let mut text = String::new();
    let capacity = cluster.capacity(now);
    let servers: Vec<&str> = capacity.running_servers.iter().map(ServerName::as_str).collect();
    let _ = writeln!(text, "at {now}");
    for (name, amount) in
        [("total", capacity.total), ("leased", capacity.leased), ("reclaimable", capacity.reclaimable)]
    {
        let _ =
            writeln!(text, "{name}: {} workers, {} cores, {} MB", amount.workers, amount.cpu_millis, amount.memory_mb);
    }
    let _ = writeln!(text, "live: {}; servers: {}", capacity.live_allocations, servers.join(", "));
    let _ = match cluster.next_deadline() {
        None => writeln!(text, "next deadline: none"),
        Some((at, DeadlineReason::LeaseExpires(id))) => writeln!(text, "next deadline: {at}, {id} expires"),
        Some((at, DeadlineReason::ActivationFails(id))) => writeln!(text, "next deadline: {at}, {id} fails"),
    };
    for view in cluster.list(now, &Filter::default(), FencingToken::new(0)) {
        text += "\n";
        text += &allocation_text(&view);
    }
    text
}

fn allocation_text(view: &AllocationView) -> String {
    let allocation = &view.allocation;
    let reservation = &allocation.reservation;
    let mut text = String::new();
    let (id, token, state) = (reservation.allocation, reservation.fencing_token, allocation.state());
    let _ = writeln!(text, "{id}, token {token}: {state}");
    let (job, priority, node) = (&reservation.job, reservation.priority, &reservation.node);
    let ttl = allocation.ttl_seconds.as_seconds();
    let _ = writeln!(text, "  job {job}, {priority}, on {node}, created {}, ttl {ttl} s", allocation.created_at);
    for (number, port) in reservation.workers.iter() {
        let _ = writeln!(text, "  {} at {}", number.worker_id(job), port.endpoint());
    }
    for hold in &reservation.servers {
        let _ = writeln!(text, "  {} at {}, {:?}", hold.name, hold.port.endpoint(), hold.instance);
    }
    if let Some(request_id) = &reservation.request_id {
        let _ = writeln!(text, "  request id {request_id}");
    }
    let _ = writeln!(text, "  metadata {}", reservation.metadata.as_json());
    let since = allocation.activated_at().map_or("never active".to_owned(), |at| format!("active since {at}"));
    let _ = match &allocation.phase {
        Phase::Pending => writeln!(text, "  to be active by {}", reservation.activate_by),
        Phase::Active { runs_from, .. } => {
            let expires_at = view.expires_at.unwrap_or_default();
            writeln!(text, "  {since}, runs from {runs_from} to {expires_at}")
        }
        Phase::Releasing { reason, .. } => writeln!(text, "  {since}, being released, {reason:?}"),
        Phase::Released { reason, released_at, .. } => writeln!(text, "  {since}, released {released_at}, {reason:?}"),
        Phase::Failed { error, failed_at } => writeln!(text, "  failed {failed_at}: {error}"),
    };
    text
}
