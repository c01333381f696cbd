//! Properties of the fleet over generated input: what must hold whatever agents and submitters do.

use crate::books::{Books, SIZE, agent, agent_id, batch_key, job_id, report, task};
use cortex_core::allocation::Metadata;
use cortex_core::command::{Command, Denied, DistinctServers, Outcome, Request};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome, ReportedResult};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{Task, TaskRequest, TaskState, TokensExpected};
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

/// Something that an agent, a submitter or time does.
#[derive(Clone, Debug)]
enum Step {
    Register { agent: u8, tasks_max: u32 },
    Unregister { agent: u8 },
    Submit { job: Option<u8>, priority: usize, tokens: Option<u64>, batch: Option<u8>, attempts_max: u32 },
    Claim { agent: u8 },
    Assign { task: usize, draw: u64 },
    Complete { task: usize, agent: Option<u8>, token: Option<u64>, tokens_used: Option<u64>, result: u8 },
    Return { task: usize },
    Cancel { task: usize },
    Budget { job: Option<u8>, tokens: Option<u64>, window_ms: Option<u64> },
    Wait { ms: u64, is_heard: bool },
    PassTime,
    Lease,
}

fn step() -> impl Strategy<Value = Step> {
    let (agent, task) = (0..AGENTS, 0..24_usize);
    let job = || proptest::option::of(0..JOBS);
    // Most tasks take about as much as there is; a few take more than anybody has.
    let tokens = || prop_oneof![8 => (0..400_u64).prop_map(Some), 1 => Just(Some(u64::MAX)), 3 => Just(None)];
    prop_oneof![
        3 => (agent.clone(), 1..4_u32).prop_map(|(agent, tasks_max)| Step::Register { agent, tasks_max }),
        1 => agent.clone().prop_map(|agent| Step::Unregister { agent }),
        8 => (job(), 0..4_usize, tokens(), proptest::option::of(0..2_u8), 1..4_u32).prop_map(
            |(job, priority, tokens, batch, attempts_max)| Step::Submit { job, priority, tokens, batch, attempts_max }
        ),
        8 => agent.clone().prop_map(|agent| Step::Claim { agent }),
        3 => (task.clone(), any::<u64>()).prop_map(|(task, draw)| Step::Assign { task, draw }),
        8 => (task.clone(), proptest::option::weighted(0.2, agent), proptest::option::weighted(0.2, 0..30_u64), tokens(), 0..4_u8)
            .prop_map(|(task, agent, token, tokens_used, result)| Step::Complete { task, agent, token, tokens_used, result }),
        2 => task.clone().prop_map(|task| Step::Return { task }),
        2 => task.prop_map(|task| Step::Cancel { task }),
        3 => (job(), proptest::option::weighted(0.8, 0..2_000_u64), proptest::option::of(0..3_000_u64))
            .prop_map(|(job, tokens, window_ms)| Step::Budget { job, tokens, window_ms }),
        4 => (0..8_000_u64, any::<bool>()).prop_map(|(ms, is_heard)| Step::Wait { ms, is_heard }),
        3 => Just(Step::PassTime),
        1 => Just(Step::Lease),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..120)
}

/// A fleet to which things happen, and the ids of all tasks that it took.
struct Walk {
    books: Books,
    tasks: Vec<TaskId>,
}

impl Walk {
    fn new() -> Self {
        let mut books = Books::new(6);
        let settings = FleetSettings { heartbeat_ms: Millis(2_000), ..FleetSettings::default() };
        books.ask(FleetCommand::SetSettings(settings)).expect("settings");
        books.set_budget(1_000);
        for name in 0..AGENTS {
            books.register(&agent_name(name), 2).expect("there is room");
        }
        Self { books, tasks: Vec::new() }
    }

