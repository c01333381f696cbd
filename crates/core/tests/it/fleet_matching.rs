//! Matching and estimates: weighted choices of agents, and estimates that are learned from ended tasks.

use crate::fleet_state::{FleetState, SIZE, agent, agent_id, agent_type, batch_key, job_id, report, task};
use cortex_core::command::{Command, Denied, Outcome};
use cortex_core::fleet::command::{FleetCommand, FleetDenied, FleetOutcome, NoAgentReason, ReportedResult};
use cortex_core::fleet::task::{Complexity, TaskRequest, TokenHints};
use cortex_core::fleet::view::AgentFilter;
use cortex_core::ids::{AgentId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp};
use fastrand::Rng;
use std::collections::BTreeMap;

/// The number of random values that a choice is tried with.
const TRIALS: u64 = 20_000;

/// The number of samples from which an estimate is made, and the number at which older samples are halved.
const SAMPLES_MIN: usize = 10;
const SAMPLES_MAX: usize = 1_024;

/// Counts how often each agent is picked for a task.
fn choices(state: &FleetState, task: &TaskId, random_values: impl Iterator<Item = u64>) -> BTreeMap<AgentId, u64> {
    let mut chosen: BTreeMap<AgentId, u64> = BTreeMap::new();
    for random in random_values {
        let assign = Command::Fleet(FleetCommand::Assign { task: task.clone(), random });
        match state.cluster.decide(state.now, &assign).map(|decision| decision.outcome) {
            Ok(Outcome::Fleet(FleetOutcome::Leased { agent, .. })) => *chosen.entry(agent).or_default() += 1,
            other => panic!("{other:?}"),
        }
    }
    chosen
}

/// Has an agent claim and report tasks with these results, one after another.
fn do_tasks(state: &mut FleetState, agent: &str, results: &[(ReportedResult, u64)]) {
    for (result, duration_ms) in results {
        let task = state.submit(TaskRequest { attempts_max: 1, ..task(Priority::Normal, 0) });
        assert_eq!(state.claim(agent), std::slice::from_ref(&task));
        state.complete(&task, report(*result, None, *duration_ms));
    }
}

#[test]
fn agents_are_chosen_by_their_health() {
    use ReportedResult::{Failure, Success};
    let mut state = FleetState::new(8);
    // Agents of different types: the task admits any type.
    for (name, of_type) in [("good", "x"), ("slow", "y"), ("failing", "x"), ("new", "y"), ("laden", "z")] {
        let request = Box::new(agent(name, of_type, 4));
        state.ask(FleetCommand::Register { request, worker_size: SIZE }).expect("capacity is left");
    }
    do_tasks(&mut state, "good", &[(Success, 100), (Success, 200)]);
    do_tasks(&mut state, "slow", &[(Success, 9_000), (Success, 2_000)]);
    do_tasks(&mut state, "failing", &[(Failure, 100), (Failure, 100)]);
    do_tasks(&mut state, "laden", &[(Success, 100)]);
    for _ in 0..3 {
        state.submit(task(Priority::Normal, 0));
        assert_eq!(state.claim("laden").len(), 1);
    }
    let task = state.submit(task(Priority::Normal, 0));

    let scores: BTreeMap<AgentId, u64> = state
        .cluster
        .agents(state.now, &AgentFilter::default(), None)
        .map(|view| (view.registration.request.agent.clone(), u64::from(view.health.score)))
        .collect();
    let score = |name| scores[&agent_id(name)];
    assert_eq!(score("new"), 500_000);
    assert!(score("good") > score("laden") && score("laden") > score("slow"), "{scores:?}");
    assert!(score("slow") > score("failing"), "{scores:?}");

    let mut rng = Rng::with_seed(4);
    let at_random: Vec<u64> = (0..TRIALS).map(|_| rng.u64(..)).collect();
    let evenly: Vec<u64> = (0..TRIALS).map(|number| number * (u64::MAX / TRIALS)).collect();
    for random_values in [at_random, evenly] {
        let chosen = choices(&state, &task, random_values.into_iter());
        for (agent, score) in &scores {
            let expected = TRIALS * score / scores.values().sum::<u64>();
            let found = chosen.get(agent).copied().unwrap_or(0);
            // Four standard deviations of a coin tossed as often.
            assert!(found.abs_diff(expected) < 300, "{agent}: {found} of {TRIALS}, by its score {expected}");
        }
    }
    for random in [0, 1, u64::MAX] {
        choices(&state, &task, std::iter::once(random));
    }
}

