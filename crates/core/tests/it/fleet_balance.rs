//! Who is given a task, and what a task is expected to take: choices by weight, and estimates that learn.

use crate::books::{Books, SIZE, agent, agent_id, agent_type, batch_key, job_id, report, task};
use cortex_core::command::{Command, Denied, Outcome};
use cortex_core::fleet::command::{FleetCommand, FleetDenied, FleetOutcome, NoAgent, ReportedResult};
use cortex_core::fleet::task::{Complexity, TaskRequest, TokensExpected};
use cortex_core::fleet::view::AgentFilter;
use cortex_core::ids::{AgentId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp};
use fastrand::Rng;
use std::collections::BTreeMap;

/// How many draws a choice is tried with.
const DRAWS: u64 = 20_000;

/// How many attempts there must be before an estimate is made of them, and at how many the older ones lose half their weight.
const ATTEMPTS_MIN: usize = 10;
const ATTEMPTS_MAX: usize = 1_024;

/// How often each agent would be chosen for a task.
fn choices(books: &Books, task: &TaskId, draws: impl Iterator<Item = u64>) -> BTreeMap<AgentId, u64> {
    let mut chosen: BTreeMap<AgentId, u64> = BTreeMap::new();
    for draw in draws {
        let assign = Command::Fleet(FleetCommand::Assign { task: task.clone(), draw });
        match books.cluster.decide(books.now, &assign).map(|decision| decision.outcome) {
            Ok(Outcome::Fleet(FleetOutcome::Leased { agent, .. })) => *chosen.entry(agent).or_default() += 1,
            other => panic!("{other:?}"),
        }
    }
    chosen
}

/// Lets an agent do tasks that go like this, one after another.
fn do_tasks(books: &mut Books, agent: &str, results: &[(ReportedResult, u64)]) {
    for (result, duration_ms) in results {
        let task = books.submit(TaskRequest { attempts_max: 1, ..task(Priority::Normal, 0) });
        assert_eq!(books.claim(agent), std::slice::from_ref(&task));
        books.complete(&task, report(*result, None, *duration_ms));
    }
}

#[test]
fn agents_are_chosen_by_their_health() {
    use ReportedResult::{Failure, Success};
    let mut books = Books::new(8);
    // Whatever kind they are of: the task is for any.
    for (name, of_type) in [("good", "x"), ("slow", "y"), ("failing", "x"), ("new", "y"), ("laden", "z")] {
        let request = Box::new(agent(name, of_type, 4));
        books.ask(FleetCommand::Register { request, worker_size: SIZE }).expect("there is room");
    }
    do_tasks(&mut books, "good", &[(Success, 100), (Success, 200)]);
    do_tasks(&mut books, "slow", &[(Success, 9_000), (Success, 2_000)]);
    do_tasks(&mut books, "failing", &[(Failure, 100), (Failure, 100)]);
    do_tasks(&mut books, "laden", &[(Success, 100)]);
    for _ in 0..3 {
        books.submit(task(Priority::Normal, 0));
        assert_eq!(books.claim("laden").len(), 1);
    }
    let task = books.submit(task(Priority::Normal, 0));

    let scores: BTreeMap<AgentId, u64> = books
        .cluster
        .agents(books.now, &AgentFilter::default(), None)
        .map(|view| (view.registration.request.agent.clone(), u64::from(view.health.score)))
        .collect();
    let score = |name| scores[&agent_id(name)];
    assert_eq!(score("new"), 500_000);
    assert!(score("good") > score("laden") && score("laden") > score("slow"), "{scores:?}");
    assert!(score("slow") > score("failing"), "{scores:?}");

    let mut rng = Rng::with_seed(4);
    let at_random: Vec<u64> = (0..DRAWS).map(|_| rng.u64(..)).collect();
    let evenly: Vec<u64> = (0..DRAWS).map(|number| number * (u64::MAX / DRAWS)).collect();
    for draws in [at_random, evenly] {
        let chosen = choices(&books, &task, draws.into_iter());
        for (agent, score) in &scores {
            let expected = DRAWS * score / scores.values().sum::<u64>();
            let found = chosen.get(agent).copied().unwrap_or(0);
            // Four standard deviations of a coin thrown so often.
            assert!(found.abs_diff(expected) < 300, "{agent}: {found} of {DRAWS}, by its score {expected}");
        }
    }
    for draw in [0, 1, u64::MAX] {
        choices(&books, &task, std::iter::once(draw));
    }
}

