//! Invariants of every plan, whatever was observed and planned before.

use cortex_core::demand::{DEMAND_BIN, DemandBin};
use cortex_core::fleet::task_stats::DurationStats;
use cortex_core::fleet::view::FleetLoad;
use cortex_core::policy::Policy;
use cortex_core::time::{Millis, Timestamp};
use cortex_planning::{
    Action, Bottlenecks, Bounds, Observation, Plan, Planner, RequiredCapacity, ServiceTarget, Workload,
};
use proptest::prelude::*;

/// The start of the observations, at the start of a bin.
const START: Timestamp = Timestamp::from_millis(1_700_000_100_000);

/// An observation, and the milliseconds since the one before.
fn observation() -> impl Strategy<Value = (u64, Observation)> {
    let pool = (0..200_u64, 0..=100_u64, 0..=100_u64, 0..50_u64, 0..20_u64, 0..100_u64);
    let fleet = (0..100_u64, 1..5_u64, 0..=100_u64, 0..500_u64, 0..20_000_u64, prop::option::of(0..120_u64));
    let more = (prop::option::of(0.0..20.0_f64), 0..400_u64, 0..60_000_u64);
    (pool, fleet, more).prop_map(|(pool, fleet, (tasks_per_second, workers_fit, later_ms))| {
        let (total, leased, overdue, granted, refused, refused_workers_max) = pool;
        let (agents, room_each, busy, waiting, wait_ms, quota) = fleet;
        let workers_held = total * leased / 100;
        let room = agents * room_each;
        let running = room * busy / 100;
        let seen = Observation {
            at: Timestamp::from_millis(0),
            window: Millis(30_000),
            workers_total: total,
            workers_leased: workers_held - workers_held * overdue / 100,
            workers_held,
            workers_fit,
            granted,
            refused,
            refused_workers_max: if refused == 0 { 0 } else { refused_workers_max },
            fleet: FleetLoad {
                agents,
                agents_at_work: running.min(agents),
                task_slots: room,
                running,
                waiting,
                wait_mean: Millis(wait_ms),
                quota,
                durations: Some(DurationStats { mean: Millis(20_000), variability: 1.0 }),
                ..FleetLoad::default()
            },
            policy: Policy::BALANCED,
            tasks_per_second,
            tasks_per_minute: None,
        };
        (later_ms, seen)
    })
}

/// Plans without bottlenecks.
fn plan_for(planner: &Planner, seen: &Observation) -> Plan {
    planner.plan(seen, Some(&Bottlenecks { at: seen.at, found: Vec::new() }))
}

/// The demand bins observed before: none, too few for a forecast, or enough.
fn bins() -> impl Strategy<Value = Vec<DemandBin>> {
    let bin = (0..400_u64, 0..150_u64).prop_map(|(task_submissions, workers_max)| DemandBin {
        task_submissions,
        workers_max,
        ..DemandBin::empty(START)
    });
    // Forecasts of steady demand are trusted.
    let steady = (0..400_u64, 0..150_u64, 50..80_usize).prop_map(|(task_submissions, workers_max, bins)| {
        vec![DemandBin { task_submissions, workers_max, ..DemandBin::empty(START) }; bins]
    });
    prop_oneof![Just(Vec::new()), prop::collection::vec(bin, 1..80), steady].prop_map(|bins| {
        let dated = |(index, bin): (usize, DemandBin)| {
            let ago = Millis(DEMAND_BIN.0 * (bins.len() - index) as u64);
            DemandBin { from: START.before(ago), ..bin }
        };
        bins.iter().copied().enumerate().map(dated).collect()
    })
}

/// A planner that has planned for all observations but the last, and the last observation.
fn planner() -> impl Strategy<Value = (Planner, Observation)> {
    let bounds = (0..60_u64, 0..200_u64).prop_map(|(min, more)| Bounds { workers_min: min, workers_max: min + more });
    (0..3_usize, bounds, bins(), prop::collection::vec(observation(), 1..12)).prop_map(
        |(policy, bounds, bins, history)| {
            let mut planner = Planner::new(bounds);
            planner.ingest(&bins, START);
            let mut at = START;
            let mut last = None;
            for (later_ms, seen) in history {
                if let Some(seen) = last {
                    let plan = plan_for(&planner, &seen);
                    planner.record(&plan, plan.action != Action::Hold);
                }
                at = at.after(Millis(later_ms));
                last = Some(Observation { at, policy: Policy::NAMED[policy], ..seen });
            }
            (planner, last.expect("at least one"))
        },
    )
}

