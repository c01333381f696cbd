use super::super::options::{AgentLoss, Operator, Options, TokenBudget};
use super::super::{Arrival, ScalingChange, SimulationOutcome};
use super::Simulator;
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::policy::Policy;
use cortex_core::time::Millis;
use proptest::prelude::*;
use std::convert::Infallible;

/// Returns arrivals at a constant interval.
fn every(millis: u64, tasks: u64, tokens: Option<u64>) -> Vec<Arrival> {
    (0..tasks).map(|number| Arrival { at: Millis(number * millis), tokens }).collect()
}

fn run(options: &Options, operator: Operator, arrivals: &[Arrival]) -> SimulationOutcome {
    let arrivals = arrivals.iter().map(|arrival| Ok::<_, Infallible>(*arrival));
    Simulator::new(options, operator).run(arrivals).unwrap_or_else(|never| match never {})
}

fn budget(tokens: u64, window_seconds: u64) -> Option<TokenBudget> {
    Some(TokenBudget { tokens, window: Millis::from_seconds(window_seconds) })
}

#[test]
fn a_fixed_fleet_follows_queueing_theory() {
    // Two agents and one task of 30 s every 20 s are 75 % utilization. Erlang's formula for random arrivals gives a
    // mean wait of 38.6 s; regular arrivals wait less than half as long.
    let options = Options { agents_at_start: 2, ..Options::default() };
    let outcome = run(&options, Operator::Fixed, &every(20_000, 20_000, None));
    assert_eq!((outcome.tasks, outcome.done, outcome.left(), outcome.refused), (20_000, 20_000, 0, 0));
    assert_eq!((outcome.agents_most, outcome.scalings, outcome.returned), (2, 0, 0));
    let points = outcome.series.points();
    assert_eq!(points.iter().map(|point| point.arrivals).sum::<u64>(), 20_000);
    assert_eq!(points.iter().map(|point| point.done).sum::<u64>(), 20_000);
    assert_eq!(points.iter().map(|point| u128::from(point.agent_millis)).sum::<u128>(), outcome.agent_millis);
    let mean = outcome.waits.mean() / 1_000.0;
    assert!((10.0..25.0).contains(&mean), "a mean wait of {mean} s");
    // Little's law holds exactly: the accumulated queue time equals the wait times of the tasks.
    let waited: u64 = points.iter().map(|point| point.wait_millis).sum();
    assert_eq!(points.iter().map(|point| point.queue_millis).sum::<u64>(), waited);
    assert!((outcome.agents_mean() - 2.0).abs() < 1e-9);
}

#[test]
fn a_backlog_triggers_a_plan_and_new_agents_take_time_to_start() {
    let outcome = run(&Options::default(), Operator::Planner(Policy::BALANCED), &every(100, 3_000, None));
    let scalings = &outcome.first_scalings;
    assert_eq!(outcome.scalings, scalings.len() as u64);
    let first = scalings.first().expect("one agent does not suffice");
    // The first task is claimed immediately, and with the 32nd of the others over 30 wait.
    assert_eq!((first.at, first.from), (Millis(3_100), 1));
    let started_at = first.at.0 + 30_000;
    let (before, after): (Vec<&ScalingChange>, Vec<&ScalingChange>) =
        scalings.iter().partition(|scaling| scaling.at.0 < started_at);
    assert!(before.iter().all(|scaling| scaling.from == 1), "{before:?}");
    assert!(after[0].from >= first.to, "{after:?}");
    assert!(outcome.agents_most <= scalings.iter().map(|scaling| scaling.to).max().unwrap_or(1));
}

#[test]
fn excess_agents_leave_without_returning_a_task() {
    // Ten minutes of high load, then an hour of low load.
    let mut arrivals = every(100, 6_000, None);
    arrivals.extend((0..360).map(|number| Arrival { at: Millis(600_000 + number * 10_000), tokens: None }));
    let outcome = run(&Options::default(), Operator::Planner(Policy::BALANCED), &arrivals);
    assert_eq!((outcome.done, outcome.left(), outcome.returned), (6_360, 0, 0));
    assert!(outcome.first_scalings.iter().any(|scaling| scaling.to < scaling.from), "the fleet shrinks");
}

#[test]
fn tasks_of_agents_that_vanish_go_to_others() {
    let losses = vec![AgentLoss { at: Millis(60_000), agents: 3 }, AgentLoss { at: Millis(120_000), agents: 1_000 }];
    let options = Options { agents_at_start: 5, losses, ..Options::default() };
    for operator in [Operator::Fixed, Operator::Planner(Policy::AGGRESSIVE)] {
        let outcome = run(&options, operator, &every(5_000, 1_000, None));
        assert_eq!((outcome.tasks, outcome.done, outcome.left()), (1_000, 1_000, 0), "{operator:?}");
        assert!(outcome.vanished >= 5, "{}", outcome.vanished);
        assert!(outcome.returned > 0 && outcome.returned <= outcome.vanished, "{}", outcome.returned);
    }
}

