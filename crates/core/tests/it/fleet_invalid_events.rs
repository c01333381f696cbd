//! Events that do not follow from the state. Each is either rejected with a panic, or `check::violations` describes
//! what is wrong with the resulting state, which shows that the check can fail.

use crate::fleet_state::{FleetState, SIZE, agent, agent_id, report, task};
use cortex_core::allocation::{EndReason, Metadata};
use cortex_core::check;
use cortex_core::command::{Command, DistinctServers, Outcome, Request};
use cortex_core::event::Event;
use cortex_core::fleet::agent::{AgentEndReason, AgentRequest, Registration};
use cortex_core::fleet::command::{FleetCommand, ReportedResult};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{AttemptEnd, AttemptOutcome, TaskRequest, TaskSpec, TaskState};
use cortex_core::ids::{AgentType, AllocationId, FencingToken, JobId, NodeId, TaskId, TaskNumber};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A state with activity: 100 tokens, three workers, and an allocation with one of them.
struct Scene {
    state: FleetState,
    /// Held by agent a, which is full, under token 2.
    held: TaskId,
    /// Waits in the queue.
    waiting: TaskId,
    /// Needs more tokens than the budget has.
    huge: TaskId,
    completed: TaskId,
    /// Agent c is its worker; it was granted under token 1.
    allocation: AllocationId,
}

impl Scene {
    fn new() -> Self {
        let mut state = FleetState::new(3);
        state.set_budget(100);
        let allocation = allocation(&mut state);
        state.register("a", 1).expect("capacity is left");
        state.register("b", 2).expect("capacity is left");
        let request = Box::new(AgentRequest { allocation: Some(allocation), ..agent("c", "backend", 1) });
        state.ask(FleetCommand::Register { request, worker_size: SIZE }).expect("it has a worker");
        let held = state.submit(task(Priority::Normal, 10));
        assert_eq!(state.claim("a"), std::slice::from_ref(&held));
        let completed = state.submit(task(Priority::Normal, 10));
        assert_eq!(state.claim("b"), std::slice::from_ref(&completed));
        state.complete(&completed, report(ReportedResult::Success, Some(1), 1));
        let waiting = state.submit(task(Priority::Normal, 10));
        let huge = state.submit(task(Priority::Normal, 1_000));
        Self { state, held, waiting, huge, completed, allocation }
    }
}

fn allocation(state: &mut FleetState) -> AllocationId {
    let request = Request {
        job: JobId::new("job").expect("a name"),
        servers: DistinctServers::default(),
        workers: 1,
        priority: Priority::Normal,
        ttl_seconds: TtlSeconds::new(600).expect("at least 1"),
        request_id: None,
        metadata: Metadata::empty(),
    };
    let request = Command::Request { request: Box::new(request), worker_size: SIZE, random: 0 };
    match state.execute(&request) {
        Ok(Outcome::Granted { allocation, .. }) => allocation,
        other => panic!("no lease was granted: {other:?}"),
    }
}

/// Applies forged events to the state of a scene, and expects `complaint` in the panic or in the violations.
fn check(what: &str, forge: impl FnOnce(&Scene) -> Vec<Event>, complaint: &str) {
    let mut scene = Scene::new();
    let events = forge(&scene);
    let applied = catch_unwind(AssertUnwindSafe(|| events.into_iter().for_each(|event| scene.state.apply(event))));
    let description = match applied {
        Ok(()) => check::violations(&scene.state.cluster).join("; "),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default().to_owned()
        }
    };
    assert!(description.contains(complaint), "{what}: {description:?} does not contain {complaint:?}");
}

fn leased(task: &TaskId, agent: &str, token: u64) -> Event {
    let deadline = FleetState::new(1).now.after(Millis(60_000));
    Event::TaskLeased { task: task.clone(), agent: agent_id(agent), fencing_token: FencingToken::new(token), deadline }
}