proptest! {
    #[test]
    fn more_demand_never_plans_fewer(
        (planner, seen) in planner(),
        (waiting, wait_ms, running, leased, refused) in (0..300_u64, 0..9_000_u64, 0..50_u64, 0..50_u64, 0..9_u64),
        more_tasks in 0.0..5.0_f64,
    ) {
        let fleet = seen.fleet;
        let running = (fleet.running + running).min(fleet.task_slots);
        let more = Observation {
            workers_leased: (seen.workers_leased + leased).min(seen.workers_held),
            refused: seen.refused + refused,
            refused_workers_max: seen.refused_workers_max + refused,
            tasks_per_second: seen.tasks_per_second.map(|tasks| tasks + more_tasks),
            fleet: FleetLoad {
                waiting: fleet.waiting + waiting,
                wait_mean: Millis(fleet.wait_mean.0 + wait_ms),
                running,
                agents_at_work: fleet.agents_at_work.max(running.min(fleet.agents)),
                ..fleet
            },
            ..seen
        };
        let (less, more) = (plan_for(&planner, &seen), plan_for(&planner, &more));
        prop_assert!(more.target_agents >= less.target_agents, "{more:#?}\n{less:#?}");
        prop_assert!(more.wanted_workers >= less.wanted_workers, "{more:#?}\n{less:#?}");
        prop_assert!(more.target_workers >= less.target_workers, "{more:#?}\n{less:#?}");
    }

    #[test]
    fn no_plan_leaves_the_bounds_the_quota_or_what_is_held((planner, seen) in planner()) {
        let plan = plan_for(&planner, &seen);
        let (current, held, fleet) = (seen.workers_total, seen.workers_held, seen.fleet);
        if plan.action == Action::Hold {
            prop_assert_eq!(plan.target_workers, current);
        } else {
            let is_within = (plan.min_workers..=plan.max_workers).contains(&plan.target_workers);
            // After a change of the limits it takes several steps, and leased workers stay.
            let is_in_transition = plan.target_workers >= plan.max_workers && plan.target_workers < current;
            // Fewer than the lower limit, if CPU and memory do not suffice for more.
            let is_all_that_fits = plan.target_workers >= seen.workers_fit.max(current);
            prop_assert!(is_within || is_in_transition || is_all_that_fits, "{plan:#?}");
        }
        prop_assert!(plan.target_workers >= held.min(current), "{plan:#?}");
        prop_assert!(plan.target_workers <= seen.workers_fit.max(current), "{plan:#?}");
        prop_assert!(plan.target_workers <= current.saturating_add(current.max(4)).max(plan.min_workers), "{plan:#?}");
        prop_assert!(plan.target_workers >= current / 2 || plan.target_workers + 4 >= current, "{plan:#?}");
        prop_assert!(plan.target_agents <= fleet.quota.map_or(u64::MAX, |quota| quota.max(fleet.agents)));
        prop_assert!(plan.target_agents >= fleet.agents_at_work.min(fleet.agents));
        prop_assert!(plan.target_agents >= fleet.agents.min(1));
        prop_assert!(!plan.reasons.is_empty());
    }

    /// A plan can be requested repeatedly, and the next run makes the same plan from the same observation.
    #[test]
    fn a_dry_run_equals_the_executed_plan((planner, seen) in planner()) {
        let shown = plan_for(&planner, &seen);
        prop_assert_eq!(&plan_for(&planner, &seen), &shown);
        prop_assert_eq!(&plan_for(&planner.clone(), &seen), &shown);
    }

    #[test]
    fn more_work_never_requires_fewer_slots(
        (rate, more_rate) in (0.0..1_000.0_f64, 0.0..1_000.0_f64),
        (duration_ms, longer_ms) in (0..100_000_u64, 0..100_000_u64),
        (bursts, more_bursts) in (0.0..50.0_f64, 0.0..50.0_f64),
        most in 0..5_000_u64,
    ) {
        let less = Workload {
            tasks_per_second: rate,
            duration_mean: Millis(duration_ms),
            arrival_variability: bursts,
            duration_variability: 1.0,
        };
        let of = |work: &Workload| RequiredCapacity::of(work, &ServiceTarget::DEFAULT, most);
        let capacity = of(&less);
        prop_assert!(capacity.required <= most && (0.0..=1.0).contains(&capacity.wait_probability), "{capacity:?}");
        let more = of(&Workload { tasks_per_second: rate + more_rate, ..less });
        prop_assert!(more.required >= capacity.required, "{more:?}");
        let bursting = of(&Workload { arrival_variability: bursts + more_bursts, ..less });
        prop_assert!(bursting.required >= capacity.required, "{bursting:?}");
        let longer = of(&Workload { duration_mean: Millis(duration_ms + longer_ms), ..less });
        prop_assert!(longer.slots_for_utilization >= capacity.slots_for_utilization, "{longer:?}");
    }

    /// A change of direction and back takes at least two cooldowns.
    #[test]
    fn no_policy_flaps(policy in 0..3_usize, demand in prop::collection::vec((0..100_u64, 1..20_u64), 1..200)) {
        let policy = Policy::NAMED[policy];
        let mut planner = Planner::new(Bounds { workers_min: 1, workers_max: 100 });
        let (mut at, mut total) = (Timestamp::from_millis(0), 10);
        let mut changes: Vec<(Timestamp, Action)> = Vec::new();
        for (wanted, seconds) in demand {
            at = at.after(Millis::from_seconds(seconds));
            let (leased, short) = (wanted.min(total), wanted.saturating_sub(total));
            let seen = Observation {
                at,
                window: Millis::from_seconds(seconds),
                workers_total: total,
                workers_leased: leased,
                workers_held: leased,
                workers_fit: u64::MAX,
                granted: wanted,
                refused: short.min(1),
                refused_workers_max: short,
                fleet: FleetLoad::default(),
                policy,
                tasks_per_second: None,
        tasks_per_minute: None,
            };
            let plan = plan_for(&planner, &seen);
            let changed = plan.action != Action::Hold;
            planner.record(&plan, changed);
            if changed {
                total = plan.target_workers;
                changes.push((at, plan.action));
            }
        }
        for pair in changes.windows(2) {
            prop_assert!(pair[1].0.since(pair[0].0) >= policy.cooldown_ms);
            let turns_down = (pair[0].1, pair[1].1) == (Action::ScaleUp, Action::ScaleDown);
            prop_assert!(!turns_down || pair[1].0.since(pair[0].0) >= policy.scale_in_window_ms, "{changes:?}");
        }
    }
}