#[test]
fn without_tokens_it_ends_and_counts_the_tasks_left() {
    let tasks = every(1_000, 100, Some(10));
    let with = |tokens| run(&Options { tokens, ..Options::default() }, Operator::Planner(Policy::BALANCED), &tasks);
    let outcome = with(budget(400, 0));
    assert_eq!((outcome.done, outcome.left(), outcome.deferred_most), (40, 60, 60));
    let outcome = with(budget(400, 600));
    assert_eq!((outcome.done, outcome.left()), (100, 0), "tokens are refilled");
    assert!(outcome.lasted > Millis::from_seconds(1_200), "{:?}", outcome.lasted);
    let outcome = with(budget(9, 600));
    assert_eq!((outcome.done, outcome.left()), (0, 100), "no window suffices for one");
}

#[test]
fn without_a_budget_tokens_limit_nothing() {
    let outcome = run(&Options::default(), Operator::Planner(Policy::BALANCED), &every(1_000, 100, Some(u64::MAX / 4)));
    assert_eq!((outcome.done, outcome.left()), (100, 0));
}

#[test]
fn it_ends_without_tokens_if_no_agent_is_left() {
    // The remaining tasks wait for tokens and not for agents, so no agent is replaced.
    let losses = vec![AgentLoss { at: Millis(100_000), agents: 1_000 }];
    let options = Options { tokens: budget(20, 0), losses, ..Options::default() };
    let outcome = run(&options, Operator::Planner(Policy::BALANCED), &every(10_000, 100, Some(10)));
    assert_eq!((outcome.done, outcome.left()), (2, 98));
}

#[test]
fn a_full_queue_refuses() {
    let fleet = FleetSettings { tasks_max: 10, ..FleetSettings::default() };
    let outcome = run(&Options { fleet, ..Options::default() }, Operator::Fixed, &every(1, 1_000, None));
    assert_eq!((outcome.tasks, outcome.left()), (1_000, 0));
    assert_eq!(outcome.done + outcome.refused, 1_000);
    assert!(outcome.refused >= 985, "{}", outcome.refused);
}

#[test]
fn no_arrivals_and_simultaneous_arrivals_work() {
    let outcome = run(&Options::default(), Operator::Planner(Policy::BALANCED), &[]);
    assert_eq!((outcome.tasks, outcome.wait_seconds(0.95), outcome.agent_hours()), (0, 0.0, 0.0));
    let outcome = run(&Options::default(), Operator::Planner(Policy::BALANCED), &every(0, 500, None));
    assert_eq!((outcome.done, outcome.left()), (500, 0));
}

/// Generates bursts with pauses.
fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let burst = (0_u64..900_000, 1_usize..60, 0_u64..2_000, 0_u64..50);
    prop::collection::vec(burst, 1..12).prop_map(|bursts| {
        let mut at = 0;
        let mut arrivals = Vec::new();
        for (pause, count, gap, tokens) in bursts {
            at += pause;
            for _ in 0..count {
                at += gap;
                arrivals.push(Arrival { at: Millis(at), tokens: (tokens > 0).then_some(tokens) });
            }
        }
        arrivals
    })
}

fn operator() -> impl Strategy<Value = Operator> {
    let planners = Policy::NAMED.map(Operator::Planner);
    prop::sample::select([planners.as_slice(), &[Operator::Fixed]].concat())
}

fn simulator() -> impl Strategy<Value = Options> {
    let losses = prop::collection::vec((0_u64..4_000_000, 1_u64..8), 0..4);
    let tokens = prop::option::of((50_u64..2_000, prop::sample::select(vec![0_u64, 60, 3_600])));
    (any::<u64>(), 1_u64..90, 1_u64..90, 1_u64..8, 1_u64..20, losses, tokens, 5_u64..200).prop_map(
        |(seed, duration, plan, start, most, losses, tokens, tasks_max)| Options {
            seed,
            duration_mean: Millis::from_seconds(duration),
            plan_every: Millis::from_seconds(plan),
            agents_at_start: start,
            agents_max: most,
            fleet: FleetSettings { tasks_max, ..FleetSettings::default() },
            tokens: tokens.and_then(|(tokens, window)| budget(tokens, window)),
            losses: losses.into_iter().map(|(at, agents)| AgentLoss { at: Millis(at), agents }).collect(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The cluster is checked at each plan, and every task has exactly one end.
    #[test]
    fn no_task_is_lost(options in simulator(), operator in operator(), arrivals in arrivals()) {
        let outcome = run(&options, operator, &arrivals);
        prop_assert_eq!(outcome.tasks, arrivals.len() as u64);
        prop_assert_eq!(outcome.waits.len(), outcome.done);
        prop_assert!(outcome.left() == 0 || options.tokens.is_some(), "{} are left", outcome.left());
        prop_assert!(outcome.agents_most <= options.agents_max);
        let again = run(&options, operator, &arrivals);
        prop_assert_eq!(format!("{again:?}"), format!("{outcome:?}"), "the same again");
    }

    /// With the same durations and first-come order, another agent makes no quantile of the waits longer.
    #[test]
    fn more_agents_never_wait_longer(seed in any::<u64>(), agents in 1_u64..12, arrivals in arrivals()) {
        let of = |agents| {
            run(&Options { seed, agents_at_start: agents, ..Options::default() }, Operator::Fixed, &arrivals)
        };
        let (fewer, more) = (of(agents), of(agents + 1));
        for quantile in [0.0, 0.5, 0.9, 0.95, 1.0] {
            let (few, many) = (fewer.waits.value_at_quantile(quantile), more.waits.value_at_quantile(quantile));
            prop_assert!(many <= few, "{agents} agents: {few} ms at {quantile}, one more: {many} ms");
        }
    }
}
