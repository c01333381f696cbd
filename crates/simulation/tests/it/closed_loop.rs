//! Closed-loop tests: the policies under bursts, ramps, daily waves and lost agents, in virtual time, at a fifth of the
//! scale of the table in the README.

use cortex_core::policy::{Policy, PolicyName};
use cortex_core::time::Millis;
use cortex_simulation::{Comparison, Fleet, Options, ScalingChange, SimulationOutcome, compare};
use cortex_test_support::scenarios::Scenario;
use std::sync::LazyLock;

const SCALE: f64 = 0.2;
const SEED: u64 = 20_261_126;

/// The outcome of a scenario under each fleet.
type Outcomes = Vec<(Fleet, SimulationOutcome)>;

/// Every scenario with its outcomes, computed once for all tests.
static RUNS: LazyLock<Vec<(Scenario, Outcomes)>> = LazyLock::new(|| {
    let run = |scenario: Scenario| {
        let outcomes = run(&scenario, Millis::from_seconds(30));
        (scenario, outcomes)
    };
    cortex_test_support::scenarios::all(SCALE, SEED).map(run).into_iter().collect()
});

fn run(scenario: &Scenario, plan_every: Millis) -> Outcomes {
    let losses = scenario.losses.to_vec();
    let options = Options { seed: scenario.seed, plan_every, losses, ..Options::default() };
    let comparison = Comparison { options, policy: None, agents: None };
    compare(&comparison, scenario, &mut |_| {}).expect("generated arrivals")
}

/// Returns the 95 % quantile of the wait times of the selected fleet, in seconds.
fn wait_p95(outcomes: &[(Fleet, SimulationOutcome)], is_selected: impl Fn(&Fleet) -> bool) -> f64 {
    let (_, outcome) = outcomes.iter().find(|(fleet, _)| is_selected(fleet)).expect("a fleet of this kind");
    outcome.wait_seconds(0.95)
}

#[test]
fn the_balanced_policy_makes_tasks_wait_less_than_a_fixed_fleet_of_its_size() {
    for (scenario, outcomes) in RUNS.iter() {
        let balanced = wait_p95(outcomes, |fleet| *fleet == Fleet::Planned(PolicyName::Balanced));
        let fixed = wait_p95(outcomes, |fleet| matches!(fleet, Fleet::Fixed(_)));
        assert!(balanced < fixed, "{}: {balanced} s, fixed {fixed} s", scenario.name);
    }
}

#[test]
fn every_task_is_completed_once_while_agents_drain_or_vanish() {
    for (scenario, outcomes) in RUNS.iter() {
        for (fleet, outcome) in outcomes {
            let context = format!("{} under {}", scenario.name, fleet.name());
            assert!(outcome.tasks > 1_000, "{context}");
            assert_eq!((outcome.done, outcome.left(), outcome.refused), (outcome.tasks, 0, 0), "{context}");
            assert_eq!(outcome.waits.len(), outcome.done, "{context}");
            let lost: u64 = scenario.losses.iter().map(|loss| loss.agents).sum();
            assert!(outcome.vanished <= lost && (outcome.vanished > 0) == (lost > 0), "{context}");
            assert!(outcome.returned <= outcome.vanished, "{context}");
            let is_planned = matches!(fleet, Fleet::Planned(_));
            let goes_down = outcome.first_scalings.iter().any(|scaling| scaling.to < scaling.from);
            assert!(is_planned || !goes_down, "{context}");
            assert!(goes_down || !is_planned || lost > 0, "{context}: fewer agents follow lower demand");
        }
        let work = |(_, outcome): &(Fleet, SimulationOutcome)| outcome.tasks;
        assert!(outcomes.iter().map(work).all(|tasks| tasks == work(&outcomes[0])), "all fleets have the same tasks");
    }
}

#[test]
fn no_policy_goes_up_and_down_and_up_within_its_cooldown() {
    let is_up = |scaling: &ScalingChange| scaling.to > scaling.from;
    for scenario in cortex_test_support::scenarios::all(SCALE / 2.0, SEED) {
        // Frequent plans, so that several fall into a cooldown.
        let outcomes = run(&scenario, Millis::from_seconds(3));
        for policy in Policy::NAMED {
            let (_, outcome) =
                outcomes.iter().find(|(fleet, _)| *fleet == Fleet::Planned(policy.name)).expect("a fleet of this kind");
            let turns: Vec<&ScalingChange> = outcome.first_scalings.iter().collect();
            assert!(turns.len() > 2 && turns.len() as u64 == outcome.scalings, "{} scalings", outcome.scalings);
            for three in turns.windows(3) {
                let turns_twice = is_up(three[0]) != is_up(three[1]) && is_up(three[1]) != is_up(three[2]);
                let within = Millis(three[2].at.0 - three[0].at.0) < policy.cooldown_ms;
                assert!(!(turns_twice && within), "{} under {:?}: {three:?}", scenario.name, policy.name);
            }
        }
    }
}

#[test]
fn the_outcome_depends_on_the_seed_alone() {
    let of = |seed| {
        let [bursts, ..] = cortex_test_support::scenarios::all(SCALE / 4.0, seed);
        format!("{:?}", run(&bursts, Millis::from_seconds(30)))
    };
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
}
