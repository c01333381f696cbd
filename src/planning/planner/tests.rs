use super::super::capacity::Capacity;
use super::super::capacity_plan::{AgentsAhead, WorkersAhead};
use super::super::observation::WhatIf;
use super::*;
use crate::core::{
    Cluster, CpuMillis, DEMAND_BIN, DurationsSeen, FleetLoad, MemoryMb, Percent, Policy, RequestsSeen, WorkerSize,
};

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
        // Without patience: what is wanted is done.
        policy: Policy { scale_in_window_ms: Millis(0), ..Policy::BALANCED },
        tasks_per_second: None,
        tasks_per_minute: None,
    }
}

/// The same by another policy.
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
        assert!(plan.reasons.iter().any(|said| said.contains(reason)), "{reason:?} is not in {:#?}", plan.reasons);
    }
}

#[test]
fn utilization_decides() {
    let p = planner(2, 40);
    check(&p, &seen(10, 9, 0), Action::ScaleUp, 13, &["90 % of the workers are leased, over 80 %", "takes 13 workers"]);
    check(&p, &seen(10, 8, 0), Action::Hold, 10, &["80 % of the workers are leased, between 20 % and 80 %"]);
    check(&p, &seen(10, 2, 0), Action::Hold, 10, &["between"]);
    check(&p, &seen(10, 1, 0), Action::ScaleDown, 5, &["10 % of the workers are leased, under 20 %"]);
    check(&p, &seen(10, 0, 0), Action::ScaleDown, 5, &["0 would be wanted, and 2 to 40 are allowed"]);
    check(&p, &seen(40, 40, 0), Action::Hold, 40, &["58 would be wanted, and 2 to 40 are allowed"]);
    check(&p, &seen(0, 0, 0), Action::ScaleUp, 2, &[]);
}

#[test]
fn a_refusal_scales_up_whatever_the_utilization() {
    let p = planner(2, 40);
    let refused = Observation { refused_workers_max: 8, ..seen(10, 3, 4) };
    check(&p, &refused, Action::ScaleUp, 11, &["refused for want of workers (4 refused in all)"]);
    check(&p, &Observation { refused_workers_max: 0, ..refused }, Action::Hold, 10, &[]);
    let large = Observation { refused_workers_max: 20, ..refused };
    check(&p, &large, Action::ScaleUp, 20, &["of up to 20 workers", "23 would be wanted, and one step goes to 20"]);
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
    p.note(&first, false);
    check(
        &p,
        &Observation { granted: 50, ..calm },
        Action::ScaleUp,
        16,
        &["increasing (100.0 a minute, 120.0 to expect)"],
    );
    check(
        &p,
        &Observation { refused_workers_max: 1, granted: 1, ..calm },
        Action::ScaleUp,
        11,
        &["decreasing (2.0 a minute, 1.6 to expect)"],
    );
}

#[test]
fn nothing_changes_within_the_cooldown() {
    for policy in Policy::NAMED {
        let mut p = Planner::new(BOUNDS);
        let busy = by(policy, seen(10, 9, 0));
        let first = plan(&p, &busy);
        p.note(&first, true);
        let later = |ms| Observation { at: busy.at.after(Millis(ms)), ..busy };
        check(&p, &later(policy.cooldown_ms.0 - 1), Action::Hold, 10, &["the last change was less than"]);
        check(&p, &later(policy.cooldown_ms.0), Action::ScaleUp, 13, &[]);
    }
}

#[test]
fn what_is_leased_stays() {
    let overdue = Observation { workers_held: 7, ..seen(10, 0, 0) };
    check(&planner(1, 10), &overdue, Action::ScaleDown, 7, &["7 workers are leased and stay"]);
}