fn attempt_ended(task: &TaskId, token: u64, outcome: AttemptOutcome, then: TaskState) -> Event {
    let end = AttemptEnd {
        fencing_token: FencingToken::new(token),
        outcome,
        tokens_used: 1,
        is_estimated: false,
        duration_ms: Millis(1),
        error: None,
        output: None,
        then,
    };
    Event::AttemptEnded { task: task.clone(), end }
}

fn submitted(number: u64, name: &str) -> Event {
    let task_id = TaskId::new(name).expect("a name");
    let request = TaskRequest { task: Some(task_id.clone()), ..task(Priority::Normal, 10) };
    let number = TaskNumber::new(number);
    Event::TaskSubmitted {
        task: Arc::new(TaskSpec { task: task_id, number, estimated_tokens: 10, urgent_at: None, request }),
    }
}

fn registered(name: &str, allocation: Option<AllocationId>, takes: Option<WorkerSize>) -> Event {
    let request = AgentRequest { allocation, ..agent(name, "backend", 1) };
    Event::AgentRegistered { registration: Arc::new(Registration { request, node: NodeId::local(), takes }) }
}

fn left(name: &str) -> Event {
    Event::AgentLeft { agent: agent_id(name), reason: AgentEndReason::Lost }
}

#[test]
fn a_task_has_one_holder_and_an_agent_its_limit() {
    check("a task is held twice", |scene| vec![leased(&scene.held, "b", 9)], "does not wait");
    check("a task is held that is over", |scene| vec![leased(&scene.completed, "b", 9)], "does not wait");
    check("nobody holds it", |scene| vec![leased(&scene.waiting, "nobody", 9)], "nobody is not registered");
    check("nothing is held", |_| vec![submitted(9, "x"), leased(&TaskId::from_bits(9), "b", 9)], "does not exist");
    check("an agent has too many", |scene| vec![leased(&scene.waiting, "a", 9)], "as many tasks as it may");
    check("an agent leaves with its task", |_| vec![left("a")], "a holds tasks");
    check("a token is given again", |scene| vec![leased(&scene.waiting, "b", 2)], "token 2 was given before");
}

#[test]
fn token_budgets_are_enforced() {
    check("more is reserved than there is", |scene| vec![leased(&scene.huge, "b", 9)], "1011 tokens are used of all");
    let lowered = |_: &Scene| vec![Event::TokenBudgetSet { job: None, tokens: Some(10), window_ms: None }];
    check("there is less than is used", lowered, "11 tokens are used of all, which has 10");
}

#[test]
fn a_task_is_in_one_state_and_is_done_once() {
    use AttemptOutcome::{Failure, Success};
    use TaskState::{Completed, Queued};
    let done = |task: &TaskId, token| vec![attempt_ended(task, token, Success, Completed)];
    check("a task is done twice", |scene| done(&scene.completed, 3), "is not running");
    check("a task is done that nobody held", |scene| done(&scene.waiting, 3), "is not running");
    check("a late report counts", |scene| done(&scene.held, 1), "held under another token");
    let failure_completes = |scene: &Scene| vec![attempt_ended(&scene.held, 2, Failure, Completed)];
    check("a failure completes a task", failure_completes, "was completed 0 times");
    let success_does_not = |scene: &Scene| vec![attempt_ended(&scene.held, 2, Success, Queued)];
    check("a success does not", success_does_not, "was completed 1 times");
    let tried_for_ever = |scene: &Scene| {
        let again = |token| [attempt_ended(&scene.held, token, Failure, Queued), leased(&scene.held, "b", token + 8)];
        [2, 10, 18].into_iter().flat_map(again).chain([attempt_ended(&scene.held, 26, Failure, Queued)]).collect()
    };
    check("a task is tried for ever", tried_for_ever, "is open after 4 attempts of 3");
    let fails = |then| move |scene: &Scene| vec![attempt_ended(&scene.held, 2, Failure, then)];
    check("a task fails before its time", fails(TaskState::Failed), "is failed after 1 attempts of 3");
    check("a task ends and runs on", fails(TaskState::Running), "is running after 1 attempts of 3");
    let fails_to_the_end = |scene: &Scene| {
        let again = |token| [attempt_ended(&scene.held, token, Failure, Queued), leased(&scene.held, "b", token + 8)];
        [2, 10].into_iter().flat_map(again).chain([attempt_ended(&scene.held, 18, Failure, Queued)]).collect()
    };
    check("a task waits that was tried to the end", fails_to_the_end, "is open after 3 attempts of 3");
    let cancelled = |task: &TaskId| vec![Event::TaskCancelled { task: task.clone() }];
    check("a task is cancelled under its holder's hands", |scene| cancelled(&scene.held), "does not wait");
    check("a task is cancelled that is over", |scene| cancelled(&scene.completed), "does not wait");
    check(
        "a task comes back from nowhere",
        |scene| vec![Event::TaskReturned { task: scene.waiting.clone() }],
        "is not running",
    );
    let updated = |scene: &Scene| {
        let (task, priority) = (scene.completed.clone(), Priority::High);
        vec![Event::TaskUpdated { task, priority, deadline: None, urgent_at: None }]
    };
    check("a task changes that is over", updated, "is over");
    check("a task comes twice", |scene| vec![submitted(9, scene.waiting.as_str())], "exists already");
    check("two tasks have one place", |_| vec![submitted(1, "new")], "a number given before");
}