    fn go(&mut self, step: &Step) -> Result<Outcome, Denied> {
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
                FleetCommand::Submit { request: Box::new(request), draw: 0 }
            }
            Step::Claim { agent } => FleetCommand::Claim { agent: agent_id(&agent_name(agent)) },
            Step::Assign { task, draw } => FleetCommand::Assign { task: self.task(task), draw },
            Step::Complete { task, agent, token, tokens_used, result } => {
                let task = self.task(task);
                let held = self.books.hold(&task);
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
                let fencing_token = self.books.hold(&task).map_or(FencingToken::new(1), |(_, token)| token);
                FleetCommand::Return { task, fencing_token }
            }
            Step::Cancel { task } => FleetCommand::Cancel { task: self.task(task) },
            Step::Budget { job, tokens, window_ms } => {
                let window = window_ms.filter(|_| job.is_none()).map(Millis);
                FleetCommand::SetTokenBudget { job: job.map(|job| job_id(&job_name(job))), tokens, window }
            }
            Step::Wait { ms, is_heard } => {
                self.books.now = self.books.now.after(Millis(ms));
                if is_heard {
                    self.books.cluster.presume_alive(self.books.now);
                }
                return Ok(Outcome::Done);
            }
            Step::PassTime => FleetCommand::PassTime { steps_max: 3 },
            Step::Lease => return self.books.carry_out(&lease()),
        };
        let outcome = self.books.carry_out(&Command::Fleet(command));
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
        self.books.cluster.tasks(self.books.now, filter, TaskNumber::new(0)).map(|view| view.task).collect()
    }
}

fn agent_name(number: u8) -> String {
    format!("agent {number}")
}

fn job_name(number: u8) -> String {
    format!("job {number}")
}

fn expected(tokens: Option<u64>) -> TokensExpected {
    TokensExpected { given: tokens, ..TokensExpected::default() }
}

/// A lease on a worker for a short while.
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