#[test]
fn the_number_goes_down_to_the_highest_that_was_wanted_lately() {
    let mut p = Planner::new(BOUNDS);
    let start = seen(30, 0, 0).at;
    let mut plan_at = |seconds: u64, leased| {
        let seen = by(Policy::BALANCED, seen(30, leased, 0));
        let plan = plan(&p, &Observation { at: start.after(Millis::from_seconds(seconds)), ..seen });
        p.note(&plan, false);
        (plan.action, plan.target_workers)
    };
    // What was wanted before the first plan is not known.
    assert_eq!(plan_at(0, 0), (Action::Hold, 30));
    assert_eq!(plan_at(299, 5), (Action::Hold, 30));
    assert_eq!(plan_at(300, 0), (Action::ScaleDown, 15), "8 were wanted for 5, and a step is half");
    assert_eq!(plan_at(301, 25), (Action::ScaleUp, 36));
    assert_eq!(plan_at(600, 0), (Action::Hold, 30), "36 were wanted 299 s ago");
    assert_eq!(plan_at(601, 0), (Action::ScaleDown, 15));
}

#[test]
fn what_is_about_as_many_stays_unless_somebody_waits() {
    let p = planner(1, 1_000);
    // 91 of 100 are too many for 130, and 107 for 9 of 110 no more than a tenth beside it.
    let up = Percent::new(70).expect("a part");
    let seen = |total, leased, refused| {
        let seen = seen(total, leased, refused);
        by(Policy { utilization_up: up, ..seen.policy }, seen)
    };
    check(&p, &seen(100, 71, 0), Action::Hold, 100, &["102 are about as many as 100"]);
    check(&p, &Observation { refused_workers_max: 1, ..seen(100, 71, 1) }, Action::ScaleUp, 102, &[]);
    check(&p, &seen(100, 78, 0), Action::ScaleUp, 112, &[]);
}

/// Agents of which each may hold 4 tasks.
fn fleet(agents: u64, running: u64, waiting: u64) -> FleetLoad {
    FleetLoad {
        agents,
        agents_at_work: running.div_ceil(4).min(agents),
        room: 4 * agents,
        running,
        waiting,
        wait_mean: Millis(0),
        ..FleetLoad::default()
    }
}

fn agents(policy: Policy, fleet: FleetLoad) -> u64 {
    // Without patience: what it wants it does.
    let policy = Policy { scale_in_window_ms: Millis(0), ..policy };
    let plan = plan(&Planner::new(BOUNDS), &by(policy, Observation { fleet, ..seen(10, 3, 0) }));
    assert!(plan.target_agents == fleet.agents || plan.reasons.len() > 1, "without a reason: {plan:#?}");
    plan.target_agents
}

#[test]
fn each_policy_goes_by_its_row_of_the_table() {
    let check = |policy, waiting, expected| {
        assert_eq!(agents(policy, fleet(5, 10, waiting)), expected, "{policy:?}, {waiting} waiting");
    };
    check(Policy::AGGRESSIVE, 20, 5);
    check(Policy::AGGRESSIVE, 21, 6);
    check(Policy::AGGRESSIVE, 50, 7);
    check(Policy::BALANCED, 30, 5);
    check(Policy::BALANCED, 31, 6);
    check(Policy::BALANCED, 69, 6);
    check(Policy::BALANCED, 70, 7);
    check(Policy::CONSERVATIVE, 50, 5);
    check(Policy::CONSERVATIVE, 51, 6);
    check(Policy::CONSERVATIVE, 100, 7);
}

#[test]
fn waiting_and_work_take_more_agents_too() {
    let waits = |wait_ms, waiting| FleetLoad { wait_mean: Millis(wait_ms), ..fleet(5, 10, waiting) };
    assert_eq!(agents(Policy::BALANCED, waits(5_000, 1)), 5);
    assert_eq!(agents(Policy::BALANCED, waits(5_001, 1)), 6);
    assert_eq!(agents(Policy::BALANCED, waits(5_001, 0)), 5, "nobody waits");
    assert_eq!(agents(Policy::BALANCED, fleet(5, 16, 0)), 5);
    assert_eq!(agents(Policy::BALANCED, fleet(5, 17, 0)), 7, "17 of 28 are 61 %, of 24 more than 70 %");
    assert_eq!(agents(Policy::BALANCED, fleet(0, 0, 1)), 1);
    assert_eq!(agents(Policy::BALANCED, fleet(0, 0, 0)), 0);
    assert_eq!(agents(Policy::BALANCED, FleetLoad { quota: Some(6), ..fleet(5, 10, 500) }), 6);
    assert_eq!(agents(Policy::BALANCED, FleetLoad { quota: Some(3), ..fleet(5, 10, 500) }), 5);
}