#[test]
fn whoever_is_full_silent_or_unable_is_never_chosen() {
    let mut books = Books::new(8);
    for name in ["full", "free", "silent"] {
        books.register(name, 1).expect("there is room");
    }
    let request = Box::new(agent("stranger", "frontend", 1));
    books.ask(FleetCommand::Register { request, worker_size: SIZE }).expect("there is room");
    books.submit(task(Priority::Normal, 0));
    assert_eq!(books.claim("full").len(), 1);
    books.now = books.now.after(Millis(20_000));
    for name in ["full", "free", "stranger"] {
        books.cluster.hear(books.now, &agent_id(name));
    }
    let mut request = task(Priority::Normal, 0);
    request.selector.agent_type = Some(agent_type("backend"));
    let task = books.submit(request);
    let mut rng = Rng::with_seed(5);
    let chosen = choices(&books, &task, (0..1_000).map(|_| rng.u64(..)));
    assert_eq!(chosen, BTreeMap::from([(agent_id("free"), 1_000)]));

    books.ask(FleetCommand::Assign { task, draw: 0 }).expect("somebody is free");
    let mut request = self::task(Priority::Normal, 0);
    request.selector.agent_type = Some(agent_type("backend"));
    let task = books.submit(request);
    let reason = NoAgent::Busy { able: 3, full: 2, unresponsive: 1 };
    let refused = books.ask(FleetCommand::Assign { task: task.clone(), draw: 0 });
    assert_eq!(refused, Err(FleetDenied::NoAgent { task, reason }.into()));
}

#[test]
fn a_batch_stays_with_whoever_holds_some_of_it() {
    let mut books = Books::new(8);
    for number in 0..6 {
        books.register(&format!("agent {number}"), 3).expect("there is room");
    }
    let of_batch = || TaskRequest { batch: Some(batch_key("batch")), ..task(Priority::Normal, 0) };
    books.submit(of_batch());
    assert_eq!(books.claim("agent 3").len(), 1);
    let task = books.submit(of_batch());
    let mut rng = Rng::with_seed(6);
    let chosen = choices(&books, &task, (0..1_000).map(|_| rng.u64(..)));
    assert_eq!(chosen, BTreeMap::from([(agent_id("agent 3"), 1_000)]));

    // It has room for two more, whichever way they come.
    let others = [books.submit(of_batch()), books.submit(of_batch())];
    let outcome = books.ask(FleetCommand::Assign { task: task.clone(), draw: 0 });
    assert_eq!(outcome, Ok(FleetOutcome::Leased { agent: agent_id("agent 3"), tasks: vec![task, others[0].clone()] }));
    let chosen = choices(&books, &others[1], (0..1_000).map(|_| rng.u64(..)));
    assert_eq!(chosen.len(), 5, "the holder is full, and any other does: {chosen:?}");
}

#[test]
fn a_batch_comes_with_its_most_urgent_first() {
    let mut books = Books::new(1);
    books.register("agent", 3).expect("there is room");
    books.set_budget(1);
    let mut submit = |priority| books.submit(TaskRequest { batch: Some(batch_key("batch")), ..task(priority, 0) });
    let (low, _, first) = (submit(Priority::Low), submit(Priority::Low), submit(Priority::Critical));
    let second = submit(Priority::Critical);
    assert_eq!(books.claim("agent"), [first, second, low]);
}

/// A task that says only how hard it is and how long its input.
fn unestimated(complexity: Complexity, input_characters: u64) -> TaskRequest {
    TaskRequest {
        tokens: TokensExpected { given: None, complexity, input_characters },
        attempts_max: 1,
        ..task(Priority::Normal, 0)
    }
}

/// What a task like this is expected to take, and when it would be urgent if it were due at this moment.
fn estimate(books: &mut Books, request: &TaskRequest, deadline: Timestamp) -> (u64, Timestamp) {
    let task = books.submit(TaskRequest { deadline: Some(deadline), ..request.clone() });
    let spec = books.task(&task).task.spec;
    books.ask(FleetCommand::Cancel { task }).expect("it waits");
    (spec.estimated_tokens, spec.urgent_at.expect("it has a deadline"))
}

