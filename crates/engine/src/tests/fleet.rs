//! Tests of the fleet through the handle: waiting claims, cancellation, failures of the journal, and deadlines.

use super::durable::{Fault, Memory, Run, Wall, at, start_on};
use super::*;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetDenied, FleetOutcome, NoTaskReason, ReportedResult, TaskReport};
use cortex_core::fleet::task::{Selector, TaskRequest, TaskState, TokenHints};
use cortex_core::fleet::view::{TaskFilter, TaskView};
use cortex_core::ids::{AgentId, AgentType, TaskId};

/// The wait of a claim that is answered before its end.
const WAIT: Duration = Duration::from_secs(30);

pub(super) fn agent(name: &str) -> AgentId {
    AgentId::new(name).expect("a name")
}

pub(super) fn agent_request(name: &str, agent_type: &str, tasks_max: u32) -> AgentRequest {
    AgentRequest {
        agent: agent(name),
        agent_type: AgentType::new(agent_type).expect("a name"),
        capabilities: Capabilities::default(),
        tasks_max,
        allocation: None,
        metadata: Metadata::empty(),
    }
}

async fn register(engine: &EngineHandle, name: &str) -> AgentId {
    engine.register_agent(agent_request(name, "general", 2)).await.expect("enough capacity");
    agent(name)
}

pub(super) fn task(name: Option<&str>) -> TaskRequest {
    TaskRequest {
        task: name.map(|name| TaskId::new(name).expect("a name")),
        job: None,
        selector: Selector::default(),
        priority: Priority::Normal,
        tokens: TokenHints { given: Some(10), ..TokenHints::default() },
        deadline: None,
        batch: None,
        payload: None,
        attempts_max: 3,
        lease_seconds: TtlSeconds::new(300).expect("a time to live"),
    }
}

async fn with_tokens(engine: EngineHandle) -> EngineHandle {
    set_token_budget(&engine, 1_000).await;
    engine
}

async fn submit(engine: &EngineHandle, name: &str) -> TaskView {
    engine.submit_task(task(Some(name)), CancelHandle::default()).await.expect("enough capacity").detail.view
}

fn claim(
    engine: &EngineHandle,
    agent: &AgentId,
    wait: Duration,
) -> impl Future<Output = Result<Claim, EngineError>> + use<> {
    cancellable_claim(engine, agent, wait, CancelHandle::default())
}

fn cancellable_claim(
    engine: &EngineHandle,
    agent: &AgentId,
    wait: Duration,
    cancel_handle: CancelHandle,
) -> impl Future<Output = Result<Claim, EngineError>> + use<> {
    let (engine, agent) = (engine.clone(), agent.clone());
    async move { engine.claim_task(agent, wait, cancel_handle).await }
}

/// The ids of the tasks that a claim was leased.
fn names(claim: &Result<Claim, EngineError>) -> Vec<String> {
    match claim {
        Ok(Claim::Tasks { tasks, .. }) => tasks.iter().map(|view| view.task.spec.task.to_string()).collect(),
        other => panic!("nothing was claimed: {other:?}"),
    }
}

async fn state(engine: &EngineHandle, name: &str) -> (TaskState, usize) {
    let id = TaskId::new(name).expect("a name");
    let task = engine.read(move |state, now| state.task(now, &id)).await.expect("a running engine");
    let view = task.expect("a task").view;
    (view.state, view.task.attempts.len())
}

async fn count(engine: &EngineHandle) -> u64 {
    let count = engine.read(|state, _| state.cluster.count_tasks(&TaskFilter::default()));
    count.await.expect("a running engine")
}

/// An engine with an agent that task `a` is leased to.
async fn with_a_task_held(memory: &Memory, wall: &Wall) -> (EngineHandle, Run, AgentId) {
    let (engine, run) = start_on(memory, wall).await;
    let engine = with_tokens(engine).await;
    let worker = register(&engine, "worker").await;
    submit(&engine, "a").await;
    assert_eq!(names(&claim(&engine, &worker, Duration::ZERO).await), ["a"]);
    (engine, run, worker)
}

/// Advances the wall clock second by second, forever.
async fn turn(wall: &Wall) {
    for second in 1_i64.. {
        tokio::time::sleep(Duration::from_secs(1)).await;
        wall.set(second);
    }
}

