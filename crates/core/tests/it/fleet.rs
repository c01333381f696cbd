//! Hand-written cases of the fleet, each a short sequence of commands.

use cortex_core::allocation::Metadata;
use cortex_core::command::{Command, Denied, Outcome};
use cortex_core::event::Recorded;
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetCommand, FleetDenied, FleetOutcome, NoTaskReason, ReportedResult, TaskReport};
use cortex_core::fleet::task::{AttemptOutcome, Complexity, JsonText, Selector, TaskRequest, TaskState, TokenHints};
use cortex_core::ids::{AgentId, AgentType, FencingToken, NodeId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::{Cluster, check};

struct Story {
    cluster: Cluster,
    now: Timestamp,
}

fn size() -> WorkerSize {
    WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) }
}

fn task(name: &str) -> TaskRequest {
    TaskRequest {
        task: Some(TaskId::new(name).expect("a name")),
        job: None,
        selector: Selector::default(),
        priority: Priority::Normal,
        tokens: TokenHints { given: Some(100), complexity: Complexity::Medium, input_characters: 0 },
        deadline: None,
        batch: None,
        payload: Some(JsonText::new(&serde_json::json!({"do": "it"}))),
        attempts_max: 2,
        lease_seconds: TtlSeconds::new(60).expect("a time"),
    }
}

impl Story {
    fn new(workers: u64, tokens: u64) -> Self {
        let mut story = Self { cluster: Cluster::default(), now: Timestamp::from_millis(1_000_000) };
        let capacity = Resources {
            cpu_millis: CpuMillis::from_millis(workers * 1_000),
            memory_mb: MemoryMb(workers * 2_048),
            workers,
        };
        story.command(&Command::SetCapacity { node: NodeId::local(), capacity }).expect("a capacity");
        story.fleet(FleetCommand::SetTokenBudget { job: None, tokens: Some(tokens), window: None }).expect("a budget");
        story
    }

    fn command(&mut self, command: &Command) -> Result<Outcome, Denied> {
        self.cluster.observe(self.now);
        let decision = self.cluster.decide(self.now, command)?;
        for event in decision.events {
            let recorded = Recorded { at: self.now, event };
            let line = serde_json::to_string(&recorded).expect("a text");
            assert_eq!(serde_json::from_str::<Recorded>(&line).expect("an event"), recorded, "{line}");
            self.cluster.apply(&recorded);
            assert_eq!(check::violations(&self.cluster), [""; 0], "after {line}");
        }
        Ok(decision.outcome)
    }

    fn fleet(&mut self, command: FleetCommand) -> Result<FleetOutcome, FleetDenied> {
        match self.command(&Command::Fleet(command)) {
            Ok(Outcome::Fleet(outcome)) => Ok(outcome),
            Err(Denied::Fleet(denied)) => Err(denied),
            other => panic!("{other:?}"),
        }
    }

    fn register(&mut self, name: &str) -> AgentId {
        let agent = AgentId::new(name).expect("a name");
        let request = Box::new(AgentRequest {
            agent: agent.clone(),
            agent_type: AgentType::new("general").expect("a name"),
            capabilities: Capabilities::default(),
            tasks_max: 3,
            allocation: None,
            metadata: Metadata::empty(),
        });
        let registered = self.fleet(FleetCommand::Register { request, worker_size: size() });
        assert!(matches!(registered, Ok(FleetOutcome::Registered { .. })), "{registered:?}");
        agent
    }

    fn submit(&mut self, request: TaskRequest) -> TaskId {
        match self.fleet(FleetCommand::Submit { request: Box::new(request), random: 7 }) {
            Ok(FleetOutcome::Submitted { task, .. }) => task,
            other => panic!("{other:?}"),
        }
    }

    fn claim(&mut self, agent: &AgentId) -> Result<Vec<(String, FencingToken)>, NoTaskReason> {
        match self.fleet(FleetCommand::Claim { agent: agent.clone() }) {
            Ok(FleetOutcome::Leased { tasks, .. }) => {
                let token = |id: &TaskId| {
                    let view = self.cluster.task(self.now, id).expect("a task");
                    (id.to_string(), view.task.lease().expect("a lease").fencing_token)
                };
                Ok(tasks.iter().map(token).collect())
            }
            Ok(FleetOutcome::NoTask(nothing)) => Err(nothing),
            other => panic!("{other:?}"),
        }
    }

    fn complete(
        &mut self,
        task: &str,
        agent: &AgentId,
        fencing_token: FencingToken,
        result: ReportedResult,
        tokens_used: u64,
    ) -> Result<FleetOutcome, FleetDenied> {
        let report = TaskReport { result, tokens_used: Some(tokens_used), duration: None, output: None, error: None };
        self.fleet(FleetCommand::Complete {
            task: TaskId::new(task).expect("a name"),
            agent: agent.clone(),
            fencing_token,
            report: Box::new(report),
        })
    }

    fn state(&self, task: &str) -> TaskState {
        self.cluster.task(self.now, &TaskId::new(task).expect("a name")).expect("a task").state
    }

    fn wait(&mut self, seconds: u64) {
        self.now = self.now.after(Millis::from_seconds(seconds));
    }

    fn advance_time(&mut self) -> FleetOutcome {
        self.fleet(FleetCommand::AdvanceTime { steps_max: 100 }).expect("never refused")
    }
}

#[test]
fn a_task_is_claimed_reported_on_and_settled() {
    let mut story = Story::new(2, 1_000);
    let agent = story.register("a");
    assert_eq!(story.claim(&agent), Err(NoTaskReason::NoTask));
    story.submit(task("t"));
    let claimed = story.claim(&agent).expect("a task");
    assert_eq!(claimed.len(), 1);
    let token = claimed[0].1;
    assert_eq!(story.cluster.usage(story.now, size()).tokens.all.reserved, 100);
    assert_eq!(story.cluster.capacity(story.now).leased.workers, 1);
    story.wait(5);
    let reported = story.complete("t", &agent, token, ReportedResult::Success, 120);
    assert!(matches!(reported, Ok(FleetOutcome::Reported(_))), "{reported:?}");
    let usage = story.cluster.usage(story.now, size()).tokens.all;
    assert_eq!((usage.reserved, usage.settled, usage.overrun), (0, 120, 20));
    assert_eq!(story.state("t"), TaskState::Completed);
    let again = story.complete("t", &agent, token, ReportedResult::Success, 120);
    assert!(matches!(again, Ok(FleetOutcome::AlreadyReported { .. })), "{again:?}");
}

#[test]
fn a_silent_agent_loses_its_task_and_its_late_report_changes_nothing() {
    let mut story = Story::new(2, 1_000);
    let (dying, other) = (story.register("dying"), story.register("other"));
    story.submit(task("t"));
    let token = story.claim(&dying).expect("a task")[0].1;
    for _ in 0..3 {
        story.wait(10);
        let now = story.now;
        story.cluster.record_heartbeat(now, &other);
    }
    story.advance_time();
    assert!(story.cluster.agent(story.now, &dying).is_none());
    assert_eq!(story.state("t"), TaskState::Queued);
    let late = story.complete("t", &dying, token, ReportedResult::Success, 1);
    assert!(matches!(late, Err(FleetDenied::AttemptOver { outcome: AttemptOutcome::AgentLost, .. })), "{late:?}");
    let next = story.claim(&other).expect("the task")[0].1;
    assert!(next > token);
    story.wait(60);
    let now = story.now;
    story.cluster.record_heartbeat(now, &other);
    story.advance_time();
    assert_eq!(story.state("t"), TaskState::Failed, "its second attempt was its last");
}
