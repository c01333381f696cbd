//! The pool: a scale-up starts agents as processes, a scale-in ends idle ones.

use super::rig::{Rig, entry};
use super::workers::{get, worker};
use crate::support::{wait_until_async, within};
use cortex_core::allocation::Metadata;
use cortex_core::command::Command;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetCommand, NoTaskReason, ReportedResult, TaskReport};
use cortex_core::fleet::task::{Selector, TaskRequest, TokenHints};
use cortex_core::ids::{AgentId, AgentType, TaskId};
use cortex_core::policy::PolicyName;
use cortex_core::priority::Priority;
use cortex_core::scaling_state::Scaling;
use cortex_core::time::TtlSeconds;
use cortex_engine::{CancelHandle, Claim, EngineError};
use cortex_managed::{ProcessState, RuntimeRequest, WorkerReport};
use cortex_runtime::{PoolOptions, Ready};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

async fn rig() -> Rig {
    Rig::with(json!({"a": entry(&[], json!({}))}), |options| {
        options.worker = Some(worker(&[], Ready::Tcp));
        let environment = vec![("CORTEX_STATE".to_owned(), "/some/where".to_owned())];
        options.pool = Some(PoolOptions { environment, agents_max: 3 });
    })
    .await
}

async fn scale(rig: &Rig, from: u64, to: u64) {
    let scaling = Scaling {
        policy: PolicyName::Balanced,
        workers_from: 10,
        workers_to: 10,
        agents_from: from,
        agents_to: to,
        reason: Arc::from("a test"),
    };
    within(rig.engine.execute(Command::Scale(scaling), |_, _, _| ())).await.expect("an engine");
}

async fn workers(rig: &Rig) -> Vec<WorkerReport> {
    within(rig.managed.request(RuntimeRequest::Workers)).await.expect("a host")
}

async fn until_running(rig: &Rig, count: usize) -> Vec<AgentId> {
    wait_until_async(&format!("{count} agents run"), async || {
        let workers = workers(rig).await;
        workers.len() == count && workers.iter().all(|worker| worker.state == ProcessState::Running)
    })
    .await;
    workers(rig).await.iter().map(|report| AgentId::new(&report.worker).expect("a name")).collect()
}

/// Registers an agent, as each one does itself after its start.
async fn register(rig: &Rig, agent: &AgentId) -> Result<(), EngineError> {
    let request = AgentRequest {
        agent: agent.clone(),
        agent_type: AgentType::new("general").expect("a name"),
        capabilities: Capabilities::default(),
        tasks_max: 2,
        allocation: None,
        metadata: Metadata::empty(),
    };
    within(rig.engine.register_agent(request)).await.map(drop)
}

async fn submit(rig: &Rig, name: &str) {
    let request = TaskRequest {
        task: Some(TaskId::new(name).expect("a name")),
        job: None,
        selector: Selector::default(),
        priority: Priority::Normal,
        tokens: TokenHints::default(),
        deadline: None,
        batch: None,
        payload: None,
        attempts_max: 1,
        lease_seconds: TtlSeconds::new(600).expect("a time to live"),
    };
    within(rig.engine.submit_task(request, CancelHandle::default())).await.expect("room");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_is_carried_out() {
    let rig = rig().await;
    assert_eq!(workers(&rig).await, [], "no number of agents is planned yet");
    scale(&rig, 0, 2).await;
    let agents = until_running(&rig, 2).await;
    let reports = workers(&rig).await;
    for report in &reports {
        assert_eq!(report.allocation, None);
        let variables = get(report.port.0, "/health").await.expect("it answers");
        assert_eq!(
            (&variables["CORTEX_WORKER_ID"], &variables["CORTEX_STATE"]),
            (&json!(report.worker), &json!("/some/where"))
        );
    }
    for agent in &agents {
        register(&rig, agent).await.expect("room");
    }
    submit(&rig, "one").await;
    let busy = agents[1].clone();
    let claim =
        within(rig.engine.claim_task(busy.clone(), Duration::ZERO, CancelHandle::default())).await.expect("a task");
    let Claim::Tasks { tasks, .. } = claim else { panic!("{claim:?}") };
    let lease = tasks[0].task.lease().expect("a lease").fencing_token;

    // The idle agent is ended, and the other stays as long as it has a task.
    scale(&rig, 2, 0).await;
    assert_eq!(until_running(&rig, 1).await.first(), Some(&busy));
    assert!(within(rig.engine.heartbeat(agents[0].clone())).await.is_err(), "it is no longer registered");
    let drained = within(rig.managed.request(|reply| RuntimeRequest::DrainWorker(busy.to_string(), reply)))
        .await
        .expect("a host");
    assert_eq!(drained.expect("a worker").worker, busy.to_string());
    let claim = async |wait| within(rig.engine.claim_task(busy.clone(), wait, CancelHandle::default())).await;
    let nothing = Ok(Claim::Nothing(NoTaskReason::Draining));
    wait_until_async("it is given nothing more", async || claim(Duration::ZERO).await == nothing).await;
    submit(&rig, "two").await;
    assert_eq!(claim(Duration::from_secs(20)).await, nothing, "at once, rather than waiting for a task");
    let report =
        TaskReport { result: ReportedResult::Success, tokens_used: None, duration: None, output: None, error: None };
    let (task, report) = (TaskId::new("one").expect("a name"), Box::new(report));
    let complete = FleetCommand::Complete { task, agent: busy.clone(), fencing_token: lease, report };
    within(rig.engine.execute(Command::Fleet(complete), |_, _, _| ())).await.expect("its task");
    wait_until_async("it is gone", async || workers(&rig).await.is_empty()).await;
    assert!(within(rig.engine.heartbeat(busy)).await.is_err());
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_keeps_to_its_limit_and_counts_other_agents() {
    let rig = rig().await;
    scale(&rig, 0, 9).await;
    until_running(&rig, 3).await;
    let other = AgentId::new("somebody-else").expect("a name");
    register(&rig, &other).await.expect("room");
    scale(&rig, 9, 2).await;
    until_running(&rig, 1).await;
    rig.end().await;
}
