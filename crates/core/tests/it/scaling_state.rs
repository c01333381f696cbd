//! The scaling state, against a reference that keeps everything and computes the rest for each query.

use cortex_core::command::{Command, Outcome};
use cortex_core::demand::{DEMAND_BIN, DEMAND_BINS_MAX, DemandBin};
use cortex_core::event::{Event, Recorded};
use cortex_core::ids::NodeId;
use cortex_core::image::Restoration;
use cortex_core::policy::{Policy, PolicyName};
use cortex_core::scaling_state::{PastScaling, SCALING_REASON_CHARACTERS_MAX, SCALINGS_MAX, Scaling};
use cortex_core::time::{Millis, Timestamp};
use cortex_core::units::{CpuMillis, MemoryMb, Resources};
use cortex_core::{Cluster, check};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A command, with the milliseconds since the one before.
#[derive(Clone, Debug)]
enum Step {
    Count(Vec<[u64; 4]>),
    Set(PolicyName, u64),
    Scale(u64, usize),
}

fn step() -> impl Strategy<Value = (u64, Step)> {
    let count = prop::collection::vec([0..3_u64, 0..2, 0..9, 0..50], 0..3);
    let step = prop_oneof![
        6 => count.prop_map(Step::Count),
        1 => (0..4_usize, 0..3_u64).prop_map(|(name, figure)| {
            let names =
                [PolicyName::Aggressive, PolicyName::Balanced, PolicyName::Conservative, PolicyName::Custom];
            Step::Set(names[name], figure)
        }),
        3 => (0..100_u64, 0..1_200_usize).prop_map(|(workers, characters)| Step::Scale(workers, characters)),
    ];
    // Mostly within a bin, sometimes days.
    let later = prop_oneof![8 => 0..400_000_u64, 1 => 0..2_000_000_000_u64];
    (later, step)
}

fn decide(cluster: &mut Cluster, log: &mut Vec<Recorded>, now: Timestamp, command: &Command) -> usize {
    let decision = cluster.decide(now, command).expect("it is never refused");
    let expected = match command {
        Command::SetPolicy(current) => Outcome::PolicySet { previous: cluster.policy(), current: *current },
        _ => Outcome::Done,
    };
    assert_eq!(decision.outcome, expected);
    let events = decision.events.len();
    for event in decision.events {
        let recorded = Recorded { at: now, event };
        cluster.apply(&recorded);
        log.push(recorded);
        assert_eq!(check::violations(cluster), [""; 0]);
    }
    events
}