#[test]
fn estimates_follow_the_formula_until_there_is_history() {
    let mut books = Books::new(1);
    let deadline = books.now.after(Millis(100_000));
    let check = |books: &mut Books, complexity, input_characters, tokens| {
        let (estimated, urgent_at) = estimate(books, &unestimated(complexity, input_characters), deadline);
        assert_eq!(estimated, tokens, "{complexity:?} with {input_characters}");
        assert_eq!(urgent_at, deadline.before(Millis(6_000)), "twice the target");
    };
    check(&mut books, Complexity::Simple, 0, 500);
    check(&mut books, Complexity::Medium, 0, 1_000);
    check(&mut books, Complexity::Complex, 0, 2_000);
    check(&mut books, Complexity::Medium, 1, 1_000);
    check(&mut books, Complexity::Medium, 2, 1_001);
    check(&mut books, Complexity::Medium, 3, 1_002);
    check(&mut books, Complexity::Simple, 100, 575);
    check(&mut books, Complexity::Complex, 65_536, 51_152);
    let given = TaskRequest {
        tokens: TokensExpected { given: Some(7), ..TokensExpected::default() },
        ..task(Priority::Low, 0)
    };
    assert_eq!(estimate(&mut books, &given, deadline).0, 7);
}

#[test]
fn estimates_learn_from_what_similar_tasks_took() {
    let mut books = Books::new(1);
    books.register("agent", 1).expect("there is room");
    books.set_budget(1 << 40);
    let deadline = books.now.after(Millis(100_000_000));
    let request = unestimated(Complexity::Simple, 0);
    let other = unestimated(Complexity::Medium, 0);
    // The sums that are kept: how many there are, and of tokens and durations their sum and that of their squares.
    let (mut count, mut sums) = (0_u64, [0_u64; 4]);
    let mut rng = Rng::with_seed(7);
    for number in 0..2 * ATTEMPTS_MAX {
        let task = books.submit(request.clone());
        assert_eq!(books.claim("agent"), std::slice::from_ref(&task));
        let result = if rng.u8(0..4) == 0 { ReportedResult::Failure } else { ReportedResult::Success };
        let base = if number < ATTEMPTS_MAX { 100 } else { 900 };
        let (tokens, duration) = (base + rng.u64(0..50), 10 * base + rng.u64(0..500));
        books.complete(&task, report(result, Some(tokens), duration));
        if result == ReportedResult::Success {
            count += 1;
            for (sum, value) in sums.iter_mut().zip([tokens, tokens * tokens, duration, duration * duration]) {
                *sum += value;
            }
            if count == ATTEMPTS_MAX as u64 {
                count /= 2;
                sums = sums.map(|sum| sum / 2);
            }
        }
        if number % 50 < 2 || number < 20 {
            let (estimated, urgent_at) = estimate(&mut books, &request, deadline);
            let quantile = |sum: u64, squares: u64| {
                let mean = sum as f64 / count as f64;
                mean + 1.281_551_565_5 * (squares as f64 / count as f64 - mean * mean).max(0.0).sqrt()
            };
            let expected = [quantile(sums[0], sums[1]), quantile(sums[2], sums[3])].map(|value| value.ceil() as u64);
            let expected = if count < ATTEMPTS_MIN as u64 { [500, 3_000] } else { expected };
            let found = [estimated, deadline.since(urgent_at).0 / 2];
            let is_near = expected.iter().zip(found).all(|(expected, found)| expected.abs_diff(found) <= 1);
            assert!(is_near, "{found:?} after {count} that went well, expected {expected:?}");
            assert_eq!(
                estimate(&mut books, &other, deadline),
                (1_000, deadline.before(Millis(6_000))),
                "others learn nothing"
            );
        }
        books.wait(1);
    }
}

#[test]
fn what_has_a_number_of_its_own_is_bounded() {
    let mut books = Books::new(1);
    let limit = 1_000;
    let too_many = |refused: Result<FleetOutcome, Denied>| {
        let Err(Denied::Fleet(FleetDenied::TooMany { limit: told, .. })) = refused else { panic!("{refused:?}") };
        assert_eq!(told, limit);
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
        books.ask(budget(number, Some(1))).expect("there is room");
        books.ask(quota(number, Some(1))).expect("there is room");
    }
    too_many(books.ask(budget(limit, Some(1))));
    too_many(books.ask(quota(limit, Some(1))));
    // One that is there can be changed, and one that is taken away makes room.
    books.ask(budget(0, Some(2))).expect("it has one");
    books.ask(quota(0, Some(2))).expect("it has one");
    books.ask(budget(limit, None)).expect("it has none");
    books.ask(quota(limit, None)).expect("it has none");
    books.ask(budget(1, None)).expect("it has one");
    books.ask(quota(1, None)).expect("it has one");
    books.ask(budget(limit, Some(1))).expect("there is room");
    books.ask(quota(limit, Some(1))).expect("there is room");
}