#[test]
fn whoever_has_work_keeps_it_and_one_is_kept() {
    assert_eq!(agents(Policy::BALANCED, fleet(7, 5, 0)), 3, "of ten it would be more than a step");
    assert_eq!(agents(Policy::BALANCED, fleet(10, 8, 0)), 10, "a fifth is in use");
    assert_eq!(agents(Policy::BALANCED, FleetLoad { agents_at_work: 7, ..fleet(10, 7, 0) }), 7);
    assert_eq!(agents(Policy::BALANCED, fleet(5, 0, 9)), 1);
    assert_eq!(agents(Policy::BALANCED, fleet(100, 0, 0)), 50, "half of them in one step");
    assert_eq!(agents(Policy::BALANCED, fleet(3, 6, 5_000)), 7, "four more in one step");
    assert_eq!(agents(Policy::BALANCED, fleet(10, 0, 10)), 10);
    let waits = FleetLoad { wait_mean: Millis(1_000), ..fleet(10, 0, 9) };
    assert_eq!(agents(Policy::BALANCED, waits), 10);
    assert_eq!(agents(Policy::BALANCED, fleet(1, 0, 0)), 1);
}

#[test]
fn what_if_figures_lead_to_what_follows_from_them() {
    let load = FleetLoad { room: 11, ..fleet(3, 8, 5) };
    let seen = Observation { fleet: load, ..seen(10, 3, 1) };
    assert_eq!(seen.with(&WhatIf::default()), seen);
    let what_if = |agents| seen.with(&WhatIf { agents: Some(agents), ..WhatIf::default() }).fleet;
    assert_eq!(what_if(3), load, "as many as there are");
    assert_eq!((what_if(6).room, what_if(6).running, what_if(6).agents_at_work), (18, 8, 2));
    assert_eq!((what_if(1).room, what_if(1).running, what_if(1).agents_at_work), (3, 3, 1));
    assert_eq!((what_if(0).room, what_if(0).running, what_if(0).agents_at_work), (0, 0, 0));
    let nobody = Observation { fleet: FleetLoad::default(), ..seen };
    assert_eq!(nobody.with(&WhatIf { agents: Some(2), ..WhatIf::default() }).fleet.room, 6);
    let rate = |window, requests| {
        let what_if = WhatIf { rate_per_minute: Some(requests), ..WhatIf::default() };
        let seen = Observation { window: Millis(window), ..seen }.with(&what_if);
        (seen.window.0, seen.granted, seen.refused)
    };
    assert_eq!(rate(30_000, 20), (60_000, 19, 1));
    assert_eq!(rate(0, 20), (60_000, 19, 1));
    assert_eq!(rate(30_000, 0), (60_000, 0, 0));
}

#[test]
fn agents_are_kept_for_as_long_as_they_were_wanted_lately() {
    let mut p = Planner::new(BOUNDS);
    let start = seen(10, 3, 0).at;
    let mut target_at = |seconds: u64, load| {
        let at = start.after(Millis::from_seconds(seconds));
        let plan = plan(&p, &by(Policy::BALANCED, Observation { at, fleet: load, ..seen(10, 3, 0) }));
        p.note(&plan, false);
        plan.target_agents
    };
    assert_eq!(target_at(0, fleet(4, 8, 91)), 7, "three more for 91 tasks");
    assert_eq!(target_at(30, fleet(7, 0, 0)), 7);
    assert_eq!(target_at(299, fleet(7, 0, 0)), 7, "as many were wanted 299 s ago");
    assert_eq!(target_at(300, fleet(7, 0, 0)), 3, "four fewer in one step");
}