#[test]
fn full_silent_and_ineligible_agents_are_never_picked() {
    let mut state = FleetState::new(8);
    for name in ["full", "free", "silent"] {
        state.register(name, 1).expect("capacity is left");
    }
    let request = Box::new(agent("frontend", "frontend", 1));
    state.ask(FleetCommand::Register { request, worker_size: SIZE }).expect("capacity is left");
    state.submit(task(Priority::Normal, 0));
    assert_eq!(state.claim("full").len(), 1);
    state.now = state.now.after(Millis(20_000));
    for name in ["full", "free", "frontend"] {
        state.cluster.record_heartbeat(state.now, &agent_id(name));
    }
    let mut request = task(Priority::Normal, 0);
    request.selector.agent_type = Some(agent_type("backend"));
    let task = state.submit(request);
    let mut rng = Rng::with_seed(5);
    let chosen = choices(&state, &task, (0..1_000).map(|_| rng.u64(..)));
    assert_eq!(chosen, BTreeMap::from([(agent_id("free"), 1_000)]));

    state.ask(FleetCommand::Assign { task, random: 0 }).expect("an agent is free");
    let mut request = self::task(Priority::Normal, 0);
    request.selector.agent_type = Some(agent_type("backend"));
    let task = state.submit(request);
    let reason = NoAgentReason::Busy { eligible: 3, full: 2, unresponsive: 1 };
    let refused = state.ask(FleetCommand::Assign { task: task.clone(), random: 0 });
    assert_eq!(refused, Err(FleetDenied::NoAgent { task, reason }.into()));
}

#[test]
fn a_batch_stays_with_its_holder() {
    let mut state = FleetState::new(8);
    for number in 0..6 {
        state.register(&format!("agent {number}"), 3).expect("capacity is left");
    }
    let of_batch = || TaskRequest { batch: Some(batch_key("batch")), ..task(Priority::Normal, 0) };
    state.submit(of_batch());
    assert_eq!(state.claim("agent 3").len(), 1);
    let task = state.submit(of_batch());
    let mut rng = Rng::with_seed(6);
    let chosen = choices(&state, &task, (0..1_000).map(|_| rng.u64(..)));
    assert_eq!(chosen, BTreeMap::from([(agent_id("agent 3"), 1_000)]));

    // It has two free task slots.
    let others = [state.submit(of_batch()), state.submit(of_batch())];
    let outcome = state.ask(FleetCommand::Assign { task: task.clone(), random: 0 });
    assert_eq!(outcome, Ok(FleetOutcome::Leased { agent: agent_id("agent 3"), tasks: vec![task, others[0].clone()] }));
    let chosen = choices(&state, &others[1], (0..1_000).map(|_| rng.u64(..)));
    assert_eq!(chosen.len(), 5, "the holder is full, and any other does: {chosen:?}");
}

#[test]
fn a_batch_comes_with_its_most_urgent_first() {
    let mut state = FleetState::new(1);
    state.register("agent", 3).expect("capacity is left");
    state.set_budget(1);
    let mut submit = |priority| state.submit(TaskRequest { batch: Some(batch_key("batch")), ..task(priority, 0) });
    let (low, _, first) = (submit(Priority::Low), submit(Priority::Low), submit(Priority::Critical));
    let second = submit(Priority::Critical);
    assert_eq!(state.claim("agent"), [first, second, low]);
}

/// A task without its submitter's own estimate.
fn unestimated(complexity: Complexity, input_characters: u64) -> TaskRequest {
    TaskRequest {
        tokens: TokenHints { given: None, complexity, input_characters },
        attempts_max: 1,
        ..task(Priority::Normal, 0)
    }
}

/// Returns the estimate of such a task, and the time from which it would be urgent with this deadline.
fn estimate(state: &mut FleetState, request: &TaskRequest, deadline: Timestamp) -> (u64, Timestamp) {
    let task = state.submit(TaskRequest { deadline: Some(deadline), ..request.clone() });
    let spec = state.task(&task).task.spec;
    state.ask(FleetCommand::Cancel { task }).expect("it waits");
    (spec.estimated_tokens, spec.urgent_at.expect("it has a deadline"))
}

#[test]
fn estimates_follow_the_formula_until_there_is_history() {
    let mut state = FleetState::new(1);
    let deadline = state.now.after(Millis(100_000));
    let check = |state: &mut FleetState, complexity, input_characters, tokens| {
        let (estimated, urgent_at) = estimate(state, &unestimated(complexity, input_characters), deadline);
        assert_eq!(estimated, tokens, "{complexity:?} with {input_characters}");
        assert_eq!(urgent_at, deadline.before(Millis(6_000)), "twice the target");
    };
    check(&mut state, Complexity::Simple, 0, 500);
    check(&mut state, Complexity::Medium, 0, 1_000);
    check(&mut state, Complexity::Complex, 0, 2_000);
    check(&mut state, Complexity::Medium, 1, 1_000);
    check(&mut state, Complexity::Medium, 2, 1_001);
    check(&mut state, Complexity::Medium, 3, 1_002);
    check(&mut state, Complexity::Simple, 100, 575);
    check(&mut state, Complexity::Complex, 65_536, 51_152);
    let given =
        TaskRequest { tokens: TokenHints { given: Some(7), ..TokenHints::default() }, ..task(Priority::Low, 0) };
    assert_eq!(estimate(&mut state, &given, deadline).0, 7);
}