#[tokio::test]
async fn waiting_claims_are_served_in_order() {
    let engine = with_tokens(start()).await;
    let (first, second) = (register(&engine, "first").await, register(&engine, "second").await);
    let submitting = async {
        submit(&engine, "a").await;
        submit(&engine, "b").await;
    };
    let (one, two, ()) = tokio::join!(claim(&engine, &first, WAIT), claim(&engine, &second, WAIT), submitting);
    assert_eq!((names(&one), names(&two)), (vec!["a".to_owned()], vec!["b".to_owned()]));
    assert_eq!(claim(&engine, &first, Duration::ZERO).await, Ok(Claim::Nothing(NoTaskReason::NoTask)));
}

#[tokio::test]
async fn an_assignment_answers_a_waiting_claim() {
    let engine = with_tokens(start()).await;
    let only = register(&engine, "only").await;
    let a = TaskId::new("a").expect("a name");
    // Sent together, so that the task is assigned before the waiting claims are tried.
    let (claimed, _, assigned) = tokio::join!(claim(&engine, &only, WAIT), submit(&engine, "a"), engine.assign_task(a));
    let Assignment { agent: chosen, tasks } = assigned.expect("a free agent");
    assert_eq!((chosen, tasks.len()), (only, 1));
    assert_eq!(names(&claimed), ["a"]);
}

#[tokio::test]
async fn a_cancelled_call_leaves_no_trace() {
    let engine = with_tokens(start()).await;
    let worker = register(&engine, "worker").await;
    submit(&engine, "a").await;

    // After its answer: the task is queued again, without an attempt.
    let cancel_handle = CancelHandle::default();
    let claimed = cancellable_claim(&engine, &worker, WAIT, cancel_handle.clone()).await;
    assert_eq!(names(&claimed), ["a"]);
    engine.cancel(cancel_handle);
    assert_eq!(state(&engine, "a").await, (TaskState::Queued, 0));
    assert_eq!(engine.read(|state, now| state.usage(now)).await.expect("a running engine").tokens.all.reserved, 0);

    // While it waits: the next task is not leased.
    let claimed = claim(&engine, &worker, Duration::ZERO).await;
    assert_eq!(names(&claimed), ["a"]);
    let cancel_handle = CancelHandle::default();
    let waiting = tokio::spawn(cancellable_claim(&engine, &worker, WAIT, cancel_handle.clone()));
    tokio::task::yield_now().await;
    engine.cancel(cancel_handle);
    waiting.await.expect("no panic").expect_err("a claim that was cancelled");
    submit(&engine, "b").await;
    assert_eq!(state(&engine, "b").await, (TaskState::Queued, 0));

    // A task without an id from its submitter is cancelled; one with such an id stays.
    for (name, expected) in [(None, TaskState::Cancelled), (Some("c"), TaskState::Queued)] {
        let cancel_handle = CancelHandle::default();
        let submitted = engine.submit_task(task(name), cancel_handle.clone()).await.expect("enough capacity");
        engine.cancel(cancel_handle);
        assert_eq!(state(&engine, submitted.detail.view.task.spec.task.as_str()).await, (expected, 0));
    }
    let cancel_handle = CancelHandle::default();
    engine.cancel(cancel_handle.clone());
    assert_eq!(engine.submit_task(task(None), cancel_handle).await.map(drop), Err(EngineError::Cancelled));
}

#[tokio::test]
async fn undelivered_claims_and_tasks_of_a_failed_batch_are_revoked() {
    for fault in [Fault::Before, Fault::After] {
        let (memory, wall) = (Memory::default(), Wall::default());
        let (engine, _run) = start_on(&memory, &wall).await;
        let engine = with_tokens(engine).await;
        let worker = register(&engine, "worker").await;
        submit(&engine, "a").await;
        memory.fail([fault]);
        assert_eq!(claim(&engine, &worker, WAIT).await, Err(EngineError::NotCommitted), "{fault:?}");
        assert_eq!(state(&engine, "a").await, (TaskState::Queued, 0), "{fault:?}");
        memory.fail([fault]);
        let unnamed = engine.submit_task(task(None), CancelHandle::default()).await;
        assert_eq!(unnamed.map(drop), Err(EngineError::NotCommitted), "{fault:?}");
        let queue = engine.read(|state, now| state.usage(now)).await.expect("a running engine").queue;
        assert_eq!(
            (queue.all.tasks, count(&engine).await),
            (1, if fault == Fault::After { 2 } else { 1 }),
            "{fault:?}"
        );
        // A task with an id from its submitter can be submitted again.
        memory.fail([fault]);
        let named = engine.submit_task(task(Some("b")), CancelHandle::default()).await;
        assert_eq!(named.map(drop), Err(EngineError::NotCommitted), "{fault:?}");
        let again = engine.submit_task(task(Some("b")), CancelHandle::default()).await.expect("enough capacity");
        assert_eq!(again.is_new, fault == Fault::Before, "{fault:?}");
    }
}