#[test]
fn the_pool_has_room_for_the_agents_that_should_come() {
    let p = planner(2, 40);
    let busy = Observation { fleet: fleet(8, 20, 100), ..seen(10, 8, 0) };
    check(&p, &busy, Action::ScaleUp, 11, &["100 tasks wait, over 30: 3 agents more", "3 agents more take as many"]);
    let roomy = Observation { fleet: fleet(8, 20, 100), ..seen(20, 8, 0) };
    check(&p, &roomy, Action::Hold, 20, &[]);
}

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

/// Agents that do one task at a time, each in a minute.
fn workers_of_a_minute(agents: u64, running: u64) -> FleetLoad {
    let durations = Some(DurationsSeen { mean: Millis::from_seconds(60), variability: 1.0 });
    FleetLoad { agents, agents_at_work: running, room: agents, running, durations, ..FleetLoad::default() }
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
fn agents_that_were_asked_for_are_not_called_off_within_the_cooldown() {
    let mut p = Planner::new(BOUNDS);
    let start = seen(10, 3, 0).at;
    let patience = Policy { scale_in_window_ms: Millis(0), ..Policy::BALANCED };
    let mut target_at = |seconds: u64, load| {
        let at = start.after(Millis::from_seconds(seconds));
        let plan = plan(&p, &by(patience, Observation { at, fleet: load, ..seen(40, 20, 0) }));
        let scaling = p.scaling(&plan);
        p.note(&plan, false);
        (plan.target_agents, scaling.map(|scaling| (scaling.agents_from, scaling.agents_to)))
    };
    assert_eq!(target_at(0, fleet(4, 8, 91)), (7, Some((4, 7))), "three more for 91 tasks");
    assert_eq!(target_at(5, fleet(5, 8, 0)), (7, None), "the same as was asked for");
    assert_eq!(target_at(10, fleet(7, 0, 0)), (7, None), "as many as there are");
    assert_eq!(target_at(19, fleet(7, 28, 400)), (7, None), "whatever is wanted by now");
    assert_eq!(target_at(20, fleet(7, 28, 400)), (14, Some((7, 14))), "as far as one step goes");
}

#[test]
fn bottlenecks_and_saving_are_part_of_the_plan() {
    use super::super::bottlenecks::{Bottleneck, Figures, Severity, Subject};
    let backlog = Bottleneck {
        subject: Subject::Queue,
        severity: Severity::High,
        figures: Figures::Agents { quota: 0, active: 0, available: 0 },
        description: String::new(),
        advice: String::new(),
    };
    let seen = Observation { fleet: FleetLoad { saves_tokens: true, deferred: 7, ..fleet(4, 4, 0) }, ..seen(10, 3, 0) };
    let plan = planner(2, 40).plan(&seen, Some(&Bottlenecks { at: seen.at, found: vec![backlog] }));
    assert_eq!(plan.bottlenecks.as_deref(), Some([(Subject::Queue, Severity::High)].as_slice()));
    assert!((plan.saves_tokens, plan.deferred_tasks) == (true, 7) && plan.failed_steps.is_empty(), "{plan:#?}");
    let said = plan.reasons.join("; ");
    assert!(
        said.starts_with("1 found that hold tasks up, the worst task_queue_backlog (high); tokens are saved, and 7"),
        "{said}"
    );
}

#[test]
fn a_step_that_fails_is_named_and_the_others_go_on() {
    let blind = planner(2, 40).plan(&seen(10, 9, 0), None);
    assert_eq!((blind.bottlenecks, blind.failed_steps), (None, vec!["bottlenecks"]));
    assert_eq!((blind.action, blind.target_workers), (Action::ScaleUp, 13));
    let mut failed = Vec::new();
    assert_eq!(attempt("fine", &mut failed, || 7), Some(7));
    assert_eq!(attempt("faulty", &mut failed, || panic!("on purpose")), None::<()>);
    assert_eq!(failed, ["faulty"]);
}

/// The same, with so many tasks a second.
fn at_rate(tasks_per_second: f64, seen: Observation) -> Observation {
    Observation { tasks_per_second: Some(tasks_per_second), ..seen }
}

#[test]
fn agents_that_are_all_busy_are_sized_by_the_tasks_that_come() {
    let full = |agents, waiting| {
        let fleet = FleetLoad { waiting, ..workers_of_a_minute(agents, agents) };
        Observation { fleet, ..seen(90, 40, 0) }
    };
    let wanted = |seen: Observation| plan(&planner(2, 90), &seen).wanted_agents;
    assert_eq!(wanted(full(20, 0)), 29, "20 in use at 70 %, as nobody knows how many come");
    assert_eq!(wanted(at_rate(0.5, full(20, 0))), 43, "half a task a second is 30 under way");
    assert_eq!(wanted(at_rate(0.1, full(20, 0))), 20, "as they are all busy, and enough");
    // 30 under way, and 25 more to work 25 off in a minute.
    assert_eq!(wanted(at_rate(0.5, full(20, 25))), 55);
    assert_eq!(wanted(at_rate(0.5, full(0, 1))), 43, "nobody is there");
    let unknown = Observation { fleet: FleetLoad { durations: None, ..full(20, 25).fleet }, ..full(20, 25) };
    assert_eq!(wanted(at_rate(0.5, unknown)), 29);
}

#[test]
fn agents_that_the_tasks_do_not_take_may_go() {
    let calm = Observation { fleet: workers_of_a_minute(30, 8), ..seen(90, 40, 0) };
    let target = |seen: Observation| plan(&planner(2, 90), &seen).target_agents;
    assert_eq!(target(calm), 30, "a fifth is in use, and nobody knows how many come");
    assert_eq!(target(at_rate(0.2, calm)), 18, "12 under way at 70 %");
    assert_eq!(target(at_rate(0.01, calm)), 15, "12 for those at work, and a step is half");
    assert_eq!(target(at_rate(0.33, calm)), 30, "29 are about as many");
    let idle = Observation { fleet: workers_of_a_minute(30, 1), ..calm };
    assert_eq!(target(at_rate(0.2, idle)), 18, "under a fifth is in use, and more is to come");
}

#[test]
fn tasks_are_counted_over_the_time_that_is_looked_back_over() {
    let mut p = planner(2, 90);
    let cluster = Cluster::default();
    let start = seen(10, 3, 0).at;
    let rate_at = |p: &mut Planner, seconds: u64, submitted: u64| {
        let at = start.after(Millis::from_seconds(seconds));
        let mut demand = cluster.demand(at, RequestsSeen::default(), SIZE);
        demand.fleet.submitted = submitted;
        let asked = p.observe(at, &demand).tasks_per_second;
        assert_eq!(p.look(at, &demand).tasks_per_second, asked, "whoever asks is told the same");
        asked
    };
    assert_eq!(rate_at(&mut p, 0, 1_000), None);
    assert_eq!(rate_at(&mut p, 30, 1_300), Some(10.0));
    assert_eq!(rate_at(&mut p, 60, 1_300), Some(5.0));
    assert_eq!(rate_at(&mut p, 300, 1_300), Some(1.0));
    assert_eq!(rate_at(&mut p, 330, 1_300), Some(0.0), "300 s after the last that came");
    assert_eq!(rate_at(&mut p, 1_000, 1_300 + 670), Some(1.0), "plans that are far apart");
}

#[test]
fn agents_that_were_asked_for_take_their_time_and_lost_ones_are_replaced_at_once() {
    let mut p = Planner::new(BOUNDS);
    let start = seen(10, 3, 0).at;
    let mut target_at = |seconds: u64, fleet: FleetLoad, rate: f64| {
        let at = start.after(Millis::from_seconds(seconds));
        let seen = Observation { at, fleet, ..by(Policy::BALANCED, seen(90, 40, 0)) };
        let plan = plan(&p, &at_rate(rate, seen));
        p.note(&plan, false);
        plan.target_agents
    };
    // Forty tasks a minute: 40 under way, which takes 58 agents; there are eight, and a step doubles what was asked for.
    let full = |agents| workers_of_a_minute(agents, agents);
    assert_eq!(target_at(0, full(8), 0.66), 16);
    assert_eq!(target_at(30, full(8), 0.66), 32, "the first step is on its way");
    assert_eq!(target_at(60, full(16), 0.66), 57);
    assert_eq!(target_at(90, workers_of_a_minute(32, 20), 0.66), 57, "not all are there yet");
    assert_eq!(target_at(120, workers_of_a_minute(57, 40), 0.66), 57);
    assert_eq!(target_at(150, full(5), 0.66), 57, "those that were lost are no step");
}

#[test]
fn what_a_step_or_the_cooldown_left_undone_is_not_forgotten() {
    let mut p = planner(2, 40);
    let cluster = Cluster::default();
    let start = seen(10, 3, 0).at;
    let mut plan_at = |seconds: u64, total: u64, refused: u64| {
        let at = start.after(Millis::from_seconds(seconds));
        let mut demand =
            cluster.demand(at, RequestsSeen { refused_workers_max: refused, ..RequestsSeen::default() }, SIZE);
        demand.capacity.total.workers = total;
        demand.workers_fit = 100;
        let seen = p.look(at, &demand);
        let plan = plan(&p, &seen);
        p.note(&plan, plan.action != Action::Hold);
        plan.target_workers
    };
    assert_eq!(plan_at(0, 10, 0), 10, "the first look");
    assert_eq!(plan_at(30, 10, 30), 20, "one step");
    assert_eq!(plan_at(40, 20, 0), 20, "the cooldown");
    assert_eq!(plan_at(50, 20, 0), 30, "as many as were asked for");
    assert_eq!(plan_at(80, 30, 0), 30);
}

#[test]
fn no_more_workers_than_cpu_and_memory_are_enough_for() {
    let busy = Observation { workers_fit: 12, ..seen(10, 9, 0) };
    check(&planner(2, 40), &busy, Action::ScaleUp, 12, &["CPU and memory are enough for 12 workers"]);
    let fewer = Observation { workers_fit: 8, ..busy };
    check(&planner(2, 40), &fewer, Action::Hold, 10, &["enough for 8 workers"]);
}

#[test]
fn the_cooldown_sends_nobody_away_and_leaves_no_task_alone() {
    let start = seen(10, 3, 0).at;
    let target_at = |p: &mut Planner, seconds: u64, load: FleetLoad| {
        let at = start.after(Millis::from_seconds(seconds));
        let plan = plan(p, &by(Policy::BALANCED, Observation { at, fleet: load, ..seen(90, 40, 0) }));
        p.note(&plan, false);
        plan.target_agents
    };
    let mut p = Planner::new(BOUNDS);
    assert_eq!(target_at(&mut p, 0, fleet(1, 4, 500)), 5, "a step");
    assert_eq!(target_at(&mut p, 5, fleet(60, 4, 500)), 60, "others came besides");
    assert_eq!(target_at(&mut p, 10, fleet(60, 4, 500)), 60);

    let mut p = Planner::new(BOUNDS);
    assert_eq!(target_at(&mut p, 0, fleet(1, 4, 500)), 5);
    assert_eq!(target_at(&mut p, 5, fleet(5, 20, 500)), 5, "all are there");
    assert_eq!(target_at(&mut p, 10, fleet(0, 0, 500)), 5, "all were lost");
}

#[test]
fn what_no_fleet_could_do_is_not_planned_for() {
    let busy = Observation { fleet: workers_of_a_minute(18, 10), ..seen(30, 20, 0) };
    let asked = busy.with(&WhatIf { rate_per_minute: Some(1_000_000_000), ..WhatIf::default() });
    let plan = plan(&informed(0, 0, 0), &asked);
    assert_eq!(plan.capacity.agents, None);
    assert!(plan.reasons.iter().any(|reason| reason.contains("more than 200000 tasks at once")), "{plan:#?}");
}
