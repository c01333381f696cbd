//! Properties of the fleet over generated commands: invariants that hold whatever agents and submitters do.

use crate::fleet_state::{FleetState, SIZE, agent, agent_id, batch_key, job_id, report, task};
use cortex_core::allocation::Metadata;
use cortex_core::command::{Command, Denied, DistinctServers, Outcome, Request};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome, ReportedResult};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{Task, TaskRequest, TaskState, TokenHints};
use cortex_core::fleet::view::{AgentFilter, TaskFilter};
use cortex_core::ids::{FencingToken, TaskId, TaskNumber};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, TtlSeconds};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const CASES: u32 = 64;
const AGENTS: u8 = 4;
const JOBS: u8 = 3;

/// A command of an agent or a submitter, or the passing of time.
#[derive(Clone, Debug)]
enum Step {
    Register { agent: u8, tasks_max: u32 },
    Unregister { agent: u8 },
    Submit { job: Option<u8>, priority: usize, tokens: Option<u64>, batch: Option<u8>, attempts_max: u32 },
    Claim { agent: u8 },
    Assign { task: usize, random: u64 },
    Complete { task: usize, agent: Option<u8>, token: Option<u64>, tokens_used: Option<u64>, result: u8 },
    Return { task: usize },
    Cancel { task: usize },
    Budget { job: Option<u8>, tokens: Option<u64>, window_ms: Option<u64> },
    Wait { ms: u64, sends_heartbeats: bool },
    AdvanceTime,
    Lease,
}

fn step() -> impl Strategy<Value = Step> {
    let (agent, task) = (0..AGENTS, 0..24_usize);
    let job = || proptest::option::of(0..JOBS);
    // Most tasks need about as much as there is; a few need more than there can be.
    let tokens = || prop_oneof![8 => (0..400_u64).prop_map(Some), 1 => Just(Some(u64::MAX)), 3 => Just(None)];
    prop_oneof![
        3 => (agent.clone(), 1..4_u32).prop_map(|(agent, tasks_max)| Step::Register { agent, tasks_max }),
        1 => agent.clone().prop_map(|agent| Step::Unregister { agent }),
        8 => (job(), 0..4_usize, tokens(), proptest::option::of(0..2_u8), 1..4_u32).prop_map(
            |(job, priority, tokens, batch, attempts_max)| Step::Submit { job, priority, tokens, batch, attempts_max }
        ),
        8 => agent.clone().prop_map(|agent| Step::Claim { agent }),
        3 => (task.clone(), any::<u64>()).prop_map(|(task, random)| Step::Assign { task, random }),
        8 => (
            task.clone(),
            proptest::option::weighted(0.2, agent),
            proptest::option::weighted(0.2, 0..30_u64),
            tokens(),
            0..4_u8,
        )
            .prop_map(|(task, agent, token, tokens_used, result)| {
                Step::Complete { task, agent, token, tokens_used, result }
            }),
        2 => task.clone().prop_map(|task| Step::Return { task }),
        2 => task.prop_map(|task| Step::Cancel { task }),
        3 => (job(), proptest::option::weighted(0.8, 0..2_000_u64), proptest::option::of(0..3_000_u64))
            .prop_map(|(job, tokens, window_ms)| Step::Budget { job, tokens, window_ms }),
        4 => (0..8_000_u64, any::<bool>()).prop_map(|(ms, sends_heartbeats)| Step::Wait { ms, sends_heartbeats }),
        3 => Just(Step::AdvanceTime),
        1 => Just(Step::Lease),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..120)
}

/// A fleet that executes steps, and the ids of all tasks that it accepted.
struct Driver {
    state: FleetState,
    tasks: Vec<TaskId>,
}

impl Driver {
    fn new() -> Self {
        let mut state = FleetState::new(6);
        let settings = FleetSettings { heartbeat_ms: Millis(2_000), ..FleetSettings::default() };
        state.ask(FleetCommand::SetSettings(settings)).expect("settings");
        state.set_budget(1_000);
        for name in 0..AGENTS {
            state.register(&agent_name(name), 2).expect("capacity is left");
        }
        Self { state, tasks: Vec::new() }
    }