#[test]
fn estimates_learn_from_what_similar_tasks_took() {
    let mut state = FleetState::new(1);
    state.register("agent", 1).expect("capacity is left");
    state.set_budget(1 << 40);
    let deadline = state.now.after(Millis(100_000_000));
    let request = unestimated(Complexity::Simple, 0);
    let other = unestimated(Complexity::Medium, 0);
    // The expected statistics: the count, and the sums and sums of squares of tokens and durations.
    let (mut count, mut sums) = (0_u64, [0_u64; 4]);
    let mut rng = Rng::with_seed(7);
    for number in 0..2 * SAMPLES_MAX {
        let task = state.submit(request.clone());
        assert_eq!(state.claim("agent"), std::slice::from_ref(&task));
        let result = if rng.u8(0..4) == 0 { ReportedResult::Failure } else { ReportedResult::Success };
        let base = if number < SAMPLES_MAX { 100 } else { 900 };
        let (tokens, duration) = (base + rng.u64(0..50), 10 * base + rng.u64(0..500));
        state.complete(&task, report(result, Some(tokens), duration));
        if result == ReportedResult::Success {
            count += 1;
            for (sum, value) in sums.iter_mut().zip([tokens, tokens * tokens, duration, duration * duration]) {
                *sum += value;
            }
            if count == SAMPLES_MAX as u64 {
                count /= 2;
                sums = sums.map(|sum| sum / 2);
            }
        }
        if number % 50 < 2 || number < 20 {
            let (estimated, urgent_at) = estimate(&mut state, &request, deadline);
            let quantile = |sum: u64, squares: u64| {
                let mean = sum as f64 / count as f64;
                mean + 1.281_551_565_5 * (squares as f64 / count as f64 - mean * mean).max(0.0).sqrt()
            };
            let expected = [quantile(sums[0], sums[1]), quantile(sums[2], sums[3])].map(|value| value.ceil() as u64);
            let expected = if count < SAMPLES_MIN as u64 { [500, 3_000] } else { expected };
            let found = [estimated, deadline.since(urgent_at).0 / 2];
            let is_near = expected.iter().zip(found).all(|(expected, found)| expected.abs_diff(found) <= 1);
            assert!(is_near, "{found:?} after {count} that went well, expected {expected:?}");
            assert_eq!(
                estimate(&mut state, &other, deadline),
                (1_000, deadline.before(Millis(6_000))),
                "others learn nothing"
            );
        }
        state.wait(1);
    }
}

#[test]
fn numbered_items_are_bounded() {
    let mut state = FleetState::new(1);
    let limit = 1_000;
    let too_many = |refused: Result<FleetOutcome, Denied>| {
        let Err(Denied::Fleet(FleetDenied::TooMany { limit: reported, .. })) = refused else { panic!("{refused:?}") };
        assert_eq!(reported, limit);
    };
    let budget = |number: usize, tokens| {
        let job = Some(job_id(&number.to_string()));
        FleetCommand::SetTokenBudget { job, tokens, window: None }
    };
    let quota = |number: usize, agents| {
        let agent_type = Some(agent_type(&number.to_string()));
        FleetCommand::SetAgentQuota { agent_type, agents }
    };
    for number in 0..limit {
        state.ask(budget(number, Some(1))).expect("capacity is left");
        state.ask(quota(number, Some(1))).expect("capacity is left");
    }
    too_many(state.ask(budget(limit, Some(1))));
    too_many(state.ask(quota(limit, Some(1))));
    // Existing ones can be changed, and removing one makes a new one possible.
    state.ask(budget(0, Some(2))).expect("it has one");
    state.ask(quota(0, Some(2))).expect("it has one");
    state.ask(budget(limit, None)).expect("it has none");
    state.ask(quota(limit, None)).expect("it has none");
    state.ask(budget(1, None)).expect("it has one");
    state.ask(quota(1, None)).expect("it has one");
    state.ask(budget(limit, Some(1))).expect("capacity is left");
    state.ask(quota(limit, Some(1))).expect("capacity is left");
}