#[test]
fn agents_take_no_more_than_there_is() {
    let without_capacity = |_: &Scene| vec![registered("d", None, Some(SIZE))];
    check("an agent has no capacity", without_capacity, "workers: 3 } and leases");
    let nothing = Resources { cpu_millis: CpuMillis::from_millis(0), memory_mb: MemoryMb(0), workers: 1 };
    let lowered = |_: &Scene| vec![Event::CapacitySet { node: NodeId::local(), capacity: nothing }];
    check("there is less than agents have", lowered, "workers: 1 } and leases");
    check("an agent takes nothing", |_| vec![registered("d", None, None)], "agent d takes no slot");
    check("an agent is there twice", |_| vec![registered("a", None, Some(SIZE))], "exists already");
    check("an agent leaves that is not there", |_| vec![left("nobody")], "nobody is not registered");
}

#[test]
fn an_allocation_has_no_more_agents_than_workers() {
    let second = |scene: &Scene| vec![registered("d", Some(scene.allocation), None)];
    check("it has one too many", second, "has 1 workers and 2 agents");
    let of_none = |_: &Scene| vec![registered("d", Some(AllocationId::from_bits(77)), None)];
    check("it is none", of_none, "has 0 workers and 1 agents");
    let released = |scene: &Scene| {
        let allocation = scene.allocation;
        vec![Event::Releasing { allocation, reason: EndReason::Requested }, Event::Released { allocation }]
    };
    check("it is over", released, "has 0 workers and 1 agents");
    let releasing =
        |scene: &Scene| vec![Event::Releasing { allocation: scene.allocation, reason: EndReason::Requested }];
    check("it is ending", releasing, "has 0 workers and 1 agents");
    let takes_both = |scene: &Scene| vec![left("c"), registered("d", Some(scene.allocation), Some(SIZE))];
    check("an agent of it takes a slot besides", takes_both, "d takes a slot of its own");
}

#[test]
fn bounds_are_enforced() {
    let quota = |agent_type: Option<&str>| {
        let agent_type = agent_type.map(|name| AgentType::new(name).expect("a name"));
        move |_: &Scene| {
            let quota = Event::AgentQuotaSet { agent_type: agent_type.clone(), agents: Some(3) };
            vec![quota, left("b"), registered("d", None, Some(SIZE)), registered("e", None, Some(SIZE))]
        }
    };
    check("there are more agents than may be", quota(None), "agent e is beyond a quota");
    check("there are more of a type than may be", quota(Some("backend")), "agent e is beyond a quota");
    let crowded = |_: &Scene| {
        let settings = FleetSettings { tasks_max: 4, ..FleetSettings::default() };
        vec![Event::FleetSettingsSet { settings }, submitted(8, "x"), submitted(9, "y")]
    };
    check("there are more tasks than may be", crowded, "task y is one more than 4");
}
