//! Tests of demand, policy, scalings and replan triggers through the handle.

use super::durable::{Fault, Memory, Wall, at, start_on};
use super::fleet::{agent, agent_request, task};
use super::*;
use cortex_core::demand::DemandBin;
use cortex_core::fleet::task::{TaskRequest, TokenHints};
use cortex_core::ids::TaskId;
use cortex_core::policy::Policy;
use cortex_core::time::Timestamp;

/// The first time of the clock: the start of a bin, so that what is counted soon is all in this bin.
const START_SECONDS: i64 = 1_750_000_200;

fn counted(memory: &Memory) -> Vec<(Timestamp, [u64; 4])> {
    let counts = |bin: &DemandBin| (bin.from, [bin.requests, bin.refused, bin.task_submissions, bin.workers_max]);
    memory.cluster().demand_bins(None).map(counts).collect()
}

async fn ask(handle: &EngineHandle, job: &str, workers: u64) {
    // Refused requests are demand, too.
    let _ = handle.request(request(job, workers), CancelHandle::default()).await;
}

async fn submit(handle: &EngineHandle, name: &str, tokens: u64) {
    let tokens = TokenHints { given: Some(tokens), ..TokenHints::default() };
    let task = TaskRequest { tokens, ..task(Some(name)) };
    handle.submit_task(task, CancelHandle::default()).await.expect("enough capacity");
}

#[tokio::test]
async fn each_sample_records_the_demand() {
    let (memory, wall) = (Memory::default(), Wall::default());
    wall.set(START_SECONDS);
    let (handle, _run) = start_on(&memory, &wall).await;
    let start = at(START_SECONDS);
    ask(&handle, "one", 3).await;
    ask(&handle, "two", 9).await;
    submit(&handle, "task", 10).await;
    submit(&handle, "task", 10).await;
    assert_eq!(counted(&memory), [], "no sample was taken");
    handle.read(|state, now| state.demand(now)).await.expect("a running engine");
    assert_eq!(counted(&memory), [], "a query is not a sample");
    handle.sample_demand().await.expect("a running engine");
    assert_eq!(counted(&memory), [(start, [2, 1, 1, 12])], "a repeat is not a second task");
    let events = memory.events();
    handle.sample_demand().await.expect("a running engine");
    assert_eq!(memory.events(), events, "no event without new demand");
    ask(&handle, "three", 1).await;
    handle.sample_demand().await.expect("a running engine");
    assert_eq!(counted(&memory), [(start, [3, 1, 1, 12])]);

    // The leases last into the next bin, which has no requests.
    wall.set(START_SECONDS + 300);
    handle.sample_demand().await.expect("a running engine");
    assert_eq!(counted(&memory)[1..], [(at(START_SECONDS + 300), [0, 0, 0, 4])]);
    let read = move |state: &EngineState<'_>, _| state.cluster.demand_bins(Some(start)).map(|bin| bin.from).collect();
    let bins: Vec<Timestamp> = handle.read(read).await.expect("a running engine");
    assert_eq!(bins, [at(START_SECONDS + 300)]);
}

#[tokio::test]
async fn a_bin_that_is_over_is_written_without_a_sample() {
    let (memory, wall) = (Memory::default(), Wall::default());
    wall.set(START_SECONDS);
    let (handle, _run) = start_on(&memory, &wall).await;
    ask(&handle, "one", 3).await;
    wall.set(START_SECONDS + 300);
    turn(&handle).await.expect("a running engine");
    assert_eq!(counted(&memory), [(at(START_SECONDS), [1, 0, 0, 3])]);
}

#[tokio::test]
async fn what_was_counted_is_written_at_the_end() {
    let (memory, wall) = (Memory::default(), Wall::default());
    wall.set(START_SECONDS);
    let (handle, run) = start_on(&memory, &wall).await;
    ask(&handle, "one", 3).await;
    drop(handle);
    run.await.expect("no panic").expect("a good end");
    assert_eq!(counted(&memory), [(at(START_SECONDS), [1, 0, 0, 3])]);
}