    fn execute(&mut self, step: &Step) -> Result<Outcome, Denied> {
        let command = match *step {
            Step::Register { agent: name, tasks_max } => {
                let request = Box::new(agent(&agent_name(name), "backend", tasks_max));
                FleetCommand::Register { request, worker_size: SIZE }
            }
            Step::Unregister { agent } => FleetCommand::Unregister { agent: agent_id(&agent_name(agent)) },
            Step::Submit { job, priority, tokens, batch, attempts_max } => {
                let request = TaskRequest {
                    job: job.map(|job| job_id(&job_name(job))),
                    batch: batch.map(|batch| batch_key(&batch.to_string())),
                    attempts_max,
                    lease_seconds: TtlSeconds::new(10).expect("at least 1"),
                    ..task(Priority::ALL[priority], 0)
                };
                let request = TaskRequest { tokens: expected(tokens), ..request };
                FleetCommand::Submit { request: Box::new(request), random: 0 }
            }
            Step::Claim { agent } => FleetCommand::Claim { agent: agent_id(&agent_name(agent)) },
            Step::Assign { task, random } => FleetCommand::Assign { task: self.task(task), random },
            Step::Complete { task, agent, token, tokens_used, result } => {
                let task = self.task(task);
                let held = self.state.hold(&task);
                let own = held.unwrap_or_else(|| (agent_id("nobody"), FencingToken::new(1)));
                let all = [ReportedResult::Success, ReportedResult::Failure, ReportedResult::Timeout];
                let result = all.get(usize::from(result)).copied().unwrap_or(ReportedResult::Success);
                FleetCommand::Complete {
                    task,
                    agent: agent.map_or(own.0, |agent| agent_id(&agent_name(agent))),
                    fencing_token: token.map_or(own.1, FencingToken::new),
                    report: Box::new(report(result, tokens_used, 100)),
                }
            }
            Step::Return { task } => {
                let task = self.task(task);
                let fencing_token = self.state.hold(&task).map_or(FencingToken::new(1), |(_, token)| token);
                FleetCommand::Return { task, fencing_token }
            }
            Step::Cancel { task } => FleetCommand::Cancel { task: self.task(task) },
            Step::Budget { job, tokens, window_ms } => {
                let window = window_ms.filter(|_| job.is_none()).map(Millis);
                FleetCommand::SetTokenBudget { job: job.map(|job| job_id(&job_name(job))), tokens, window }
            }
            Step::Wait { ms, sends_heartbeats } => {
                self.state.now = self.state.now.after(Millis(ms));
                if sends_heartbeats {
                    self.state.cluster.presume_alive(self.state.now);
                }
                return Ok(Outcome::Done);
            }
            Step::AdvanceTime => FleetCommand::AdvanceTime { steps_max: 3 },
            Step::Lease => return self.state.execute(&lease()),
        };
        let outcome = self.state.execute(&Command::Fleet(command));
        if let Ok(Outcome::Fleet(FleetOutcome::Submitted { task, is_new: true })) = &outcome {
            self.tasks.push(task.clone());
        }
        outcome
    }

    fn task(&self, index: usize) -> TaskId {
        let known = index.checked_rem(self.tasks.len()).map(|index| self.tasks[index].clone());
        known.unwrap_or_else(|| TaskId::new("nothing").expect("a name"))
    }

    fn list(&self, filter: &TaskFilter) -> Vec<Task> {
        self.state.cluster.tasks(self.state.now, filter, TaskNumber::new(0)).map(|view| view.task).collect()
    }
}

fn agent_name(number: u8) -> String {
    format!("agent {number}")
}

fn job_name(number: u8) -> String {
    format!("job {number}")
}

fn expected(tokens: Option<u64>) -> TokenHints {
    TokenHints { given: tokens, ..TokenHints::default() }
}

/// A request for one worker with a short TTL.
fn lease() -> Command {
    let request = Request {
        job: job_id("lease"),
        servers: DistinctServers::default(),
        workers: 1,
        priority: Priority::Normal,
        ttl_seconds: TtlSeconds::new(3).expect("at least 1"),
        request_id: None,
        metadata: Metadata::empty(),
    };
    Command::Request { request: Box::new(request), worker_size: SIZE, random: 0 }
}