#[tokio::test]
async fn a_restart_loses_no_task_and_no_agent() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, run) = start_on(&memory, &wall).await;
    let engine = with_tokens(engine).await;
    let worker = register(&engine, "worker").await;
    submit(&engine, "a").await;
    submit(&engine, "b").await;
    let claimed = claim(&engine, &worker, Duration::ZERO).await;
    let Ok(Claim::Tasks { tasks, .. }) = claimed else { panic!("nothing was claimed") };
    let token = tasks[0].task.lease().expect("a lease").fencing_token;
    drop(engine);
    run.await.expect("no panic").expect("a good end");

    // The outage is longer than the lease.
    wall.set(310);
    let (engine, _run) = start_on(&memory, &wall).await;
    assert_eq!(state(&engine, "a").await, (TaskState::Running, 0), "its lease has a grace");
    assert_eq!(state(&engine, "b").await, (TaskState::Queued, 0));
    let report =
        TaskReport { result: ReportedResult::Success, tokens_used: Some(7), duration: None, output: None, error: None };
    let a = TaskId::new("a").expect("a name");
    let complete = FleetCommand::Complete { task: a, agent: worker, fencing_token: token, report: Box::new(report) };
    let complete = || engine.execute(Command::Fleet(complete.clone()), |outcome, _, _| outcome);
    let first = complete().await.expect("a good report");
    let Outcome::Fleet(FleetOutcome::Reported(ended)) = first else { panic!("not accepted: {first:?}") };
    assert_eq!(ended.state, TaskState::Completed);
    let again = complete().await.expect("the same report");
    assert!(matches!(again, Outcome::Fleet(FleetOutcome::AlreadyReported { .. })), "{again:?}");
    assert_eq!(engine.read(|state, now| state.usage(now)).await.expect("a running engine").tokens.all.settled, 7);
    assert_eq!(check::violations(&memory.cluster()), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_lost_agent_go_to_a_waiting_claim() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, _run) = start_on(&memory, &wall).await;
    let engine = with_tokens(engine).await;
    let (dying, waiting) = (register(&engine, "dying").await, register(&engine, "waiting").await);
    submit(&engine, "a").await;
    assert_eq!(names(&claim(&engine, &dying, Duration::ZERO).await), ["a"]);
    // No more messages are sent: the engine acts on deadlines alone.
    tokio::select! {
        claimed = claim(&engine, &waiting, Duration::from_secs(3_600)) => assert_eq!(names(&claimed), ["a"]),
        () = turn(&wall) => {}
    }
    let gone = engine.heartbeat(dying.clone()).await;
    assert_eq!(gone.map(drop), Err(FleetDenied::UnknownAgent(dying).into()));
    assert!(engine.heartbeat(waiting).await.is_ok(), "a waiting agent is alive");
    assert_eq!(state(&engine, "a").await, (TaskState::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn a_task_raised_by_waiting_goes_to_a_waiting_claim() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, _run) = start_on(&memory, &wall).await;
    let engine = with_tokens(engine).await;
    let worker = register(&engine, "worker").await;
    // It stays full, so that the tasks for its type stay queued.
    engine.register_agent(agent_request("full", "special", 1)).await.expect("enough capacity");
    let request = |name: &str, agent_type: &str, priority: Priority, tokens: u64| TaskRequest {
        selector: Selector { agent_type: Some(AgentType::new(agent_type).expect("a name")), ..Selector::default() },
        priority,
        tokens: TokenHints { given: Some(tokens), ..TokenHints::default() },
        lease_seconds: TtlSeconds::new(7_200).expect("a time to live"),
        ..task(Some(name))
    };
    for request in [
        request("held", "special", Priority::Critical, 850),
        request("low", "general", Priority::Low, 100),
        request("high", "special", Priority::High, 100),
    ] {
        engine.submit_task(request, CancelHandle::default()).await.expect("enough capacity");
    }
    assert_eq!(names(&claim(&engine, &agent("full"), Duration::ZERO).await), ["held"]);
    assert_eq!(claim(&engine, &worker, Duration::ZERO).await, Ok(Claim::Nothing(NoTaskReason::NoTokens)));

    let (started, wait) = (tokio::time::Instant::now(), Duration::from_secs(3_600));
    let claiming = async { tokio::join!(claim(&engine, &agent("full"), wait), turn(&wall)) };
    tokio::select! {
        claimed = claim(&engine, &worker, wait) => assert_eq!(names(&claimed), ["low"]),
        _ = claiming => {}
    }
    // Three levels of 300 s each, and no later than a heartbeat after that.
    let waited = started.elapsed().as_secs();
    assert!((900..=911).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn a_claim_without_a_task_ends_in_time() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, _run) = start_on(&memory, &wall).await;
    let worker = register(&engine, "worker").await;
    let start = tokio::time::Instant::now();
    tokio::select! {
        claimed = claim(&engine, &worker, WAIT) => {
            assert_eq!(claimed, Ok(Claim::Nothing(NoTaskReason::NoTask)));
        }
        () = turn(&wall) => {}
    }
    let waited = start.elapsed().as_secs();
    assert!((30..=31).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn a_stall_loses_no_agent() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, _run, worker) = with_a_task_held(&memory, &wall).await;
    // Five heartbeat intervals without a turn of the engine: it reads all that was sent since in one batch.
    wall.set(50);
    assert!(engine.heartbeat(worker.clone()).await.is_ok(), "its heartbeats were unread");
    assert_eq!(state(&engine, "a").await, (TaskState::Running, 0));
    assert_eq!(memory.outages(), [(at(0), at(50))]);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_write_no_events() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, _run, worker) = with_a_task_held(&memory, &wall).await;
    let before = memory.events();
    assert!(before > 0);
    for second in 1..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        wall.set(second);
        engine.heartbeat(worker.clone()).await.expect("a living agent");
    }
    assert_eq!(memory.events(), before);
}