#[tokio::test]
async fn a_count_that_could_not_be_written_is_written_once() {
    for fault in [Fault::Before, Fault::After] {
        let (memory, wall) = (Memory::default(), Wall::default());
        wall.set(START_SECONDS);
        let (handle, _run) = start_on(&memory, &wall).await;
        ask(&handle, "one", 3).await;
        memory.fail([fault]);
        assert_eq!(handle.sample_demand().await.map(drop), Err(EngineError::NotCommitted), "{fault:?}");
        handle.sample_demand().await.expect("a running engine");
        assert_eq!(counted(&memory), [(at(START_SECONDS), [1, 0, 0, 3])], "{fault:?}");
    }
}

#[tokio::test]
async fn policy_and_scalings_are_part_of_the_state() {
    let (memory, wall) = (Memory::default(), Wall::default());
    let (handle, run) = start_on(&memory, &wall).await;
    let set = handle.execute(Command::SetPolicy(Policy::AGGRESSIVE), |outcome, _, _| outcome).await;
    assert_eq!(set, Ok(Outcome::PolicySet { previous: Policy::BALANCED, current: Policy::AGGRESSIVE }));
    scale(&handle, to_workers(12)).await.expect("enough capacity");
    ask(&handle, "job", 8).await;
    assert!(matches!(scale(&handle, to_workers(5)).await, Err(EngineError::Denied(Denied::BelowLeased { .. }))));
    scale(&handle, to_workers(12)).await.expect("as many as there are");
    drop(handle);
    run.await.expect("no panic").expect("a good end");

    assert_eq!(memory.cluster().capacity(at(0)).total.workers, 12);
    let (handle, _run) = start_on(&memory, &wall).await;
    assert_eq!(handle.read(|state, _| state.cluster.policy()).await, Ok(Policy::AGGRESSIVE));
    let read = |state: &EngineState<'_>, _| state.cluster.scalings().map(|past| past.scaling.clone()).collect();
    let scalings: Vec<Scaling> = handle.read(read).await.expect("a running engine");
    assert_eq!(scalings, [to_workers(12), to_workers(12)], "what was refused is not among them");
}

#[tokio::test(start_paused = true)]
async fn each_replan_trigger_wakes_the_planner_once() {
    let engine = start();
    set_token_budget(&engine, 1_000).await;
    let is_woken = async || tokio::time::timeout(Duration::from_millis(100), engine.wait_for_replan()).await.is_ok();
    assert!(!is_woken().await, "there is nothing yet");
    for number in 0..=Policy::BALANCED.queue_depth_up {
        submit(&engine, &format!("task-{number}"), 10).await;
    }
    assert!(is_woken().await, "the backlog is too long");
    submit(&engine, "one-more", 10).await;
    assert!(!is_woken().await, "the backlog was reported before");

    engine.register_agent(agent_request("a", "general", 1)).await.expect("enough capacity");
    submit(&engine, "large", 900).await;
    set_token_budget(&engine, 10_000).await;
    engine.assign_task(TaskId::new("large").expect("a name")).await.expect("an agent");
    assert!(!is_woken().await, "a tenth of the tokens is in use");
    set_token_budget(&engine, 1_000).await;
    assert!(is_woken().await, "nine of ten are in use");
    unregister(&engine, agent("a")).await.expect("an agent");
    assert!(!is_woken().await, "an agent that unregisters is not lost");
}

#[tokio::test]
async fn a_lost_agent_wakes_the_planner() {
    let (memory, wall) = (Memory::default(), Wall::default());
    wall.set(START_SECONDS);
    let (handle, _run) = start_on(&memory, &wall).await;
    handle.register_agent(agent_request("a", "general", 1)).await.expect("enough capacity");
    // Three heartbeat intervals of ten seconds, in steps too small to count as a stall.
    for seconds in 1..=31 {
        wall.set(START_SECONDS + seconds);
        turn(&handle).await.expect("a running engine");
    }
    handle.wait_for_replan().await;
    assert_eq!(handle.read(|state, now| state.demand(now)).await.expect("a running engine").fleet.agents, 0);
}