/// The weight of a priority in the efficiency score.
fn weight(priority: Priority) -> f64 {
    match priority {
        Priority::Critical => 10.0,
        Priority::High => 5.0,
        Priority::Normal => 2.0,
        Priority::Low => 1.0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_reservation_goes_over_a_budget(steps in steps()) {
        let mut driver = Driver::new();
        for step in &steps {
            let outcome = driver.execute(step);
            let Ok(Outcome::Fleet(FleetOutcome::Leased { tasks, .. })) = outcome else { continue };
            let usage = driver.state.cluster.usage(driver.state.now, SIZE).tokens;
            // A task with an estimate of 0 may be leased even if no tokens remain.
            let tokens = |task: &TaskId| driver.state.task(task).task.spec.estimated_tokens;
            let all = usage.all;
            let takes_some = tasks.iter().any(|task| tokens(task) > 0);
            prop_assert!(!takes_some || all.settled + all.reserved <= all.total, "{:?} after {:?}", all, step);
            for leased in tasks.iter().filter(|task| tokens(task) > 0) {
                let job = driver.state.task(leased).task.spec.request.job.clone();
                for (_, of_job) in usage.jobs.iter().filter(|(known, _)| Some(known) == job.as_ref()) {
                    prop_assert!(of_job.settled + of_job.reserved <= of_job.total, "{:?} after {:?}", of_job, step);
                }
            }
        }
    }

    #[test]
    fn a_refusal_changes_nothing(steps in steps()) {
        let mut driver = Driver::new();
        for step in &steps {
            driver.state.cluster.observe(driver.state.now);
            let before = driver.state.cluster.clone();
            if let Err(denied) = driver.execute(step) {
                prop_assert!(driver.state.cluster == before, "{:?} after {:?}", denied, step);
            }
        }
    }

    #[test]
    fn every_task_is_in_exactly_one_state(steps in steps()) {
        let mut driver = Driver::new();
        for step in &steps {
            let _ = driver.execute(step);
            let mut found: Vec<TaskId> = Vec::new();
            for state in TaskState::ALL {
                let filter = TaskFilter { state: Some(state), ..TaskFilter::default() };
                let listed = driver.list(&filter);
                prop_assert_eq!(driver.state.cluster.count_tasks(&filter), listed.len() as u64);
                found.extend(listed.into_iter().map(|task| task.spec.task.clone()));
            }
            found.sort();
            let mut known = driver.tasks.clone();
            known.sort();
            prop_assert_eq!(found, known, "after {:?}", step);
        }
    }

    #[test]
    fn nothing_that_has_ended_changes_and_nothing_is_done_twice(steps in steps()) {
        let mut driver = Driver::new();
        let mut ended: BTreeMap<TaskId, Task> = BTreeMap::new();
        for step in &steps {
            let _ = driver.execute(step);
            for task in driver.list(&TaskFilter::default()) {
                if let Some(before) = ended.get(&task.spec.task) {
                    prop_assert_eq!(&task, before, "after {:?}", step);
                }
                prop_assert!(task.attempts.len() as u64 <= u64::from(task.spec.request.attempts_max));
                if task.end().is_some() {
                    ended.insert(task.spec.task.clone(), task);
                }
            }
        }
    }

    #[test]
    fn the_tokens_of_leases_grow(steps in steps()) {
        let mut driver = Driver::new();
        let mut last = driver.state.cluster.last_token();
        for step in &steps {
            let outcome = driver.execute(step);
            let tokens: Vec<FencingToken> = match outcome {
                Ok(Outcome::Fleet(FleetOutcome::Leased { tasks, .. })) => {
                    tasks.iter().filter_map(|task| driver.state.hold(task)).map(|(_, token)| token).collect()
                }
                Ok(Outcome::Granted { allocation, .. }) => {
                    let view = driver.state.cluster.allocation(driver.state.now, allocation).expect("on record");
                    vec![view.allocation.reservation.fencing_token]
                }
                _ => Vec::new(),
            };
            for token in tokens {
                prop_assert!(token > last, "{} after {}", token, last);
                last = token;
            }
            prop_assert_eq!(driver.state.cluster.last_token(), last);
        }
    }

    #[test]
    fn no_agent_holds_more_than_it_may_and_none_has_what_another_has(steps in steps()) {
        let mut driver = Driver::new();
        for step in &steps {
            let _ = driver.execute(step);
            let mut held = BTreeSet::new();
            let mut listed = Vec::new();
            for view in driver.state.cluster.agents(driver.state.now, &AgentFilter::default(), None) {
                prop_assert!(view.tasks.len() as u64 <= u64::from(view.registration.request.tasks_max));
                for task in view.tasks {
                    prop_assert!(held.insert(task.task.clone()), "{} is held twice", task.task);
                    listed.push((task.task, view.registration.request.agent.clone(), task.fencing_token));
                }
            }
            for (task, agent, token) in listed {
                prop_assert_eq!(driver.state.hold(&task), Some((agent, token)));
            }
            let capacity = driver.state.cluster.capacity(driver.state.now);
            prop_assert!(capacity.total.covers(&capacity.leased));
        }
    }

    /// Under an endless stream of critical tasks, a low task counts as critical after three aging periods. From then on
    /// only tasks submitted before it, or soon after it, precede it. The same holds while tokens are conserved, if all
    /// have the same estimate.
    #[test]
    fn waiting_wins_in_the_end(
        aging_ms in 1..10_000_u64,
        ahead in 0..10_usize,
        stream in 1..4_usize,
        claims_an_aging in 1..8_u64,
        is_conserving in any::<bool>(),
    ) {
        let mut state = FleetState::new(2);
        let settings = FleetSettings { priority_aging_ms: Millis(aging_ms), ..FleetSettings::default() };
        state.ask(FleetCommand::SetSettings(settings)).expect("settings");
        state.register("agent", 1).expect("capacity is left");
        let tokens = u64::from(is_conserving);
        if is_conserving {
            state.set_budget(u64::MAX);
            state.register("holder", 1).expect("capacity is left");
            state.submit(task(Priority::Normal, 4_001));
            prop_assert_eq!(state.claim("holder").len(), 1);
            state.set_budget(5_001);
        } else {
            state.set_budget(1);
        }
        for _ in 0..ahead {
            state.submit(task(Priority::Critical, tokens));
        }
        let low = state.submit(task(Priority::Low, tokens));
        let counts_from = state.now.after(Millis(3 * aging_ms));
        let mut left_before = ahead;
        loop {
            prop_assert_eq!(state.cluster.usage(state.now, SIZE).conservation.is_on, is_conserving);
            for _ in 0..stream {
                state.submit(task(Priority::Critical, tokens));
            }
            let claimed = state.claim("agent");
            prop_assert_eq!(claimed.len(), 1);
            if claimed[0] == low {
                break;
            }
            let (claimed_task, low_task) = (state.task(&claimed[0]).task, state.task(&low).task);
            let came_later = claimed_task.spec.number > low_task.spec.number;
            // Tasks submitted soon after it become urgent by waiting before it does.
            let came_soon = claimed_task.submitted_at.since(low_task.submitted_at).0 < 3 * aging_ms;
            prop_assert!(!came_later || came_soon || state.now < counts_from, "it is passed over");
            left_before -= usize::from(!came_later);
            state.complete(&claimed[0], report(ReportedResult::Success, Some(0), 1));
            state.wait(aging_ms.div_ceil(claims_an_aging));
        }
        prop_assert_eq!(left_before, 0);
        prop_assert!(state.now >= counts_from, "it goes before its time");
    }

    /// The same under a stream of critical tasks with close deadlines: a waiting task becomes urgent four aging periods
    /// after it counts as critical, and then precedes the tasks that became urgent later.
    #[test]
    fn waiting_wins_over_close_deadlines(aging_ms in 1..10_000_u64, level in 0..4_usize, claims_an_aging in 1..8_u64) {
        let mut state = FleetState::new(1);
        let settings = FleetSettings { priority_aging_ms: Millis(aging_ms), ..FleetSettings::default() };
        state.ask(FleetCommand::SetSettings(settings)).expect("settings");
        state.register("agent", 1).expect("capacity is left");
        state.set_budget(1);
        let submitted_at = state.now;
        let waiting = state.submit(task(Priority::ALL[level], 0));
        loop {
            let deadline = Some(state.now.after(Millis(1)));
            state.submit(TaskRequest { deadline, ..task(Priority::Critical, 0) });
            let claimed = state.claim("agent");
            prop_assert_eq!(claimed.len(), 1);
            if claimed[0] == waiting {
                break;
            }
            state.complete(&claimed[0], report(ReportedResult::Success, Some(0), 1));
            state.wait(aging_ms.div_ceil(claims_an_aging));
        }
        // A task is urgent from twice the target duration before its deadline.
        let lead_ms = 2 * settings.response_target_ms.0;
        let waited_ms = state.now.since(submitted_at).0;
        let short_ms = (7 - level as u64) * aging_ms;
        prop_assert!((short_ms..short_ms + lead_ms + 2 * aging_ms).contains(&waited_ms), "not after {} ms", waited_ms);
    }

    #[test]
    fn without_aging_priorities_are_strict(priorities in vec(0..4_usize, 1..20)) {
        let mut state = FleetState::new(1);
        let settings = FleetSettings { priority_aging_ms: Millis(0), ..FleetSettings::default() };
        state.ask(FleetCommand::SetSettings(settings)).expect("settings");
        state.register("agent", 20).expect("capacity is left");
        state.set_budget(1);
        let mut tasks: Vec<(Priority, TaskId)> = Vec::new();
        for priority in priorities.into_iter().map(|index| Priority::ALL[index]) {
            tasks.push((priority, state.submit(task(priority, 0))));
            state.wait(1_000_000_000);
        }
        tasks.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        for (_, expected) in tasks {
            prop_assert_eq!(state.claim("agent"), [expected]);
        }
    }

    #[test]
    fn scarce_tokens_go_where_they_are_worth_most(
        tasks in vec((0..4_usize, 0..40_u64), 1..40),
        budget in 0..1_000_u64,
    ) {
        let mut state = FleetState::new(2);
        state.register("agent", 100).expect("capacity is left");
        // Reserve just over four fifths.
        state.set_budget(u64::MAX);
        state.submit(task(Priority::Normal, 4 * budget + 1));
        prop_assert_eq!(state.claim("agent").len(), 1);
        state.set_budget(5 * budget + 1);

        let mut waiting: Vec<(Priority, u64, TaskId)> = Vec::new();
        for (priority, tokens) in tasks {
            let priority = Priority::ALL[priority];
            waiting.push((priority, tokens, state.submit(task(priority, tokens))));
        }
        let efficiency = |priority: Priority, tokens: u64| weight(priority) / tokens as f64;
        waiting.sort_by(|a, b| efficiency(b.0, b.1).total_cmp(&efficiency(a.0, a.1)).then(b.0.cmp(&a.0)));
        let mut left = budget;
        let (mut active, mut deferred) = (Vec::new(), 0);
        for (_, tokens, task) in waiting {
            if tokens <= left {
                left -= tokens;
                active.push((task, tokens));
            } else {
                deferred += 1;
            }
        }

        let view = state.cluster.usage(state.now, SIZE).conservation;
        prop_assert!(view.is_on);
        prop_assert_eq!((view.active_tasks, view.deferred_tasks), (active.len() as u64, deferred));
        prop_assert_eq!((view.estimated_tokens, view.remaining_tokens), (budget - left, budget));
        for (task, _) in active {
            prop_assert_eq!(state.claim("agent"), [task]);
        }
        prop_assert_eq!(state.claim("agent"), []);
        let filter = TaskFilter { state: Some(TaskState::Deferred), ..TaskFilter::default() };
        prop_assert_eq!(state.cluster.count_tasks(&filter), deferred);
    }
}
