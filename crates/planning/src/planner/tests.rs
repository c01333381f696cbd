mod agents;
mod capacity_plan;

use super::*;
use cortex_core::Cluster;
use cortex_core::fleet::view::FleetLoad;
use cortex_core::policy::{Percent, Policy};
use cortex_core::units::{CpuMillis, MemoryMb, WorkerSize};
use cortex_core::view::RequestCounts;

const SIZE: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) };

const BOUNDS: Bounds = Bounds { workers_min: 2, workers_max: 40 };

fn seen(total: u64, leased: u64, refused: u64) -> Observation {
    Observation {
        at: Timestamp::from_millis(1_000_000),
        window: Millis::from_seconds(30),
        workers_total: total,
        workers_leased: leased,
        workers_held: leased,
        workers_fit: u64::MAX,
        granted: 5,
        refused,
        refused_workers_max: 0,
        fleet: FleetLoad::default(),
        // Without a stabilization window.
        policy: Policy { scale_in_window_ms: Millis(0), ..Policy::BALANCED },
        tasks_per_second: None,
        tasks_per_minute: None,
    }
}

/// Returns the observation with another policy.
fn by(policy: Policy, seen: Observation) -> Observation {
    Observation { policy, ..seen }
}

fn nothing_found(seen: &Observation) -> Bottlenecks {
    Bottlenecks { at: seen.at, found: Vec::new() }
}

fn plan(planner: &Planner, seen: &Observation) -> Plan {
    planner.plan(seen, Some(&nothing_found(seen)))
}

fn planner(workers_min: u64, workers_max: u64) -> Planner {
    Planner::new(Bounds { workers_min, workers_max })
}

fn check(planner: &Planner, seen: &Observation, action: Action, target: u64, because: &[&str]) {
    let plan = plan(planner, seen);
    assert_eq!((plan.action, plan.target_workers), (action, target), "{plan:#?}");
    for reason in because {
        assert!(plan.reasons.iter().any(|given| given.contains(reason)), "{reason:?} is not in {:#?}", plan.reasons);
    }
}

#[test]
fn utilization_decides() {
    let p = planner(2, 40);
    check(
        &p,
        &seen(10, 9, 0),
        Action::ScaleUp,
        13,
        &["90 % of the workers are leased, over 80 %", "requires 13 workers"],
    );
    check(&p, &seen(10, 8, 0), Action::Hold, 10, &["80 % of the workers are leased, between 20 % and 80 %"]);
    check(&p, &seen(10, 2, 0), Action::Hold, 10, &["between"]);
    check(&p, &seen(10, 1, 0), Action::ScaleDown, 5, &["10 % of the workers are leased, under 20 %"]);
    check(&p, &seen(10, 0, 0), Action::ScaleDown, 5, &["0 workers are needed, but the limits are 2 to 40"]);
    check(&p, &seen(40, 40, 0), Action::Hold, 40, &["58 workers are needed, but the limits are 2 to 40"]);
    check(&p, &seen(0, 0, 0), Action::ScaleUp, 2, &[]);
}

#[test]
fn a_refusal_scales_up_whatever_the_utilization() {
    let p = planner(2, 40);
    let refused = Observation { refused_workers_max: 8, ..seen(10, 3, 4) };
    check(&p, &refused, Action::ScaleUp, 11, &["refused for lack of workers (4 refused in total)"]);
    check(&p, &Observation { refused_workers_max: 0, ..refused }, Action::Hold, 10, &[]);
    let large = Observation { refused_workers_max: 20, ..refused };
    check(
        &p,
        &large,
        Action::ScaleUp,
        20,
        &["for up to 20 workers", "23 workers are needed, but one step is limited to 20"],
    );
    check(&p, &Observation { refused_workers_max: u64::from(u32::MAX), ..refused }, Action::ScaleUp, 20, &[]);
}

#[test]
fn nothing_is_done_before_anything_was_observed() {
    let first = Observation { window: Millis(0), ..seen(10, 0, 0) };
    check(&planner(2, 40), &first, Action::Hold, 10, &["nothing has been observed yet"]);
}

#[test]
fn equal_bounds_hold() {
    check(&planner(10, 10), &seen(10, 10, 9), Action::Hold, 10, &["both 10: the number is fixed"]);
    check(&planner(10, 10), &seen(10, 0, 0), Action::Hold, 10, &[]);
}

#[test]
fn the_trend_moves_the_target() {
    let mut p = planner(1, 100);
    let calm = Observation { granted: 5, ..seen(10, 9, 0) };
    let first = plan(&p, &calm);
    p.record(&first, false);
    check(
        &p,
        &Observation { granted: 50, ..calm },
        Action::ScaleUp,
        16,
        &["increasing (100.0 per minute, 120.0 expected)"],
    );
    check(
        &p,
        &Observation { refused_workers_max: 1, granted: 1, ..calm },
        Action::ScaleUp,
        11,
        &["decreasing (2.0 per minute, 1.6 expected)"],
    );
}

