//! Properties of the lease machine over generated input.

use cortex_core::allocation::{EndReason, Metadata};
use cortex_core::command::{Command, Decision, DistinctServers, Outcome, Request};
use cortex_core::event::Recorded;
use cortex_core::ids::{AllocationId, FencingToken, JobId, NAME_CHARACTERS_MAX, NodeId, RequestId, ServerName};
use cortex_core::ports::{Port, SERVER_PORTS, WORKER_PORTS};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::view::Filter;
use cortex_core::{Cluster, check};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const CASES: u32 = 64;
const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);
/// 0000-01-01 to 9999-12-31, the moments that RFC 3339 can express.
const RFC_3339_MS: std::ops::Range<i64> = Timestamp::WRITABLE_MIN.as_millis()..253_402_300_800_000;

/// A job, workers, servers and the size of a worker.
type RequestInput = (u8, u64, Vec<u8>, (u64, u64));

fn input() -> impl Strategy<Value = RequestInput> {
    (0..4_u8, 0..8_u64, vec(0..120_u8, 0..20), (0..3_000_u64, 0..5_000_u64))
}

fn command((job, workers, servers, (cpu_millis, memory_mb)): &RequestInput, random: u64) -> Command {
    let servers = servers.iter().map(|number| ServerName::new(&format!("server {number}")).expect("a name"));
    let request = Request {
        job: JobId::new(&format!("job {job}")).expect("a name"),
        servers: DistinctServers::new(servers),
        workers: *workers,
        priority: Priority::Normal,
        ttl_seconds: TtlSeconds::new(60).expect("at least 1"),
        request_id: None,
        metadata: Metadata::empty(),
    };
    let worker_size = WorkerSize { cpu_millis: CpuMillis::from_millis(*cpu_millis), memory_mb: MemoryMb(*memory_mb) };
    Command::Request { request: Box::new(request), worker_size, random }
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    let capacity = Resources { cpu_millis: CpuMillis::from_millis(30_000), memory_mb: MemoryMb(50_000), workers: 24 };
    carry_out(&mut cluster, &Command::SetCapacity { node: NodeId::local(), capacity });
    cluster
}

/// Carries out a command. Its events go through their written form.
fn carry_out(cluster: &mut Cluster, command: &Command) -> Option<Outcome> {
    let Decision { events, outcome } = cluster.decide(START, command).ok()?;
    for event in events {
        let line = serde_json::to_string(&Recorded { at: START, event }).expect("an event has a text");
        cluster.apply(&serde_json::from_str(&line).expect("an event that can be read"));
    }
    assert_eq!(check::violations(cluster), [""; 0]);
    Some(outcome)
}

/// Asserts that no two live leases share a worker's port or name, and that a port has at most one server.
fn assert_disjoint(cluster: &Cluster) {
    let (mut ports, mut workers): (BTreeSet<Port>, BTreeSet<String>) = (BTreeSet::new(), BTreeSet::new());
    let mut servers: BTreeMap<Port, ServerName> = BTreeMap::new();
    for view in cluster.list(START, &Filter::default(), FencingToken::new(0)) {
        if !view.allocation.state().is_live() {
            continue;
        }
        let reservation = &view.allocation.reservation;
        for (number, port) in reservation.workers.iter() {
            assert!(workers.insert(number.worker_id(&reservation.job)), "{number:?} of {} twice", reservation.job);
            assert!(ports.insert(port), "{port} twice");
            assert!(WORKER_PORTS.contains(&port.0) && !SERVER_PORTS.contains(&port.0), "{port}");
        }
        for hold in &reservation.servers {
            assert!(SERVER_PORTS.contains(&hold.port.0), "{}", hold.port);
            assert_eq!(servers.entry(hold.port).or_insert_with(|| hold.name.clone()), &hold.name);
        }
    }
    let names: BTreeSet<&ServerName> = servers.values().collect();
    assert_eq!(names.len(), servers.len(), "a server has two ports");
}