/// What a task of this priority is worth.
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
        let mut walk = Walk::new();
        for step in &steps {
            let outcome = walk.go(step);
            let Ok(Outcome::Fleet(FleetOutcome::Leased { tasks, .. })) = outcome else { continue };
            let usage = walk.books.cluster.usage(walk.books.now, SIZE).tokens;
            // What is expected to take nothing may go where nothing is left.
            let tokens = |task: &TaskId| walk.books.task(task).task.spec.estimated_tokens;
            let all = usage.all;
            let takes_some = tasks.iter().any(|task| tokens(task) > 0);
            prop_assert!(!takes_some || all.settled + all.reserved <= all.total, "{:?} after {:?}", all, step);
            for leased in tasks.iter().filter(|task| tokens(task) > 0) {
                let job = walk.books.task(leased).task.spec.request.job.clone();
                for (_, of_job) in usage.jobs.iter().filter(|(known, _)| Some(known) == job.as_ref()) {
                    prop_assert!(of_job.settled + of_job.reserved <= of_job.total, "{:?} after {:?}", of_job, step);
                }
            }
        }
    }

    #[test]
    fn a_refusal_changes_nothing(steps in steps()) {
        let mut walk = Walk::new();
        for step in &steps {
            walk.books.cluster.observe(walk.books.now);
            let before = walk.books.cluster.clone();
            if let Err(denied) = walk.go(step) {
                prop_assert!(walk.books.cluster == before, "{:?} after {:?}", denied, step);
            }
        }
    }

    #[test]
    fn every_task_is_in_exactly_one_state(steps in steps()) {
        let mut walk = Walk::new();
        for step in &steps {
            let _ = walk.go(step);
            let mut found: Vec<TaskId> = Vec::new();
            for state in TaskState::ALL {
                let filter = TaskFilter { state: Some(state), ..TaskFilter::default() };
                let listed = walk.list(&filter);
                prop_assert_eq!(walk.books.cluster.count_tasks(&filter), listed.len() as u64);
                found.extend(listed.into_iter().map(|task| task.spec.task.clone()));
            }
            found.sort();
            let mut known = walk.tasks.clone();
            known.sort();
            prop_assert_eq!(found, known, "after {:?}", step);
        }
    }

    #[test]
    fn nothing_that_has_ended_changes_and_nothing_is_done_twice(steps in steps()) {
        let mut walk = Walk::new();
        let mut ended: BTreeMap<TaskId, Task> = BTreeMap::new();
        for step in &steps {
            let _ = walk.go(step);
            for task in walk.list(&TaskFilter::default()) {
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
        let mut walk = Walk::new();
        let mut last = walk.books.cluster.last_token();
        for step in &steps {
            let outcome = walk.go(step);
            let tokens: Vec<FencingToken> = match outcome {
                Ok(Outcome::Fleet(FleetOutcome::Leased { tasks, .. })) => {
                    tasks.iter().filter_map(|task| walk.books.hold(task)).map(|(_, token)| token).collect()
                }
                Ok(Outcome::Granted { allocation, .. }) => {
                    let view = walk.books.cluster.allocation(walk.books.now, allocation).expect("on record");
                    vec![view.allocation.reservation.fencing_token]
                }
                _ => Vec::new(),
            };
            for token in tokens {
                prop_assert!(token > last, "{} after {}", token, last);
                last = token;
            }
            prop_assert_eq!(walk.books.cluster.last_token(), last);
        }
    }

    #[test]
    fn no_agent_holds_more_than_it_may_and_none_has_what_another_has(steps in steps()) {
        let mut walk = Walk::new();
        for step in &steps {
            let _ = walk.go(step);
            let mut held = BTreeSet::new();
            let mut listed = Vec::new();
            for view in walk.books.cluster.agents(walk.books.now, &AgentFilter::default(), None) {
                prop_assert!(view.tasks.len() as u64 <= u64::from(view.registration.request.tasks_max));
                for task in view.tasks {
                    prop_assert!(held.insert(task.task.clone()), "{} is held twice", task.task);
                    listed.push((task.task, view.registration.request.agent.clone(), task.fencing_token));
                }
            }
            for (task, agent, token) in listed {
                prop_assert_eq!(walk.books.hold(&task), Some((agent, token)));
            }
            let capacity = walk.books.cluster.capacity(walk.books.now);
            prop_assert!(capacity.total.covers(&capacity.leased));
        }
    }

    /// Under a stream of urgent tasks without end, one that is not urgent counts as they do after three agings; from then on
    /// only those before it, or soon after it, are given first. It is the same while tokens are saved, where each takes as many.
    #[test]
    fn waiting_wins_in_the_end(aging_ms in 1..10_000_u64, ahead in 0..10_usize, stream in 1..4_usize, claims_an_aging in 1..8_u64, is_saving in any::<bool>()) {
        let mut books = Books::new(2);
        let settings = FleetSettings { priority_aging_ms: Millis(aging_ms), ..FleetSettings::default() };
        books.ask(FleetCommand::SetSettings(settings)).expect("settings");
        books.register("agent", 1).expect("there is room");
        let tokens = u64::from(is_saving);
        if is_saving {
            books.set_budget(u64::MAX);
            books.register("holder", 1).expect("there is room");
            books.submit(task(Priority::Normal, 4_001));
            prop_assert_eq!(books.claim("holder").len(), 1);
            books.set_budget(5_001);
        } else {
            books.set_budget(1);
        }
        for _ in 0..ahead {
            books.submit(task(Priority::Critical, tokens));
        }
        let low = books.submit(task(Priority::Low, tokens));
        let counts_from = books.now.after(Millis(3 * aging_ms));
        let mut left_before = ahead;
        loop {
            prop_assert_eq!(books.cluster.usage(books.now, SIZE).conservation.is_on, is_saving);
            for _ in 0..stream {
                books.submit(task(Priority::Critical, tokens));
            }
            let claimed = books.claim("agent");
            prop_assert_eq!(claimed.len(), 1);
            if claimed[0] == low {
                break;
            }
            let (claimed_task, low_task) = (books.task(&claimed[0]).task, books.task(&low).task);
            let came_later = claimed_task.spec.number > low_task.spec.number;
            // Those that came soon after it have waited for as many levels above the highest before it has.
            let came_soon = claimed_task.submitted_at.since(low_task.submitted_at).0 < 3 * aging_ms;
            prop_assert!(!came_later || came_soon || books.now < counts_from, "it is passed over");
            left_before -= usize::from(!came_later);
            books.complete(&claimed[0], report(ReportedResult::Success, Some(0), 1));
            books.wait(aging_ms.div_ceil(claims_an_aging));
        }
        prop_assert_eq!(left_before, 0);
        prop_assert!(books.now >= counts_from, "it goes before its time");
    }

    /// The same under a stream of urgent tasks whose time is short: another one's counts as short, too, four levels above the
    /// highest, and from longer ago than that of those that come later.
    #[test]
    fn waiting_wins_over_close_deadlines(aging_ms in 1..10_000_u64, level in 0..4_usize, claims_an_aging in 1..8_u64) {
        let mut books = Books::new(1);
        let settings = FleetSettings { priority_aging_ms: Millis(aging_ms), ..FleetSettings::default() };
        books.ask(FleetCommand::SetSettings(settings)).expect("settings");
        books.register("agent", 1).expect("there is room");
        books.set_budget(1);
        let submitted_at = books.now;
        let waiting = books.submit(task(Priority::ALL[level], 0));
        loop {
            let deadline = Some(books.now.after(Millis(1)));
            books.submit(TaskRequest { deadline, ..task(Priority::Critical, 0) });
            let claimed = books.claim("agent");
            prop_assert_eq!(claimed.len(), 1);
            if claimed[0] == waiting {
                break;
            }
            books.complete(&claimed[0], report(ReportedResult::Success, Some(0), 1));
            books.wait(aging_ms.div_ceil(claims_an_aging));
        }
        // Time is short from twice the target before a deadline on.
        let lead_ms = 2 * settings.response_target_ms.0;
        let waited_ms = books.now.since(submitted_at).0;
        let short_ms = (7 - level as u64) * aging_ms;
        prop_assert!((short_ms..short_ms + lead_ms + 2 * aging_ms).contains(&waited_ms), "not after {} ms", waited_ms);
    }

    #[test]
    fn without_aging_priorities_are_strict(priorities in vec(0..4_usize, 1..20)) {
        let mut books = Books::new(1);
        let settings = FleetSettings { priority_aging_ms: Millis(0), ..FleetSettings::default() };
        books.ask(FleetCommand::SetSettings(settings)).expect("settings");
        books.register("agent", 20).expect("there is room");
        books.set_budget(1);
        let mut tasks: Vec<(Priority, TaskId)> = Vec::new();
        for priority in priorities.into_iter().map(|index| Priority::ALL[index]) {
            tasks.push((priority, books.submit(task(priority, 0))));
            books.wait(1_000_000_000);
        }
        tasks.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        for (_, expected) in tasks {
            prop_assert_eq!(books.claim("agent"), [expected]);
        }
    }

    #[test]
    fn scarce_tokens_go_where_they_are_worth_most(tasks in vec((0..4_usize, 0..40_u64), 1..40), budget in 0..1_000_u64) {
        let mut books = Books::new(2);
        books.register("agent", 100).expect("there is room");
        // Four parts in five are reserved, and a little more.
        books.set_budget(u64::MAX);
        books.submit(task(Priority::Normal, 4 * budget + 1));
        prop_assert_eq!(books.claim("agent").len(), 1);
        books.set_budget(5 * budget + 1);

        let mut waiting: Vec<(Priority, u64, TaskId)> = Vec::new();
        for (priority, tokens) in tasks {
            let priority = Priority::ALL[priority];
            waiting.push((priority, tokens, books.submit(task(priority, tokens))));
        }
        let worth = |priority: Priority, tokens: u64| weight(priority) / tokens as f64;
        waiting.sort_by(|a, b| worth(b.0, b.1).total_cmp(&worth(a.0, a.1)).then(b.0.cmp(&a.0)));
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

        let view = books.cluster.usage(books.now, SIZE).conservation;
        prop_assert!(view.is_on);
        prop_assert_eq!((view.active_tasks, view.deferred_tasks), (active.len() as u64, deferred));
        prop_assert_eq!((view.estimated_tokens, view.remaining_tokens), (budget - left, budget));
        for (task, _) in active {
            prop_assert_eq!(books.claim("agent"), [task]);
        }
        prop_assert_eq!(books.claim("agent"), []);
        let filter = TaskFilter { state: Some(TaskState::Deferred), ..TaskFilter::default() };
        prop_assert_eq!(books.cluster.count_tasks(&filter), deferred);
    }
}