#[test]
fn nothing_changes_within_the_cooldown() {
    for policy in Policy::NAMED {
        let mut p = Planner::new(BOUNDS);
        let busy = by(policy, seen(10, 9, 0));
        let first = plan(&p, &busy);
        p.record(&first, true);
        let later = |ms| Observation { at: busy.at.after(Millis(ms)), ..busy };
        check(&p, &later(policy.cooldown_ms.0 - 1), Action::Hold, 10, &["the number of workers changed less than"]);
        check(&p, &later(policy.cooldown_ms.0), Action::ScaleUp, 13, &[]);
    }
}

#[test]
fn leased_workers_stay() {
    let overdue = Observation { workers_held: 7, ..seen(10, 0, 0) };
    check(&planner(1, 10), &overdue, Action::ScaleDown, 7, &["7 workers are leased and cannot be removed"]);
}

#[test]
fn scale_in_stops_at_the_highest_recent_recommendation() {
    let mut p = Planner::new(BOUNDS);
    let start = seen(30, 0, 0).at;
    let mut plan_at = |seconds: u64, leased| {
        let seen = by(Policy::BALANCED, seen(30, leased, 0));
        let plan = plan(&p, &Observation { at: start.after(Millis::from_seconds(seconds)), ..seen });
        p.record(&plan, false);
        (plan.action, plan.target_workers)
    };
    // The need before the first plan is unknown.
    assert_eq!(plan_at(0, 0), (Action::Hold, 30));
    assert_eq!(plan_at(299, 5), (Action::Hold, 30));
    assert_eq!(plan_at(300, 0), (Action::ScaleDown, 15), "8 were needed for 5, and a step is half");
    assert_eq!(plan_at(301, 25), (Action::ScaleUp, 36));
    assert_eq!(plan_at(600, 0), (Action::Hold, 30), "36 were needed 299 s ago");
    assert_eq!(plan_at(601, 0), (Action::ScaleDown, 15));
}

#[test]
fn numbers_within_the_tolerance_stay_unless_requests_wait() {
    let p = planner(1, 1_000);
    // 71 leased workers need 102, which is within a tenth of 100.
    let up = Percent::new(70).expect("a part");
    let seen = |total, leased, refused| {
        let seen = seen(total, leased, refused);
        by(Policy { utilization_up: up, ..seen.policy }, seen)
    };
    check(&p, &seen(100, 71, 0), Action::Hold, 100, &["102 workers are within 10 % of the current 100"]);
    check(&p, &Observation { refused_workers_max: 1, ..seen(100, 71, 1) }, Action::ScaleUp, 102, &[]);
    check(&p, &seen(100, 78, 0), Action::ScaleUp, 112, &[]);
}

#[test]
fn a_step_that_fails_is_named_and_the_others_go_on() {
    let blind = planner(2, 40).plan(&seen(10, 9, 0), None);
    assert_eq!((blind.bottlenecks, blind.failed_steps), (None, vec!["bottlenecks"]));
    assert_eq!((blind.action, blind.target_workers), (Action::ScaleUp, 13));
    let mut failed = Vec::new();
    assert_eq!(run_step("fine", &mut failed, || 7), Some(7));
    assert_eq!(run_step("faulty", &mut failed, || panic!("on purpose")), None::<()>);
    assert_eq!(failed, ["faulty"]);
}

#[test]
fn a_need_that_a_step_or_the_cooldown_left_is_kept() {
    let mut p = planner(2, 40);
    let cluster = Cluster::default();
    let start = seen(10, 3, 0).at;
    let mut plan_at = |seconds: u64, total: u64, refused: u64| {
        let at = start.after(Millis::from_seconds(seconds));
        let mut demand =
            cluster.demand(at, RequestCounts { refused_workers_max: refused, ..RequestCounts::default() }, SIZE);
        demand.capacity.total.workers = total;
        demand.workers_fit = 100;
        let seen = p.sample(at, &demand);
        let plan = plan(&p, &seen);
        p.record(&plan, plan.action != Action::Hold);
        plan.target_workers
    };
    assert_eq!(plan_at(0, 10, 0), 10, "the first sample");
    assert_eq!(plan_at(30, 10, 30), 20, "one step");
    assert_eq!(plan_at(40, 20, 0), 20, "the cooldown");
    assert_eq!(plan_at(50, 20, 0), 30, "as many as were requested");
    assert_eq!(plan_at(80, 30, 0), 30);
}

#[test]
fn no_more_workers_than_cpu_and_memory_suffice_for() {
    let busy = Observation { workers_fit: 12, ..seen(10, 9, 0) };
    check(&planner(2, 40), &busy, Action::ScaleUp, 12, &["CPU and memory suffice for 12 workers"]);
    let fewer = Observation { workers_fit: 8, ..busy };
    check(&planner(2, 40), &fewer, Action::Hold, 10, &["suffice for 8 workers"]);
}
