//! What is planned for the demand to come.

use super::agents::workers_of_a_minute;
use super::*;
use crate::{AgentsAhead, Capacity, WhatIf, WorkersAhead};
use cortex_core::demand::DEMAND_BIN;
use cortex_core::fleet::estimate::DurationsSeen;
use cortex_core::fleet::view::FleetLoad;

/// A planner that has seen this demand in each of so many bins up to the moment that `seen` is of.
fn informed(bins: u64, task_submissions: u64, workers_max: u64) -> Planner {
    let mut planner = Planner::new(BOUNDS);
    let until = DemandBin::start_of(seen(10, 3, 0).at);
    let bin =
        |ago| DemandBin { task_submissions, workers_max, ..DemandBin::empty(until.before(Millis(DEMAND_BIN.0 * ago))) };
    let bins: Vec<DemandBin> = (1..=bins).rev().map(bin).collect();
    planner.take_in(&bins, until);
    planner
}

#[test]
fn what_is_to_come_is_planned_for_once_forecasts_have_proved_themselves() {
    // 100 tasks in five minutes of a minute each are 20 under way: at 70 % that takes 29 places, and 25 so that few wait.
    // The pool is to have room for the 11 that should come.
    let busy = Observation { fleet: workers_of_a_minute(18, 10), ..seen(30, 20, 0) };
    let informed_plan = plan(&informed(60, 100, 20), &busy);
    let ahead = informed_plan.capacity.agents.expect("enough is known");
    assert_eq!((ahead.required, ahead.capacity.for_utilization), (29, 29), "{ahead:?}");
    assert!((ahead.tasks_per_minute - 20.0).abs() < 1e-9 && ahead.confidence > Some(0.99), "{ahead:?}");
    assert_eq!((informed_plan.wanted_agents, informed_plan.target_agents), (29, 29), "{informed_plan:#?}");
    check(
        &informed(60, 100, 20),
        &busy,
        Action::ScaleUp,
        31,
        &["29 agents are planned", "20.0 tasks a minute", "20.0 under way"],
    );

    // By what is seen all would be kept, as more than a fifth is in use; less is to come, so that fewer do.
    let idle = Observation { fleet: workers_of_a_minute(30, 8), ..busy };
    assert_eq!(plan(&informed(60, 20, 20), &idle).target_agents, 15, "12 for those at work, and a step is half");
    assert_eq!(plan(&informed(60, 0, 20), &idle).target_agents, 15);
    assert_eq!(plan(&informed(60, 95, 20), &idle).target_agents, 30, "28 are about as many");
}

#[test]
fn too_little_history_leaves_it_to_what_is_seen() {
    let busy = Observation { fleet: workers_of_a_minute(18, 10), ..seen(30, 20, 0) };
    let check_missing = |planner: &Planner, seen: &Observation, missing: &str| {
        let plan = plan(planner, seen);
        assert_eq!((plan.capacity.agents, plan.target_agents), (None, 18), "{plan:#?}");
        assert!(plan.reasons.iter().any(|reason| reason.contains(missing)), "{plan:#?}");
    };
    check_missing(&informed(0, 100, 20), &busy, "no capacity plan for agents: 0 of 32 bins");
    check_missing(&informed(31, 100, 20), &busy, "no capacity plan for workers: 31 of 32 bins");
    check_missing(&informed(40, 100, 20), &busy, "fewer than 12 forecasts have come due");
    let unknown = Observation { fleet: FleetLoad { durations: None, ..busy.fleet }, ..busy };
    check_missing(&informed(60, 100, 20), &unknown, "no task has gone well yet");
    // Whoever asks about a rate need not wait for a forecast.
    let asked = busy.with(&WhatIf { rate_per_minute: Some(20), ..WhatIf::default() });
    let plan = plan(&informed(0, 0, 0), &asked);
    let ahead = plan.capacity.agents.expect("the rate is given");
    assert_eq!((ahead.required, ahead.capacity.for_utilization, plan.target_agents), (29, 29, 29), "{plan:#?}");
}

#[test]
fn forecasts_that_failed_too_often_are_shown_and_not_gone_by() {
    let ahead = |confidence| AgentsAhead {
        tasks_per_minute: 20.0,
        confidence: Some(confidence),
        durations: DurationsSeen { mean: Millis(1_000), variability: 1.0 },
        arrival_variability: 1.0,
        capacity: Capacity { tasks_under_way: 1.0, for_utilization: 2, for_waiting: 2, required: 2, wait_chance: 0.0 },
        required: 2,
    };
    let trusted = |confidence| {
        let workers = Some(WorkersAhead { required: 3, confidence });
        let plan = CapacityPlan { agents: Some(ahead(confidence)), workers };
        (plan.trusted_agents(), plan.trusted_workers())
    };
    assert_eq!(trusted(0.69), (None, None));
    assert_eq!(trusted(0.7), (Some(2), Some(3)));
}

#[test]
fn workers_are_there_for_what_is_to_come() {
    // 20 of 30 are in use; 36 will be wanted.
    check(&informed(60, 0, 36), &seen(30, 20, 0), Action::ScaleUp, 36, &["36 workers are planned for"]);
    check(&informed(60, 0, 32), &seen(30, 20, 0), Action::Hold, 30, &["32 are about as many as 30"]);
    // 10 of 30 are in use, and no more than 12 will be wanted: 15 are enough for 70 %.
    check(&informed(60, 0, 12), &seen(30, 10, 0), Action::ScaleDown, 15, &["up to 12 workers are expected"]);
    check(&informed(60, 0, 28), &seen(30, 10, 0), Action::Hold, 30, &[]);
}

#[test]
fn what_no_fleet_could_do_is_not_planned_for() {
    let busy = Observation { fleet: workers_of_a_minute(18, 10), ..seen(30, 20, 0) };
    let asked = busy.with(&WhatIf { rate_per_minute: Some(1_000_000_000), ..WhatIf::default() });
    let plan = plan(&informed(0, 0, 0), &asked);
    assert_eq!(plan.capacity.agents, None);
    assert!(plan.reasons.iter().any(|reason| reason.contains("more than 200000 tasks at once")), "{plan:#?}");
}