/// A JSON value as a client may send it.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::btree_map(".{0,6}", json(), 0..5).prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_grant_gives_everything_requested_and_a_denial_nothing(all in vec((input(), any::<u64>()), 1..40)) {
        let mut cluster = cluster();
        for (input, random) in &all {
            let before = cluster.capacity(START);
            let (_, workers, servers, (cpu_millis, memory_mb)) = input;
            match carry_out(&mut cluster, &command(input, *random)) {
                Some(Outcome::Granted { allocation, reclaimed }) => {
                    prop_assert!(reclaimed.is_empty());
                    let view = cluster.allocation(START, allocation).expect("a grant is on record");
                    let reservation = &view.allocation.reservation;
                    let distinct: BTreeSet<&u8> = servers.iter().collect();
                    prop_assert_eq!(reservation.workers.count(), *workers);
                    prop_assert_eq!(reservation.servers.len(), distinct.len());
                    let after = cluster.capacity(START).leased;
                    prop_assert_eq!(after.workers - before.leased.workers, *workers);
                    let cpu = after.cpu_millis.as_millis() - before.leased.cpu_millis.as_millis();
                    prop_assert_eq!(cpu, workers * cpu_millis);
                    prop_assert_eq!(after.memory_mb.0 - before.leased.memory_mb.0, workers * memory_mb);
                }
                other => {
                    prop_assert!(other.is_none(), "{:?}", other);
                    prop_assert_eq!(cluster.capacity(START), before);
                }
            }
            let after = cluster.capacity(START);
            prop_assert!(after.total.covers(&after.leased));
            assert_disjoint(&cluster);
        }
    }

    #[test]
    fn a_release_frees_exactly_what_was_granted(all in vec((input(), any::<u64>(), any::<u8>()), 1..40)) {
        let mut cluster = cluster();
        let mut held = Vec::new();
        for (input, random, which) in &all {
            if let Some(Outcome::Granted { allocation, .. }) = carry_out(&mut cluster, &command(input, *random)) {
                held.push(allocation);
            }
            if which % 3 == 0 && !held.is_empty() {
                let allocation = held.swap_remove(usize::from(*which) % held.len());
                let before = cluster.capacity(START);
                let granted = cluster.allocation(START, allocation).expect("on record").allocation.reservation;
                let release = Command::Release { allocation, reason: EndReason::Requested };
                let Some(Outcome::Released(release)) = carry_out(&mut cluster, &release) else {
                    panic!("a live lease can be released")
                };
                prop_assert_eq!(release.freed, granted.workers.resources());
                let after = cluster.capacity(START);
                prop_assert_eq!(before.leased.saturating_sub(release.freed), after.leased);
                assert_disjoint(&cluster);
            }
        }
        for allocation in held {
            carry_out(&mut cluster, &Command::Release { allocation, reason: EndReason::Requested });
        }
        let end = cluster.capacity(START);
        prop_assert_eq!((end.leased, end.live_allocations), (Resources::default(), 0));
        prop_assert!(end.running_servers.is_empty());
    }

    #[test]
    fn tokens_grow_with_each_grant(all in vec((input(), any::<u64>()), 1..30)) {
        let mut cluster = cluster();
        let mut last = FencingToken::new(0);
        for (input, random) in &all {
            if let Some(Outcome::Granted { allocation, .. }) = carry_out(&mut cluster, &command(input, *random)) {
                let view = cluster.allocation(START, allocation).expect("on record");
                let token = view.allocation.reservation.fencing_token;
                prop_assert!(token > last);
                last = token;
                if random % 2 == 0 {
                    carry_out(&mut cluster, &Command::Release { allocation, reason: EndReason::Cancelled });
                }
            }
        }
    }

    #[test]
    fn a_list_can_begin_anywhere(all in vec(input(), 0..10), after: u64, job in option::of(0..4_u8)) {
        let mut cluster = cluster();
        for input in &all {
            carry_out(&mut cluster, &command(input, 0));
        }
        let job = job.map(|job| JobId::new(&format!("job {job}")).expect("a name"));
        let filter = Filter { state: None, job };
        for after in [after % 12, after, u64::MAX] {
            let listed = cluster.list(START, &filter, FencingToken::new(after));
            let tokens: Vec<u64> = listed.map(|view| view.allocation.reservation.fencing_token.as_u64()).collect();
            prop_assert!(tokens.is_sorted() && tokens.iter().all(|token| *token > after));
        }
    }

    #[test]
    fn a_name_is_1_to_256_characters_without_control_characters(
        text in prop_oneof![any::<String>(), ".{0,12}", "[a-zé𝄞]{255,258}"]
    ) {
        let characters = text.chars().count();
        let good = (1..=NAME_CHARACTERS_MAX).contains(&characters) && !text.chars().any(char::is_control);
        prop_assert_eq!(JobId::new(&text).is_ok(), good);
        prop_assert_eq!(ServerName::new(&text).is_ok(), good);
        let written = serde_json::to_string(&text).expect("a text is JSON");
        let read = serde_json::from_str::<RequestId>(&written);
        prop_assert_eq!(read.is_ok(), good);
        if let Ok(name) = read {
            prop_assert_eq!(name.as_str(), text.as_str());
            prop_assert_eq!(serde_json::to_string(&name).expect("a name is JSON"), written);
        }
    }

    #[test]
    fn an_allocation_id_reads_as_it_is_written(random: u64) {
        let id = AllocationId::from_bits(random);
        let text = id.to_string();
        prop_assert_eq!(text.len(), "alloc-".len() + 12);
        prop_assert_eq!(text.parse(), Ok(id));
        prop_assert_eq!(id, AllocationId::from_bits(random % (1 << 48)));
        prop_assert_ne!(id.next(), id);
    }

    #[test]
    fn an_allocation_id_has_only_one_spelling(
        text in prop_oneof![any::<String>(), "(alloc-)?[+ 0-9a-fA-F-]{10,14}", "alloc-[0-9a-f]{11}[+A-F0-9]"]
    ) {
        if let Ok(id) = text.parse::<AllocationId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn a_moment_reads_as_it_is_written(ms in RFC_3339_MS) {
        let moment = Timestamp::from_millis(ms);
        let text = serde_json::to_string(&moment).expect("a moment has a text");
        prop_assert_eq!(serde_json::from_str::<Timestamp>(&text).expect(&text), moment);
        prop_assert!(text.ends_with("Z\""), "{}", text);
    }

    #[test]
    fn an_outage_of_any_length_can_be_noted(since: i64, grace: u64) {
        for since in [Timestamp::from_millis(since), Timestamp::MIN] {
            // This writes the event, and reads it back.
            let grace = Millis(grace);
            carry_out(&mut cluster(), &Command::NoteOutage { since, grace, spread: Millis(0) });
            carry_out(&mut cluster(), &Command::NoteOutage { since, grace, spread: grace });
        }
    }

    #[test]
    fn moments_and_spans_stay_in_their_range(a: i64, b: i64, span: u64) {
        let (a, b, span) = (Timestamp::from_millis(a), Timestamp::from_millis(b), Millis(span));
        prop_assert!(a.after(span) >= a && a.before(span) <= a);
        prop_assert!(b.since(a).0 == 0 || a.after(b.since(a)) <= b);
        let _ = (a.to_string(), b.to_string());
    }

    #[test]
    fn a_note_reads_as_it_is_written(object in object()) {
        let metadata = Metadata::new(&object);
        let written = serde_json::to_string(&metadata).expect("a note has a text");
        prop_assert_eq!(&written, metadata.as_json());
        prop_assert_eq!(serde_json::from_str::<Metadata>(&written).expect(&written), metadata.clone());
        let entries = object.iter().rev().map(|(key, value)| (key.clone(), value.clone()));
        let backwards: Map<String, Value> = entries.collect();
        prop_assert_eq!(Metadata::new(&backwards), metadata);
    }

    #[test]
    fn a_priority_is_read_in_any_case(index in 0..4_usize, upper in vec(any::<bool>(), 8)) {
        let priority = Priority::ALL[index];
        let letters = priority.as_str().chars().zip(upper);
        let text: String = letters.map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect();
        prop_assert_eq!(text.parse::<Priority>(), Ok(priority));
    }
}
