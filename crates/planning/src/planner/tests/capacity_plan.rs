//! Capacity plans for the expected demand.

use super::agents::one_minute_agents;
use super::*;
use crate::{AgentRequirement, RequiredCapacity, WhatIf, WorkerRequirement};
use cortex_core::demand::DEMAND_BIN;
use cortex_core::fleet::task_stats::DurationStats;
use cortex_core::fleet::view::FleetLoad;

/// Returns a planner that has observed this demand in each of the bins before the observation.
fn informed(bins: u64, task_submissions: u64, workers_max: u64) -> Planner {
    let mut planner = Planner::new(BOUNDS);
    let until = DemandBin::start_of(seen(10, 3, 0).at);
    let bin =
        |ago| DemandBin { task_submissions, workers_max, ..DemandBin::empty(until.before(Millis(DEMAND_BIN.0 * ago))) };
    let bins: Vec<DemandBin> = (1..=bins).rev().map(bin).collect();
    planner.ingest(&bins, until);
    planner
}

#[test]
fn expected_demand_is_planned_for_once_forecasts_are_trusted() {
    // 100 tasks of a minute each in five minutes are 20 concurrent tasks: 70 % utilization requires 29 slots, and the
    // wait limit 25. The pool needs workers for the 11 agents to add.
    let busy = Observation { fleet: one_minute_agents(18, 10), ..seen(30, 20, 0) };
    let informed_plan = plan(&informed(60, 100, 20), &busy);
    let ahead = informed_plan.capacity.agents.expect("enough is known");
    assert_eq!((ahead.required, ahead.capacity.slots_for_utilization), (29, 29), "{ahead:?}");
    assert!((ahead.tasks_per_minute - 20.0).abs() < 1e-9 && ahead.confidence > Some(0.99), "{ahead:?}");
    assert_eq!((informed_plan.wanted_agents, informed_plan.target_agents), (29, 29), "{informed_plan:#?}");
    check(
        &informed(60, 100, 20),
        &busy,
        Action::ScaleUp,
        31,
        &["requires 29 agents", "20.0 tasks per minute", "20.0 concurrent tasks"],
    );

    // The observation alone would keep all agents, because more than a fifth is in use; the forecast needs fewer.
    let idle = Observation { fleet: one_minute_agents(30, 8), ..busy };
    assert_eq!(plan(&informed(60, 20, 20), &idle).target_agents, 15, "12 for those at work, and a step is half");
    assert_eq!(plan(&informed(60, 0, 20), &idle).target_agents, 15);
    assert_eq!(plan(&informed(60, 95, 20), &idle).target_agents, 30, "28 are within the tolerance");
}

#[test]
fn too_little_history_leaves_the_plan_to_the_observation() {
    let busy = Observation { fleet: one_minute_agents(18, 10), ..seen(30, 20, 0) };
    let check_missing = |planner: &Planner, seen: &Observation, missing: &str| {
        let plan = plan(planner, seen);
        assert_eq!((plan.capacity.agents, plan.target_agents), (None, 18), "{plan:#?}");
        assert!(plan.reasons.iter().any(|reason| reason.contains(missing)), "{plan:#?}");
    };
    check_missing(&informed(0, 100, 20), &busy, "no capacity plan for agents: 0 of 32 bins");
    check_missing(&informed(31, 100, 20), &busy, "no capacity plan for workers: 31 of 32 bins");
    check_missing(&informed(40, 100, 20), &busy, "fewer than 12 forecasts can be compared");
    let unknown = Observation { fleet: FleetLoad { durations: None, ..busy.fleet }, ..busy };
    check_missing(&informed(60, 100, 20), &unknown, "no task has succeeded yet");
    // A what-if rate needs no forecast.
    let assumed = busy.with(&WhatIf { rate_per_minute: Some(20), ..WhatIf::default() });
    let plan = plan(&informed(0, 0, 0), &assumed);
    let ahead = plan.capacity.agents.expect("the rate is given");
    assert_eq!((ahead.required, ahead.capacity.slots_for_utilization, plan.target_agents), (29, 29, 29), "{plan:#?}");
}

#[test]
fn forecasts_that_failed_too_often_are_shown_but_ignored() {
    let ahead = |confidence| AgentRequirement {
        tasks_per_minute: 20.0,
        confidence: Some(confidence),
        durations: DurationStats { mean: Millis(1_000), variability: 1.0 },
        arrival_variability: 1.0,
        capacity: RequiredCapacity {
            concurrent_tasks: 1.0,
            slots_for_utilization: 2,
            slots_for_waiting: 2,
            required: 2,
            wait_probability: 0.0,
        },
        required: 2,
    };
    let trusted = |confidence| {
        let workers = Some(WorkerRequirement { required: 3, confidence });
        let plan = CapacityPlan { agents: Some(ahead(confidence)), workers };
        (plan.trusted_agents(), plan.trusted_workers())
    };
    assert_eq!(trusted(0.69), (None, None));
    assert_eq!(trusted(0.7), (Some(2), Some(3)));
}

#[test]
fn workers_are_planned_for_the_expected_demand() {
    // 20 of 30 are in use; 36 will be needed.
    check(&informed(60, 0, 36), &seen(30, 20, 0), Action::ScaleUp, 36, &["the demand forecast requires 36 workers"]);
    check(&informed(60, 0, 32), &seen(30, 20, 0), Action::Hold, 30, &["32 workers are within 10 % of the current 30"]);
    // 10 of 30 are in use, and at most 12 will be needed: 15 are enough for 70 %.
    check(&informed(60, 0, 12), &seen(30, 10, 0), Action::ScaleDown, 15, &["up to 12 workers are expected"]);
    check(&informed(60, 0, 28), &seen(30, 10, 0), Action::Hold, 30, &[]);
}

#[test]
fn demand_beyond_the_planning_limit_is_not_planned_for() {
    let busy = Observation { fleet: one_minute_agents(18, 10), ..seen(30, 20, 0) };
    let assumed = busy.with(&WhatIf { rate_per_minute: Some(1_000_000_000), ..WhatIf::default() });
    let plan = plan(&informed(0, 0, 0), &assumed);
    assert_eq!(plan.capacity.agents, None);
    assert!(plan.reasons.iter().any(|reason| reason.contains("200000 concurrent tasks or more")), "{plan:#?}");
}