#[tokio::test(start_paused = true)]
async fn a_stall_that_ends_just_after_an_agent_is_due_does_not_lose_it() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, _run, worker) = with_a_task_held(&memory, &wall).await;
    for second in 1..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        wall.set(second);
    }
    // The agent is lost at 30 without a heartbeat, and the one it sent at 29 is read at 32.
    wall.set(32);
    assert!(engine.heartbeat(worker.clone()).await.is_ok(), "its heartbeat was in time");
    assert_eq!(state(&engine, "a").await, (TaskState::Running, 0));
}

#[tokio::test]
async fn a_claim_of_an_agent_that_has_left_is_not_served_to_its_successor() {
    let engine = with_tokens(start()).await;
    let worker = register(&engine, "worker").await;
    let (claimed, left, came, _) = tokio::join!(
        claim(&engine, &worker, WAIT),
        unregister(&engine, worker.clone()),
        engine.register_agent(agent_request("worker", "special", 1)),
        submit(&engine, "a"),
    );
    assert_eq!(claimed, Err(FleetDenied::UnknownAgent(worker).into()));
    assert!(left.is_ok() && came.is_ok_and(|came| came.is_new));
    assert_eq!(state(&engine, "a").await, (TaskState::Queued, 0));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_agent_is_alive_from_its_claim_on() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (engine, _run) = start_on(&memory, &wall).await;
    let worker = register(&engine, "worker").await;
    tokio::select! {
        claimed = claim(&engine, &worker, WAIT) => assert!(claimed.is_ok(), "{claimed:?}"),
        () = turn(&wall) => {}
    }
    let view = engine.heartbeat(worker).await.expect("a living agent");
    assert_eq!(view.health.heartbeat, 1_000_000, "a heartbeat in each interval");
}
