//! The number of agents.

use super::*;
use crate::WhatIf;
use cortex_core::Cluster;
use cortex_core::fleet::task_stats::DurationStats;
use cortex_core::fleet::view::FleetLoad;
use cortex_core::view::RequestCounts;

/// Returns agents that may hold 4 tasks each.
fn fleet(agents: u64, running: u64, waiting: u64) -> FleetLoad {
    FleetLoad {
        agents,
        agents_at_work: running.div_ceil(4).min(agents),
        task_slots: 4 * agents,
        running,
        waiting,
        wait_mean: Millis(0),
        ..FleetLoad::default()
    }
}

fn agents(policy: Policy, fleet: FleetLoad) -> u64 {
    // Without a stabilization window.
    let policy = Policy { scale_in_window_ms: Millis(0), ..policy };
    let plan = plan(&Planner::new(BOUNDS), &by(policy, Observation { fleet, ..seen(10, 3, 0) }));
    assert!(plan.target_agents == fleet.agents || plan.reasons.len() > 1, "without a reason: {plan:#?}");
    plan.target_agents
}

#[test]
fn each_policy_follows_its_row_of_the_table() {
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
fn waiting_and_busy_agents_need_more_agents_too() {
    let waits = |wait_ms, waiting| FleetLoad { wait_mean: Millis(wait_ms), ..fleet(5, 10, waiting) };
    assert_eq!(agents(Policy::BALANCED, waits(5_000, 1)), 5);
    assert_eq!(agents(Policy::BALANCED, waits(5_001, 1)), 6);
    assert_eq!(agents(Policy::BALANCED, waits(5_001, 0)), 5, "no task waits");
    assert_eq!(agents(Policy::BALANCED, fleet(5, 16, 0)), 5);
    assert_eq!(agents(Policy::BALANCED, fleet(5, 17, 0)), 7, "17 of 28 are 61 %, of 24 more than 70 %");
    assert_eq!(agents(Policy::BALANCED, fleet(0, 0, 1)), 1);
    assert_eq!(agents(Policy::BALANCED, fleet(0, 0, 0)), 0);
    assert_eq!(agents(Policy::BALANCED, FleetLoad { quota: Some(6), ..fleet(5, 10, 500) }), 6);
    assert_eq!(agents(Policy::BALANCED, FleetLoad { quota: Some(3), ..fleet(5, 10, 500) }), 5);
}

#[test]
fn agents_at_work_stay_and_one_is_kept() {
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
    let load = FleetLoad { task_slots: 11, ..fleet(3, 8, 5) };
    let seen = Observation { fleet: load, ..seen(10, 3, 1) };
    assert_eq!(seen.with(&WhatIf::default()), seen);
    let what_if = |agents| seen.with(&WhatIf { agents: Some(agents), ..WhatIf::default() }).fleet;
    assert_eq!(what_if(3), load, "as many as there are");
    assert_eq!((what_if(6).task_slots, what_if(6).running, what_if(6).agents_at_work), (18, 8, 2));
    assert_eq!((what_if(1).task_slots, what_if(1).running, what_if(1).agents_at_work), (3, 3, 1));
    assert_eq!((what_if(0).task_slots, what_if(0).running, what_if(0).agents_at_work), (0, 0, 0));
    let no_agents = Observation { fleet: FleetLoad::default(), ..seen };
    assert_eq!(no_agents.with(&WhatIf { agents: Some(2), ..WhatIf::default() }).fleet.task_slots, 6);
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
fn agents_are_kept_for_the_stabilization_window() {
    let mut p = Planner::new(BOUNDS);
    let start = seen(10, 3, 0).at;
    let mut target_at = |seconds: u64, load| {
        let at = start.after(Millis::from_seconds(seconds));
        let plan = plan(&p, &by(Policy::BALANCED, Observation { at, fleet: load, ..seen(10, 3, 0) }));
        p.record(&plan, false);
        plan.target_agents
    };
    assert_eq!(target_at(0, fleet(4, 8, 91)), 7, "three more for 91 tasks");
    assert_eq!(target_at(30, fleet(7, 0, 0)), 7);
    assert_eq!(target_at(299, fleet(7, 0, 0)), 7, "as many were needed 299 s ago");
    assert_eq!(target_at(300, fleet(7, 0, 0)), 3, "four fewer in one step");
}

#[test]
fn the_pool_has_workers_for_the_agents_to_add() {
    let p = planner(2, 40);
    let busy = Observation { fleet: fleet(8, 20, 100), ..seen(10, 8, 0) };
    check(&p, &busy, Action::ScaleUp, 11, &["100 tasks wait, over 30: 3 more agents", "3 more agents require as many"]);
    let large = Observation { fleet: fleet(8, 20, 100), ..seen(20, 8, 0) };
    check(&p, &large, Action::Hold, 20, &[]);
}

/// Returns agents that process one task at a time, each in a minute.
pub(super) fn one_minute_agents(agents: u64, running: u64) -> FleetLoad {
    let durations = Some(DurationStats { mean: Millis::from_seconds(60), variability: 1.0 });
    FleetLoad { agents, agents_at_work: running, task_slots: agents, running, durations, ..FleetLoad::default() }
}

#[test]
fn requested_agents_are_not_cancelled_within_the_cooldown() {
    let mut p = Planner::new(BOUNDS);
    let start = seen(10, 3, 0).at;
    let policy = Policy { scale_in_window_ms: Millis(0), ..Policy::BALANCED };
    let mut target_at = |seconds: u64, load| {
        let at = start.after(Millis::from_seconds(seconds));
        let plan = plan(&p, &by(policy, Observation { at, fleet: load, ..seen(40, 20, 0) }));
        let scaling = p.scaling(&plan);
        p.record(&plan, false);
        (plan.target_agents, scaling.map(|scaling| (scaling.agents_from, scaling.agents_to)))
    };
    assert_eq!(target_at(0, fleet(4, 8, 91)), (7, Some((4, 7))), "three more for 91 tasks");
    assert_eq!(target_at(5, fleet(5, 8, 0)), (7, None), "the same as was requested");
    assert_eq!(target_at(10, fleet(7, 0, 0)), (7, None), "as many as there are");
    assert_eq!(target_at(19, fleet(7, 28, 400)), (7, None), "whatever is needed now");
    assert_eq!(target_at(20, fleet(7, 28, 400)), (14, Some((7, 14))), "as far as one step goes");
}

#[test]
fn bottlenecks_and_token_conservation_are_part_of_the_plan() {
    use crate::{Bottleneck, Evidence, Severity, Subject};
    let backlog = Bottleneck {
        subject: Subject::Queue,
        severity: Severity::High,
        evidence: Evidence::AgentQuota { quota: 0, active: 0, available: 0 },
        description: String::new(),
        advice: String::new(),
    };
    let seen =
        Observation { fleet: FleetLoad { is_conserving: true, deferred: 7, ..fleet(4, 4, 0) }, ..seen(10, 3, 0) };
    let plan = planner(2, 40).plan(&seen, Some(&Bottlenecks { at: seen.at, found: vec![backlog] }));
    assert_eq!(plan.bottlenecks.as_deref(), Some([(Subject::Queue, Severity::High)].as_slice()));
    assert!((plan.saves_tokens, plan.deferred_tasks) == (true, 7) && plan.failed_steps.is_empty(), "{plan:#?}");
    let reasons = plan.reasons.join("; ");
    assert!(
        reasons.starts_with(
            "bottlenecks found: 1, the most severe is task_queue_backlog (high); token conservation is on, and 7"
        ),
        "{reasons}"
    );
}

/// Returns the observation with an arrival rate of tasks.
fn at_rate(tasks_per_second: f64, seen: Observation) -> Observation {
    Observation { tasks_per_second: Some(tasks_per_second), ..seen }
}

#[test]
fn busy_agents_are_sized_by_the_arriving_tasks() {
    let full = |agents, waiting| {
        let fleet = FleetLoad { waiting, ..one_minute_agents(agents, agents) };
        Observation { fleet, ..seen(90, 40, 0) }
    };
    let wanted = |seen: Observation| plan(&planner(2, 90), &seen).wanted_agents;
    assert_eq!(wanted(full(20, 0)), 29, "20 in use at 70 %, as the arrival rate is unknown");
    assert_eq!(wanted(at_rate(0.5, full(20, 0))), 43, "half a task a second is 30 concurrent tasks");
    assert_eq!(wanted(at_rate(0.1, full(20, 0))), 20, "all busy, and enough");
    // 30 concurrent tasks, and 25 more to process a backlog of 25 in a minute.
    assert_eq!(wanted(at_rate(0.5, full(20, 25))), 55);
    assert_eq!(wanted(at_rate(0.5, full(0, 1))), 43, "no agent is registered");
    let unknown = Observation { fleet: FleetLoad { durations: None, ..full(20, 25).fleet }, ..full(20, 25) };
    assert_eq!(wanted(at_rate(0.5, unknown)), 29);
}

#[test]
fn agents_that_the_arriving_tasks_do_not_need_may_go() {
    let calm = Observation { fleet: one_minute_agents(30, 8), ..seen(90, 40, 0) };
    let target = |seen: Observation| plan(&planner(2, 90), &seen).target_agents;
    assert_eq!(target(calm), 30, "over a fifth is in use, and the arrival rate is unknown");
    assert_eq!(target(at_rate(0.2, calm)), 18, "12 concurrent tasks at 70 %");
    assert_eq!(target(at_rate(0.01, calm)), 15, "12 for those at work, and a step is half");
    assert_eq!(target(at_rate(0.33, calm)), 30, "29 are within the tolerance");
    let idle = Observation { fleet: one_minute_agents(30, 1), ..calm };
    assert_eq!(target(at_rate(0.2, idle)), 18, "under a fifth is in use, and more tasks arrive");
}

#[test]
fn tasks_are_counted_over_the_scale_in_window() {
    let mut p = planner(2, 90);
    let cluster = Cluster::default();
    let start = seen(10, 3, 0).at;
    let rate_at = |p: &mut Planner, seconds: u64, submitted: u64| {
        let at = start.after(Millis::from_seconds(seconds));
        let mut demand = cluster.demand(at, RequestCounts::default(), SIZE);
        demand.fleet.submitted = submitted;
        let observed = p.observe(at, &demand).tasks_per_second;
        assert_eq!(p.sample(at, &demand).tasks_per_second, observed, "recording changes nothing");
        observed
    };
    assert_eq!(rate_at(&mut p, 0, 1_000), None);
    assert_eq!(rate_at(&mut p, 30, 1_300), Some(10.0));
    assert_eq!(rate_at(&mut p, 60, 1_300), Some(5.0));
    assert_eq!(rate_at(&mut p, 300, 1_300), Some(1.0));
    assert_eq!(rate_at(&mut p, 330, 1_300), Some(0.0), "300 s after the last arrival");
    assert_eq!(rate_at(&mut p, 1_000, 1_300 + 670), Some(1.0), "plans that are far apart");
}

#[test]
fn requested_agents_take_time_and_lost_ones_are_replaced_in_one_step() {
    let mut p = Planner::new(BOUNDS);
    let start = seen(10, 3, 0).at;
    let mut target_at = |seconds: u64, fleet: FleetLoad, rate: f64| {
        let at = start.after(Millis::from_seconds(seconds));
        let seen = Observation { at, fleet, ..by(Policy::BALANCED, seen(90, 40, 0)) };
        let plan = plan(&p, &at_rate(rate, seen));
        p.record(&plan, false);
        plan.target_agents
    };
    // Forty tasks a minute: 40 concurrent tasks require 58 agents. There are eight, and a step doubles the last target.
    let full = |agents| one_minute_agents(agents, agents);
    assert_eq!(target_at(0, full(8), 0.66), 16);
    assert_eq!(target_at(30, full(8), 0.66), 32, "the agents of the first step are starting");
    assert_eq!(target_at(60, full(16), 0.66), 57);
    assert_eq!(target_at(90, one_minute_agents(32, 20), 0.66), 57, "not all have registered yet");
    assert_eq!(target_at(120, one_minute_agents(57, 40), 0.66), 57);
    assert_eq!(target_at(150, full(5), 0.66), 57, "replacing lost agents is not a step");
}

#[test]
fn the_cooldown_removes_no_agent_and_replaces_lost_ones() {
    let start = seen(10, 3, 0).at;
    let target_at = |p: &mut Planner, seconds: u64, load: FleetLoad| {
        let at = start.after(Millis::from_seconds(seconds));
        let plan = plan(p, &by(Policy::BALANCED, Observation { at, fleet: load, ..seen(90, 40, 0) }));
        p.record(&plan, false);
        plan.target_agents
    };
    let mut p = Planner::new(BOUNDS);
    assert_eq!(target_at(&mut p, 0, fleet(1, 4, 500)), 5, "a step");
    assert_eq!(target_at(&mut p, 5, fleet(60, 4, 500)), 60, "more agents registered");
    assert_eq!(target_at(&mut p, 10, fleet(60, 4, 500)), 60);

    let mut p = Planner::new(BOUNDS);
    assert_eq!(target_at(&mut p, 0, fleet(1, 4, 500)), 5);
    assert_eq!(target_at(&mut p, 5, fleet(5, 20, 500)), 5, "all have registered");
    assert_eq!(target_at(&mut p, 10, fleet(0, 0, 500)), 5, "all were lost");
}