fn restored(cluster: &Cluster) -> Cluster {
    let mut restoration = Restoration::new(cluster.outline());
    if let Some(image) = cluster.scaling_state_image() {
        restoration.add_scaling_state(&image).expect("a valid image");
    }
    restoration.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_state_matches_the_reference(steps in prop::collection::vec(step(), 1..400)) {
        let (mut cluster, mut log) = (Cluster::default(), Vec::new());
        let mut now = Timestamp::from_millis(1_750_000_000_000);
        let mut demand: BTreeMap<Timestamp, [u64; 4]> = BTreeMap::new();
        let (mut policy, mut scalings) = (Policy::BALANCED, Vec::new());
        let (cpu_millis, memory_mb) = (CpuMillis::from_millis(8_000), MemoryMb(16_000));
        let mut capacity = Resources { workers: 50, cpu_millis, memory_mb };
        decide(&mut cluster, &mut log, now, &Command::SetCapacity { node: NodeId::local(), capacity });
        for (later_ms, step) in steps {
            now = now.after(Millis(later_ms));
            match step {
                Step::Count(counts) => {
                    let from = DemandBin::start_of(now);
                    let bins = counts.iter().map(|[requests, refused, task_submissions, workers_max]| DemandBin {
                        from,
                        requests: *requests,
                        refused: *refused,
                        task_submissions: *task_submissions,
                        workers_max: *workers_max,
                    });
                    let events = decide(&mut cluster, &mut log, now, &Command::CountDemand(bins.collect()));
                    let something: Vec<_> = counts.into_iter().filter(|counts| *counts != [0; 4]).collect();
                    prop_assert_eq!(events, something.len(), "an empty bin leads to no event");
                    for [requests, refused, submissions, workers] in something {
                        let bin = demand.entry(from).or_default();
                        *bin = [bin[0] + requests, bin[1] + refused, bin[2] + submissions, bin[3].max(workers)];
                    }
                }
                Step::Set(name, figure) => {
                    let set = Policy { queue_depth_up: figure, ..name.policy() };
                    let events = decide(&mut cluster, &mut log, now, &Command::SetPolicy(set));
                    prop_assert_eq!(events, usize::from(set != policy));
                    policy = set;
                }
                Step::Scale(workers, characters) => {
                    let scaling = Scaling {
                        policy: policy.name,
                        workers_from: workers,
                        workers_to: workers + 1,
                        agents_from: 0,
                        agents_to: 0,
                        reason: Arc::from("ü".repeat(characters)),
                    };
                    let events = decide(&mut cluster, &mut log, now, &Command::Scale(scaling.clone()));
                    prop_assert_eq!(events, 1 + usize::from(capacity.workers != workers + 1));
                    capacity.workers = workers + 1;
                    let reason = "ü".repeat(characters.min(SCALING_REASON_CHARACTERS_MAX));
                    scalings.push(PastScaling { at: now, scaling: Scaling { reason: Arc::from(reason), ..scaling } });
                }
            }
        }
        let newest = demand.keys().next_back().copied();
        let is_kept = |from: Timestamp| {
            newest.is_some_and(|newest| newest.since(from).0 < DEMAND_BIN.0 * DEMAND_BINS_MAX as u64)
        };
        let kept: Vec<(Timestamp, [u64; 4])> = demand.into_iter().filter(|(from, _)| is_kept(*from)).collect();
        let counts_of = |bin: &DemandBin| {
            (bin.from, [bin.requests, bin.refused, bin.task_submissions, bin.workers_max])
        };
        prop_assert_eq!(cluster.demand_bins(None).map(counts_of).collect::<Vec<_>>(), kept.clone());
        if let Some((first, _)) = kept.first() {
            prop_assert_eq!(cluster.demand_bins(Some(*first)).count(), kept.len() - 1);
        }
        prop_assert_eq!(cluster.policy(), policy);
        prop_assert_eq!(cluster.capacity(now).total, capacity);
        let last = scalings.len().saturating_sub(SCALINGS_MAX);
        prop_assert!(cluster.scalings().eq(scalings[last..].iter().rev()));

        let mut replica = Cluster::default();
        for recorded in &log {
            let written = serde_json::to_string(recorded).expect("an event has a text");
            replica.apply(&serde_json::from_str(&written).expect("and is read again"));
        }
        prop_assert_eq!(&replica, &cluster);
        let restored = restored(&cluster);
        prop_assert!(restored.has_image_of(&cluster));
        prop_assert_eq!(&restored, &cluster);
    }
}

#[test]
fn an_image_that_contradicts_itself_is_rejected() {
    let check = |image: &str, complaint: &str| {
        let mut restoration = Restoration::new(Cluster::default().outline());
        let error = restoration.add_scaling_state(image).expect_err(image).to_string();
        assert!(error.contains(complaint), "{error}");
    };
    let mut cluster = Cluster::default();
    let bin = |minute: i64| DemandBin { requests: 1, ..DemandBin::empty(Timestamp::from_millis(minute * 60_000)) };
    for minute in [5, 10] {
        cluster.apply(&Recorded { at: bin(minute).end(), event: Event::DemandCounted { bin: bin(minute) } });
    }
    let image = cluster.scaling_state_image().expect("demand");
    assert!(Restoration::new(Cluster::default().outline()).add_scaling_state(&image).is_ok());
    let [first, second] = ["1970-01-01T00:05:00.000Z", "1970-01-01T00:10:00.000Z"];
    check(&image.replace(second, first), "demand bins are not in order");
    check(&image.replace(second, "1970-01-01T00:10:01.000Z"), "demand bins are not in order");
    check(&image.replace("requests", "wishes"), "unknown field `wishes`");
    check("{", "EOF");
}
